import json
import shutil

import pytest
import torch
from rollout_cases import rollouts
from tiny_diffusers import sd3_image, sd3_pipeline, sd3_transformer

from fields import checkpoint
from fields.carriers import Example, Query, Weights, checksum
from fields.distiller import Distiller
from fields.keeping import Keeping
from fields.lora.adapter import LoraShape
from fields.lora.peft_files import read_adapter
from fields.method.optimization import Optimization
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.policy import Policy
from fields.student import LoraStudent
from fields.versions import Merged

STUDENT = LoraStudent(LoraShape(4, 4.0, ("to_qkv", "patch_out")))
RECIPE = {"run": {"seed": 3}, "routes": ["a", "b"]}


@pytest.fixture(scope="module")
def new_student(family, new_base):
    return lambda seed=0: Distiller(family, new_base(), STUDENT, Optimization(learning_rate=1e-2, warmup_steps=3), seed)


@pytest.fixture(scope="module")
def learn(local_field, encoded, states):
    """One update at the shared states."""

    def step(student):
        t = torch.tensor([1.0, 0.7, 0.5, 0.2])
        condition = encoded("local_edit", 4)
        query = Query(
            sample_ids=(0, 1, 2, 3),
            routes=("r",) * 4,
            policy_version=0,
            checksum="",
            x_t=states,
            t=t,
            t_next=t - 0.1,
            condition=condition,
        )
        return student.update([Example(query=query, target=local_field.answer(query))])

    return step


@pytest.fixture
def trained(new_student, learn):
    """A student after two updates, and the versions that it published."""
    return train(new_student, learn)


def train(new_student, learn):
    student = new_student()
    published = {}
    for step in (1, 2):
        learn(student)
        published[step] = student.weights(step)
    return student, published


@pytest.fixture(scope="module")
def once_saved(new_student, learn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    student, published = train(new_student, learn)
    for step in (2, 3, 10):
        checkpoint.save(folder, step, student, published, RECIPE)
    return folder


@pytest.fixture
def saved(once_saved, tmp_path):
    """Checkpoints of steps 2, 3 and 10 with the content of `trained`, oldest first, to be damaged at will."""
    shutil.copytree(once_saved, tmp_path, dirs_exist_ok=True)
    return sorted(tmp_path.iterdir())


def bits(student):
    return checksum(student.parameters), checksum(student.ema), checksum(student.optimizer_tensors()), student.updates


def test_what_is_saved_is_read(trained, saved):
    student, published = trained
    state = checkpoint.read(saved[0])
    assert state.step == 2
    assert state.recipe == RECIPE
    assert checksum(state.student) == checksum(student.parameters)
    assert checksum(state.ema) == checksum(student.ema) != checksum(student.parameters)
    assert checksum(state.optimizer) == checksum(student.optimizer_tensors())
    assert {version: (w.policy_version, w.checksum) for version, w in state.published.items()} == {
        version: (version, w.checksum) for version, w in published.items()
    }


def test_the_run_goes_on_as_if_undisturbed(trained, saved, new_student, learn):
    student, _ = trained
    state = checkpoint.read(saved[0])
    resumed = new_student(seed=77)
    resumed.restore(state.student, state.ema, state.optimizer, state.step)
    for _ in range(2):
        assert learn(resumed) == learn(student)
        assert bits(resumed) == bits(student)


def test_a_student_that_has_not_learned_yet_can_be_saved(new_student, learn, tmp_path):
    student, resumed = new_student(), new_student(seed=5)
    state = checkpoint.read(checkpoint.save(tmp_path, 0, student, {0: student.weights(0)}, RECIPE))
    resumed.restore(state.student, state.ema, state.optimizer, state.step)
    assert learn(resumed) == learn(student)
    assert bits(resumed) == bits(student)


def test_student_and_average_are_adapters_of_their_own(trained, saved):
    student, _ = trained
    for folder, tensors in ((saved[0], student.parameters), (saved[0] / "ema", student.ema)):
        adapter = read_adapter(folder)
        assert adapter.shape == LoraShape(4, 4.0, ("blocks.0.to_qkv", "blocks.1.to_qkv", "patch_out"))
        assert checksum(adapter.tensors) == checksum(tensors)


def test_a_stock_pipeline_loads_a_checkpoint(family, tmp_path):
    """The image changes, and is the one of the weights that a rollout worker merges."""
    kind = LoraStudent(LoraShape(4, 6.0, ("to_q", "to_out.0", "add_k_proj", "proj_out")))
    student = Distiller(family, sd3_transformer(), kind, Optimization(), seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.1)
    folder = checkpoint.save(tmp_path, 3000, student, {3000: student.weights(3000)}, RECIPE)
    pipeline = sd3_pipeline(sd3_transformer())
    bare = sd3_image(pipeline)
    pipeline.load_lora_weights(str(folder))
    policy = Policy(family, Merged(sd3_transformer(), kind), rollouts(0, time_grid(4), Euler()))
    policy.load(student.weights(3000))
    loaded = sd3_image(pipeline)
    torch.testing.assert_close(loaded, sd3_image(sd3_pipeline(policy.transformer)), rtol=0, atol=1e-5)
    assert (loaded - bare).abs().mean() > 0.01, "the image did not change"


def test_the_newest_is_the_highest_step(saved, tmp_path):
    assert [path.name for path in saved] == ["step-000002", "step-000003", "step-000010"]
    assert checkpoint.newest(tmp_path) == saved[2]
    assert checkpoint.newest(tmp_path / "nowhere") is None


FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "ema/adapter_model.safetensors",
    "optimizer.safetensors",
    "published/version-000001.safetensors",
)
DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_named_and_its_checkpoint_passed_over(saved, tmp_path, name, damage):
    damage(saved[2] / name)
    with pytest.raises(ValueError, match=rf"step-000010 is no complete checkpoint: {name} is (damaged|missing)"):
        checkpoint.read(saved[2])
    assert checkpoint.newest(tmp_path) == saved[1]


