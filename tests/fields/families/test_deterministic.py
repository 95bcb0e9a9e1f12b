"""Strict mode refuses no operator of any family: on the CPU by trying, and for CUDA by torch's own list."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import PIPELINES, SIZE
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fields.carriers import Condition
from fields.data.images import encode_png
from fields.data.rows import Row
from fields.families.base import Family
from fields.lora.adapter import LoraShape
from fields.registry import FAMILIES
from fields.scene.exam import Exam
from fields.scene.family import SceneFamily
from fields.student import FullStudent, LoraStudent, Student

# Of torch 2.13, `use_deterministic_algorithms`: what raises on CUDA, by the operators that autograd or a call comes down to.
REFUSED = {
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d"),
    *("upsample_linear1d_backward", "upsample_trilinear3d_backward"),
    *("upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
    *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("nll_loss_forward", "nll_loss2d_forward", "_ctc_loss_backward", "_embedding_bag_backward"),
    *("put", "put_", "histc", "median", "nanmedian", "kthvalue", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
}
REFUSED_OF_FLOATS = {"cumsum", "cumsum_", "bincount"}  # bincount with weights
REFUSED_PRODUCTS = {"scatter_reduce", "scatter_reduce_"}


class Operators(TorchDispatchMode):
    """Collects those that strict mode would refuse on CUDA."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()
        self.refused: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.seen.add(name)
        floats = any(isinstance(each, Tensor) and each.is_floating_point() for each in arguments)
        product = name in REFUSED_PRODUCTS and "prod" in arguments
        if name in REFUSED or (name in REFUSED_OF_FLOATS and floats) or product:
            self.refused.add(name)
        return function(*arguments, **(options or {}))


def rows(family: Family) -> list[Row]:
    """One with a source image, where the family sees any, and one without."""
    if isinstance(family, SceneFamily):
        return [sheet.rows[0] for sheet in Exam(1, seed=0).sheets]
    image = encode_png(np.random.default_rng(0).random((3, SIZE[1], SIZE[0]), dtype=np.float32))
    with_source = Row("a", "task", "a red cat", source_image=image, target_image=image)
    return {
        "required": [with_source],
        "optional": [with_source, Row("b", "task", "dog", target_image=image)],
        "none": [Row("b", "task", "dog", target_image=image)],
    }[family.source]


def learn(family: Family, network: nn.Module, student: Student, condition: Condition) -> None:
    """A forward and a backward at a state."""
    parameters = student.attach(network, seed=0)
    x_t = torch.randn(len(condition), *family.latent_shape(), generator=torch.Generator().manual_seed(1))
    velocity = family.velocity(network, x_t, torch.full((len(condition),), 0.75), condition)
    velocity.square().mean().backward()
    assert any(parameter.grad is not None and parameter.grad.count_nonzero() for parameter in parameters.values())


@pytest.fixture
def load(tiny, tiny_models) -> Callable[[str], tuple[Family, nn.Module]]:
    def loaded(name: str) -> tuple[Family, nn.Module]:
        if name == "scene":
            return SceneFamily(), SceneFamily().load_transformer(tiny_models.base)
        family = FAMILIES[name](tiny(name).folder, size=SIZE)
        return family, family.load_transformer(tiny(name).folder)

    return loaded


@pytest.mark.parametrize("name", ["scene", *PIPELINES])
def test_no_operator_of_a_family_is_refused(load, name):
    family, _ = load(name)
    assert torch.are_deterministic_algorithms_enabled()
    lora = LoraStudent(LoraShape(4, 4.0, family.default_lora_targets))
    with Operators() as operators:
        for row in rows(family):
            condition = family.with_clean(family.encode([row]), [row])
            for student in (lora, FullStudent()):
                learn(family, load(name)[1], student, condition)
            family.decode(torch.randn(1, *family.latent_shape(), generator=torch.Generator().manual_seed(2)))
    assert operators.refused == set()
    assert {"mm", "addmm"} & operators.seen, "nothing was seen"


def test_the_list_finds_what_it_is_for():
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    with Operators() as operators:
        nn.functional.interpolate(x, scale_factor=2, mode="bilinear").sum().backward()
        x.detach().cumsum(0)
        torch.ones(3, dtype=torch.long).cumsum(0)
    assert operators.refused == {"upsample_bilinear2d_backward", "cumsum"}
