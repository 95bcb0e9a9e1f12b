"""Methods against one another, by the reference loop: what must be the same student, and what must not."""

import pytest

from actors.journal import METRICS, rows
from pipelines.parts.check_files import checked_parts
from runs import reference

SHORT = ("run.steps=2", "rollout.steps=6", "learner.batch_size=6")


def student(make_config, *overrides):
    return reference(make_config(*SHORT, *overrides)).weights.checksum


def test_soft_routing_with_one_hot_shares_is_hard_routing_bit_for_bit(make_config):
    one_hot = "{text_to_image: {text_to_image: 1}, local_edit: {local_edit: 1, global_edit: 0}, global_edit: {global_edit: 1}}"
    hard = student(make_config)
    assert student(make_config, f"routing={{type: soft, mix: {one_hot}}}") == hard
    assert student(make_config, "routing={type: soft}") != hard


def test_every_axis_makes_another_student(make_config):
    changes = (
        (),
        ("state={type: student_sde}",),
        ("state={type: noised_data}",),
        ("state={type: noised_data, target: data}",),
        ("state={type: expert_rollout}",),
        ("rollout.solver=heun",),
        ("rollout.merge=false",),
        ("query.k=2",),
        ("query={type: dense}",),
        ("routing={type: grouped}",),
        ("objective={type: weighted_mse, power: 2}",),
        ("objective={type: transition_kl}",),
        ("objective={type: pdm, weight: 1}",),
        ("anchor={expert: text_to_image, weight: 1}",),
        ("experts.local_edit.operator={type: guidance, scale: 3}",),
    )
    assert len({student(make_config, "run.steps=1", *change) for change in changes}) == len(changes)


def test_batches_of_several_routes_teach_what_batches_of_one_do(make_config):
    """Sample by sample, with what each method has: the losses of a first step are the same but for rounding."""
    for number, method in enumerate(
        (
            ("query.k=2", "anchor={expert: text_to_image, weight: 1}"),
            ("objective={type: pdm, weight: 1}",),
            ("state={type: noised_data, target: data}",),
            ("state={type: expert_rollout}",),
        )
    ):
        losses = []
        for mixes in (False, True):
            name = f"run.name={number}-{mixes}"
            config = make_config(*SHORT, "run.steps=1", "learner.batch_size=12", f"rollout.mix_routes={mixes}", name, *method)
            assert max(map(len, checked_parts(config).plan.batches(0))) == 1 + mixes
            reference(config)
            (row,) = rows(config.folder / METRICS)
            losses.append((row["route_loss"], row["samples"]))
        (apart, samples), (mixed, same) = losses
        assert samples == same == 12
        assert apart.keys() == mixed.keys() == {"text_to_image", "local_edit", "global_edit"}
        assert mixed == pytest.approx(apart, rel=1e-4, abs=1e-10)


def test_an_expression_over_other_experts_is_the_adapters_own_student(make_config):
    """An expert that is another by name answers as that one does."""
    renamed = "experts.global_edit={operator: local_edit, num_cpus: 0.1}"
    twice = "experts.global_edit={operator: {type: mix, parts: [{of: local_edit, weight: 1}]}, num_cpus: 0.1}"
    assert student(make_config, renamed) == student(make_config, twice)
    assert student(make_config, renamed) == student(make_config, "routes.global_edit.expert=local_edit")
