"""Ranks that are processes of one `torch.distributed` group: how they meet, and what it is called if one doesn't come."""

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from fields.ranks.ranks import Ranks

_LOOPBACK = "127.0.0.1"


class RankMissing(RuntimeError):
    """Another rank did not come to an exchange: it has ended, or took too long."""


class ProcessGroup(Ranks):
    """This process in the group, which exchanges nothing before `connect`. Every exchange raises `RankMissing` if not all come.

    Args:
        rank: of this process.
        size: of the group.
        device: where the tensors are; a GPU's are exchanged by NCCL, a CPU's by gloo.
        timeout_s: of one exchange; a rank that takes longer to come is lost.
    """

    def __init__(self, rank: int, size: int, device: torch.device, timeout_s: float):
        self.rank = rank
        self.size = size
        self._device = device
        self._timeout = timedelta(seconds=timeout_s)
        self._store: TCPStore | None = None

    @contextmanager
    def meeting(self) -> Generator[None]:
        """Within it this rank waits for others.

        Raises:
            RankMissing: for whatever the backend says of them; neither gloo nor NCCL has a class of its own for it.
        """
        began = time.perf_counter()
        try:
            yield
        except torch.OutOfMemoryError:  # a RuntimeError of this rank's own
            raise
        except RuntimeError as error:
            raise RankMissing(str(error)) from error
        finally:
            self.waited_s += time.perf_counter() - began

    def listen(self, host: str) -> int:
        """Listen for the others, on rank 0, at this address of it alone; returns the port."""
        listener = socket.create_server((host, 0))  # torch's own would listen at every address
        port = listener.getsockname()[1]
        self._store = TCPStore(
            *(host, port, self.size),
            is_master=True,
            timeout=self._timeout,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return port

    def connect(self, host: str, port: int) -> None:
        """Meet the others, where rank 0 listens."""
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        if host == _LOOPBACK:  # or gloo listens at what the host's name stands for
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_of(host))
        with self.meeting():
            store = self._store or TCPStore(host, port, self.size, is_master=False, timeout=self._timeout)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=self._timeout)

    def told(self, path: Path | None) -> Path:
        said = [path]
        with self.meeting():
            dist.broadcast_object_list(said, src=0)
        assert said[0] is not None, "rank 0 names one"
        return said[0]


def _interface_of(host: str) -> str:
    """The name of the network interface that has an address."""
    found = psutil.net_if_addrs().items()
    return next(name for name, addresses in found if any(each.address == host for each in addresses))
