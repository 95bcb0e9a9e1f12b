"""Which experts may be asked about a route's rows, and what they read of them."""

from fields.carriers import GIVEN, Variant
from fields.data.columns import TARGET
from pipelines.parts.row_scores import experts_by_scores
from pipelines.parts.run_parts import RunParts


def may_be_asked(parts: RunParts, route: str) -> list[str]:
    """The experts that may answer a query of a route: the route's own, and those that its rows' scores name.

    Raises:
        ValueError: if scores route, and the file cannot be read.
    """
    return list(dict.fromkeys((*parts.teaching.asked(route), *experts_by_scores(parts.config, route))))


def reads_empty(parts: RunParts, route: str) -> bool:
    """Whether the empty prompt is read at a route's samples: by an expert that is guided with it, or by the objective.

    Raises:
        ValueError: as `may_be_asked`.
    """
    variants = [variant for expert in may_be_asked(parts, route) for variant in _variants(parts, expert)]
    return parts.objective.both_branches or any(variant.prompt == "empty" for variant in variants)


def columns_of_expert(parts: RunParts, name: str) -> list[str]:
    """The columns that an expert's operator wants in every row that it is asked about."""
    variants = _variants(parts, name)
    negative = ["negative_prompt"] if any(variant.prompt == "negative" for variant in variants) else []
    return negative + (["source_image"] if not all(variant.source for variant in variants) else [])


def columns_of_route(parts: RunParts, route: str) -> dict[str, str]:
    """Column -> the key of the configuration that wants it in every row of a route, beside the prompt.

    Raises:
        ValueError: as `may_be_asked`.
    """
    wanted = {TARGET: "state.type"} if parts.config.state.reads_targets else {}
    for expert in may_be_asked(parts, route):
        wanted |= dict.fromkeys(columns_of_expert(parts, expert), f"experts.{expert}.operator")
    return wanted


def _variants(parts: RunParts, expert: str) -> list[Variant]:
    """What an expert's operator sees of a condition."""
    return [branch.variant for branch in parts.experts.expression(expert).branches(GIVEN)]