STATES = {"garbage": b"\xff\xfe{", "empty": b"", "half": b'{"step": 10, "fi', "list": b"[]", "no files": b'{"step": 10}'}


@pytest.mark.parametrize("content", [None, *STATES.values()], ids=["missing", *STATES])
def test_a_checkpoint_without_its_state_is_passed_over(saved, tmp_path, content):
    state = saved[2] / "state.json"
    state.unlink() if content is None else state.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.json is missing or damaged"):
        checkpoint.read(saved[2])
    assert checkpoint.newest(tmp_path) == saved[1]


def test_with_nothing_complete_there_is_no_newest(saved, tmp_path):
    for path in saved:
        (path / "state.json").unlink()
    assert checkpoint.newest(tmp_path) is None


def test_every_file_is_listed_with_its_hash(saved):
    listed = json.loads((saved[0] / "state.json").read_text())["files"]
    found = {str(path.relative_to(saved[0])) for path in saved[0].rglob("*") if path.is_file()}
    assert found == {*listed, "state.json"}
    assert set(FILES) <= set(listed)


def test_a_save_that_fails_halfway_is_never_taken_for_a_checkpoint(trained, saved, tmp_path):
    """Safetensors refuses tensors that share memory, after the student and the optimizer have been written."""
    student, published = trained
    tensor = torch.zeros(3)
    shared = {"a": tensor, "b": tensor}
    broken = Weights(policy_version=3, tensors=shared)
    with pytest.raises(RuntimeError, match="share memory"):
        checkpoint.save(tmp_path, 11, student, {3: broken}, RECIPE)
    assert [path.name for path in tmp_path.iterdir() if "step-000011" in path.name] == []
    assert checkpoint.newest(tmp_path) == saved[2]
    assert checkpoint.read(checkpoint.save(tmp_path, 11, student, published, RECIPE)).step == 11
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_leftovers_of_another_process_are_no_checkpoints(saved, tmp_path):
    shutil.copytree(saved[2], tmp_path / ".step-000099.1234")
    (tmp_path / "step-garbage").mkdir()
    assert checkpoint.newest(tmp_path) == saved[2]


def test_saving_a_step_again_replaces_it(trained, saved, learn, tmp_path):
    student, _ = trained
    before = checksum(student.parameters)
    learn(student)
    path = checkpoint.save(tmp_path, 10, student, {}, RECIPE)
    state = checkpoint.read(path)
    assert checksum(state.student) == checksum(student.parameters) != before
    assert not (path / "published" / "version-000001.safetensors").exists()


@pytest.mark.parametrize(("keeping", "left"), [(Keeping(2), [3, 10]), (Keeping(1, every=2), [2, 10])])
def test_prune_keeps_the_newest_and_those_that_stay_for_good(saved, tmp_path, keeping, left):
    checkpoint.prune(tmp_path, keeping)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:06d}" for step in left]
    assert checkpoint.newest(tmp_path) == saved[2]


def test_prune_takes_away_what_a_killed_process_left(saved, tmp_path):
    left = tmp_path / ".step-000003.4711"
    shutil.copytree(saved[2], left)
    checkpoint.prune(tmp_path, Keeping(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]


@pytest.mark.parametrize("damage", [DAMAGE["truncated"], DAMAGE["missing"]], ids=["truncated", "missing"])
def test_prune_counts_no_checkpoint_whose_files_have_other_sizes_and_hashes_none(saved, tmp_path, monkeypatch, damage):
    damage(saved[2] / "optimizer.safetensors")
    with monkeypatch.context() as context:
        context.delattr("hashlib.file_digest")
        checkpoint.prune(tmp_path, Keeping(1))
    assert checkpoint.newest(tmp_path) == saved[1]
    assert not saved[0].exists()


@pytest.mark.parametrize(
    "change",
    [
        {"step": 9},  # of another checkpoint
        {"step": -1},
        {"step": "10"},
        {"step": True},
        {"trained": 5},
        {"checksums": {"x": "y"}},
        {"checksums": []},
        {"recipe": None},
        {"files": []},
        {"files": {"../../elsewhere": "0"}},
        {"files": {"/etc/passwd": "0"}},
        {"sizes": 7},
    ],
)
def test_a_state_that_says_something_else_is_of_no_checkpoint(saved, change):
    state = json.loads((saved[2] / "state.json").read_text())
    (saved[2] / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(ValueError, match="is no complete checkpoint"):
        checkpoint.read(saved[2])
    assert checkpoint.newest(saved[2].parent) == saved[1]
    for key in ("step", "trained", "checksums", "recipe", "files"):
        (saved[2] / "state.json").write_text(json.dumps({name: value for name, value in state.items() if name != key}))
        with pytest.raises(ValueError, match="is no complete checkpoint"):
            checkpoint.read(saved[2])


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"null", b"[" * 100_000, b"\xff", b'{"step": 10}'])
def test_a_state_that_is_none(saved, content):
    (saved[2] / "state.json").write_bytes(content)
    assert checkpoint.newest(saved[2].parent) == saved[1]


def test_a_checkpoint_of_before_sizes_were_recorded_is_read(saved):
    state = json.loads((saved[2] / "state.json").read_text())
    assert state.pop("sizes").keys() == state["files"].keys()
    (saved[2] / "state.json").write_text(json.dumps(state))
    assert checkpoint.read(saved[2]).step == 10
