"""Rows that need two skills: their own scores decide who answers them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fields.data.bucket import Bucket
from pipelines.distill import main
from pipelines.parts.run_parts import RunParts
from runs import distributed, reference, trained_ids

SHORT = ("run.steps=2", "rollout.steps=6", "learner.batch_size=12")
COMPOSED = "routing={type: scored, answer: composed, unconditional: text_to_image}"


@pytest.fixture
def two_skills(scene_data):
    """The override that adds the route of such rows; its own expert is the local editor."""
    return f"routes.two_skills={{expert: local_edit, weight: 3, data: {scene_data / 'two_skills.parquet'}}}"


@pytest.fixture
def rescored(scene_data, tmp_path):
    """The same route with other scores in every row."""

    def write(*scores):
        table = pq.read_table(scene_data / "two_skills.parquet").drop(["scores"])
        column = pa.array([list(scores)] * len(table), pa.map_(pa.string(), pa.float64()))
        pq.write_table(table.append_column("scores", column), tmp_path / "rescored.parquet")
        return f"routes.two_skills={{expert: local_edit, weight: 3, data: {tmp_path / 'rescored.parquet'}}}"

    return write


@pytest.mark.parametrize("routing", ["routing={type: scored}", pytest.param(COMPOSED, marks=pytest.mark.slow)])
def test_a_distributed_run_is_the_reference(make_config, cluster, two_skills, routing):
    config = make_config(two_skills, routing, "run.steps=4", "learner.lag=1", "eval.every=4")
    outcome = distributed(config)
    assert sorted(trained_ids(config.folder)) == list(range(48))
    assert (
        outcome.weights.checksum == reference(make_config(two_skills, routing, "run.steps=4", "learner.lag=1")).weights.checksum
    )
    assert "two_skills" in outcome.results["after"].skills


def test_the_scene_worlds_rows_of_two_skills_say_so(scene_data):
    bucket = Bucket(scene_data / "two_skills.parquet")
    assert all(bucket.scores(n) == {"local_edit": 0.5, "global_edit": 0.5} for n in range(len(bucket)))
    assert not Bucket(scene_data / "local_edit.parquet").scored


def student(make_config, *overrides):
    return reference(make_config(*SHORT, *overrides)).weights.checksum


def test_scores_of_one_route_are_hard_routing_bit_for_bit(make_config, rescored, two_skills):
    one = rescored(("local_edit", 1.0), ("global_edit", 0.0))
    hard = student(make_config, one)
    assert student(make_config, one, "routing={type: scored}") == hard
    assert student(make_config, one, "routing={type: scored, answer: mixed}") == hard
    assert student(make_config, one, COMPOSED) == hard
    others = ("routing={type: hard}", "routing={type: scored}", "routing={type: scored, answer: mixed}", COMPOSED)
    assert len({student(make_config, two_skills, other) for other in others}) == 4


def test_scores_of_another_route_are_that_routes_expert(make_config, rescored):
    one = rescored(("global_edit", 1.0))
    assert student(make_config, one, "routing={type: scored}") == student(
        make_config, one, "routes.two_skills.expert=global_edit"
    )


def test_a_score_of_a_route_that_is_not_there_is_refused(refuse, rescored):
    line = refuse(rescored(("global_edit", 0.5), ("style", 0.5)), "routing={type: scored}")
    assert "routes.two_skills.data" in line
    assert "row 0 ('two_skills-000000'): scores name the route 'style'" in line
    assert line.strip().endswith("the routes are text_to_image, local_edit, global_edit, two_skills")


def test_scores_that_do_not_sum_to_1_are_refused(refuse, rescored):
    line = refuse(rescored(("global_edit", 0.5), ("local_edit", 0.4)), "routing={type: scored}")
    assert "routes.two_skills.data" in line
    assert "scores sum to 0.9; they must sum to 1" in line


def test_whoever_a_score_may_ask_gets_what_its_operator_wants(refuse, two_skills):
    line = refuse(two_skills, "routing={type: scored}", "experts.global_edit.operator={type: negative_prompt, scale: 2}",
                  "routes.global_edit.weight=0")  # fmt: skip
    assert "has no negative_prompt, which experts.global_edit.operator needs" in line
    line = refuse(two_skills, COMPOSED, "experts.text_to_image.operator={type: negative_prompt, scale: 2}",
                  "routes.text_to_image.weight=0")  # fmt: skip
    assert "has no negative_prompt, which experts.text_to_image.operator needs" in line


def test_a_run_that_goes_on_asks_whom_it_would_have_asked(config_file, make_config, two_skills):
    settings = (two_skills, "routing={type: scored}", "checkpoint.every=1", *SHORT)
    for steps in (2, 4):
        assert main([str(config_file), "--reference", *settings, "run.name=resumed", f"run.steps={steps}"]) == 0
    whole = reference(make_config(*settings, "run.name=whole", "run.steps=4"))
    summary = json.loads((make_config("run.name=resumed").folder / "summary.json").read_text())
    assert summary["weights_sha256"] == whole.weights.checksum


def test_a_route_whose_file_is_missing_is_refused_also_where_none_of_its_rows_is_drawn(refuse, tmp_path):
    line = refuse(
        f"routes.two_skills={{expert: local_edit, weight: 0, data: {tmp_path / 'no.parquet'}}}", "routing={type: scored}"
    )
    assert line.startswith("error: routes.two_skills.data: ")


def test_a_route_that_comes_later_is_not_in_the_exam(make_config, two_skills):
    """Exams of one run are to be compared."""
    later = two_skills.replace("weight: 3", "weight: 0, weight_changes: {2: 1}")
    plain, later, now = (RunParts(make_config(*each)).evaluation for each in ((), (later,), (two_skills,)))
    assert later.categories == plain.categories
    assert later.routes == plain.routes
    assert now.categories == (*plain.categories, "two_skills")
    assert now.routes.keys() - plain.routes.keys() == {"two_skills"}
