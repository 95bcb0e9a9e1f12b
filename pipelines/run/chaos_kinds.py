"""What can happen to a run: who is struck, and how."""

import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from pipelines.run.chaos_nodes import HEAD, OTHER, Nodes

_REPLACED_AFTER_S = 5.0  # until another machine, or the storage, is there
_WORKER, _LEARNER, _RANK = r"ray::RolloutWorker", r"ray::Learner(?!Rank)", r"ray::LearnerRank"
_EXPERT, _ENCODER = r"ray::ServeReplica:[^:]*:expert", r"ray::ServeReplica:[^:]*:encoder"


@dataclass(frozen=True, slots=True)
class Target:
    """A run that goes on.

    Attributes:
        supervisor: its process.
        nodes: the cluster that it joined; None if it has started its own.
        mirror: the folder that it is copied to, if any.
    """

    supervisor: int
    nodes: Nodes | None
    mirror: Path | None

    @property
    def drivers(self) -> list[psutil.Process]:
        """One, or none while it is started again."""
        return psutil.Process(self.supervisor).children()

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of the run whose command line begins so, the oldest first."""
        above = [psutil.Process(pid) for pid in self.nodes.pids] if self.nodes else self.drivers
        everyone = [process for one in above for process in one.children(recursive=True)]
        return sorted((one for one in everyone if re.match(name, _command(one))), key=lambda process: process.pid)


def _command(process: psutil.Process) -> str:
    """Its command line; nothing of one that has ended, which its parent may not have noticed yet."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What can happen.

    Attributes:
        name: what a person reads.
        strike: does it, and returns whether there was somebody to strike.
    """

    name: str
    strike: Callable[[Target], bool]


def _signalled(name: str, sent: signal.Signals, target: Target) -> bool:
    with suppress(psutil.Error):  # who is looked at may end meanwhile
        for process in target.processes(name):
            process.send_signal(sent)
            return True
    return False


def _driver_killed(target: Target) -> bool:
    with suppress(psutil.Error):
        for driver in target.drivers:
            driver.kill()
            return True
    return False


def _node_lost(role: str, target: Target) -> bool:
    assert target.nodes is not None
    target.nodes.lose(role)
    time.sleep(_REPLACED_AFTER_S)
    target.nodes.start()
    return True


def _mirror_away(target: Target) -> bool:
    """A file stands where the mirror's folder was, so nothing can be written there."""
    assert target.mirror is not None
    if not target.mirror.is_dir():
        return False
    away = target.mirror.with_name(f".{target.mirror.name}.away")
    target.mirror.rename(away)
    target.mirror.touch()
    time.sleep(_REPLACED_AFTER_S)
    target.mirror.unlink()
    away.rename(target.mirror)
    return True


_ANYWHERE = (
    Kind("a rollout worker is killed", partial(_signalled, _WORKER, signal.SIGKILL)),
    Kind("an expert's replica is killed", partial(_signalled, _EXPERT, signal.SIGKILL)),
    Kind("the encoder's replica is killed", partial(_signalled, _ENCODER, signal.SIGKILL)),
    Kind("the learner is killed", partial(_signalled, _LEARNER, signal.SIGKILL)),
    Kind("a rollout worker is frozen", partial(_signalled, _WORKER, signal.SIGSTOP)),
    Kind("an expert's replica is frozen", partial(_signalled, _EXPERT, signal.SIGSTOP)),
    Kind("the learner is frozen", partial(_signalled, _LEARNER, signal.SIGSTOP)),
)
_WITH_A_CLUSTER_OF_ITS_OWN = (Kind("the driver is killed, and its cluster with it", _driver_killed),)
_WITH_NODES = (
    Kind("the driver is killed", _driver_killed),
    Kind("a node is lost, and replaced", partial(_node_lost, OTHER)),
    Kind("the head is lost with all nodes, and replaced", partial(_node_lost, HEAD)),
)
_WITH_RANKS = (
    Kind("a rank of the learner is killed", partial(_signalled, _RANK, signal.SIGKILL)),
    Kind("a rank of the learner is frozen", partial(_signalled, _RANK, signal.SIGSTOP)),
)
_WITH_A_MIRROR = (Kind("the mirror cannot be written for a while", _mirror_away),)


def kinds(nodes: bool, ranks: bool, mirror: bool) -> Sequence[Kind]:
    """What can happen to a run.

    Args:
        nodes: whether it joins a cluster of two nodes, or starts its own.
        ranks: whether its learner has several.
        mirror: whether it is copied to a folder of this machine.
    """
    cluster = _WITH_NODES if nodes else _WITH_A_CLUSTER_OF_ITS_OWN
    return (*_ANYWHERE, *cluster, *(_WITH_RANKS if ranks else ()), *(_WITH_A_MIRROR if mirror else ()))
