"""The comparison: which runs it means, that it resumes, that a row comes again, what it writes."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines import compare
from pipelines.comparison.jobs import configure, job_key, plan_jobs, settings
from pipelines.comparison.report import write_report
from pipelines.comparison.store import Store, results_of
from pipelines.config.comparison import Comparison
from pipelines.config.errors import ConfigError
from pipelines.config.load import load
from pipelines.config.run import AFTER
from pipelines.parts.check_files import checked_parts
from runs import reference

SHIPPED = Path("pipelines/configs/compare_scene.yaml")


def test_the_shipped_comparison_has_every_experiment_with_five_seeds():
    comparison = load(SHIPPED, Comparison, {})
    jobs = plan_jobs(comparison)
    assert len(comparison.seeds) >= 5
    assert len(comparison.experiments) == 11
    assert len(jobs) == len({job.key for job in jobs}) * len(comparison.seeds)
    first = jobs[: len(jobs) // len(comparison.seeds)]
    assert {job.config.run.seed for job in first} == {0}, "every row has its first seed before any has its second"


@pytest.mark.parametrize(
    ("name", "folder", "rows", "missing"),
    [
        ("scene", "", 47, 0),
        ("two_skills", "two_skills", 4, 0),
        ("compress", "compress", 4, 0),
        ("time_to_skill", "time_to_skill", 3, 1),
    ],
)
def test_the_shipped_results_are_found_again(name, folder, rows, missing):
    """Whatever keys the configuration got since: nothing of them would be run again."""
    comparison = load(Path(f"pipelines/configs/compare_{name}.yaml"), Comparison, {})
    store = Store(Path("docs/results") / folder / "compare.json", comparison)
    jobs = plan_jobs(comparison)
    assert len({job.key for job in jobs}) == rows
    assert [store.has(job) for job in jobs].count(False) == missing


def test_variants_that_mean_the_same_are_one_run_and_others_are_not():
    comparison = load(SHIPPED, Comparison, {})
    of = {
        (name, label): job_key(configure(comparison, variant, 0))
        for name, experiment in comparison.experiments.items()
        for label, variant in experiment.variants.items()
    }
    assert of["query", "low"] == of["k", "k = 1"] == of["lag", "1"] == of["rollout_steps", "16"] == of["start", "local"]
    assert len({of["lag", str(lag)] for lag in (0, 1, 2, 4, 8)}) == 5
    assert job_key(configure(comparison, comparison.experiments["lag"].variants["1"], 3)) == of["lag", "1"], "whatever the seed"


@pytest.fixture
def comparison_file(config_file: Path, tmp_path: Path) -> Path:
    content = {
        "name": "tiny",
        "base": str(config_file),
        "seeds": [0, 1],
        "set": {
            "run.steps": 2,
            "learner.batch_size": 4,
            "eval.every": 1,
            "rollout.workers": 1,
            "run.dir": str(tmp_path / "runs"),
        },
        "experiments": {
            "k": {
                "title": "Queries",
                "claim": "One is enough.",
                "routes": ["local_edit"],
                "default": "one",
                "variants": {"one": {}, "two": {"set": {"query.k": 2}}, "start": {"set": {"run.steps": 0}, "guidance": [1, 2]}},
                "orders": [["one", "two"]],
            }
        },
    }
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_what_stands_is_not_run_again(comparison_file, tmp_path, capsys):
    comparison = load(comparison_file, Comparison, {})
    skills = {c: {"graded": 0.5, "exact": 0.0} for c in ("add", "replace", "remove", "recolour")}
    result = {"curve": [], "seconds": 10.0, "samples": 8}
    runs: dict[str, dict[str, dict]] = {}
    for job in plan_jobs(comparison):
        scales = {f"{scale:g}": skills for scale in job.guidance}
        runs.setdefault(job.key, {})[str(job.config.run.seed)] = {**result, "settings": settings(job.config), "skills": scales}
    output = tmp_path / "out"
    output.mkdir()
    content = Store(output / "compare.json", comparison).content | {"runs": runs}
    (output / "compare.json").write_text(json.dumps(content))
    assert compare.main([str(comparison_file), "--output", str(output)]) == 0
    assert "6 runs, 0 to do" in capsys.readouterr().out
    assert "| **one** | 0.500 ± 0.000 |" in (output / "compare.md").read_text()


def test_a_result_of_another_default_is_no_result_and_a_key_that_it_lacks_changes_nothing(comparison_file, tmp_path):
    """As defaults stand in no digest, the settings beside a result tell."""
    comparison = load(comparison_file, Comparison, {})
    job, *_ = plan_jobs(comparison)
    store = Store(tmp_path / "compare.json", comparison)
    now, another = settings(job.config), plan_jobs(comparison)[3].config
    assert (job_key(another), another.run.seed) == (job.key, 1)
    assert (job.config.learner.clip, job.config.eval.samples) == (1.0, now["eval"]["samples"])
    for then, there in (
        (now, True),
        ({name: value for name, value in now.items() if name != "objective"}, True),
        ({**now, "learner": {**now["learner"], "clip": 2.0}}, False),
        ({**now, "eval": {**now["eval"], "samples": 99}}, False),
        ({**now, "experts": {**now["experts"], "local_edit": {"adapter": "other"}}}, False),
    ):
        store.put(job, {"skills": {"1": {}}, "settings": then})
        assert store.has(job) == there
        assert (results_of(store.content, another) != {}) == there, "as the report asks, whatever the seed"


def test_what_a_run_makes_of_its_settings_decides_its_key(make_config):
    """A merged student rolls out with other roundings, and ranks that share a full student order the sums of its gradients."""
    keys = {merge: job_key(make_config(f"rollout.merge={merge}")) for merge in ("auto", "true", "false")}
    assert keys["auto"] == keys["true"] != keys["false"]
    full = "student={type: full, start: {type: base}}"
    alone = job_key(make_config(full, "learner.ranks=1"))
    assert alone == job_key(make_config(full, "learner.ranks=2"))
    assert len({alone, *(job_key(make_config(full, f"learner.ranks={n}", "learner.shard=true")) for n in (2, 3))}) == 3


def test_other_weights_of_an_experts_own_model_are_another_run(comparison_file, tiny_models):
    keys = set()
    for model in (tiny_models.base, tiny_models.other_base):
        content = yaml.safe_load(comparison_file.read_text())
        content["set"] |= {
            "experts.local_edit.model": {"family": "scene", "path": str(model)},
            "student.start": {"type": "base"},
        }
        comparison_file.write_text(yaml.safe_dump(content))
        keys.add(plan_jobs(load(comparison_file, Comparison, {}))[0].key)
    assert len(keys) == 2


def test_every_job_is_run_with_its_own_seed_and_name(comparison_file):
    """Its files are checked once for all seeds."""
    jobs = plan_jobs(load(comparison_file, Comparison, {}))
    checked = {job.key: checked_parts(job.config) for job in jobs}
    assert len(checked) == len(jobs) / 2 == 3
    parts = [checked[job.key].of_run(job.config.run) for job in jobs]
    assert [each.plan.seed for each in parts] == [job.config.run.seed for job in jobs] == [0] * 3 + [1] * 3
    assert len({each.config.run.name for each in parts}) == 6
    assert all(each.config == job.config for each, job in zip(parts, jobs, strict=True))


@pytest.mark.slow
def test_a_comparison_runs_what_is_missing_and_a_row_comes_again(cluster, comparison_file, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [str(comparison_file), "--output", str(output)]
    assert compare.main([*arguments, "--seeds", "1"]) == 0
    first = json.loads((output / "compare.json").read_text())
    assert [list(seeds) for seeds in first["runs"].values()] == [["0"]] * 3
    assert compare.main(arguments) == 0
    both = json.loads((output / "compare.json").read_text())
    assert [sorted(seeds) for seeds in both["runs"].values()] == [["0", "1"]] * 3
    for key, seeds in first["runs"].items():
        assert both["runs"][key]["0"] == seeds["0"], "what stood there was not run again"
    hashes = {result["weights_sha256"] for seeds in both["runs"].values() for result in seeds.values()}
    assert len(hashes) == 5, "seeds and variants differ; the start is the same expert for both seeds"
    key = next(key for key, seeds in both["runs"].items() if seeds["0"]["settings"]["query"].get("k") == 2)
    both["runs"][key]["1"]["weights_sha256"] = "another"
    (output / "compare.json").write_text(json.dumps(both))
    assert compare.main([*arguments, "--rerun", "k.two"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert f"{key} seed 0: the same student, to the last bit" in said
    assert f"{key} seed 1: DIFFERENT" in said
    assert [line for line in said if "another student" in line] == [
        f"{key} seed 1: another student than in {output / 'compare.json'}"
    ]
    page = (output / "compare.md").read_text()
    assert "| **one** |" in page
    assert "| start @ 2 |" in page
    assert "one over two: " in page
    assert "://" not in (output / "compare.html").read_text().replace("http://www.w3.org", "")


def test_the_plain_loop_makes_the_same_students_without_a_cluster(comparison_file, tmp_path, capsys):
    content = yaml.safe_load(comparison_file.read_text())
    del content["experiments"]["k"]["variants"]["start"]
    comparison_file.write_text(yaml.safe_dump(content | {"loop": "reference"}, sort_keys=False))
    arguments = [str(comparison_file), "--output", str(tmp_path / "out"), "--seeds", "1"]
    assert compare.main(arguments) == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {"base", "text_to_image", "local_edit", "global_edit"} == found["experts"].keys()
    for job in plan_jobs(load(comparison_file, Comparison, {}), seeds=1):
        result, expected = found["runs"][job.key]["0"], reference(job.config)
        assert result["weights_sha256"] == expected.weights.checksum
        assert result["skills"] == {"1": expected.results[AFTER].skills}
        assert result["samples"] == 8
        assert result["seconds"] > 0
        assert [exam["step"] for exam in result["curve"]] == [1], "the last is that of the finished student"
    assert "seconds are CPU seconds of one core" in (tmp_path / "out" / "compare.md").read_text()
    assert compare.main([*arguments, "--rerun", "k.two"]) == 0
    assert "the same student, to the last bit" in capsys.readouterr().out


def test_a_run_of_the_plain_loop_that_fails_takes_no_finished_one_along(comparison_file, tmp_path):
    content = yaml.safe_load(comparison_file.read_text())
    variants = {"one": {}, "two": {"set": {"learner.learning_rate": 1e30, "rollout.steps": 6}}}
    content["experiments"]["k"]["variants"] = variants
    comparison_file.write_text(yaml.safe_dump(content | {"loop": "reference", "concurrency": 1}, sort_keys=False))
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="not finite"):
        compare.main([str(comparison_file), "--output", str(output)])
    found = json.loads((output / "compare.json").read_text())
    job, *_ = plan_jobs(load(comparison_file, Comparison, {}))
    assert found["runs"].keys() == {job.key}
    assert "0" in found["runs"][job.key]


def test_seconds_of_two_kinds_stand_in_no_file(comparison_file, tmp_path):
    Store(tmp_path / "compare.json", load(comparison_file, Comparison, {})).save()
    plain = load(comparison_file, Comparison, PLAIN)
    with pytest.raises(ConfigError, match=r"loop: reference; .*compare\.json has results of distributed runs"):
        Store(tmp_path / "compare.json", plain)
    Store(tmp_path / "plain.json", plain).save()
    assert Store(tmp_path / "plain.json", plain).content["loop"] == "reference"


def test_the_tables_are_means_and_paired_differences(comparison_file, tmp_path):
    comparison = load(comparison_file, Comparison, {})
    skills = {"one": (0.5, 0.7), "two": (0.4, 0.5)}
    runs = {}
    for label, values in skills.items():
        key = job_key(configure(comparison, comparison.experiments["k"].variants[label], 0))
        runs[key] = {
            str(seed): {
                "skills": {"1": {c: {"graded": value, "exact": 0.0} for c in ("add", "replace", "remove", "recolour")}},
                "curve": [],
                "seconds": 10.0,
                "samples": 8,
                "settings": {"steps": 2},
            }
            for seed, value in enumerate(values)
        }
    write_report(comparison, {"experts": {}, "runs": runs, "versions": {}}, tmp_path, comparison_file)
    page = (tmp_path / "compare.md").read_text()
    assert "| **one** | 0.600 ± 1.271 |" in page, "12.706 * 0.1414 / sqrt(2)"
    assert "-0.150 ± 0.635" in page
    assert "one over two: undecided (0.150 ± 0.635, 2 seeds)" in page
    assert "Not run yet: start @ 1, start @ 2." in page
    html = (tmp_path / "compare.html").read_text()
    assert "Line chart of the score against step: one 60 %, two 45 %" in html, "the finished student ends its line"


def test_the_price_of_a_skill_is_the_mean_over_the_seeds_that_got_there(comparison_file, tmp_path):
    """90 % of the expert's 0.8 is 0.72: one seed has it at its second exam, one at its end, and `two` with neither."""
    two_steps = load(comparison_file, Comparison, {})
    comparison = two_steps.model_copy(update={"set": two_steps.set | {"run.steps": 20}})

    def skills(value: float) -> dict:
        return {c: {"graded": value, "exact": 0.0} for c in ("add", "replace", "remove", "recolour")}

    def taken(step: int, value: float) -> dict:
        return {"step": step, "seconds": 1.5 * step, "samples": 4 * step, "skills": skills(value)}

    curves = {"one": ([0.6, 0.73, 0.7, 0.75], [0.6, 0.7, 0.71, 0.73]), "two": ([0.1, 0.2, 0.3, 0.71], [0.1, 0.1, 0.1, 0.1])}
    runs = {}
    for label, seeds in curves.items():
        key = job_key(configure(comparison, comparison.experiments["k"].variants[label], 0))
        runs[key] = {
            str(seed): {
                "skills": {"1": skills(last)},
                "curve": [taken(step + 1, value) for step, value in enumerate(values)],
                "seconds": 30.0,
                "samples": 80,
                "settings": {"steps": 20},
            }
            for seed, (*values, last) in enumerate(seeds)
        }
    write_report(comparison, {"experts": {"local_edit": skills(0.8)}, "runs": runs, "versions": {}}, tmp_path, comparison_file)
    one, two = re.findall(r"^\| \**(?:one|two)\** \|.*$", (tmp_path / "compare.md").read_text(), re.MULTILINE)
    assert one.endswith("| 30 | 16 ± 172 (2 of 2) | 2 |"), "(3 + 30) / 2, and 12.706 * 19.09 / sqrt(2)"
    assert two.endswith("| 30 | not reached | 2 |")
    assert "<td>16 ± 172 <small>2 of 2</small></td>" in (tmp_path / "compare.html").read_text()


