"""Tables for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from fields.scene.grammar import ALL_ROUTE_CATEGORIES


def skill_table(title: str, skills: Mapping[str, Mapping[str, Mapping[str, float]]], measure: str) -> Table:
    """One line per category (a section per route), one column per model; `skills` is model -> category -> measure -> value."""
    table = Table(title=title)
    table.add_column("category", no_wrap=True)
    for model in skills:
        table.add_column(model, justify="right", overflow="fold")
    asked = {category for model in skills.values() for category in model}
    for categories in ALL_ROUTE_CATEGORIES.values():
        for category in (category for category in categories if category in asked):
            values = [f"{100 * model[category][measure]:.0f} %" for model in skills.values()]
            table.add_row(category, *values, end_section=category == categories[-1])
    assert table.row_count == len(asked)
    return table
