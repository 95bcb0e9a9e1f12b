"""What a process computes for nothing before anything is trained: as much as its largest group, and no trace of it."""

from dataclasses import replace

import pytest
import torch
from distiller_cases import SHAPE, UNCLIPPED, answered, bits

from fields.data.size import Size
from fields.field import Field
from fields.memory.cost import Pass
from fields.memory.rehearsal import DoesNotFit
from fields.method.objective import PredictionDifference
from fields.method.states import RolloutSettings
from fields.operators import Guidance, Network
from fields.policy import Policy
from fields.shared_field import Member, SharedField
from fields.versions import Unmerged

GROUP = Pass(5, Size(24, 24), sources=1)
HUGE = replace(GROUP, samples=10**8)  # states alone are 691 GB


def seen_by(network):
    """The number of samples of each forward from now on."""
    seen = []
    network.register_forward_pre_hook(lambda _module, arguments: seen.append(len(arguments[0])))
    return seen


def test_a_rehearsed_student_takes_the_step_of_one_that_did_not(new_student, local_field, ask):
    rehearsed, fresh = new_student(), new_student()
    untouched = bits(rehearsed)
    rehearsed.rehearse(GROUP)
    assert bits(rehearsed) == untouched
    assert all(parameter.grad is None for parameter in rehearsed.parameters.values())
    example = answered(ask(0, 1, 2), local_field)
    assert rehearsed.update([example]) == fresh.update([example])
    assert bits(rehearsed) == bits(fresh)


def test_a_student_rehearses_its_largest_micro_batch_with_every_branch(new_student):
    whole = new_student()
    parts = new_student(replace(UNCLIPPED, micro_batch=2))
    for student, expected in ((whole, [5, 5]), (parts, [2, 2])):
        seen = seen_by(student.transformer)
        student.rehearse(GROUP)
        assert seen == expected, "the second time beside the gradients of the first"
    both = new_student(objective=PredictionDifference(1.0))
    seen = seen_by(both.transformer)
    both.rehearse(replace(GROUP, branches=2))
    assert seen == [5, 5, 5, 5]


def test_a_guided_expert_rehearses_the_branches_that_it_evaluates_together(family, new_base, local_edit):
    networks = {"local_edit": (new_base(), local_edit)}
    field = Field.build("guided", family, networks, Guidance(Network("local_edit"), 3.0))
    seen = seen_by(field.transformers["local_edit"])
    field.rehearse(GROUP)
    assert seen == [10]


def test_shared_experts_rehearse_every_member(family, new_base, local_edit):
    plain, guided = Network("0"), Guidance(Network("0"), 3.0)
    members = {"plain": Member(plain, ("base",)), "guided": Member(guided, ("local_edit",))}
    field = SharedField(family, new_base(), {"base": None, "local_edit": local_edit}, members, torch.device("cpu"))
    seen = seen_by(field.transformer)
    field.rehearse(GROUP)
    assert seen == [5, 10]


def test_what_has_no_memory_says_for_what(new_student, family, new_base, base_field):
    policy = Policy(family, Unmerged(new_base(), SHAPE), lambda size: RolloutSettings)
    for computes in (new_student(), policy, base_field):
        with pytest.raises(DoesNotFit, match=r"^no memory for 100000000 samples of 24 x 24 pixels with a source image: "):
            computes.rehearse(HUGE)
