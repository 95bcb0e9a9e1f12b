"""What the student starts as: its trainable tensors before the first step."""

from torch import Tensor, nn

from fields.carriers import Condition, Tensors
from fields.data.rows import Bucket
from fields.families.base import Family
from fields.field import Field
from fields.lora.adapter import Adapter, LoraShape, adapted_modules
from fields.lora.formats import load_adapter
from fields.lora.merge import combine, combine_networks, merged_network, rescaled
from fields.lora.regmean import Sample, common_modules, regression_merge
from fields.method.plan import Stream, noise
from fields.student import LoraStudent, Student
from pipelines.config import run as c
from pipelines.config import student as s
from pipelines.parts.start_shape import require_modules, require_shape

_NotTheBase = s.StartAtExpert | s.StartAtMerge | s.StartAtRegression | s.StartAtAdapter


def start_tensors(config: c.RunConfig, student: Student, family: Family, transformer: nn.Module) -> Tensors | None:
    """The student's tensors at its start, over the bare base `transformer`; None is the base.

    Raises:
        ValueError: if there is nothing to start from, it cannot be read, or experts cannot be merged.
    """
    start = config.student.start
    if isinstance(start, s.StartAtBase):
        return None
    if isinstance(student, LoraStudent):
        return _lora_start(config, start, student.shape, family, transformer)
    return _full_start(config, start, family, transformer)


def expert_adapter(config: c.RunConfig, name: str, transformer: nn.Module) -> Adapter | None:
    """An expert's adapter, read for this network; None if it has none."""
    expert = config.experts[name]
    return load_adapter(expert.adapter, transformer, expert.ignore_keys) if expert.adapter else None


def expert_network(config: c.RunConfig, name: str, family: Family) -> tuple[nn.Module, Adapter | None]:
    """An expert's bare network, the base or its own checkpoint, and its adapter."""
    transformer = family.load_transformer(config.experts[name].checkpoint or config.model.path)
    return transformer, expert_adapter(config, name, transformer)


def _lora_start(config: c.RunConfig, start: _NotTheBase, shape: LoraShape, family: Family, transformer: nn.Module) -> Tensors:
    if isinstance(start, s.StartAtRegression):
        return _regression(config, start.rows, shape, family)
    if isinstance(start, s.StartAtAdapter):
        adapter = load_adapter(start.adapter, transformer, start.ignore_keys)
        require_shape("student.start.adapter", adapter, shape, transformer)
        return rescaled(adapter, shape)
    if isinstance(start, s.StartAtExpert):
        adapter = _lora_of(config, start.expert, transformer)
        require_shape(f"experts.{start.expert}.adapter", adapter, shape, transformer)
        return rescaled(adapter, shape)
    merged = combine({name: (_lora_of(config, name, transformer), weight) for name, weight in start.experts.items()}, shape)
    require_modules("student.start", adapted_modules(merged), shape, transformer)
    return merged


def _lora_of(config: c.RunConfig, name: str, transformer: nn.Module) -> Adapter:
    _refuse_checkpoint(config, name)
    adapter = expert_adapter(config, name, transformer)
    if adapter is None:
        raise ValueError(f"student.start: expert {name!r} has no adapter to start from; start at the base instead")
    return adapter


def _refuse_checkpoint(config: c.RunConfig, name: str) -> None:
    if config.experts[name].checkpoint is not None:
        raise ValueError(f"student.start: expert {name!r} is a full checkpoint; only a student of type full can start from it")


def merged_modules(config: c.RunConfig, transformer: nn.Module) -> list[str]:
    """The modules that a merge by regression changes, from the files of the adapters alone.

    Raises:
        ValueError: if no expert of a route has an adapter, one is a full checkpoint, or adapters change different modules.
    """
    adapters = {}
    for route in _drawn_at_the_start(config).values():
        _refuse_checkpoint(config, route.expert)
        if (adapter := expert_adapter(config, route.expert, transformer)) is not None:
            adapters[route.expert] = adapter
    return common_modules(adapters)


def _drawn_at_the_start(config: c.RunConfig) -> dict[str, c.Route]:
    """A route that comes later doesn't change where the student started."""
    return {name: route for name, route in config.routes.items() if route.weight > 0}


def _regression(config: c.RunConfig, count: int, shape: LoraShape, family: Family) -> Tensors:
    """The merge of the routes' experts, each run on the first rows of its route, of one size."""
    samples, times = {}, family.times(config.rollout.steps, config.rollout.shift)
    for number, (name, route) in enumerate(_drawn_at_the_start(config).items()):
        bucket = Bucket(route.data)
        size = family.size(bucket[0])
        rows = [row for row in range(min(count, len(bucket))) if family.size(bucket[row]) == size]
        _refuse_checkpoint(config, route.expert)
        network = expert_network(config, route.expert, family)
        samples[name] = Sample(
            transformer=Field.build(route.expert, family, {route.expert: network}).transformers[route.expert],
            adapter=network[1],
            condition=Condition.concatenate([family.encode([bucket[row]]) for row in rows]),
            noise=noise(config.run.seed, [number * count + row for row in rows], family.latent_shape(size), Stream.MERGE),
            grid=times(size),
        )
    return regression_merge(family, samples, shape)


def _full_start(config: c.RunConfig, start: _NotTheBase, family: Family, transformer: nn.Module) -> dict[str, Tensor]:
    if isinstance(start, s.StartAtRegression):
        raise ValueError("student.start: a merge by regression is an adapter; only a student of type lora can start from it")
    if isinstance(start, s.StartAtAdapter):
        return merged_network(transformer, load_adapter(start.adapter, transformer, start.ignore_keys))
    if isinstance(start, s.StartAtExpert):
        return _weights_of(config, start.expert, family)
    experts = [(_weights_of(config, name, family), weight) for name, weight in start.experts.items()]
    return combine_networks(merged_network(transformer, None), experts)


def _weights_of(config: c.RunConfig, name: str, family: Family) -> dict[str, Tensor]:
    return merged_network(*expert_network(config, name, family))
