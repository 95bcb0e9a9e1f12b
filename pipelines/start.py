"""What the student starts as: its trainable tensors before the first step."""

from torch import Tensor, nn

from fields.carriers import Tensors
from fields.families.base import Family
from fields.lora import Adapter, LoraShape
from fields.lora_files import load_adapter
from fields.lora_merge import combine, combine_networks, merged_network, rescaled
from fields.student import LoraStudent, Student
from pipelines import config as c


def start_tensors(config: c.RunConfig, student: Student, family: Family, transformer: nn.Module) -> Tensors | None:
    """The student's tensors at its start, over the bare base `transformer`; None is the base.

    Raises:
        ValueError: if there is nothing to start from, it cannot be read, or experts cannot be merged.
    """
    start = config.student.start
    if isinstance(start, c.StartAtBase):
        return None
    if isinstance(student, LoraStudent):
        return _lora_start(config, start, student.shape, transformer)
    return _full_start(config, start, family, transformer)


def expert_adapter(config: c.RunConfig, name: str, transformer: nn.Module) -> Adapter | None:
    """An expert's adapter, read for this network; None if it has none."""
    expert = config.experts[name]
    return load_adapter(expert.adapter, transformer, expert.ignore_keys) if expert.adapter else None


def _lora_start(
    config: c.RunConfig, start: c.StartAtExpert | c.StartAtMerge | c.StartAtAdapter, shape: LoraShape, transformer: nn.Module
) -> dict[str, Tensor]:
    if isinstance(start, c.StartAtAdapter):
        return rescaled(load_adapter(start.adapter, transformer, start.ignore_keys), shape)
    if isinstance(start, c.StartAtExpert):
        return rescaled(_lora_of(config, start.expert, transformer), shape)
    return combine({name: (_lora_of(config, name, transformer), weight) for name, weight in start.experts.items()}, shape)


def _lora_of(config: c.RunConfig, name: str, transformer: nn.Module) -> Adapter:
    if config.experts[name].checkpoint is not None:
        raise ValueError(f"student.start: expert {name!r} is a full checkpoint; only a student of type full can start from it")
    adapter = expert_adapter(config, name, transformer)
    if adapter is None:
        raise ValueError(f"student.start: expert {name!r} has no adapter to start from; start at the base instead")
    return adapter


def _full_start(
    config: c.RunConfig, start: c.StartAtExpert | c.StartAtMerge | c.StartAtAdapter, family: Family, transformer: nn.Module
) -> dict[str, Tensor]:
    if isinstance(start, c.StartAtAdapter):
        return merged_network(transformer, load_adapter(start.adapter, transformer, start.ignore_keys))
    if isinstance(start, c.StartAtExpert):
        return _weights_of(config, start.expert, family)
    experts = [(_weights_of(config, name, family), weight) for name, weight in start.experts.items()]
    return combine_networks(merged_network(transformer, None), experts)


def _weights_of(config: c.RunConfig, name: str, family: Family) -> dict[str, Tensor]:
    transformer = family.load_transformer(config.experts[name].checkpoint or config.model.path)
    return merged_network(transformer, expert_adapter(config, name, transformer))
