"""The diagnostic as a command: what it writes, for whom, and what it tells."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fields.data.bucket import Bucket
from fields.method.plan import Stream, noise
from pipelines.diagnose import main
from pipelines.parts.check_files import checked_parts


@pytest.fixture
def diagnose(config_file, tmp_path, capsys):
    def run(*overrides: str) -> tuple[dict, str]:
        arguments = [str(config_file), *overrides, f"run.dir={tmp_path}", "run.name=d", "--samples", "2"]
        assert main(arguments) == 0
        return json.loads((tmp_path / "d" / "diagnose.json").read_text()), capsys.readouterr().out

    return run


def test_every_task_of_every_route_and_every_pair(diagnose, tmp_path):
    content, said = diagnose("rollout.steps=4")
    assert len(content["tasks"]) == 12
    for entry in content["tasks"]:
        assert len(entry["pairs"]) == 6, "the student and three experts"
        assert [point["t"] for point in entry["pairs"]["student | local_edit"]] == [1.0, 0.75, 0.5, 0.25]
    assert "local_edit: the student equals local_edit" in said, "it starts as this expert, merged or not"
    assert "global_edit: global_edit differs most at t = " in said
    page = (tmp_path / "d" / "diagnose.html").read_text()
    assert page.count("<h2>") == 6
    assert "://" not in page


def test_an_expert_is_left_out_where_its_operator_cannot_be_asked(diagnose):
    content, _ = diagnose("rollout.steps=2", "experts.local_edit.operator={type: edit_guidance, image_scale: 2, text_scale: 3}")
    for entry in content["tasks"]:
        assert ("student | local_edit" in entry["pairs"]) == (entry["route"] != "text_to_image")


def test_nobody_is_diagnosed_on_no_rows(config_file, capsys):
    assert main([str(config_file), "--samples", "0"]) == 2
    assert capsys.readouterr().err == "error: --samples 0: allowed are whole numbers from 1\n"


@pytest.fixture
def scored(scene_data, tmp_path):
    """The override that adds a route of four rows: clear, nearly clear, open, and without scores."""
    table = pq.read_table(scene_data / "two_skills.parquet").slice(0, 4).drop(["scores"])
    scores = [[("local_edit", 0.75), ("global_edit", 0.25)], [("local_edit", 0.7), ("global_edit", 0.3)],
              [("global_edit", 0.5), ("local_edit", 0.5)], None]  # fmt: skip
    column = pa.array(scores, pa.map_(pa.string(), pa.float64()))
    pq.write_table(table.append_column("scores", column), tmp_path / "scored.parquet")
    return f"routes.two_skills={{expert: local_edit, data: {tmp_path / 'scored.parquet'}}}"


def test_rows_whose_scores_leave_it_open_are_named(diagnose, scored, tmp_path):
    content, said = diagnose("rollout.steps=3", scored, "routing={type: scored}")
    found = content["ambiguous"]["two_skills"]
    assert (found["looked_at"], found["ambiguous"]) == (4, 2)
    assert [row["uid"] for row in found["rows"]] == ["two_skills-000002", "two_skills-000001"], "the most open first"
    assert [row["scores"] for row in found["rows"]] == [
        {"global_edit": 0.5, "local_edit": 0.5},
        {"local_edit": 0.7, "global_edit": 0.3},
    ]
    assert (
        "two_skills: 2 of 4 rows are ambiguous (no expert's score reaches 0.75); over 2 of them their two experts differ by"
        in said
    )
    page = (tmp_path / "d" / "diagnose.html").read_text()
    assert "Ambiguous rows of two_skills" in page
    assert page.count("two_skills-00000") == 3, "both rows, and the one that is named above them"


def test_how_far_experts_disagree_at_a_row_is_what_their_velocities_say(diagnose, scored, make_config, scene_data):
    """One row and one step: both fields at the noise of the row's number."""
    content, _ = diagnose("rollout.steps=1", scored, "routing={type: scored}")
    config = make_config("rollout.steps=1", scored, "routing={type: scored}")
    parts = checked_parts(config)
    row = Bucket(scene_data / "two_skills.parquet")[2]
    x_T, t = noise(config.run.seed, [2], (3, 24, 24), Stream.QUESTION_NOISE), torch.ones(1)
    local, other = (parts.field(name).velocity(x_T, t, parts.family.encode([row])) for name in ("local_edit", "global_edit"))
    expected = (local - other).square().mean().sqrt().item()
    assert content["ambiguous"]["two_skills"]["rows"][0]["difference"] == pytest.approx(expected, rel=1e-5)


def test_without_scored_routing_nothing_is_ambiguous(diagnose, scored):
    content, said = diagnose("rollout.steps=1", scored)
    assert content["ambiguous"] == {}
    assert "ambiguous" not in said
