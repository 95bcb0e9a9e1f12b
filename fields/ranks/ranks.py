"""What an update asks of the processes that make it, and the answer of one that makes it alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]
Named = Mapping[str, Float[Tensor, "..."]]


class Gradients(ABC):
    """The gradients of one step's micro-batches, on their way to the tensors' owners, who add them in the plan's order."""

    @abstractmethod
    def take(self) -> None:
        """A micro-batch's backward is done: its gradients are in the parameters."""

    @abstractmethod
    def skip(self) -> None:
        """A micro-batch was computed for nothing, its gradients are zeros: others have computed one that counts."""

    @abstractmethod
    def add_up(self) -> None:
        """All are done: the parameters that this rank owns have the step's gradient afterwards, the others none."""


class AddedByAutograd(Gradients):
    """Autograd adds the gradients of the micro-batches in their order, in the parameters themselves."""

    def take(self) -> None:
        """They stay where they are."""

    def skip(self) -> None:
        """Zeros were added, if anything."""

    def add_up(self) -> None:
        """They are added."""


class Ranks(ABC):
    """The processes of an update. Each calls the same methods in the same order.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        shards: whether each holds a part of the network's weights, so that all have to compute together.
        shards_student: whether what is trained is among them: each then holds a shard of every tensor, of its gradient, its
            moments and its average.
        waited_s: seconds for which this process has waited for the others so far.
    """

    rank: int
    size: int
    shards: bool = False
    shards_student: bool = False
    waited_s: float = 0.0

    @property
    def computes_start(self) -> bool:
        """Whether this rank needs the student's start: one for all, or each for its shards."""
        return self.rank == 0 or self.shards_student

    @abstractmethod
    def owned(self, parameters: Named) -> list[str]:
        """The names of the tensors that this rank owns, in their order."""

    @abstractmethod
    def gradients(self, parameters: Parameters, micro_batches: Sequence[int]) -> Gradients:
        """For a step whose micro-batches are computed by these ranks, in the plan's order."""

    @abstractmethod
    def joined_norms(self, own: Mapping[str, Float[Tensor, ""]], names: Sequence[str]) -> list[Float[Tensor, ""]]:
        """The norms of all owners' gradients, in the order of the names; a tensor without a gradient has none."""

    def padding(self, micro_batches: Sequence[int]) -> int:
        """Micro-batches that this rank computes for nothing, so that all ranks compute as many."""
        counts = [micro_batches.count(rank) for rank in range(self.size)]
        return max(counts) - counts[self.rank] if self.shards else 0

    @abstractmethod
    def place(self, transformer: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """Bring to the device what this rank holds of a network that has just been loaded; what is shared later stays.

        Args:
            transformer: the network.
            blocks: of it, each gathered when it computes, where they are shared.
            device: of this rank.
        """

    @abstractmethod
    def share_frozen(self, transformer: nn.Module, blocks: Sequence[nn.Module], trained: Parameters) -> None:
        """Give every rank its part of the weights that aren't trained, if these alone are shared.

        Args:
            transformer: the network.
            blocks: of it, each gathered when it computes.
            trained: what every rank keeps whole.
        """

    @abstractmethod
    def copy_first(self, parameters: Parameters) -> None:
        """Give every rank the values of rank 0."""

    @abstractmethod
    def spread(self, parameters: Parameters) -> None:
        """Give every rank the values of each tensor's owner."""

    @abstractmethod
    def whole(self, parameters: Parameters) -> Named:
        """What is trained, whole, on rank 0; the others get nothing."""

    @abstractmethod
    def collect(self, own: Named, like: Named) -> dict[str, Float[Tensor, "..."]]:
        """What the owners hold of each tensor, on rank 0; the others get nothing.

        Args:
            own: this rank's tensors.
            like: all tensors of which somebody has one, of the same names and shapes.
        """

    @abstractmethod
    def told(self, path: Path | None) -> Path:
        """The path that rank 0 names, on every rank."""


class Alone(Ranks):
    """One process, whose micro-batches come in the plan's order."""

    rank = 0
    size = 1

    def owned(self, parameters: Named) -> list[str]:
        return list(parameters)

    def gradients(self, parameters: Parameters, micro_batches: Sequence[int]) -> Gradients:
        return AddedByAutograd()

    def joined_norms(self, own: Mapping[str, Float[Tensor, ""]], names: Sequence[str]) -> list[Float[Tensor, ""]]:
        return [own[name] for name in names if name in own]

    def place(self, transformer: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        transformer.to(device)

    def share_frozen(self, transformer: nn.Module, blocks: Sequence[nn.Module], trained: Parameters) -> None:
        """All parts are here."""

    def copy_first(self, parameters: Parameters) -> None:
        """It has them."""

    def spread(self, parameters: Parameters) -> None:
        """Nobody else needs them."""

    def whole(self, parameters: Parameters) -> Named:
        return parameters

    def collect(self, own: Named, like: Named) -> dict[str, Float[Tensor, "..."]]:
        return dict(own)

    def told(self, path: Path | None) -> Path:
        assert path is not None, "rank 0 names one"
        return path
