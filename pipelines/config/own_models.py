"""Experts that are of a model of their own, told from the configuration alone."""

from typing import TYPE_CHECKING

from pipelines.config.model import ModelConfig
from pipelines.config.student import StartAtExpertConfig, StartAtMergeConfig, StartAtRegressionConfig

if TYPE_CHECKING:
    from pipelines.config.run import RunConfig


def model_of(config: "RunConfig", expert: str) -> ModelConfig | None:
    """The model that an expert is of; None is the run's own, also where it is written again."""
    written = config.experts[expert].model
    if written is None:
        return None
    model, own = written.beside(config.model), config.model
    return None if (model.family, model.path, model.dtype) == (own.family, own.path, own.dtype) else model


def other_models(config: "RunConfig") -> dict[str, ModelConfig]:
    """The models beside the run's own that experts are of, by their names."""
    found = (model_of(config, expert) for expert in config.experts)
    return {model.name: model for model in found if model is not None}


def read_by(config: "RunConfig", expert: str) -> tuple[str, ...]:
    """The models beside the run's own that the networks of an expert's operator are of."""
    found = (model_of(config, network) for network in config.networks(expert))
    return tuple(sorted({model.name for model in found if model is not None}))


def check_own_models(config: "RunConfig") -> None:
    """Refuse what only networks of one architecture can: share a base, and be what the student starts as.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    for name in config.shared_experts:
        if others := read_by(config, name):
            raise ValueError(
                f"experts.{name}.placement: shared experts are adapters over the run's model, and this one reads {others[0]}; "
                "allowed: separate"
            )
    for name in start_experts(config):
        if model_of(config, name) is not None:
            raise ValueError(
                f"student.start: the expert {name} is of a model of its own, and the student is of the run's; allowed: experts "
                "of that, or base"
            )


def start_experts(config: "RunConfig") -> list[str]:
    """The experts that the student's start is made of."""
    start = config.student.start
    if isinstance(start, StartAtExpertConfig):
        return [start.expert]
    if isinstance(start, StartAtMergeConfig):
        return list(start.experts)
    if isinstance(start, StartAtRegressionConfig):
        return list(dict.fromkeys(route.expert for route in config.routes.values()))
    return []
