"""Ranks that share a full student: each holds a shard of every weight, of its gradient, its moments and its average.

PyTorch's FSDP2 (`fully_shard`; ZeRO's third stage, arXiv 1910.02054): a block's weights are gathered when it computes, in the
type that the network computes in, and let go. Its gradient is added up over the ranks in float32, a shard on each. No rank ever
holds all of them, so they cannot travel to an owner who adds them in the plan's order: the number of ranks orders the sums.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import AddedByAutograd, Gradients, Named, Parameters


class ShardedRanks(ProcessGroup):
    """Each holds its shards, as DTensors, and updates them. Micro-batches are computed in rounds, one by each rank; FSDP2 adds
    a round's gradients up, and rounds one after the other."""

    shards = True
    shards_student = True

    def place(self, transformer: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """A block after the other comes whole to the device, in float32, and leaves this rank's shards there."""
        mesh = init_device_mesh(device.type, (self.size,))
        computes_in = shared_type(transformer)
        # Inputs stay as they are: a family casts what its network takes in its own type, and times are float32.
        policy = MixedPrecisionPolicy(param_dtype=computes_in, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for module in (*blocks, transformer):
            for parameter in module.parameters():
                if not isinstance(parameter, DTensor):
                    parameter.data = parameter.data.float()
            sharded = fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            _add_up_gradients(sharded)

    def share_frozen(self, transformer: nn.Module, blocks: Sequence[nn.Module], trained: Parameters) -> None:
        """Nothing is frozen."""

    def owned(self, parameters: Named) -> list[str]:
        return list(parameters)

    def gradients(self, parameters: Parameters, micro_batches: Sequence[int]) -> Gradients:
        return AddedByAutograd()

    def joined_norms(self, own: Mapping[str, Float[Tensor, ""]], names: Sequence[str]) -> list[Float[Tensor, ""]]:
        squares = torch.stack([_here(own[name]) for name in names if name in own]).square()
        with self.meeting():
            dist.all_reduce(squares)
        return list(squares.sqrt())

    def copy_first(self, parameters: Parameters) -> None:
        """Each has computed the start, and has its shards of it."""

    def spread(self, parameters: Parameters) -> None:
        """Nobody else needs them before they are gathered."""

    def whole(self, parameters: Parameters) -> Named:
        return self.collect(parameters, parameters)

    @torch.no_grad()
    def collect(self, own: Named, like: Named) -> dict[str, Float[Tensor, "..."]]:
        """A tensor after the other, to rank 0's host: no device holds two of them whole."""
        collected = {}
        for name in like:
            shard = own[name]
            assert isinstance(shard, DTensor)
            with self.meeting():
                whole = shard.full_tensor()
            if self.rank == 0:
                collected[name] = whole.cpu()
        return collected


def shared_type(transformer: nn.Module) -> torch.dtype:
    """The type of all of a network's weights: FSDP2 gathers blocks, and adds up their gradients, in one.

    Raises:
        ValueError: if they are of several; names a weight of each.
    """
    names = {parameter.dtype: name for name, parameter in reversed(list(transformer.named_parameters()))}
    if len(names) > 1:
        found = " and ".join(f"{name} in {str(dtype).removeprefix('torch.')}" for dtype, name in names.items())
        kind = type(transformer).__name__
        raise ValueError(f"a full student is shared in one type, and {kind} has {found}; it can be shared in float32")
    return next(iter(names))


def _add_up_gradients(module: FSDPModule) -> None:
    """Sums, where FSDP2 would take means: the losses are divided by the step's samples already. A weight that one rank's
    micro-batch doesn't use has a gradient of zero there, as others may use it."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # gloo has no sum of multiples
    module.set_reduce_scatter_unused_params(True)


def _here(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
