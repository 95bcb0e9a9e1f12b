"""Where a process computes, and with which others."""

from collections.abc import Sequence

import torch

from fields.ranks.ordered import OrderedRanks
from fields.ranks.ranks import Alone, Ranks

_EXCHANGE_S = 60.0  # ranks that compute the same call wait for a part of each other's weights alone


def device(num_gpus: float) -> torch.device:
    """The device of a process that was given this many GPUs."""
    return torch.device("cuda" if num_gpus else "cpu")


def sharing_ranks(count: int, on: torch.device) -> Sequence[Ranks]:
    """The ranks that hold a frozen model: one, or several that share its weights, each on a device of this kind."""
    if count == 1:
        return [Alone()]
    return [OrderedRanks(rank, count, on, _EXCHANGE_S, shards=True) for rank in range(count)]
