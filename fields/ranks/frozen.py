"""Where the weights of a frozen network are: whole on one device, or in parts on those of several ranks."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fields.ranks.ranks import Ranks


def place_frozen(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    device: torch.device,
    ranks: Ranks,
    whole: Mapping[str, nn.Parameter] | None = None,
) -> nn.Module:
    """The network on its device, in evaluation mode and without gradients.

    Ranks that share weights get a part of each tensor; they are connected, and the network is on the host of each, so that no
    device ever holds more than its part and what computes. Every forward is then one of all ranks, in the bits of one process.

    Args:
        network: with everything in it that it computes with.
        blocks: of it, each gathered when it computes.
        device: of this process.
        ranks: the processes that hold the network.
        whole: tensors that every rank keeps whole, because they change; on the host.
    """
    network.eval().requires_grad_(False)
    if not ranks.shards:
        return network.to(device)
    ranks.share_frozen(network, blocks, whole or {})
    from torch.distributed.fsdp import FSDPModule  # takes a second, and most processes share nothing

    assert isinstance(network, FSDPModule)
    network.set_reshard_after_forward(True, recurse=False)  # what lies outside the blocks waits for a backward otherwise
    return network
