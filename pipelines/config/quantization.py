"""Which frozen weights can be quantized how, told from the configuration alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fields.families.quantization import Quantization

if TYPE_CHECKING:
    from pipelines.config.run import RunConfig

Quantized = Annotated[
    Quantization,
    Field(
        description="bits in which linear weights are kept: none is model.dtype; fp8 and int8 need torchao, nf4 bitsandbytes"
    ),
]


def check_quantization(config: "RunConfig") -> None:
    """Refuse what a quantized weight cannot do.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    base = config.model.quantization
    if base != "none" and config.student.type == "full":
        raise ValueError(
            f"model.quantization: {base} is of a frozen base, and a student of type full trains every weight; allowed: none"
        )
    if base != "none" and config.rollout.merges:
        merge = str(config.rollout.merge).lower()
        raise ValueError(
            f"rollout.merge: {merge} adds the adapter to the base's weights, which model.quantization {base} can't; "
            "allowed: false"
        )
    for key, kind, family, processes in _quantized(config):
        if kind == "nf4" and family == "scene":
            raise ValueError(f"{key}: nf4 is for families of diffusers; allowed for scene: none, fp8, int8")
        for process, num_gpus in processes.items():
            if kind == "nf4" and not num_gpus:
                raise ValueError(f"{key}: nf4 needs a GPU, and {process}.num_gpus is 0; allowed without: none, fp8, int8")


def _quantized(config: "RunConfig") -> Iterator[tuple[str, Quantization, str, dict[str, float]]]:
    """Each key with its value, the family of these weights, and the processes that load them, with the GPUs of each."""
    base = {"learner": config.learner.num_gpus, "rollout": config.rollout.num_gpus}
    yield "model.quantization", config.model.quantization, config.model.family, base
    for name, expert in config.experts.items():
        holders = [other for other in config.experts if name in config.networks(other)]
        gpus = {f"experts.{other}": config.experts[other].num_gpus for other in holders}
        if config.student.start.type == "regression":
            gpus["learner"] = config.learner.num_gpus  # where the experts are run for it
        family = (expert.model or config.model).family
        yield f"experts.{name}.quantization", expert.quantization, family, gpus
