"""Ranks that add in the plan's order: the bits of one process, however many they are.

All-reduce would tie the bits of a sum to the number of ranks and to the order in which they add. Here every micro-batch's
gradient travels by itself to the owner of each tensor, and the owner adds them in the plan's order: the additions of one
process, whoever computed what. A step takes a memory of one owner's share of the gradients for each micro-batch.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import on_device
from fields.ranks.dealing import owners
from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import Gradients, Named, Parameters


class OrderedRanks(ProcessGroup):
    """Each holds what is trained whole, and owns the moments and the average of some tensors.

    Args:
        rank, size, device, timeout_s: as of every process group.
        shards: whether the ranks share the frozen weights.
    """

    def __init__(self, rank: int, size: int, device: torch.device, timeout_s: float, shards: bool = False):
        super().__init__(rank, size, device, timeout_s)
        self.shards = shards

    def place(self, transformer: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        if not self.shards:
            transformer.to(device)

    def share_frozen(self, transformer: nn.Module, blocks: Sequence[nn.Module], trained: Parameters) -> None:
        """By FSDP2 (PyTorch's `fully_shard`; ZeRO's third stage, for weights without gradients): a block's weights are gathered
        when it computes, in its forward and again in its backward, and let go. They are gathered whole and added to nothing, so
        the block computes what it does on one device, bit for bit."""
        if not self.shards:
            return
        from torch.distributed.device_mesh import init_device_mesh  # takes a second, and most ranks hold the base whole
        from torch.distributed.fsdp import fully_shard

        for parameter in trained.values():
            parameter.data = parameter.data.to(self._device)
        mesh, ignored = init_device_mesh(self._device.type, (self.size,)), set(trained.values())
        for module in (*blocks, transformer):
            fully_shard(module, mesh=mesh, ignored_params=ignored)

    def owned(self, parameters: Named) -> list[str]:
        return self.names_by_owner(parameters)[self.rank]

    def names_by_owner(self, tensors: Named) -> list[list[str]]:
        """Which tensors each rank owns, in their order."""
        owner = owners({name: tensor.numel() for name, tensor in tensors.items()}, self.size)
        return [[name for name in tensors if owner[name] == rank] for rank in range(self.size)]

    def gradients(self, parameters: Parameters, micro_batches: Sequence[int]) -> Gradients:
        return _Exchange(self, parameters, micro_batches)

    def joined_norms(self, own: Mapping[str, Float[Tensor, ""]], names: Sequence[str]) -> list[Float[Tensor, ""]]:
        norms = torch.zeros(2, len(names), device=self._device)  # what only one rank fills in, a sum leaves as it is
        for place, name in enumerate(names):
            if name in own:
                norms[0, place], norms[1, place] = own[name], 1
        with self.meeting():
            dist.all_reduce(norms)
        return [norm for norm, there in zip(norms[0], norms[1].tolist(), strict=True) if there]

    @torch.no_grad()
    def copy_first(self, parameters: Parameters) -> None:
        flat = torch.cat([parameter.flatten() for parameter in parameters.values()])
        with self.meeting():
            dist.broadcast(flat, src=0)
        for name, values in _parts(flat, list(parameters), parameters).items():
            parameters[name].copy_(values)

    @torch.no_grad()
    def spread(self, parameters: Parameters) -> None:
        by_owner = self.names_by_owner(parameters)
        sent = [torch.cat([parameters[name].flatten() for name in names]) if names else None for names in by_owner]
        with self.meeting():
            works = [dist.broadcast(flat, src=rank, async_op=True) for rank, flat in enumerate(sent) if flat is not None]
            for work in works:
                assert work is not None
                work.wait()
        for rank, (names, flat) in enumerate(zip(by_owner, sent, strict=True)):
            if flat is not None and rank != self.rank:
                for name, values in _parts(flat, names, parameters).items():
                    parameters[name].copy_(values)

    def whole(self, parameters: Parameters) -> Named:
        return {} if self.rank else parameters

    def collect(self, own: Named, like: Named) -> dict[str, Float[Tensor, "..."]]:
        by_owner = self.names_by_owner(like)
        if self.rank != 0:
            if own:
                with self.meeting():
                    dist.send(torch.cat([own[name].flatten() for name in by_owner[self.rank]]), dst=0)
            return {}
        collected = dict(own)
        for rank, names in enumerate(by_owner):
            if rank and names:
                flat = torch.empty(sum(like[name].numel() for name in names), device=like[names[0]].device)
                with self.meeting():
                    dist.recv(flat, src=rank)
                collected |= _parts(flat, names, like)
        return {name: collected[name] for name in like}


class _Exchange(Gradients):
    """One round for each micro-batch of the busiest rank: what every rank computed last goes to the owners, while the next is
    computed. A rank that is done takes part in the rest with nothing to send."""

    def __init__(self, group: OrderedRanks, parameters: Parameters, micro_batches: Sequence[int]):
        self._group = group
        self._parameters = parameters
        self._micro_batches = micro_batches
        self._device = next(iter(parameters.values())).device
        self._names = group.names_by_owner(parameters)
        # A flag for each tensor: a sum with a zero that stands for no gradient may turn -0 into 0.
        self._lengths = [sum(parameters[name].numel() for name in names) + len(names) for names in self._names]
        self._computed = [micro_batches.count(rank) for rank in range(group.size)]
        self._rounds: list[list[Tensor]] = []  # each a message per rank, which are there once the next round begins
        self._under_way: tuple[dist.Work, Tensor] | None = None  # with what is sent, which has to stay until it has arrived

    def take(self) -> None:
        message = torch.cat([part for names in self._names for part in self._message(names)])
        self._forget()
        self._exchange(message, self._lengths)

    def _forget(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def skip(self) -> None:
        self._forget()
        self._exchange(torch.empty(0, device=self._device), [0] * self._group.size)

    def _message(self, names: Sequence[str]) -> list[Tensor]:
        """The gradients of one owner's tensors, and which of them are there."""
        parameters = [self._parameters[name] for name in names]
        there = [parameter.grad is not None for parameter in parameters]
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        return [*flat, on_device(torch.tensor(there, dtype=torch.float32), flat[0].device)] if names else []

    def _exchange(self, message: Tensor, lengths: Sequence[int]) -> None:
        number, own = len(self._rounds), self._lengths[self._group.rank]
        arriving = [own if number < count else 0 for count in self._computed]
        received = message.new_empty(sum(arriving))
        self._let_arrive()
        with self._group.meeting():
            work = dist.all_to_all_single(received, message, arriving, list(lengths), async_op=True)
        assert work is not None
        self._under_way = work, message
        self._rounds.append(list(received.split(arriving)))

    def _let_arrive(self) -> None:
        if self._under_way is not None:
            with self._group.meeting():
                self._under_way[0].wait()
            self._under_way = None

    @torch.no_grad()
    def add_up(self) -> None:
        while len(self._rounds) < max(self._computed):
            self.skip()
        self._let_arrive()
        names, done = self._names[self._group.rank], [0] * self._group.size
        for rank in self._micro_batches:
            message = self._rounds[done[rank]][rank]
            done[rank] += 1
            values, there = message.split([len(message) - len(names), len(names)])
            for flag, (name, gradient) in zip(there.tolist(), _parts(values, names, self._parameters).items(), strict=True):
                parameter = self._parameters[name]
                if flag and parameter.grad is None:
                    parameter.grad = gradient.clone()
                elif flag:
                    assert parameter.grad is not None
                    parameter.grad += gradient
        self._rounds.clear()


def _parts(flat: Tensor, names: Sequence[str], like: Named) -> dict[str, Tensor]:
    """Views of one tensor after the other in a flat one."""
    ends = accumulate(like[name].numel() for name in names)
    return {name: flat[end - like[name].numel() : end].view(like[name].shape) for name, end in zip(names, ends, strict=True)}
