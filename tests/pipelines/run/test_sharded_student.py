"""A run whose ranks share a full student: the one of the reference loop up to the order of sums, as a model, and continued.

Tolerances are shares of how far the student learned, as in tests/fields/ranks/test_sharded_ranks.py.
"""

import pytest
import torch

from fields import checkpoint
from fields.carriers import checksum
from fields.scene.family import SceneFamily
from pipelines.consolidate import main
from pipelines.run.distill import distill
from pipelines.run_folder.outcome import write_config
from runs import reference, trained

FULL = ("student={type: full, start: {type: expert, expert: local_edit}}", "learner.learning_rate=1e-4", "checkpoint.every=4")
SHARED = ("learner.shard=true", "learner.ranks=2")
TOLERANCE = 1e-4


def apart(tensors, others, start):
    """How far two students are from each other, as a share of how far they came."""

    def flat(named):
        return torch.cat([named[name].detach().double().flatten() for name in sorted(start)])

    return float((flat(tensors) - flat(others)).norm() / (flat(others) - flat(start)).norm())


@pytest.mark.slow
def test_ranks_that_share_the_student_learn_what_the_reference_does(on_standing, make_config, capsys):
    expected = reference(make_config("run.name=reference", *FULL)).weights.tensors
    start = reference(make_config("run.name=start", "run.steps=0", *FULL)).weights.tensors
    config = on_standing("run.name=shared", *FULL, *SHARED)
    write_config(config)
    student = trained(config)
    assert apart(student.tensors, expected, start) < TOLERANCE
    saved = checkpoint.newest(config.folder / "checkpoints")
    assert saved is not None
    read = checkpoint.read(saved)
    assert checksum(read.student) == student.checksum == read.published[8].checksum
    assert main([str(saved)]) == 0
    assert "model folders" in capsys.readouterr().out
    for folder, tensors in ((saved, read.student), (saved / "ema", read.ema)):
        assert checksum(SceneFamily().load_transformer(folder).state_dict()) == checksum(tensors)
    assert checkpoint.newest(config.folder / "checkpoints") == saved, "it is complete with its models too"
    assert main([str(saved)]) == 0
    assert "lacks no model folders" in capsys.readouterr().out
    halfway = config.folder / "checkpoints" / "step-000004"
    resumed = reference(make_config("run.name=resumed", *FULL), resume=halfway).weights.tensors
    assert apart(resumed, expected, start) < TOLERANCE


@pytest.mark.slow
def test_a_finished_run_has_said_what_it_is_and_left_models(on_standing, make_config, cluster, capsys):
    config = on_standing("run.name=finished", "run.steps=4", *FULL, *SHARED)
    outcome = distill(config, address=cluster)
    assert outcome is not None
    assert "learner.ranks=2 orders its sums" in " ".join(capsys.readouterr().out.split())
    saved = config.folder / "checkpoints" / "step-000004"
    assert checksum(SceneFamily().load_transformer(saved).state_dict()) == outcome.weights.checksum
    assert distill(make_config("run.name=finished", *FULL), reference=True) is not None
    assert f"{saved} has the sums of 2 ranks, and this run those of 1" in " ".join(capsys.readouterr().out.split())