PLAIN = {"loop": "reference", "experiments.k.variants.start.guidance": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiments.k.default": "three"}, "unknown row 'three'; allowed: one, two, start @ 1, start @ 2"),
        ({"experiments.k.orders": [["one", "start"]]}, "unknown row 'start'"),
        ({"experiments.k.variants.start.guidance": [1, float("nan")]}, "guidance.1: Input should be a finite number"),
        ({"seeds": [0]}, "seeds"),
        ({"loop": "reference"}, "experiments.k.variants.start.guidance: [1.0, 2.0]; with loop: reference"),
        (PLAIN | {"set": {"eval.every": 0}}, "eval.every: 0 takes no exam"),
        (PLAIN | {"set": {"eval.every": 1, "numerics.threads": 2}}, "numerics.threads: 2; loop: reference counts"),
        (
            PLAIN | {"set": {"eval.every": 1, "rollout.num_gpus": 0.5}},
            "rollout.num_gpus: 0.5; loop: reference counts CPU seconds",
        ),
        (PLAIN | {"set": {"eval.every": 1, "experts.local_edit.num_gpus": 1}}, "experts.local_edit.num_gpus: 1; loop"),
        ({"experiments.k.variants.two.set": {"experts.local_edit.replicas": 2}}, "would be another service"),
        ({"experiments.k.variants.two.set": {"query.k": 99}}, "experiments.k.variants.two: query.k: 99 queries"),
    ],
)
def test_a_bad_comparison_is_refused_before_anything_runs(comparison_file, change, message):
    with pytest.raises(ConfigError) as refused:
        plan_jobs(load(comparison_file, Comparison, change))
    assert message in str(refused.value)


RESULTS = [
    *(b"garbage", b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"runs": []}', b'{"runs": {}}'),
    b'{"runs": {"k": {"0": {}}}, "versions": {}, "experts": {}}',
]


@pytest.mark.parametrize("content", RESULTS, ids=range(len(RESULTS)))
def test_results_that_cannot_be_read_are_one_line(comparison_file, tmp_path, capsys, content):
    path = tmp_path / "out" / "compare.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert compare.main([str(comparison_file), "--output", str(path.parent)]) == 2
    assert capsys.readouterr().err == f"error: {path} holds no results of a comparison; move it away to begin anew\n"
    assert path.read_bytes() == content


@pytest.mark.parametrize("seeds", ["0", "-1", "3"])
def test_more_or_fewer_seeds_than_there_are_are_refused(comparison_file, capsys, seeds):
    assert compare.main([str(comparison_file), "--seeds", seeds]) == 2
    assert capsys.readouterr().err == f"error: --seeds {seeds}: {comparison_file} has 2; allowed: 1 to that\n"
