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
        in_order = sorted(learned, key=lambda one: one.place)
        of_route: dict[str, list[int]] = {}
        for row, route in enumerate(route for one in in_order for route in one.routes):
            of_route.setdefault(route, []).append(row)
        ids = [sample_id for one in in_order for sample_id in one.sample_ids]
        all_losses, all_norms = (torch.cat(own) for own in zip(*((o.losses, o.target_norms) for o in in_order), strict=True))
        losses = {route: all_losses[own] for route, own in of_route.items()}
        norms = {route: all_norms[own] for route, own in of_route.items()}
        return Update(
            loss=torch.cat(list(losses.values())).sum().item() / share.divisor,
            route_loss={r: values.sum().item() * share.rows / share.divisor / len(values) for r, values in losses.items()},
            route_samples={route: len({ids[row] for row in own}) for route, own in of_route.items()},
            route_target_norm={route: values.mean().item() for route, values in norms.items()},
            gradient_norm=gradient_norm,
        )
