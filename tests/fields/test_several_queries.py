"""A distiller that asks at several states of a rollout, is held to an anchor, or learns from data."""

import gc
from dataclasses import replace

import pytest
import torch
from distiller_cases import answered, gradients, total_norm, with_velocity

from fields.carriers import Example
from fields.method.objective import PredictionDifference, TransitionKl, VelocityMse
from fields.method.teaching import from_data


def several_states(query, count):
    """A query of the same samples at each of `count` states, each at its own t."""
    moved = [query.x_t + 0.1 * n for n in range(count)]
    times = torch.linspace(1.0, 0.2, count + 1)
    return [
        replace(query, x_t=x_t, t=torch.full_like(query.t, t), t_next=torch.full_like(query.t, t_next))
        for x_t, t, t_next in zip(moved, times[:-1].tolist(), times[1:].tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("objective", "share"),
    [(TransitionKl(), 1.0), (TransitionKl(0.7), 1.0), (VelocityMse(), 1 / 3), (VelocityMse(2.0), 1 / 3)],
    ids=["kl of the ode", "kl of the sde", "mse", "clean image"],
)
def test_all_queries_at_once_are_the_sum_or_mean_of_single_ones(new_student, local_field, ask, objective, share):
    examples = [answered(query, local_field) for query in several_states(ask(0, 1), 3)]
    whole = new_student(objective=objective)
    update = whole.update(examples)
    singles, losses = [], []
    for example in examples:
        student = new_student(objective=objective)
        losses.append(student.update([example]).loss)
        singles.append(gradients(student))
    assert update.loss == pytest.approx(share * sum(losses), rel=1e-5)
    assert update.route_loss == {"local_edit": pytest.approx(update.loss, rel=1e-5)}
    assert update.route_samples == {"local_edit": 2}
    expected = {name: share * sum(single[name] for single in singles) for name in singles[0]}
    difference = {name: g - expected[name] for name, g in gradients(whole).items()}
    assert total_norm(difference) < 1e-4 * total_norm(expected)


@pytest.mark.parametrize("objective", [VelocityMse(), TransitionKl()], ids=["mean", "sum"])
def test_the_report_of_several_queries_is_a_samples(new_student, local_field, ask, objective):
    """Whatever is summed, the routes' losses weighted by their samples are the whole loss."""
    routes = ask(0, route="a"), ask(1, 2, 3, route="b")
    examples = [answered(query, local_field) for route in routes for query in several_states(route, 4)]
    update = new_student(objective=objective).update(examples)
    assert update.route_samples == {"a": 1, "b": 3}
    assert update.loss == pytest.approx((update.route_loss["a"] + 3 * update.route_loss["b"]) / 4, rel=1e-5)


def most_bytes_kept(student, examples):
    """The most memory that an update holds for the backward pass at one moment."""
    alive = most = 0

    class Kept:
        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor = tensor
            alive += tensor.nbytes
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        student.update(examples)
    gc.collect()
    assert alive == 0, "or something is not counted back"
    return most


@pytest.mark.parametrize("objective", [TransitionKl(), PredictionDifference(1.0)], ids=["dense", "both branches"])
def test_memory_does_not_grow_with_the_number_of_queries(new_student, local_field, ask, objective):
    query = replace(ask(0), both_branches=objective.both_branches)
    most = []
    for count in (1, 4, 16):
        examples = [answered(q, local_field) for q in several_states(query, count)]
        most.append(most_bytes_kept(new_student(objective=objective), examples))
    assert most[0] > 100_000
    assert most == [most[0]] * 3


def test_an_anchor_pulls_with_its_weight(new_student, local_field, ask):
    """The gradient is the target's and `anchor_weight` times the anchor's."""
    query = ask(0, 1, 2)
    to_target, to_anchor = answered(query, local_field), with_velocity(query, torch.ones_like(query.x_t))
    parts = []
    for example in (to_target, to_anchor):
        student = new_student()
        parts.append((student.update([example]).loss, gradients(student)))
    anchored = new_student(anchor_weight=0.25)
    update = anchored.update([replace(to_target, anchor=to_anchor.target)])
    (target_loss, of_target), (anchor_loss, of_anchor) = parts
    assert update.loss == pytest.approx(target_loss + 0.25 * anchor_loss, rel=1e-5)
    expected = {name: of_target[name] + 0.25 * of_anchor[name] for name in of_target}
    difference = {name: g - expected[name] for name, g in gradients(anchored).items()}
    assert total_norm(difference) < 1e-4 * total_norm(expected)
    assert total_norm(of_anchor) > 0.01 * total_norm(of_target), "or the weight would not be seen"


def test_supervised_training_has_the_gradient_of_eps_minus_x_0(new_student, ask):
    """joint_sft: noised data, and the data's own velocity as the target."""
    student, twin = new_student(), new_student()
    query = ask(0, 1, 2)
    rng = torch.Generator().manual_seed(8)
    x_0, eps = (torch.randn(query.x_t.shape, generator=rng) for _ in range(2))
    t = query.t.reshape(-1, 1, 1, 1)
    noised = replace(query, x_t=(1 - t) * x_0 + t * eps, condition=replace(query.condition, clean=x_0))
    update = student.update([Example(query=noised, target=from_data(noised))])
    loss = (twin.predict(noised).velocity - (eps - x_0)).square().mean()
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), rel=1e-4)
    expected = gradients(twin)
    difference = {name: g - expected[name] for name, g in gradients(student).items()}
    assert total_norm(difference) < 1e-3 * total_norm(expected)
