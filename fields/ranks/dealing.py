"""Who does what, decided by sizes alone: the same in every process and in every run."""

from collections.abc import Mapping, Sequence


def deal(costs: Sequence[int], ranks: int) -> tuple[int, ...]:
    """The rank of each piece of work: the largest first, always to the rank that has the least (Graham's LPT rule, SIAM
    J. Appl. Math. 17, 1969: at most 4/3 of the best possible maximum).

    Args:
        costs: of the pieces.
        ranks: how many there are.

    >>> deal([3, 1, 1, 1], 2)
    (0, 1, 1, 1)
    """
    loads, dealt = [0] * ranks, [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        dealt[place] = loads.index(min(loads))
        loads[dealt[place]] += costs[place]
    return tuple(dealt)


def owners(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """The rank that owns each tensor: it adds its gradients, holds its optimizer's state and updates it (ZeRO's first stage,
    arXiv 1910.02054, by whole tensors).

    Args:
        sizes: number of values by name.
        ranks: how many there are.
    """
    return dict(zip(sizes, deal(list(sizes.values()), ranks), strict=True))
