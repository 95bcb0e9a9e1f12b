"""Experts on one base against the same experts on a base each."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fields.carriers import Query
from fields.field import Field
from fields.operators import Autoguidance, Guidance, Network
from fields.scene.family import SceneFamily
from fields.shared_field import Member, SharedField

TOLERANCE = 1e-5  # of the velocity's norm, in float32
CPU = torch.device("cpu")


class CountingFamily(SceneFamily):
    """Remembers the batch of each forward."""

    def __init__(self):
        self.batches: list[int] = []

    def velocity(self, transformer, x_t, t, condition):
        self.batches.append(len(x_t))
        return super().velocity(transformer, x_t, t, condition)


@pytest.fixture
def adapters(local_edit, global_edit):
    return {"text_to_image": None, "local_edit": local_edit, "global_edit": global_edit}


MEMBERS = {name: Member(Network("0"), (name,)) for name in ("text_to_image", "local_edit", "global_edit")} | {
    "guided_local": Member(Guidance(Network("0"), 2.0), ("local_edit",)),
    "guided_global": Member(Guidance(Network("0"), 2.0), ("global_edit",)),
    "local_against_base": Member(Autoguidance(Network("0"), Network("1"), 1.5), ("local_edit", "text_to_image")),
    "base_against_global": Member(Autoguidance(Network("0"), Network("1"), 1.5), ("text_to_image", "global_edit")),
}


@pytest.fixture
def shared(adapters, new_base):
    return SharedField(CountingFamily(), new_base(), adapters, MEMBERS, CPU)


@pytest.fixture
def separate(adapters, new_base, family):
    """Each expert with networks of its own."""

    def field(name, member):
        networks = {str(n): (new_base(), adapters[network]) for n, network in enumerate(member.networks)}
        return Field.build(name, family, networks, member.expression)

    return {name: field(name, member) for name, member in MEMBERS.items()}


@pytest.fixture
def query(encoded):
    """A query of `count` samples at random states."""

    def make(route, count, seed, both_branches=False):
        rng = torch.Generator().manual_seed(seed)
        t = torch.rand(count, generator=rng) * 0.8 + 0.1
        return Query(
            sample_ids=tuple(range(10 * seed, 10 * seed + count)),
            routes=(route,) * count,
            policy_version=0,
            checksum="",
            x_t=torch.randn(count, 3, 24, 24, generator=rng),
            t=t,
            t_next=t - 0.1,
            condition=encoded(route, count),
            both_branches=both_branches,
        )

    return make


def assert_equal_answers(shared, separate, experts, queries):
    answers = shared.answer(experts, [(query,) for query in queries])
    targets = [target for (target,) in answers]
    for expert, query, target in zip(experts, queries, targets, strict=True):
        expected = separate[expert].answer(query)
        assert (target.sample_ids, target.expert) == (query.sample_ids, expert)
        assert torch.equal(target.t, query.t)
        assert (target.velocity - expected.velocity).norm() < TOLERANCE * expected.velocity.norm()


def test_experts_are_far_apart(separate, query):
    """Or a wrong adapter would pass the tests below."""
    one = query("local_edit", 2, 1)
    answers = [separate[name].answer(one).velocity for name in separate]
    for n, a in enumerate(answers):
        assert all((a - b).norm() > 1000 * TOLERANCE * a.norm() for b in answers[:n])


def test_a_mixed_call_is_one_forward_and_equals_the_separate_experts(shared, separate, query):
    queries = [query("local_edit", 3, 1), query("global_edit", 1, 2), query("local_edit", 2, 3)]
    assert_equal_answers(shared, separate, ["local_edit", "global_edit", "text_to_image"], queries)
    assert shared.family.batches == [6]


def test_branches_of_an_operator_keep_their_experts(shared, separate, query):
    queries = [query("local_edit", 3, 1), query("global_edit", 1, 2)]
    assert_equal_answers(shared, separate, ["guided_local", "guided_global"], queries)
    assert shared.family.batches == [8], "two branches of four"


def test_each_of_an_expressions_networks_has_its_rows_adapters(shared, separate, query):
    queries = [query("local_edit", 3, 1), query("global_edit", 1, 2)]
    assert_equal_answers(shared, separate, ["local_against_base", "base_against_global"], queries)
    assert shared.family.batches == [4, 4], "one forward a network"


def test_several_queries_of_several_experts_are_sorted_back(shared, separate, query):
    first, second, third = (query("local_edit", n, n) for n in (1, 2, 3))
    experts, asked = ["local_edit", "guided_local", "global_edit"], [(first, second), (third,), (second, first)]
    for expert, own, answers in zip(experts, asked, shared.answer(experts, asked), strict=True):
        for one, target in zip(own, answers, strict=True):
            assert (target.expert, target.sample_ids) == (expert, one.sample_ids)
            expected = separate[expert].answer(one).velocity
            assert (target.velocity - expected).norm() < TOLERANCE * expected.norm()


def test_the_velocity_without_the_prompt_is_told_where_it_is_asked(shared, separate, query):
    queries = [query("local_edit", 2, 1, both_branches=True), query("global_edit", 1, 2)]
    (one,), (other,) = shared.answer(["local_edit", "global_edit"], [(q,) for q in queries])
    expected = separate["local_edit"].answer(queries[0])
    assert (one.unconditional - expected.unconditional).norm() < TOLERANCE * expected.unconditional.norm()
    assert (one.unconditional - one.velocity).norm() > 0.01 * one.velocity.norm()
    assert other.unconditional is None


def test_conditions_of_other_shapes_and_other_operators_are_other_forwards(shared, separate, query):
    experts = ["local_edit", "text_to_image", "guided_global", "global_edit"]
    queries = [query("local_edit", 1, 1), query("text_to_image", 2, 2), query("global_edit", 3, 3), query("global_edit", 4, 4)]
    assert_equal_answers(shared, separate, experts, queries)
    assert sorted(shared.family.batches) == [2, 5, 6], "the base without a source image, both edits, the guided one twice"


def test_the_base_alone_answers_to_the_last_bit(shared, separate, query):
    one = query("text_to_image", 3, 1)
    ((target,),) = shared.answer(["text_to_image"], [(one,)])
    assert torch.equal(target.velocity, separate["text_to_image"].answer(one).velocity)


def test_an_experts_own_velocity(shared, separate, query):
    one = query("global_edit", 3, 1)
    velocity = shared.velocity("global_edit", one.x_t, one.t, one.condition)
    expected = separate["global_edit"].answer(one).velocity
    assert (velocity - expected).norm() < TOLERANCE * expected.norm()


def test_calls_from_two_threads_do_not_mix(shared, separate, query):
    one, other = query("local_edit", 2, 1), query("global_edit", 2, 2)

    def call(n):
        expert, asked = (("local_edit", one), ("global_edit", other))[n % 2]
        assert_equal_answers(shared, separate, [expert], [asked])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(call, range(20)))


class FlatTransformer(nn.Module):
    """Computes on a list of tokens without a batch, as some networks' embedders do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.pixels = nn.Linear(24, 24)

    def forward(self, x_t, t, words, source):
        return self.pixels(x_t.reshape(-1, 24)).reshape(x_t.shape)


