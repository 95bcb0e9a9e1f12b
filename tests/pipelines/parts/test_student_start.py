"""The student's start, as LoRA and as full network, against sums of the files' own tensors."""

import pytest
import torch

from fields.lora.adapter import Adapter, LoraShape, adapted_modules
from fields.lora.peft_files import read_adapter, write_adapter
from fields.scene.family import SceneFamily
from fields.tensors import shapes
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from runs import counted_svds

MODULE = "blocks.1.ff_in"


@pytest.fixture
def start_of(make_config, tiny_models):
    def tensors(*overrides):
        return RunParts(make_config(*overrides)).start_tensors(SceneFamily().load_transformer(tiny_models.base))

    return tensors


def product(adapter: Adapter) -> torch.Tensor:
    a, b = (adapter.tensors[f"{MODULE}.lora_{side}.weight"].double() for side in "AB")
    return adapter.shape.scale(MODULE) * b @ a


def weight(path) -> torch.Tensor:
    return SceneFamily().load_transformer(path).get_parameter(f"{MODULE}.weight").double()


def test_a_lora_starts_as_an_adapter_outside_the_experts(start_of, tiny_models, tmp_path):
    """Of another alpha: the student computes the same with its own."""
    outside = read_adapter(tiny_models.global_edit)
    outside = Adapter(LoraShape(8, 24.0, outside.shape.targets), outside.tensors)
    write_adapter(tmp_path / "outside", outside)
    tensors = start_of(f"student.start={{type: adapter, adapter: {tmp_path / 'outside'}}}", "student.alpha=4")
    started = Adapter(LoraShape(8, 4.0, ()), tensors)
    assert adapted_modules(tensors) == adapted_modules(outside.tensors)
    torch.testing.assert_close(product(started), product(outside), rtol=1e-5, atol=1e-6)


def test_a_full_student_starts_as_an_expert(start_of, tiny_models):
    local = product(read_adapter(tiny_models.local_edit))
    full = ("student={type: full, start: {type: expert, expert: local_edit}}",)
    torch.testing.assert_close(start_of(*full)[f"{MODULE}.weight"].double(), weight(tiny_models.base) + local)
    both = start_of(*full, f"experts.local_edit.checkpoint={tiny_models.other_base}")
    torch.testing.assert_close(both[f"{MODULE}.weight"].double(), weight(tiny_models.other_base) + local)


RANDOM = "student={type: full, start: {type: random}}"


def test_a_full_student_starts_with_random_weights_of_the_runs_seed(start_of, tiny_models):
    first, again, other = start_of(RANDOM), start_of(RANDOM), start_of(RANDOM, "run.seed=1")
    assert shapes(first) == shapes(dict(SceneFamily().load_transformer(tiny_models.base).named_parameters()))
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    drawn = first[f"{MODULE}.weight"]
    assert not torch.equal(drawn, other[f"{MODULE}.weight"])
    assert drawn.std().item() == pytest.approx((2 / sum(drawn.shape)) ** 0.5, rel=0.05), "Xavier's"


def test_only_a_full_student_starts_with_random_weights(refuse):
    assert "student: student.start: random weights are a whole network's; only a student of type full" in refuse(
        "student.start={type: random}"
    )


def test_a_full_student_starts_from_the_exact_weights_of_a_quantized_expert(start_of):
    full = "student={type: full, start: {type: expert, expert: local_edit}}"
    exact, quantized = start_of(full), start_of(full, "experts.local_edit.quantization=int8")
    assert all(torch.equal(quantized[name], tensor) for name, tensor in exact.items())


def test_a_merge_by_regression_runs_the_experts_as_they_answer(start_of):
    merge = "student.start={type: regression, rows: 4}"
    quantized = [f"experts.{name}.quantization=int8" for name in ("local_edit", "global_edit")]
    exact, found = (
        tensors[f"{MODULE}.lora_B.weight"] @ tensors[f"{MODULE}.lora_A.weight"]
        for tensors in (start_of(merge), start_of(merge, *quantized))
    )
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


def test_a_full_student_starts_as_a_checkpoint_to_the_last_bit(start_of, tiny_models):
    full = "student={type: full, start: {type: expert, expert: text_to_image}}"
    tensors = start_of(full, f"experts.text_to_image.checkpoint={tiny_models.other_base}")
    expected = dict(SceneFamily().load_transformer(tiny_models.other_base).named_parameters())
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_a_full_student_starts_as_the_base_plus_weighted_differences(start_of, tiny_models):
    merge = "student={type: full, start: {type: merge, experts: {text_to_image: 0.25, global_edit: 0.5}}}"
    tensors = start_of(merge, f"experts.text_to_image.checkpoint={tiny_models.other_base}")
    base, other = weight(tiny_models.base), weight(tiny_models.other_base)
    expected = base + 0.25 * (other - base) + 0.5 * product(read_adapter(tiny_models.global_edit))
    torch.testing.assert_close(tensors[f"{MODULE}.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_full_student_starts_as_an_adapter_outside_the_experts(start_of, tiny_models):
    tensors = start_of(f"student={{type: full, start: {{type: adapter, adapter: {tiny_models.global_edit}}}}}")
    expected = weight(tiny_models.base) + product(read_adapter(tiny_models.global_edit))
    torch.testing.assert_close(tensors[f"{MODULE}.weight"].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("student", ["{type: full}", "{type: lora}"])
def test_the_base_needs_no_tensors(start_of, student):
    assert start_of(f"student={student}") is None


STARTS = ("expert, expert: local_edit", "merge, experts: {local_edit: 1, global_edit: 2}", "adapter, adapter: ADAPTER")


@pytest.mark.parametrize(
    "student",
    [
        *(f"{{type: {kind}, start: {{type: {start}}}}}" for kind in ("lora, rank: 8", "full") for start in STARTS),
        "{type: full, start: {type: random}}",
        "{type: lora, rank: 12, start: {type: regression, rows: 2}}",
    ],
)
def test_a_start_is_checked_by_a_skeleton_of_its_shapes(make_config, tiny_models, student):
    parts = RunParts(make_config(f"student={student.replace('ADAPTER', str(tiny_models.global_edit))}"))
    skeleton = parts.start_skeleton(parts.family.skeleton(tiny_models.base).to("meta"))
    start = parts.start_tensors()
    assert skeleton is not None
    assert start is not None
    assert shapes(skeleton) == shapes(start)
    assert {tensor.device.type for tensor in skeleton.values()} == {"meta"}
    assert {tensor.dtype for tensor in start.values()} == {torch.float32}


def test_a_check_merges_nothing(make_config, monkeypatch):
    decomposed = counted_svds(monkeypatch)
    parts = checked_parts(make_config("student.start={type: merge, experts: {local_edit: 1}}"))
    assert decomposed == []
    modules = adapted_modules(parts.distiller().parameters)
    assert len(decomposed) == len(modules) > 5
