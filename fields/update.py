"""What an optimizer step did, put together from what its ranks say."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fields.ranks.share import Learned, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step did: losses are means over samples (and over or of their queries, as the objective says), per
    route over that route's samples."""

    loss: float
    route_loss: dict[str, float]
    route_samples: dict[str, int]
    route_target_norm: dict[str, float]
    gradient_norm: float

    @staticmethod
    def of(share: Share, learned: Sequence[Learned], gradient_norm: float) -> "Update":
        """What was learned of all examples of a step, in any order; the share is any rank's of that step."""
        by_route: dict[str, list[Learned]] = {}
        for one in sorted(learned, key=lambda one: one.place):
            by_route.setdefault(one.route, []).append(one)
        losses = {route: torch.cat([one.losses for one in own]) for route, own in by_route.items()}
        norms = {route: torch.cat([one.target_norms for one in own]) for route, own in by_route.items()}
        ids = {route: {sample_id for one in own for sample_id in one.sample_ids} for route, own in by_route.items()}
        return Update(
            loss=torch.cat(list(losses.values())).sum().item() / share.divisor,
            route_loss={r: values.sum().item() * share.rows / share.divisor / len(values) for r, values in losses.items()},
            route_samples={route: len(members) for route, members in ids.items()},
            route_target_norm={route: values.mean().item() for route, values in norms.items()},
            gradient_norm=gradient_norm,
        )
