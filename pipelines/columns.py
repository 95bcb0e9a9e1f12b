"""What the chosen method wants of a route's rows beyond their prompts."""

from fields.carriers import GIVEN
from fields.operators import Expression, Network
from pipelines import build
from pipelines.config import RunConfig
from pipelines.operator_config import SELF, expression


def columns_wanted(config: RunConfig, route: str) -> dict[str, str]:
    """Column -> the key that wants it in every row of a route."""
    wanted = {"target_image": "state.type"} if build.with_clean(config) else {}
    for expert in build.teaching(config).asked(route):
        for branch in _expression(config, expert).branches(GIVEN):
            if branch.variant.prompt == "negative":
                wanted["negative_prompt"] = f"experts.{expert}.operator"
            if not branch.variant.source:
                wanted["source_image"] = f"experts.{expert}.operator"
    return wanted


def _expression(config: RunConfig, expert: str) -> Expression:
    return expression(
        config.experts[expert].operator, lambda leaf: Network(expert) if leaf == SELF else _expression(config, leaf)
    )
