"""What the chosen method wants of a route's rows beyond their prompts."""

from fields.carriers import GIVEN
from pipelines import build
from pipelines.config import RunConfig


def columns_wanted(config: RunConfig, route: str) -> dict[str, str]:
    """Column -> the key that wants it in every row of a route."""
    wanted = {"target_image": "state.type"} if build.with_clean(config) else {}
    for expert in build.teaching(config).asked(route):
        for branch in build.expert_expression(config, expert, build.family(config)).branches(GIVEN):
            if branch.variant.prompt == "negative":
                wanted["negative_prompt"] = f"experts.{expert}.operator"
            if not branch.variant.source:
                wanted["source_image"] = f"experts.{expert}.operator"
    return wanted
