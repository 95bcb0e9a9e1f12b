"""What a run that continues must have in common with its checkpoint, and what may change on the way."""

import json

from pipelines.config.recipe import completed, recipe, recipe_differences


def saved(config):
    return json.loads(json.dumps(recipe(config)))  # as state.json gives it back


def test_memory_is_no_part_of_the_recipe_but_the_micro_batch_is(make_config):
    before = recipe(make_config())
    assert recipe(make_config("learner.recompute=always", "learner.gpu=l40s")) == before
    changed = recipe(make_config("learner.micro_batch=2"))
    assert recipe_differences(changed, before, 8) == ["learner.micro_batch: auto -> 2"]


def test_the_recipe_leaves_out_what_may_change_on_the_way(make_config):
    before = recipe(make_config())
    resources = (
        "rollout.workers=5",
        "rollout.autoscaling.most=7",
        "learner.ranks=3",
        "experts.local_edit.replicas=2",
        "learner.node_labels.role=x",
        "encoder.num_gpus=1",
    )
    more = ("experts.local_edit.autoscaling.most=9", "run.services=standing", "run.steps=99", "run.name=x")
    assert recipe(make_config(*resources, *more)) == before
    changed = recipe(make_config("run.seed=1", "learner.learning_rate=0.5", "rollout.merge=false"))
    assert recipe_differences(changed, before, 8) == [
        "learner.learning_rate: 0.001 -> 0.5",
        "rollout.merge: True -> False",
        "run.seed: 0 -> 1",
    ]


def test_a_key_that_came_since_is_no_difference_where_it_has_its_default(make_config):
    before = saved(make_config("learner.clip=3"))
    del before["rollout"]["mix_routes"], before["learner"]["clip"]
    now = make_config()
    assert recipe_differences(recipe(now), completed(before, now), 8) == []
    mixing = make_config("rollout.mix_routes=true", "learner.clip=2", "learner.learning_rate=0.5")
    assert recipe_differences(recipe(mixing), completed(before, mixing), 8) == [
        "learner.clip: None -> 2.0",
        "learner.learning_rate: 0.001 -> 0.5",
        "rollout.mix_routes: None -> True",
    ]


def test_weights_may_change_from_the_checkpoints_step_on(make_config):
    before = saved(make_config("routes.local_edit.weight_changes={3: 2.0, 20: 5.0}"))
    other = make_config("routes.local_edit.weight_changes={3: 2.0, 10: 4.0}")
    assert recipe_differences(recipe(other), before, 10) == []
    assert recipe_differences(recipe(other), before, 11) == ["routes.local_edit.weight_changes.10: None -> 4.0"]
    assert recipe_differences(recipe(make_config()), before, 4) == ["routes.local_edit.weight_changes.3: 2.0 -> None"]
    assert recipe_differences(recipe(make_config("routes.local_edit.weight=3")), before, 2) == [
        "routes.local_edit.weight: 1.0 -> 3.0"
    ]


def test_scores_may_name_a_route_whose_rows_are_never_drawn(make_config, scene_data):
    """So another expert of it is another run; where routes decide, it isn't."""
    undrawn = f"{{data: {scene_data / 'global_edit.parquet'}, weight: 0, expert: "
    of = [f"routes.global_edit={undrawn}{expert}}}" for expert in ("global_edit", "local_edit")]
    for routing, expected in (("scored", ["routes.global_edit.expert: global_edit -> local_edit"]), ("hard", [])):
        now, before = (recipe(make_config(route, f"routing={{type: {routing}}}")) for route in reversed(of))
        assert recipe_differences(now, before, 10) == expected


def test_a_route_and_its_expert_may_come_from_the_checkpoints_step_on(make_config, scene_data):
    new = (
        "experts.another={num_cpus: 0.1}",
        f"routes.another={{expert: another, data: {scene_data / 'local_edit.parquet'}, weight: 0, weight_changes: {{10: 1}}}}",
    )
    before = saved(make_config())
    assert recipe_differences(recipe(make_config(*new)), before, 10) == []
    (difference,) = recipe_differences(recipe(make_config(*new)), before, 11)
    assert difference.startswith("routes.another: None -> ")
    (difference,) = recipe_differences(recipe(make_config()), saved(make_config(*new)), 11)[:1]
    assert difference.startswith("experts.another: ")
