"""What a student can start from: experts, files, and the merge of experts by regression. With their values, and without."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from fields.carriers import Condition, Tensors
from fields.data.bucket import Bucket
from fields.families.base import Family
from fields.field import Field
from fields.lora.adapter import Adapter, LoraShape
from fields.lora.formats import load_adapter
from fields.lora.merge import common_modules, merged_network
from fields.lora.regmean import Sample, regression_merge
from fields.method.plan import Stream, generator, noise
from pipelines.config.location import fetched
from pipelines.config.run import RouteConfig, RunConfig
from pipelines.parts.device import device
from pipelines.parts.expert_networks import ExpertNetworks


class ConfiguredSources:
    """The sources of a student's start (`StartSources`), as the configuration names them.

    Args:
        config: of the run.
        family: of the base and the experts.
        networks: the experts'.
        transformer: the bare base.
    """

    def __init__(self, config: RunConfig, family: Family, networks: ExpertNetworks, transformer: nn.Module):
        self._config = config
        self._family = family
        self._networks = networks
        self.transformer = transformer

    def expert_adapter(self, expert: str) -> Adapter:
        """An expert's adapter over the base.

        Raises:
            ValueError: if it has none, or is a full checkpoint.
        """
        self._refuse_checkpoint(expert)
        adapter = self._networks.adapter(expert, self.transformer)
        if adapter is None:
            raise ValueError(f"student.start: expert {expert!r} has no adapter to start from; start at the base instead")
        return adapter

    def expert_weights(self, expert: str) -> Tensors:
        """An expert's network as a whole, its adapter merged in."""
        return merged_network(*self._networks.exact_network(expert))

    def file_adapter(self, path: Path, ignore_keys: Sequence[str]) -> Adapter:
        """The adapter of a file."""
        return load_adapter(fetched(path), self.transformer, ignore_keys)

    def untrained(self) -> Tensors:
        """Random weights of the whole network, drawn by the run's seed."""
        drawn = generator(self._config.run.seed, Stream.INITIALISATION, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(drawn.integers(2**63)))
            network = self._family.untrained(self._config.model.path)
        return {name: parameter.detach() for name, parameter in network.named_parameters()}

    def regression(self, rows: int, shape: LoraShape) -> Tensors:
        """The merge of the routes' experts, each run on the first rows of its route that are of one size; on the learner's
        device.

        Raises:
            ValueError: if no expert of a route has an adapter, one is a full checkpoint, or adapters change different modules.
        """
        on = device(self._config.learner.num_gpus)
        family = self._config.model.build(on)  # of its own: what it encodes with is not kept
        routes = enumerate(self._first_routes.items())
        samples = {name: self._sample(family, route, rows, number * rows) for number, (name, route) in routes}
        return regression_merge(family, samples, shape, on)

    def _sample(self, family: Family, route: RouteConfig, count: int, first_id: int) -> Sample:
        config, bucket = self._config, Bucket(route.data)
        size = family.size(bucket[0])
        rows = [row for row in range(min(count, len(bucket))) if family.size(bucket[row]) == size]
        self._refuse_checkpoint(route.expert)
        network = self._networks.network(route.expert)
        ids = [first_id + row for row in rows]
        return Sample(
            transformer=Field.build(route.expert, family, {route.expert: network}).transformers[route.expert],
            adapter=network[1],
            condition=Condition.concatenate([family.encode([bucket[row]]).to(torch.device("cpu")) for row in rows]),
            noise=noise(config.run.seed, ids, family.latent_shape(size), Stream.MERGE),
            grid=family.times(config.rollout.steps, config.rollout.shift)(size),
        )

    @property
    def _first_routes(self) -> Mapping[str, RouteConfig]:
        """The routes that are drawn at the start: one that comes later doesn't change where the student started."""
        return {name: route for name, route in self._config.routes.items() if route.weight > 0}

    def _refuse_checkpoint(self, expert: str) -> None:
        if self._config.experts[expert].checkpoint is not None:
            raise ValueError(
                f"student.start: expert {expert!r} is a full checkpoint; only a student of type full can start from it"
            )


class SkeletonSources(ConfiguredSources):
    """The sources without values, over a base without values: what is made of them has a start's names and shapes at no cost.

    Experts have networks of the base's architecture; `check_models` sees to it.
    """

    def expert_adapter(self, expert: str) -> Adapter:
        return _without_values(super().expert_adapter(expert))

    def expert_weights(self, expert: str) -> Tensors:
        adapter = self._networks.adapter(expert, self.transformer)
        return merged_network(self.transformer, _without_values(adapter) if adapter else None)

    def untrained(self) -> Tensors:
        return merged_network(self.transformer, None)

    def file_adapter(self, path: Path, ignore_keys: Sequence[str]) -> Adapter:
        return _without_values(super().file_adapter(path, ignore_keys))

    def regression(self, rows: int, shape: LoraShape) -> Tensors:
        adapters: dict[str, Adapter] = {}
        for route in self._first_routes.values():
            self._refuse_checkpoint(route.expert)
            if (adapter := self._networks.adapter(route.expert, self.transformer)) is not None:
                adapters[route.expert] = adapter
        modules = common_modules(adapters)
        (tensors, *_) = (adapter.tensors for adapter in adapters.values())
        # Made and not computed: an operator on the meta device imports torch's compiler, for three seconds.
        a = {f"{m}.lora_A.weight": (shape.rank, tensors[f"{m}.lora_A.weight"].shape[1]) for m in modules}
        b = {f"{m}.lora_B.weight": (tensors[f"{m}.lora_B.weight"].shape[0], shape.rank) for m in modules}
        return {name: torch.empty(size, device="meta") for name, size in (a | b).items()}


def _without_values(adapter: Adapter) -> Adapter:
    return Adapter(adapter.shape, {name: tensor.to("meta") for name, tensor in adapter.tensors.items()})