def test_a_network_whose_rows_are_no_samples_is_asked_expert_by_expert(query):
    from lora_cases import random_adapter

    from fields.lora.adapter import LoraShape

    adapters = {f"e{n}": random_adapter(LoraShape(2, 2.0, ()), n, "pixels", (24, 24)) for n in range(2)}
    family = CountingFamily()
    members = {name: Member(Network("0"), (name,)) for name in adapters}
    shared = SharedField(family, FlatTransformer(), adapters, members, CPU)
    separate = {name: Field.build(name, family, {name: (FlatTransformer(), a)}) for name, a in adapters.items()}
    queries = [query("local_edit", 2, 1), query("local_edit", 1, 2)]
    for _ in range(2):
        assert_equal_answers(shared, separate, ["e0", "e1"], queries)
    assert family.batches == [3, 2, 1, 2, 1, 2, 1, 2, 1], "one try together; the separate fields' two calls each time"


def test_a_velocity_that_is_not_finite_names_its_expert(adapters, new_base, family, query, local_edit):
    broken = {name: tensor * 1e30 for name, tensor in local_edit.tensors.items()}
    adapters = adapters | {"broken": type(local_edit)(local_edit.shape, broken)}
    members = MEMBERS | {"broken": Member(Network("0"), ("broken",))}
    shared = SharedField(family, new_base(), adapters, members, CPU)
    with pytest.raises(ValueError, match=r"expert 'broken' gave a value that is not finite: sample 20 at t"):
        shared.answer(["local_edit", "broken"], [(query("local_edit", 1, 1),), (query("local_edit", 1, 2),)])


def size(transformer: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*transformer.parameters(), *transformer.buffers()))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_experts_cost_one_base_and_their_adapters(new_base, family, local_edit, count):
    base = size(new_base())
    adapter = sum(tensor.nbytes for tensor in local_edit.tensors.values())
    adapters = {f"e{n}": local_edit for n in range(count)} | {"base": None}
    members = {name: Member(Network("0"), (name,)) for name in adapters}
    shared = size(SharedField(family, new_base(), adapters, members, CPU).transformer)
    fields = [Field.build(name, family, {name: (new_base(), adapter)}) for name, adapter in adapters.items()]
    separate = sum(size(field.transformers[field.name]) for field in fields)
    assert shared == base + count * adapter
    assert separate == (count + 1) * base + count * adapter
