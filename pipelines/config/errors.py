"""What is wrong with a configuration, and how every command says it."""

from rich.console import Console


class ConfigError(ValueError):
    """What is wrong with a configuration, in one line."""


def complain(error: Exception) -> None:
    """One line on standard error, as it is written."""
    Console(stderr=True).print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
