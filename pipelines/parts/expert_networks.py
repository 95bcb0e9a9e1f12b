"""The experts of a configuration: their networks, their adapters, and what each of them computes."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from torch import nn

from fields.families.base import Family
from fields.families.quantization import Quantization
from fields.field import Field, Model
from fields.lora.adapter import Adapter
from fields.lora.formats import load_adapter
from fields.operators import Expression, Network
from fields.ranks.ranks import Ranks
from fields.shared_field import Member, SharedField
from pipelines.config.location import fetched
from pipelines.config.operators import SELF, expression
from pipelines.config.own_models import model_of, read_by
from pipelines.config.run import RunConfig
from pipelines.parts.device import device


class ExpertNetworks:
    """Reads what experts are made of.

    Args:
        config: of the run.
        families: by the name of the model; None is the run's own.
    """

    def __init__(self, config: RunConfig, families: Mapping[str | None, Family]):
        self._config = config
        self._experts = config.experts
        self._families = families

    def model_name(self, name: str) -> str | None:
        """Of the model that an expert's own network is of; None is the run's own."""
        model = model_of(self._config, name)
        return None if model is None else model.name

    def family(self, name: str) -> Family:
        """How an expert's own network is called."""
        return self._families[self.model_name(name)]

    def base(self, name: str) -> Path:
        """The folder, or the id on the hub, of the base that an expert is of."""
        return fetched((model_of(self._config, name) or self._config.model).path)

    @cached_property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """Expert -> the models beside the run's own that its networks are of."""
        return {name: read_by(self._config, name) for name in self._experts}

    def adapter(self, name: str, transformer: nn.Module) -> Adapter | None:
        """An expert's adapter, read for this network; None if it has none."""
        expert = self._experts[name]
        return load_adapter(fetched(expert.adapter), transformer, expert.ignore_keys) if expert.adapter else None

    def network(self, name: str) -> tuple[nn.Module, Adapter | None]:
        """An expert's bare network as it answers, the base or its own checkpoint, and its adapter."""
        return self._load(name, self._experts[name].quantization)

    def exact_network(self, name: str) -> tuple[nn.Module, Adapter | None]:
        """The same with the weights of the files, whatever it answers with."""
        return self._load(name, "none")

    def _load(self, name: str, quantization: Quantization) -> tuple[nn.Module, Adapter | None]:
        checkpoint = self._experts[name].checkpoint
        transformer = self.family(name).load_transformer(fetched(checkpoint) if checkpoint else self.base(name), quantization)
        return transformer, self.adapter(name, transformer)

    def expression(self, name: str, network: Callable[[str], Network] = Network) -> Expression:
        """What an expert computes; `network` says what stands for an expert's own network.

        Raises:
            ValueError: if the family cannot be guided as the operator says.
        """

        def leaf(written: str) -> Expression:
            return network(name) if written == SELF else self.expression(written, network)

        return expression(self._experts[name].operator, leaf, self.family(name))

    def field(self, name: str, ranks: Ranks | None = None) -> Field:
        """One expert: its expression, and every network that the expression names; of several ranks each has its part."""
        networks: dict[str, tuple[nn.Module, Adapter | None]] = {}

        def network(expert: str) -> Network:
            if expert not in networks:
                networks[expert] = self.network(expert)
            return Network(expert)

        whole = self.expression(name, network)
        on = device(self._experts[name].num_gpus)
        models = {network: Model(of, self.family(network)) for network in networks if (of := self.model_name(network))}
        return Field.build(name, self._families[None], networks, whole, on, ranks, models)

    def shared_field(self, names: list[str], ranks: Ranks | None = None) -> SharedField:
        """Experts that share one copy of the base, and the GPUs of the first of them."""
        family = self._families[None]
        transformer = family.load_transformer(self._config.model.path, self._experts[names[0]].quantization)
        members = {name: self._member(name) for name in names}
        named = dict.fromkeys(network for member in members.values() for network in member.networks)
        adapters = {name: self.adapter(name, transformer) for name in named}
        on = device(self._experts[names[0]].num_gpus)
        return SharedField(family, transformer, adapters, members, on, ranks)

    def _member(self, name: str) -> Member:
        """An expert whose expression has numbers for its networks: equal expressions of different networks are then equal."""
        networks: list[str] = []

        def number(expert: str) -> Network:
            if expert not in networks:
                networks.append(expert)
            return Network(str(networks.index(expert)))

        return Member(self.expression(name, number), tuple(networks))
