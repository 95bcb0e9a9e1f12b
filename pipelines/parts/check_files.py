"""Everything that can be wrong with the files of a run, found before anything is deployed."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import nn

from actors.loggers import check_loggers
from fields.families.latents import check_same_latents
from fields.families.quantization import maker
from fields.lora.adapter import put_adapter
from fields.lora.formats import load_adapter
from fields.ranks.sharded import shared_type
from fields.tensors import check_shapes, shapes
from pipelines.config.errors import ConfigError
from pipelines.config.location import fetched
from pipelines.config.run import RunConfig
from pipelines.config.sharing import shares_student
from pipelines.parts.asked import columns_of_expert, columns_of_route, may_be_asked
from pipelines.parts.check_rows import checked_rows
from pipelines.parts.consolidation import consolidate
from pipelines.parts.fit import fitted
from pipelines.parts.run_parts import RunParts

P = ParamSpec("P")
T = TypeVar("T")


def checked_parts(config: RunConfig) -> RunParts:
    """The parts of a run, after loading what it will load: base, adapters, student, data.

    Raises:
        ConfigError: names the key, the file and what is wrong.
    """
    _named("run.loggers", check_loggers, config.run.loggers)
    config = _named("model.path", fitted, config)
    unread = RunParts(config)
    check_models(unread)
    rows = {}
    for name, route in config.routes.items():
        data = _named(f"routes.{name}.data", fetched, route.data)
        wanted = tuple(_named(f"routes.{name}.data", columns_of_route, unread, name).items())
        rows[name] = _named(f"routes.{name}.data", checked_rows, data, config.model, wanted)
        for expert in may_be_asked(unread, name):
            for model in unread.experts.reads[expert]:
                others = unread.other_models[model]
                _named(f"routes.{name}.data, which experts.{expert} reads", checked_rows, data, others, wanted)
    _named("student", _check_student, unread)
    parts = RunParts(config, rows)
    _named("routes", lambda: parts.plan)
    if config.eval.every:
        _check_evaluation(parts)
    return parts


def check_models(parts: RunParts) -> None:
    """Compare the files of the base, the experts' networks and their adapters with what they claim to be; of large models
    no values are read.

    Raises:
        ConfigError: names the key, the file and what is wrong.
    """
    config = parts.config
    family = _named("model", lambda: parts.family)
    _named("model.quantization", maker, config.model.quantization)
    base = _named("model.path", family.skeleton, config.model.path)
    _named("model", parts.grid, None)
    bases: dict[str | None, nn.Module] = {None: base}
    for name, expert in config.experts.items():
        if (own := _named(f"experts.{name}.model", parts.experts.model_name, name)) not in bases:
            bases[own] = _named(f"experts.{name}.model", _other_base, parts, own)
        _named(f"experts.{name}.quantization", maker, expert.quantization)
        _named(f"experts.{name}.operator", parts.experts.expression, name)
        if expert.checkpoint is not None:
            _named(f"experts.{name}.checkpoint", fetched, expert.checkpoint)
            _named(f"experts.{name}.checkpoint", consolidate, expert.checkpoint)
        transformer = _named(f"experts.{name}.checkpoint", _expert_network, parts, name, bases[own])
        if expert.adapter is not None:
            _named(f"experts.{name}.adapter", fetched, expert.adapter)
            adapter = _named(f"experts.{name}.adapter", load_adapter, expert.adapter, transformer, expert.ignore_keys)
            _named(f"experts.{name}.adapter", put_adapter, transformer, adapter, str(expert.adapter))


def _other_base(parts: RunParts, model: str | None) -> nn.Module:
    """The network of a model that experts are of; its states must mean what those of the run's model mean."""
    family = parts.families[model]
    assert family.path is not None
    base = family.skeleton(family.path)
    check_same_latents(parts.family.latent_space, family.latent_space)
    return base


def _expert_network(parts: RunParts, name: str, base: nn.Module) -> nn.Module:
    """A fresh network of an expert; a checkpoint of its own must be of its base's architecture."""
    checkpoint = parts.config.experts[name].checkpoint
    transformer = parts.experts.family(name).skeleton(checkpoint or parts.experts.base(name))
    check_shapes(shapes(transformer.state_dict()), shapes(base.state_dict()), str(checkpoint), "the base")
    return transformer


def _check_student(parts: RunParts) -> None:
    """The student can be put into the base, and has a start that fits it; its values are the learner's to compute."""
    transformer = parts.family.skeleton(parts.config.model.path).to("meta")
    start = parts.start_skeleton(transformer)
    if shares_student(parts.config):
        _named("learner.shard", shared_type, parts.family.blueprint(parts.config.model.path))
    parameters = parts.student.attach(transformer, seed=0)
    if start is not None:
        check_shapes(shapes(start), shapes(parameters), "the student's start")


def _check_evaluation(parts: RunParts) -> None:
    """Evaluation asks every expert about every route's rows."""
    evaluation = _named("eval.metrics", lambda: parts.evaluation)
    for expert in parts.config.experts:
        for model in parts.experts.reads[expert]:
            for row in (row for sheet in evaluation.sheets for row in sheet.rows):
                _named(f"eval.every: evaluation asks experts.{expert} about every row", parts.families[model].check_row, row)
        for column in columns_of_expert(parts, expert):
            if any(getattr(row, column) is None for sheet in evaluation.sheets for row in sheet.rows):
                raise ConfigError(
                    f"experts.{expert}.operator: it wants a {column} in every row, and evaluation asks about rows without one; "
                    "set eval.every=0"
                )


def _named(key: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a part's own validation; what it refuses is reported under the configuration's key."""
    try:
        return function(*arguments, **options)
    except ConfigError:  # names its key
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{key}: {error}") from error
