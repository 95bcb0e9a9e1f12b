"""An expert of another model than the student's, in the same latent space: the same field, called otherwise."""

from types import SimpleNamespace

import pytest
import torch
from rollout_cases import rollouts
from torch import nn

from fields.carriers import Condition, Example, Variant
from fields.data.size import Size
from fields.distiller import Distiller
from fields.families.base import Family
from fields.families.latents import LatentSpace
from fields.families.packing import pack, unpack
from fields.field import Field, Model
from fields.lora.adapter import LoraShape
from fields.method.optimization import Optimization
from fields.method.plan import Group, Sample
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.operators import Guidance, Network
from fields.operators.combination import Mix
from fields.policy import Policy
from fields.student import LoraStudent
from fields.versions import Unmerged

GRID = time_grid(8)  # its times are exact in binary, and so is 1000 t
SHAPE = LoraShape(2, 2.0, ("gain",))
OTHER = "other-1a2b3c"


class Plain(nn.Module):
    """v(x_t, t, c) = c x_t + 2 t, by states as they are, 1000 t, and c."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.gain.weight, 1.0)
        self.blocks = nn.ModuleList([self.gain])

    def forward(self, x_t, time, c):
        return self.gain((c[:, :, None, None] * x_t)[..., None])[..., 0] + 2 * (time / 1000)[:, None, None, None]


class Packed(nn.Module):
    """The same field as a network of tokens that runs from noise to data: packed, by 1 - t, negated, and of twice the c."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.gain = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.gain.weight, factor)
        self.blocks = nn.ModuleList([self.gain])

    def forward(self, tokens, time, twice):
        return -(self.gain((twice[:, :, None] * tokens)[..., None])[..., 0] + 2 * (1 - time)[:, None, None])


class ClosedForm(Family):
    own_size = Size(4, 4)
    name = "closed_form"

    def latent_shape(self, size=None):
        return 2, 4, 4

    def grid(self, size, steps):
        return time_grid(steps)

    @property
    def latent_space(self):
        return LatentSpace(settings={}, vae=None)

    def _unasked(self, *arguments, **options):
        raise AssertionError("a field and a student ask for velocities alone")

    load_encoders = load_transformer = blueprint = untrained = encode = widest_inputs = clean = decode = _unasked


class PlainFamily(ClosedForm):
    def velocity(self, transformer, x_t, t, condition):
        return transformer(x_t, 1000 * t, condition.tensors["c"])


class PackedFamily(ClosedForm):
    def velocity(self, transformer, x_t, t, condition):
        return -unpack(transformer(pack(x_t), 1 - t, condition.tensors["twice"]), 4, 4)


def conditions(*values):
    """Of rows, as the student's model and the other read them; the empty prompt is 1."""
    c = torch.tensor([[float(value)] for value in values])
    other = Condition(tensors={"twice": 2 * c}, unconditional={"twice": torch.full_like(c, 2.0)})
    return Condition(tensors={"c": c}, unconditional={"c": torch.ones_like(c)}, others={OTHER: other})


def teacher(expression=None, factor=0.5, **more):
    networks = {"teacher": (Packed(factor), None), **more}
    return Field.build("teacher", PlainFamily(), networks, expression, models={"teacher": Model(OTHER, PackedFamily())})


@pytest.fixture
def asked():
    """Queries of the student's own rollout, and the student."""
    samples = tuple(Sample(id=n, route="r", row=n, indices=(3 + n,), size=None) for n in range(3))
    group = Group(step=0, route="r", samples=samples)
    transformer = Plain().requires_grad_(False)
    policy = Policy(PlainFamily(), Unmerged(transformer, SHAPE), rollouts(4, GRID, Euler()))
    student = Distiller(
        PlainFamily(), Plain().requires_grad_(False), LoraStudent(SHAPE), Optimization(learning_rate=3e-2), seed=1
    )
    policy.load(student.weights(0))
    return SimpleNamespace(queries=policy.queries((group,), [conditions(0.5, 1.5, -1)])[0], student=student)


def test_the_field_as_another_model_is_a_loss_of_exactly_0(asked):
    field = teacher()
    update = asked.student.update([Example(query=query, target=field.answer(query)) for query in asked.queries])
    assert update.loss == 0.0
    assert all((target := field.answer(query).velocity).norm() > 1 and target.isfinite().all() for query in asked.queries)


def test_another_field_of_another_model_is_learned(asked):
    """c is read as 1.25 c: the student's one number goes there, and what is left is rounding."""
    field = teacher(factor=0.625)
    losses = []
    for _ in range(100):
        losses.append(asked.student.update([Example(query=q, target=field.answer(q)) for q in asked.queries]).loss)
    assert losses[0] > 1e-2
    assert losses[-1] < 1e-3 * losses[0]


def test_guidance_takes_both_branches_from_the_other_model(asked):
    """v_u + 3 (v_c - v_u) of c x_t + 2 t, whose empty prompt is c = 1."""
    (query, *_) = asked.queries
    answer = teacher(Guidance(Network("teacher"), 3.0)).answer(query).velocity
    c = query.condition.tensors["c"][:, :, None, None]
    expected = (1 + 3 * (c - 1)) * query.x_t + 2 * query.t[:, None, None, None]
    torch.testing.assert_close(answer, expected)


def test_a_mix_asks_each_network_with_what_its_own_model_reads(asked):
    (query, *_) = asked.queries
    mix = Mix(((Network("teacher"), 0.25), (Network("own"), 0.75)))
    answer = teacher(mix, factor=1.0, own=(Plain(), None)).answer(query).velocity
    c = query.condition.tensors["c"][:, :, None, None]
    torch.testing.assert_close(answer, 1.25 * c * query.x_t + 2 * query.t[:, None, None, None])


def test_an_experts_own_rollout_is_the_students_where_the_fields_are_one(asked):
    samples = tuple(Sample(id=n, route="r", row=n, indices=(3 + n,), size=None) for n in range(3))
    group = Group(step=0, route="r", samples=samples)
    (query,) = teacher().queries(group, conditions(0.5, 1.5, -1), rollouts(4, GRID, Euler())(None))
    assert torch.equal(query.x_t, asked.queries[0].x_t)


def test_what_other_models_read_keeps_to_its_rows():
    three = conditions(1, 2, 3)
    for part in (
        three.rows(range(1, 3)),
        three.select(torch.tensor([1, 2])),
        Condition.concatenate([conditions(2), conditions(3)]),
    ):
        assert part.of(None).tensors["c"].flatten().tolist() == [2, 3]
        assert part.of(OTHER).tensors["twice"].flatten().tolist() == [4, 6]
    assert three.variant(Variant(prompt="empty")).others == {}
    assert three.with_others({}).others == {}
    with pytest.raises(ValueError, match=r"disagree on the batch: sizes \[2, 3\]"):
        three.with_others(conditions(1, 2).others)
