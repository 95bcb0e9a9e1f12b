"""The diagnostic as a command: what it writes, for whom, and what it tells."""

import json

import pytest

from pipelines.diagnose import main


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
