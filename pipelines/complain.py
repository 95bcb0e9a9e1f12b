"""How every command says what is wrong."""

from rich.console import Console


def complain(error: Exception) -> None:
    """One line on standard error, as it is written."""
    Console(stderr=True).print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
