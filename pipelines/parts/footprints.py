"""What each kind of process of a run keeps in memory, measured on networks without values: no weights are read."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from math import ceil, prod

from torch import nn

from fields.carriers import GIVEN, Tensors
from fields.families.folder import shapes_of
from fields.families.quantization import Quantization
from fields.families.quantized import largest_weight_bytes, stored_bytes, tensor_bytes
from fields.lora.adapter import adapted_modules
from fields.memory.cost import Cost, Pass, encoding_cost, forward_cost, update_cost
from fields.method.plan import Stream, generator
from fields.student import LoraStudent
from pipelines.config.gpus import GIGABYTE
from pipelines.config.run import SHARED, RunConfig
from pipelines.config.sharing import shares_student
from pipelines.parts.footprint import Footprint, who_of
from pipelines.parts.run_parts import RunParts
from pipelines.parts.shards import FLOAT32, RankShare, rank_share, train_without_gradients

Kind = tuple[str | None, Quantization]  # a model by its name, None is the run's own, and the bits of its weights
PROCESS = 3 * GIGABYTE  # host memory of a process beside tensors: Python, torch, Ray, and CUDA's libraries


class Footprints:
    """The footprints of a run's processes.

    What a file would say that isn't here is assumed: an adapter as large as the student's, rows with a source image where the
    family takes one.

    Args:
        config: of the run.

    Raises:
        ValueError: if the base has no configuration that can be read.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self._parts = RunParts(config)
        self._family = self._parts.family
        self._networks: dict[Kind, nn.Module] = {}
        self._learners: dict[bool, tuple[nn.Module, Tensors]] = {}
        self._updates: dict[tuple[int, bool], Cost] = {}
        self._forwards: dict[tuple[int, Kind], Cost] = {}

    def all(self, micro_batch: int, recompute: bool, merge: bool) -> list[Footprint]:
        """Of the learner with this micro-batch, the rollout workers, merging or not, every service, and the driver."""
        actors = [self.learner(micro_batch, recompute), self.rollout(merge)]
        encoders = (self._encoder(service, model) for service, model in self.config.encoders.items())
        return [*actors, *map(self._service, self.config.expert_services), *encoders, self._driver()]

    @cached_property
    def largest(self) -> Pass:
        """The largest group, as far as the files are here."""
        return self._parts.largest_pass

    def _network(self, quantization: Quantization, model: str | None = None) -> nn.Module:
        """A base without values, its weights in this kind of bits; an expert's checkpoint has the same shapes."""
        if (kind := (model, quantization)) not in self._networks:
            family = self._parts.families[model]
            assert family.path is not None
            self._networks[kind] = family.blueprint(family.path, quantization)
        return self._networks[kind]

    def _weights(self, quantization: Quantization, model: str | None = None) -> int:
        """Bytes of a base, its weights in this kind of bits, with its buffers."""
        return stored_bytes(self._network(quantization, model), quantization)

    def _learner(self, recompute: bool) -> tuple[nn.Module, Tensors]:
        """The network as the learner has it, without values, and what is trained."""
        if recompute not in self._learners:
            network = deepcopy(self._network(self.config.model.quantization))  # positions of a blueprint anew take seconds
            shared = shares_student(self.config)
            trained = train_without_gradients(network) if shared else self._parts.student.attach(network, seed=0)
            self._learners[recompute] = network, trained
            if recompute:
                self._family.recompute_activations(network)
        return self._learners[recompute]

    @property
    def _trained(self) -> Tensors:
        """What is trained, without values."""
        return self._learner(recompute=False)[1]

    @property
    def _trained_values(self) -> int:
        """How many numbers are trained."""
        return sum(tensor.numel() for tensor in self._trained.values())

    def base_bytes(self, model: str | None = None) -> int:
        """A base in the type that it computes in, with its buffers, as it is in files and passes through the host."""
        return self._weights("none", model)

    def _frozen_share(self, ranks: int) -> float:
        """What a rank holds of the frozen base; where it is shared, also the block that computes and the one after it. For
        `auto`, which asks for one rank, two share it: their number must not choose the micro-batch."""
        return self._shared_frozen(max(2, ranks)) if self.config.learner.shard else self._frozen_bytes

    def _shared_frozen(self, ranks: int, models: Sequence[str | None] = (None,)) -> float:
        """What a rank holds of networks whose weights it shares: its part, the block that computes, and the one after it."""
        networks = [(self._parts.families[model], self._network("none", model)) for model in models]
        largest = max(stored_bytes(block, "none") for family, network in networks for block in family.blocks(network))
        return sum(self._weights("none", model) for model in models) / ranks + 2 * largest

    @property
    def _frozen_bytes(self) -> int:
        """The base as learner and rollout workers have it."""
        return self._weights(self.config.model.quantization)

    def learner_fixed(self, ranks: int = 1) -> tuple[float, float]:
        """The learner's weights, and what it keeps beside them: float32 moments and average, and masters of a full student. Of
        several ranks each has its part of moments and average; of a student that they share, which is for that many, of all."""
        if shares_student(self.config):
            return self._shared_student.weights, self._shared_student.kept
        trained = FLOAT32 * self._trained_values
        moments_and_average = 3 * trained / ranks
        if isinstance(self._parts.student, LoraStudent):
            return self._frozen_share(ranks) + trained, moments_and_average
        masters = 0 if self._family.dtype.itemsize == FLOAT32 else FLOAT32 * self._trained_values
        return self.base_bytes(), moments_and_average + masters

    @property
    def _shared_student(self) -> RankShare:
        """A rank's of a full student that the ranks share."""
        return rank_share(self._family, self._network("none"), self.config.learner.ranks)

    def _exchanged(self, micro_batch: int) -> float:
        """What a rank of several keeps for the others: a gradient that is sent, its part of each micro-batch's, and the new
        values."""
        learner, query = self.config.learner, self.config.query.build()
        if learner.ranks == 1 or shares_student(self.config):
            return 0.0
        times = self._parts.grid(self.largest.size).tolist()
        queries = len(query.draw(0, generator(0, Stream.QUERY, 0), times))
        groups = ceil(learner.batch_size / self.largest.samples)
        micro_batches = groups * queries * ceil(self.largest.samples / micro_batch)
        return FLOAT32 * self._trained_values * (1 + micro_batches / learner.ranks + 1)

    def update(self, micro_batch: int, recompute: bool) -> Cost:
        """Of the learner's forward and backward of one micro-batch."""
        if (micro_batch, recompute) not in self._updates:  # large models take seconds
            what, network = replace(self.largest, samples=micro_batch), self._learner(recompute)[0]
            cost = _with_restored_weight(update_cost(self._family, network, what), network, self.config.model.quantization)
            self._updates[micro_batch, recompute] = cost
        return self._updates[micro_batch, recompute]

    def forward(self, samples: int, quantization: Quantization = "none", model: str | None = None) -> Cost:
        """Of one forward of a base."""
        key: tuple[int, Kind] = samples, (model, quantization)
        if key not in self._forwards:
            family, network = self._parts.families[model], self._network(quantization, model)
            what = replace(self.largest, samples=samples, branches=1).seen_by(family)
            self._forwards[key] = _with_restored_weight(forward_cost(family, network, what), network, quantization)
        return self._forwards[key]

    @property
    def _fewer_bits(self) -> str:
        """The key that makes the learner's and the workers' base smaller, where they can have it."""
        if self.config.model.quantization != "none" or not isinstance(self._parts.student, LoraStudent):
            return ""
        return ", or model.quantization=int8" + (" with rollout.merge=false" if self.config.rollout.merges else "")

    def learner(self, micro_batch: int, recompute: bool) -> Footprint:
        """The learner's."""
        weights, kept = self.learner_fixed(self.config.learner.ranks)
        kept += self._exchanged(micro_batch)
        host = weights - self._frozen_share(self.config.learner.ranks) + kept
        return Footprint(
            who="learner",
            count=self.config.learner.ranks,
            num_gpus=self.config.learner.num_gpus,
            weights=weights,
            kept=kept,
            working=self.update(micro_batch, recompute).peak_bytes,
            host=PROCESS + self.base_bytes() + (self._shared_student.host if shares_student(self.config) else host),
            remedy=f"learner.micro_batch, a smaller student.rank{self._fewer_bits}"
            if recompute
            else "learner.recompute=always",
        )

    def rollout(self, merge: bool) -> Footprint:
        """A rollout worker's, with an adapter merged into the weights or kept beside them."""
        rollout, student = self.config.rollout, self._parts.student
        smaller = self._fewer_bits if rollout.ranks == 1 else ", or more rollout.ranks"
        pristine = 0.0
        if isinstance(student, LoraStudent) and not merge:
            pristine = self._kept_bytes(self.config.model.quantization) * self._trained_values
        elif isinstance(student, LoraStudent):
            base = self._network("none")
            modules = [base.get_parameter(f"{name}.weight") for name in adapted_modules(self._trained)]
            pristine = sum(map(tensor_bytes, modules)) + 2 * FLOAT32 * max(module.numel() for module in modules)
        return Footprint(
            who="rollout",
            count=rollout.workers * rollout.ranks,
            num_gpus=rollout.num_gpus,
            weights=self._frozen_bytes if rollout.ranks == 1 else self._shared_frozen(rollout.ranks),
            kept=pristine,
            working=self.forward(rollout.group_size, self.config.model.quantization).peak_bytes,
            host=PROCESS + self.base_bytes() + 2 * FLOAT32 * self._trained_values,
            remedy="a smaller rollout.group_size"
            + (", or rollout.merge=false" if merge and isinstance(student, LoraStudent) else smaller),
        )

    def _service(self, name: str) -> Footprint:
        """Of a replica that holds one expert, or of one with all that share the base."""
        shared = name == SHARED
        members = list(self.config.shared_experts) if shared else [name]
        expressions = [self._parts.experts.expression(member) for member in members]
        branches = [list(dict.fromkeys(expression.branches(GIVEN))) for expression in expressions]
        networks = self.config.networks_of(name)
        at_once = max(sum(branch.network == network for branch in own) for own in branches for network in networks)
        adapters = sum(self._adapter_bytes(network) for network in networks)
        kinds: list[Kind] = [
            (self._parts.experts.model_name(network), self.config.experts[network].quantization) for network in networks
        ]
        section, ranks = self.config.services[name], self.config.experts[members[0]].ranks
        copies = kinds[:1] if shared else kinds
        models = [model for model, _ in copies]
        weights = sum(self._weights(quantization, model) for model, quantization in copies) + adapters
        smaller = _fewer_bits_of(members) if any(quantization == "none" for _, quantization in kinds) else ""
        if ranks > 1:  # of a stack of adapters each has whole ones
            smaller = f", or more experts.{members[0]}.ranks"
            weights = self._shared_frozen(ranks, models) + (adapters if shared else adapters / ranks)
        return Footprint(
            who=who_of(name),
            count=section.replicas * ranks,
            num_gpus=section.num_gpus,
            weights=weights,
            kept=0,
            working=max(
                self.forward(at_once * self.config.rollout.group_size, quantization, model).peak_bytes
                for model, quantization in dict.fromkeys(kinds)
            ),
            host=PROCESS + sum(self._weights("none", model) for model in models) + adapters,
            remedy=f"a smaller rollout.group_size{smaller}"
            + ("" if shared or len(networks) == 1 else ", or placement: shared"),
        )

    def _driver(self) -> Footprint:
        """Of the process that the user starts: it is given the trained tensors and their average at the end."""
        return Footprint(
            who="driver",
            count=1,
            num_gpus=0,
            weights=0,
            kept=0,
            working=0,
            host=PROCESS + 2 * FLOAT32 * self._trained_values,
            remedy="",
        )

    def _adapter_bytes(self, name: str) -> float:
        """A frozen adapter's."""
        expert = self.config.experts[name]
        if expert.adapter is None:
            return 0
        each = self._kept_bytes(expert.quantization, self._parts.experts.model_name(name))
        files = [expert.adapter] if expert.adapter.is_file() else sorted(expert.adapter.glob("*.safetensors"))
        if files:
            return each * sum(prod(shape) for shape in shapes_of(files[0]).values())
        return each * self._trained_values if isinstance(self._parts.student, LoraStudent) else 0

    def _kept_bytes(self, quantization: Quantization, model: str | None = None) -> int:
        """Of a value of a frozen adapter: it is kept in the type of its module's weight (`fields/lora/linear.py`), which the
        packed numbers of nf4 are not."""
        return FLOAT32 if quantization == "nf4" else self._parts.families[model].dtype.itemsize

    def _encoder(self, service: str, model: str | None) -> Footprint:
        section, family = self.config.encoder, self._parts.families[model]
        weights = family.encoder_bytes()
        what = self.largest.seen_by(family)
        return Footprint(
            who=service,
            count=section.replicas,
            num_gpus=section.num_gpus,
            weights=weights,
            kept=0,
            working=encoding_cost(family, what.size, what.sources),
            host=PROCESS + weights + section.cache_bytes,
            remedy="encoder.num_gpus=0, or a GPU of its own",
        )


def _fewer_bits_of(experts: list[str]) -> str:
    return ", or " + " ".join(f"experts.{name}.quantization=int8" for name in experts)


def _with_restored_weight(cost: Cost, network: nn.Module, quantization: Quantization) -> Cost:
    """With the weight that bitsandbytes brings to the network's type for a module's product, and forgets; what torchao does
    with its weights is measured."""
    if quantization != "nf4":
        return cost
    return replace(cost, peak_bytes=cost.peak_bytes + largest_weight_bytes(network))
