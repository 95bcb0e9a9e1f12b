"""Both ways to take a version of an adapter, against the learner's own network."""

from pathlib import Path

import pytest
import torch
from tiny_diffusers import sd3_transformer

from fields.carriers import Condition, Query
from fields.distiller import Distiller
from fields.families.sd3 import SD3Family
from fields.lora.adapter import LoraShape, adapted_modules, weight_difference
from fields.method.optimization import Optimization
from fields.student import LoraStudent
from fields.versions import Merged, Unmerged

STUDENT = LoraStudent(LoraShape(4, 6.0, ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "proj_out")))
BOTH = {"merged": lambda network: Merged(network, STUDENT), "unmerged": lambda network: Unmerged(network, STUDENT.shape)}


class Setting:
    """A tiny SD3 network of a type, a question to it, and adapters of which |s B A| is a share of |W| in every module."""

    def __init__(self, dtype):
        rng = torch.Generator().manual_seed(3)
        self.dtype = dtype
        self.family = SD3Family(Path("nowhere"), dtype)
        texts = {"text": torch.randn(3, 5, 32, generator=rng), "pooled": torch.randn(3, 64, generator=rng)}
        self.asked = (
            torch.randn(3, 4, 16, 16, generator=rng),
            torch.tensor([0.9, 0.6, 0.2]),
            Condition(tensors=texts, unconditional={}),
        )

    def base(self):
        return sd3_transformer().to(self.dtype).requires_grad_(False)

    def learner(self, start):
        return Distiller(self.family, self.base(), STUDENT, Optimization(), 0, start)

    def adapter(self, share, seed):
        rng, base = torch.Generator().manual_seed(seed), self.base()
        shapes = {name: parameter.shape for name, parameter in self.learner(None).parameters.items()}
        tensors = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
        for module in adapted_modules(tensors):
            difference = weight_difference(tensors, module, STUDENT.shape.scale(module))
            size = base.get_parameter(f"{module}.weight").float().norm()
            tensors[f"{module}.lora_B.weight"] *= share * size / difference.norm()
        return tensors

    @torch.no_grad()
    def velocity(self, network):
        return self.family.velocity(network, *self.asked)

    def learned(self, start):
        """By the learner itself, with gradient."""
        x_t, t, condition = self.asked
        query = Query(
            sample_ids=(0, 1, 2),
            routes=("r",) * 3,
            policy_version=0,
            checksum="",
            x_t=x_t,
            t=t,
            t_next=t - 0.1,
            condition=condition,
        )
        return self.learner(start).predict(query).velocity.detach()


def test_in_float32_both_compute_what_the_learner_does():
    setting = Setting(torch.float32)
    tensors = setting.adapter(0.1, seed=0)
    expected = setting.learned(tensors)
    assert (expected - setting.velocity(setting.base())).norm() > 0.01 * expected.norm()
    for build in BOTH.values():
        versions = build(setting.base())
        versions.load(tensors)
        assert (setting.velocity(versions.transformer) - expected).norm() < 1e-5 * expected.norm()


def test_in_bfloat16_unmerged_is_the_learners_student_and_merged_is_another():
    """A change of a hundredth of W is of the size of W's rounding: where it is merged, part of what was learned is lost."""
    setting = Setting(torch.bfloat16)
    tensors = setting.adapter(0.01, seed=0)
    expected = setting.learned(tensors)
    effect = (expected - setting.velocity(setting.base())).norm()
    unmerged, merged = BOTH["unmerged"](setting.base()), BOTH["merged"](setting.base())
    unmerged.load(tensors)
    merged.load(tensors)
    assert torch.equal(setting.velocity(unmerged.transformer), expected)
    assert 0.3 < (setting.velocity(merged.transformer) - expected).norm() / effect < 0.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", BOTH)
def test_a_version_leaves_nothing_to_the_next(way, dtype):
    setting = Setting(dtype)
    versions = BOTH[way](setting.base())

    def loaded(tensors):
        versions.load(tensors)
        return setting.velocity(versions.transformer)

    one, two = setting.adapter(0.1, seed=1), setting.adapter(0.1, seed=2)
    first, second, none = loaded(one), loaded(two), loaded(None)
    assert not torch.equal(first, second)
    assert torch.equal(none, setting.velocity(setting.base()))
    assert torch.equal(loaded(one), first)
    assert torch.equal(loaded(two), second)


def test_unmerged_keeps_the_base_once_and_trains_nothing():
    setting = Setting(torch.bfloat16)
    versions = BOTH["unmerged"](setting.base())
    versions.load(setting.adapter(0.1, seed=1))
    base = dict(setting.base().named_parameters())
    kept = {name.replace(".base_layer.", "."): p for name, p in versions.transformer.named_parameters() if "lora_" not in name}
    assert kept.keys() == base.keys()
    assert all(torch.equal(parameter, base[name]) for name, parameter in kept.items())
    assert not any(parameter.requires_grad for parameter in versions.transformer.parameters())


def test_an_unmerged_version_must_fit_in_full():
    setting = Setting(torch.float32)
    tensors = setting.adapter(0.1, seed=1)
    missing = dict(list(tensors.items())[1:])
    with pytest.raises(ValueError, match="a published version: 1 tensors don't fit"):
        BOTH["unmerged"](setting.base()).load(missing)
