"""The method's axes: what a preset stands for, and what is refused when the configuration is read."""

import json
from pathlib import Path

import pytest
import yaml

from fields.method.objective import PredictionDifference, TransitionKl, VelocityMse
from fields.method.query import BetaQuery, DenseQuery, UniformQuery
from fields.method.routing import GroupedRouting, HardRouting
from fields.method.solver import Euler, EulerMaruyama, Heun
from fields.operators import Autoguidance, Guidance, Mix, Network, Rescale
from fields.scene.family import SceneFamily
from pipelines.config.errors import ConfigError
from pipelines.config.load import load_config
from pipelines.config.operators import SELF, expression
from pipelines.config.recipe import recipe
from pipelines.parts.run_parts import RunParts


@pytest.fixture
def read(tmp_path: Path):
    """A small configuration with experts and routes `a` and `b`, and overrides."""
    path = tmp_path / "small.yaml"
    content = {"experts": {"a": {}, "b": {}}, "routes": {name: {"expert": name, "data": "x"} for name in "ab"}}
    path.write_text(yaml.safe_dump(content))
    return lambda *overrides: load_config(path, list(overrides))


WEIGHTS = {"a": 1.0, "b": 1.0}
PRESETS = {  # solver (None noises data), query, routing, objective
    "danceopd": (Euler(), BetaQuery(5.0, 2.0, "index", 1), HardRouting(WEIGHTS, "sample"), VelocityMse()),
    "fast": (None, UniformQuery(), HardRouting(WEIGHTS, "sample"), VelocityMse()),
    "softmix": (Euler(), BetaQuery(5.0, 2.0, "index", 1), HardRouting(WEIGHTS, "sample"), VelocityMse()),
    "diffusionopd": (Euler(), DenseQuery(), GroupedRouting(WEIGHTS), TransitionKl(None)),
    "flowopd": (EulerMaruyama(0.7), DenseQuery(), HardRouting(WEIGHTS, "step"), TransitionKl(0.7)),
    "offpolicy": (None, UniformQuery(), HardRouting(WEIGHTS), VelocityMse()),
    "joint_sft": (None, UniformQuery(), HardRouting(WEIGHTS), VelocityMse()),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_method_of_its_paper(read, name):
    config = read(f"preset={name}")
    parts = RunParts(config, {"a": 1, "b": 1})
    assert (parts.solver, parts.plan.query, parts.plan.routing, parts.objective) == PRESETS[name]
    shares = parts.teaching.shares
    both = {"a": 0.5, "b": 0.5}
    taught = {"softmix": {"a": both, "b": both}, "joint_sft": {"a": {}, "b": {}}}
    assert shares == taught.get(name, {"a": {"a": 1.0}, "b": {"b": 1.0}})
    assert config.state.reads_targets == (name in ("fast", "offpolicy", "joint_sft"))


def test_the_fast_preset_also_says_how_to_roll_out_and_where_to_start(read):
    config = read("preset=fast")
    assert (config.rollout.steps, config.rollout.mix_routes, config.eval.steps) == (8, True, 16)
    assert config.student.start.type == "regression"
    own = read("preset=fast", "rollout.steps=4", "student={rank: 8, start: {type: base}}", "eval={type: grids, every: 5}")
    assert (own.rollout.steps, own.rollout.mix_routes, own.eval.steps, own.eval.every) == (4, True, 16, 5)
    assert (own.student.type, own.student.rank, own.student.start.type) == ("lora", 8, "base")
    full = read("preset=fast", "student={type: full, start: {type: base}}")
    assert (full.student.type, full.student.start.type) == ("full", "base"), "which has no such start"
    assert read("preset=danceopd").rollout.steps == 16


def test_the_default_is_danceopd(read):
    assert read() == read("preset=danceopd").model_copy(update={"preset": None})


@pytest.mark.parametrize(
    ("overrides", "axis", "expected"),
    [
        (("preset=danceopd", "query.k=2"), "query", {"type": "beta", "a": 5.0, "b": 2.0, "coordinate": "index", "k": 2}),
        (("preset=danceopd", "query={type: uniform, k: 3}"), "query", {"type": "uniform", "coordinate": "index", "k": 3}),
        (("preset=flowopd", "state.eta=0.3"), "state", {"type": "student_sde", "eta": 0.3}),
        (("preset=softmix", "state={type: student_sde, eta: 0.2}"), "state", {"type": "student_sde", "eta": 0.2}),
        (("preset=flowopd", "routing.granularity=sample"), "routing", {"type": "hard", "granularity": "sample"}),
        (("preset=flowopd", "objective={type: mse}"), "objective", {"type": "mse"}),
        (("preset=joint_sft", "state.target=expert"), "state", {"type": "noised_data", "target": "expert"}),
        (
            ("preset=diffusionopd", "query={type: fixed, at: [0.5]}"),
            "query",
            {"type": "fixed", "at": (0.5,), "coordinate": "index"},
        ),
    ],
)
def test_what_is_written_wins_over_the_preset(read, overrides, axis, expected):
    config = read(*overrides)
    assert getattr(config, axis).model_dump() == expected
    preset = read(overrides[0])
    for other in {"state", "query", "routing", "objective"} - {axis}:
        assert getattr(config, other) == getattr(preset, other)


def test_a_run_of_a_preset_is_the_run_of_its_axes(read):
    config = read("preset=flowopd")
    axes = json.loads(config.model_dump_json(include={"state", "query", "routing", "objective"}))
    written = read(*(f"{axis}={json.dumps(value)}" for axis, value in axes.items()))
    assert recipe(config) == recipe(written)


@pytest.mark.parametrize(
    ("override", "solver"),
    [("rollout.solver=heun", Heun()), ("state={type: student_sde, eta: 0.5}", EulerMaruyama(0.5))],
)
def test_solvers(read, override, solver):
    assert RunParts(read(override)).solver == solver


def test_objectives(read):
    assert RunParts(read("objective={type: weighted_mse, power: 2}")).objective == VelocityMse(2.0)
    assert RunParts(read("objective={type: pdm, weight: 0.5}")).objective == PredictionDifference(0.5)


def test_soft_shares_leave_out_who_has_none(read):
    config = read("routing={type: soft, mix: {a: {a: 1, b: 0}, b: {a: 0.25, b: 0.75}}}", "anchor={expert: a, weight: 2}")
    teaching = RunParts(config).teaching
    assert teaching.shares == {"a": {"a": 1.0}, "b": {"a": 0.25, "b": 0.75}}
    assert teaching.anchor == "a"


def test_an_expression_is_built_as_it_is_written(read):
    config = read(
        "experts.a.operator={type: rescale, phi: 0.5, of: {type: guidance, scale: 4, interval: [0.1, 0.9]}}",
        "experts.b.operator={type: mix, parts: [{of: a, weight: 0.25}, "
        "{of: {type: autoguidance, bad: a, scale: 2}, weight: 0.75}]}",
    )
    a, b = (expression(config.experts[name].operator, Network, SceneFamily()) for name in "ab")
    assert a == Rescale(Guidance(Network(SELF), 4.0, (0.1, 0.9)), 0.5)
    assert b == Mix(((Network("a"), 0.25), (Autoguidance(Network(SELF), Network("a"), 2.0), 0.75)))


BAD = [
    ("experts.a.operator={type: guidance, scale: .nan}", "experts.a.operator.guidance.scale: Input should be a finite number"),
    ("experts.a.operator={type: apg, scale: .inf}", "experts.a.operator.apg.scale: Input should be a finite number"),
    (
        "experts.a.operator={type: guidanc, scale: 3}",
        "experts.a.operator: no such operator; allowed: a name, or a type of guidance",
    ),
    ("experts.a.operator={scale: 3}", "experts.a.operator: no such operator"),
    ("experts.a.operator=3", "experts.a.operator: no such operator"),
    ("experts.a.operator=nobody", "experts.a.operator: unknown expert 'nobody'; allowed: a, b"),
    ("experts.a.operator={type: guidance, scale: 3, of: nobody}", "experts.a.operator.of: unknown expert 'nobody'"),
    (
        "experts.a.operator={type: mix, parts: [{weight: 1}, {of: nobody, weight: 0}]}",
        "experts.a.operator.parts.1.of: unknown expert 'nobody'",
    ),
    ("experts.a.operator={type: guidance, scale: 3, of: a}", "refer to each other in a circle: a -> a"),
    (
        "experts.a.operator={type: mix, parts: [{weight: 0.5}, {of: b, weight: 0.4}]}",
        "operator.mix: the weights of a mix sum to 1",
    ),
    (
        "experts.a.operator={type: mix, parts: [{weight: 1.5}, {of: b, weight: -0.5}]}",
        "operator.mix.parts.0.weight: Input should be",
    ),
    (
        "experts.a.operator={type: guidance, scale: 3, interval: [0.6, 0.4]}",
        "operator.guidance: interval [0.6, 0.4] must ascend",
    ),
    (
        "experts.a.operator={type: guidance, scale: 3, interval: [0.4, 0.4]}",
        "operator.guidance: interval [0.4, 0.4] must ascend",
    ),
    ("experts.a.operator={type: guidance, scale: 3, scal: 1}", "operator.guidance.scal: unknown key; allowed: type, of, scale"),
    ("routing={type: soft, mix: {a: {a: 1}}}", "routing.mix: it names a; the routes are a, b"),
    ("routing={type: soft, mix: {a: {a: 1}, b: {a: 0.5, b: 0.4}}}", "mix.b: the shares sum to 1, not 0.9"),
    ("routing={type: soft, mix: {a: {a: 1}, b: {nobody: 1}}}", "routing.mix.b.nobody: unknown expert 'nobody'"),
    ("routing={type: scored, answer: best}", "routing.scored.answer: Input should be 'drawn', 'mixed' or 'composed'"),
    ("routing={type: scored, answer: composed}", "unconditional: None; it is wanted with answer: composed"),
    ("routing={type: scored, unconditional: a}", "unconditional: a; it is wanted with answer: composed, and with no other"),
    (
        "routing={type: scored, answer: composed, unconditional: nobody}",
        "routing.unconditional: unknown expert 'nobody'; allowed: a, b",
    ),
    ("query.k=17", "query.k: 17 queries per sample need as many rollout.steps; there are 16"),
    ("query={type: fixed, at: [0.5, 0.51]}", "query.at: [0.5, 0.51] are 1 different states of 16 rollout steps"),
    ("query={type: fixed, at: [1.5]}", "query.fixed.at.0: Input should be less than or equal to 1"),
    ("query={type: fixed, at: []}", "query.fixed.at: Tuple should have at least 1 item"),
    ("query={type: nothing}", "query: Input tag 'nothing'"),
    ("preset=nothing", "preset: Input should be 'danceopd'"),
    ("anchor={expert: nobody, weight: 1}", "anchor.expert: unknown expert 'nobody'; allowed: a, b"),
    ("anchor={expert: a, weight: 0}", "anchor.weight: Input should be greater than 0"),
    ("objective={type: weighted_mse, power: .nan}", "objective.weighted_mse.power: Input should be a finite number"),
    ("objective={type: pdm, weight: -1}", "objective.pdm.weight: Input should be greater than or equal to 0"),
    ("state={type: student_sde, eta: 0}", "state.student_sde.eta: Input should be greater than 0"),
]


@pytest.mark.parametrize(("override", "expected"), BAD, ids=[override for override, _ in BAD])
def test_a_bad_method_is_refused_with_its_key(read, override, expected):
    with pytest.raises(ConfigError) as refused:
        read(override)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


BAD_TOGETHER = [
    (
        ("experts.a.operator=b", "experts.b.operator=a"),
        "experts.a.operator: the experts refer to each other in a circle: a -> b -> a",
    ),
    (("preset=softmix", "state={type: expert_rollout}"), "state.type: an expert_rollout needs the one expert"),
    (
        ("routing={type: scored, answer: mixed}", "state={type: expert_rollout}"),
        "state.type: an expert_rollout needs the one expert of hard, grouped, or drawn scored routing",
    ),
    (
        ("preset=joint_sft", "routing={type: scored}"),
        "routing.type: scored says which experts answer; with state.target data no expert is asked",
    ),
    (("preset=diffusionopd", "routing.granularity=step"), "routing.grouped.granularity: unknown key; allowed: type"),
    (
        ("state={type: student_sde}", "rollout.solver=heun"),
        "rollout.solver: heun solves an ODE; a state of type student_sde has none",
    ),
    (("preset=offpolicy", "rollout.solver=heun"), "rollout.solver: heun solves an ODE; a state of type noised_data has none"),
    (
        ("student={type: full}", "rollout.merge=false"),
        "rollout.merge: false keeps an adapter beside the base; allowed for student.type full: true",
    ),
    (("preset=joint_sft", "objective={type: pdm, weight: 1}"), "objective.type: pdm needs an expert's answer"),
    (("query={type: stratified, k: 5}", "rollout.steps=4"), "query.k: 5 queries per sample"),
    (
        ("preset=flowopd", "state.type=student_ode"),
        "objective.form: sde is of the transitions of a student_sde; state.type is student_ode",
    ),
    (
        ("routing={type: grouped}", "routes.a.weight=9", "learner.batch_size=4"),
        "routing.type: grouped has every route in every step; a batch_size of 4 has no room for 'b'",
    ),
]


def test_the_kl_is_of_the_rollouts_own_transitions(read):
    assert RunParts(read("preset=flowopd", "state.eta=0.3")).objective == TransitionKl(0.3)


@pytest.mark.parametrize(("overrides", "expected"), BAD_TOGETHER, ids=[expected for _, expected in BAD_TOGETHER])
def test_choices_that_do_not_go_together_are_refused(read, overrides, expected):
    with pytest.raises(ConfigError) as refused:
        read(*overrides)
    assert expected in str(refused.value)
