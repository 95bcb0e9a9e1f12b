"""The experts of a configuration: their networks, their adapters, and what each of them computes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from fields.families.base import Family
from fields.families.quantization import Quantization
from fields.field import Field
from fields.lora.adapter import Adapter
from fields.lora.formats import load_adapter
from fields.operators import Expression, Network
from fields.ranks.ranks import Ranks
from fields.shared_field import Member, SharedField
from pipelines.config.location import fetched
from pipelines.config.operators import SELF, expression
from pipelines.config.services import ExpertConfig
from pipelines.parts.device import device


class ExpertNetworks:
    """Reads what experts are made of.

    Args:
        experts: name -> its section.
        base: folder of the base, or its id on the model hub.
        family: of the base and of all experts.
    """

    def __init__(self, experts: Mapping[str, ExpertConfig], base: Path, family: Family):
        self._experts = experts
        self._base = base
        self._family = family

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
        transformer = self._family.load_transformer(fetched(checkpoint) if checkpoint else self._base, quantization)
        return transformer, self.adapter(name, transformer)

    def expression(self, name: str, network: Callable[[str], Network] = Network) -> Expression:
        """What an expert computes; `network` says what stands for an expert's own network.

        Raises:
            ValueError: if the family cannot be guided as the operator says.
        """

        def leaf(written: str) -> Expression:
            return network(name) if written == SELF else self.expression(written, network)

        return expression(self._experts[name].operator, leaf, self._family)

    def field(self, name: str, ranks: Ranks | None = None) -> Field:
        """One expert: its expression, and every network that the expression names; of several ranks each has its part."""
        networks: dict[str, tuple[nn.Module, Adapter | None]] = {}

        def network(expert: str) -> Network:
            if expert not in networks:
                networks[expert] = self.network(expert)
            return Network(expert)

        whole = self.expression(name, network)
        return Field.build(name, self._family, networks, whole, device(self._experts[name].num_gpus), ranks)

    def shared_field(self, names: list[str], ranks: Ranks | None = None) -> SharedField:
        """Experts that share one copy of the base, and the GPUs of the first of them."""
        transformer = self._family.load_transformer(self._base, self._experts[names[0]].quantization)
        members = {name: self._member(name) for name in names}
        named = dict.fromkeys(network for member in members.values() for network in member.networks)
        adapters = {name: self.adapter(name, transformer) for name in named}
        on = device(self._experts[names[0]].num_gpus)
        return SharedField(self._family, transformer, adapters, members, on, ranks)

    def _member(self, name: str) -> Member:
        """An expert whose expression has numbers for its networks: equal expressions of different networks are then equal."""
        networks: list[str] = []

        def number(expert: str) -> Network:
            if expert not in networks:
                networks.append(expert)
            return Network(str(networks.index(expert)))

        return Member(self.expression(name, number), tuple(networks))
