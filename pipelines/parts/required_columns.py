"""What the chosen method wants of rows beyond their prompts."""

from fields.carriers import GIVEN
from pipelines.config.run import RunConfig
from pipelines.parts import build


def columns_wanted(config: RunConfig, route: str) -> dict[str, str]:
    """Column -> the key that wants it in every row of a route."""
    wanted = {"target_image": "state.type"} if build.with_clean(config) else {}
    for expert in build.teaching(config).asked(route):
        wanted |= dict.fromkeys(expert_columns(config, expert), f"experts.{expert}.operator")
    return wanted


def expert_columns(config: RunConfig, expert: str) -> list[str]:
    """The columns that an expert's operator wants in every row that it is asked about."""
    variants = [b.variant for b in build.expert_expression(config, expert, build.family(config)).branches(GIVEN)]
    negative = ["negative_prompt"] if any(variant.prompt == "negative" for variant in variants) else []
    return negative + (["source_image"] if not all(variant.source for variant in variants) else [])
