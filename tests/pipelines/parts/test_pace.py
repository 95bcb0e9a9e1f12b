"""How fast a run is planned to be: the closed form of each limit, and what a run asks of its parts."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.parts.needs import Needs
from pipelines.parts.pace import CORES, LAG, LEARNER, ROLLOUT, SHARED_GPUS, Pace, StepSeconds, step_flops
from pipelines.parts.run_parts import RunParts
from pipelines.parts.work import Work
from pipelines.reports.pace import lines, table

SECONDS = StepSeconds(encode=0.5, rollout=12.0, experts={"local_edit": 3.0, "global_edit": 1.0}, learner=4.0, beside=1.5)


@pytest.mark.parametrize(
    ("overrides", "cores", "limit", "seconds", "said"),
    [
        (["rollout.workers=2"], 100, ROLLOUT, 12 / 2, "rollout (the learner is busy 67 % of the time); set rollout.workers=3"),
        (["rollout.workers=3"], 100, LEARNER, 4, "the learner, which is busy all the time; more of anything else"),
        (["rollout.workers=3", "learner.lag=0"], 100, LAG, 12 / 3 + 3 + 4, "a larger learner.lag lets them go on together"),
        (["rollout.workers=3", "learner.lag=0"], 2, LAG, (0.5 + 12 + 3 + 1 + 1.5) / 2 + 4, "a larger learner.lag"),
        (["rollout.workers=3", "learner.lag=2"], 100, LEARNER, 4, "the learner"),
        (["rollout.workers=9"], 2, CORES, (0.5 + 12 + 3 + 1 + 4 + 1.5) / 2, "the CPU's cores, which all processes share"),
        (["rollout.workers=9", "learner.num_gpus=1", "rollout.num_gpus=1"], 1, CORES, 0.5 + 3 + 1 + 1.5, "the CPU's cores"),
        (["rollout.workers=9", "learner.num_gpus=0.5", "rollout.num_gpus=0.25"], 99, SHARED_GPUS, 16 / 3, "that several"),
        (
            ["rollout.workers=9", "learner.ranks=4", "learner.batch_size=96"],
            99,
            "experts.local_edit",
            3,
            "experts.local_edit.replicas=3",
        ),
    ],
)
def test_what_takes_longest_decides(make_config, overrides, cores, limit, seconds, said):
    config = make_config("learner.batch_size=12", "learner.lag=8", "run.steps=600", *overrides)
    pace = Pace.of(config, SECONDS, cores, {})
    assert (pace.limit, pace.step_seconds) == (limit, pytest.approx(seconds))
    assert pace.samples_per_second == pytest.approx(config.learner.batch_size / seconds)
    assert pace.hours == pytest.approx(600 * seconds / 3600)
    assert said in lines(pace)[1]


def test_as_many_as_wanted_keep_the_learner_busy(make_config):
    pace = Pace.of(make_config("rollout.workers=1"), SECONDS, 100, {})
    assert pace.wanted == {ROLLOUT: 3, "experts.local_edit": 1, "experts.global_edit": 1, "encoder": 1}
    enough = make_config("rollout.workers=3", "learner.lag=9")
    assert Pace.of(enough, SECONDS, 100, {}).busy(LEARNER) == 1


def test_shared_experts_and_one_that_is_called_as_a_part_is_are_told_apart(make_config):
    shared = [f"experts.{name}.placement=shared" for name in ("text_to_image", "local_edit", "global_edit")]
    config = make_config("rollout.workers=9", "learner.lag=9", *shared)
    pace = Pace.of(config, replace(SECONDS, experts={"shared": 9.0}), 100, {})
    assert (pace.limit, pace.step_seconds) == ("shared experts", 9)
    assert lines(pace)[1].endswith("; set replicas of each of them to 3")
    config = make_config("experts.rollout={num_cpus: 0.1}", "rollout.workers=3", "learner.lag=9")
    pace = Pace.of(config, replace(SECONDS, experts={"rollout": 3.0}), 100, {})
    assert (pace.limits[ROLLOUT], pace.limits["experts.rollout"], pace.limit) == (4, 3, LEARNER)


def test_gpus_are_counted_with_ranks_and_replicas(make_config):
    config = make_config(
        *("learner.ranks=2", "learner.num_gpus=1", "rollout.workers=3", "rollout.num_gpus=0.5", "learner.batch_size=48"),
        *("experts.local_edit.replicas=2", "experts.local_edit.num_gpus=1", "experts.local_edit.ranks=2"),
    )
    pace = Pace.of(config, SECONDS, 100, {})
    assert pace.gpus == 2 + 1.5 + 4
    assert f"{pace.hours * 7.5:.3g} GPU-hours on 7.5 GPUs" in lines(pace)[0]


def test_the_work_of_a_sample_is_what_the_method_asks_for(make_config):
    def work(*overrides: str) -> Work:
        return Work.of(RunParts(make_config("rollout.steps=8", "learner.batch_size=12", *overrides)))

    last = work("query={type: fixed, at: [1.0]}")
    assert (last.queries, last.rollout_forwards) == (1, 7), "the last state that is asked about is that before the clean one"
    assert work("query={type: fixed, at: [1.0]}", "rollout.solver=heun").rollout_forwards == 14
    everywhere = work("query={type: uniform}", "rollout.group_size=12").rollout_forwards
    assert everywhere == pytest.approx(3.5, abs=0.5), "each sample's rollout ends at its own query, not at its group's last"
    assert sum(last.expert_forwards.values()) == 1
    guided = work("query={type: fixed, at: [0.5, 1.0]}", "experts.local_edit.operator={type: guidance, scale: 3}")
    alone = work("query={type: fixed, at: [0.5, 1.0]}")
    assert guided.queries == 2
    assert guided.expert_forwards["local_edit"] == 2 * alone.expert_forwards["local_edit"]
    assert guided.expert_forwards["global_edit"] == alone.expert_forwards["global_edit"]
    off = work("state={type: noised_data}")
    assert (off.rollout_forwards, sum(off.expert_forwards.values())) == (0, 1)
    own = work("state={type: expert_rollout}", "query={type: fixed, at: [1.0]}")
    assert (own.rollout_forwards, sum(own.expert_forwards.values())) == (0, 8)


def test_scored_rows_ask_those_whom_their_scores_name(make_config, scene_data):
    """Each row of the file has a half of two experts; where the file isn't here, each may be anybody's."""

    def forwards(answer: str, data: Path) -> dict[str, float]:
        others = ("text_to_image", "global_edit")
        route = f"routes.two_skills={{expert: local_edit, data: {data}, weight: 1}}"
        off = [f"routes.{name}.weight=0" for name in (*others, "local_edit")]
        config = make_config(route, *off, f"routing={{type: scored, {answer}}}", "rollout.steps=8", "learner.batch_size=12")
        return dict(Work.of(RunParts(config)).expert_forwards)

    here, absent = scene_data / "two_skills.parquet", scene_data / "nowhere.parquet"
    assert forwards("answer: mixed", here) == {"text_to_image": 0, "local_edit": 1, "global_edit": 1}
    assert forwards("answer: mixed", absent) == {"text_to_image": 1, "local_edit": 1, "global_edit": 1}
    drawn = forwards("answer: drawn", here)
    assert drawn["text_to_image"] == 0
    assert sum(drawn.values()) == pytest.approx(1)
    assert min(drawn["local_edit"], drawn["global_edit"]) > 0.3


def test_an_estimate_is_operations_over_a_share_of_the_peak(make_config):
    config = make_config("learner.gpu=a100-40", "learner.num_gpus=1", "rollout.num_gpus=1")
    needs = Needs.of(config)
    seconds = StepSeconds.estimated(config, needs, 0.5)
    assert seconds.rollout == pytest.approx(config.learner.batch_size * needs.rollout_flops / (0.5 * 19.5e12))
    assert seconds.learner == pytest.approx(config.learner.batch_size * needs.learner_flops / (0.5 * 19.5e12))


def test_what_is_reached_is_operations_over_the_seconds_of_one_process(make_config):
    config = make_config("learner.gpu=a100-40", "learner.num_gpus=1", "rollout.num_gpus=1", "rollout.workers=3")
    flops = {LEARNER: 4e13, ROLLOUT: 6e13, "experts.local_edit": 9e13}
    pace = Pace.of(config, SECONDS, 100, flops)
    assert pace.reached == {LEARNER: 1e13, ROLLOUT: 5e12, "experts.local_edit": 3e13}
    assert pace.peak == 19.5e12
    assert Pace.of(make_config(), SECONDS, 100, flops).peak is None
    needs = Needs.of(config)
    estimated = Pace.of(config, StepSeconds.estimated(config, needs, 0.25), 100, step_flops(config, needs))
    assert estimated.reached.keys() == {LEARNER, ROLLOUT, *(f"experts.{name}" for name in config.experts)}
    assert list(estimated.reached.values()) == pytest.approx([19.5e12 / 4] * 5)
    said = Console(width=120, file=io.StringIO(), record=True)
    said.print(table(pace, "here"))
    assert re.search(r"rollout .* 5 .* 26 %", said.export_text())


def test_the_command_says_it(config_file, capsys):
    from pipelines.plan import main

    assert main([str(config_file)]) == 0
    assert "how fast: no peak of a CPU is known; --measure 5" in capsys.readouterr().out
    assert main([str(config_file), "--measure", "1"]) == 0
    said = capsys.readouterr().out
    assert "parts of 1 step timed here" in said
    assert "samples/s" in said
    on = ["learner.num_gpus=1", "rollout.num_gpus=1"]
    assert main([str(config_file), *on, "--gpu", "b200=192"]) == 0
    assert "how fast: GPU 'b200=192': its speed isn't known; known are h100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share", "0"], "--share 0: allowed are numbers above 0, up to 1"),
        (["--share", "1.5"], "--share 1.5: allowed are numbers above 0, up to 1"),
        (["--measure", "0"], "--measure 0: allowed are numbers above 0"),
        (["--measure", "-1"], "--measure -1: allowed are numbers above 0"),
    ],
)
def test_wrong_figures_are_one_line(config_file, capsys, arguments, message):
    from pipelines.plan import main

    assert main([str(config_file), *arguments]) == 2
    assert message in capsys.readouterr().err
