"""Quantized weights that cannot be are refused with the configuration; what they are is part of recipe and identity."""

import pytest
from tiny_pipelines import PIPELINES, SIZE, save

from pipelines.cluster.deployment import RunServices
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import recipe, recipe_differences
from pipelines.parts.check_files import check_models
from pipelines.parts.run_parts import RunParts

UNMERGED = "rollout.merge=false"


def test_an_expert_is_the_base_only_without_anything_of_its_own(make_config):
    def is_base(*overrides: str) -> list[bool]:
        config = make_config(*overrides)
        return [expert.is_base(config.model.quantization) for expert in config.experts.values()]

    assert is_base() == [True, False, False]
    assert not any(is_base("experts.text_to_image.operator={type: guidance, scale: 2}"))
    assert not any(is_base("experts.text_to_image.checkpoint=x"))
    assert not any(is_base("experts.text_to_image.quantization=int8"))
    assert is_base("experts.text_to_image.quantization=int8", "model.quantization=int8", UNMERGED)[0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.quantization=int4"], r"model\.quantization: Input should be 'none', 'fp8', 'int8' or 'nf4' \(got 'int4'\)"),
        (
            ["model.quantization=int8", "student={type: full}"],
            "model.quantization: int8 is of a frozen base, and a student of type full trains every weight; allowed: none",
        ),
        (
            ["model.quantization=fp8"],
            "rollout.merge: auto adds the adapter to the base's weights, which model.quantization fp8 can't; allowed: false",
        ),
        (
            ["model.quantization=nf4", UNMERGED],
            "model.quantization: nf4 is for families of diffusers; allowed for scene: none, fp8, int8",
        ),
        (
            ["model={family: sd3, path: x, quantization: nf4}", UNMERGED, "learner.num_gpus=1"],
            "model.quantization: nf4 needs a GPU, and rollout.num_gpus is 0; allowed without: none, fp8, int8",
        ),
        (
            ["model={family: sd3, path: x}", "experts.local_edit.quantization=nf4"],
            "experts.local_edit.quantization: nf4 needs a GPU, and experts.local_edit.num_gpus is 0; allowed without:",
        ),
        (
            [
                "model={family: sd3, path: x}",
                *("experts.local_edit.quantization=nf4", "experts.local_edit.num_gpus=1"),
                "experts.global_edit.operator={type: guidance, scale: 2, of: local_edit}",
            ],
            "experts.local_edit.quantization: nf4 needs a GPU, and experts.global_edit.num_gpus is 0;",
        ),
        (
            [
                "model={family: sd3, path: x}",
                *("experts.local_edit.quantization=nf4", "experts.local_edit.num_gpus=1"),
                "student.start={type: regression}",
            ],
            "experts.local_edit.quantization: nf4 needs a GPU, and learner.num_gpus is 0;",
        ),
        (
            [
                *(f"experts.{name}.placement=shared" for name in ("local_edit", "global_edit")),
                "experts.global_edit.quantization=int8",
            ],
            "experts.global_edit.quantization: int8, but experts.local_edit has none; shared experts are one application",
        ),
        (
            [
                "experts.global_edit.placement=shared",
                "experts.global_edit.operator={type: guidance, scale: 2, of: local_edit}",
                "experts.local_edit.quantization=int8",
            ],
            "experts.global_edit.quantization: none, but experts.local_edit has int8; shared experts have one base",
        ),
    ],
)
def test_what_cannot_be_is_refused(make_config, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        make_config(*overrides)


def test_a_library_that_is_missing_is_said_before_anything_is_loaded(make_config, tmp_path):
    save(PIPELINES["sd3"](), tmp_path / "sd3")
    model = f"model={{family: sd3, path: {tmp_path / 'sd3'}, width: {SIZE[0]}, height: {SIZE[1]}}}"
    config = make_config(model, "experts={local_edit: {quantization: nf4, num_gpus: 1}, text_to_image: {}, global_edit: {}}")
    with pytest.raises(
        ConfigError, match=r"experts\.local_edit\.quantization: nf4 needs bitsandbytes, which isn't installed: "
    ):
        check_models(RunParts(config))


def test_a_run_goes_on_with_the_weights_that_it_began_with_alone(make_config):
    saved = recipe(make_config())
    now = recipe(make_config("model.quantization=int8", UNMERGED, "experts.local_edit.quantization=fp8"))
    assert recipe_differences(now, saved, 4) == [
        "experts.local_edit.quantization: none -> fp8",
        "model.quantization: none -> int8",
        "rollout.merge: True -> False",
    ]


def test_an_experts_identity_has_its_own_quantization_and_not_the_students(make_config):
    def identity(*overrides: str):
        return RunServices(RunParts(make_config(*overrides))).identity("local_edit")

    exact = identity()
    assert exact["experts"]["local_edit"]["quantization"] == ["none", None]
    assert identity("model.quantization=int8", UNMERGED) == exact
    quantized = identity("experts.local_edit.quantization=int8")
    assert quantized["experts"]["local_edit"]["quantization"][0] == "int8"
    assert quantized["experts"]["local_edit"]["quantization"][1].startswith("torchao ")
    assert {**quantized, "experts": None} == {**exact, "experts": None}
