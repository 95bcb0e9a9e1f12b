"""What is wrong with a configuration, and how every command says it."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console

from fields.shown import one_line

_MOST_SHOWN = 2000  # characters of a line


class ConfigError(ValueError):
    """What is wrong with a configuration, in one line."""


def complain(error: Exception) -> None:
    """One line on standard error, as it is written, whatever names of files and keys stand in it."""
    Console(stderr=True).print(
        f"error: {one_line(error, _MOST_SHOWN)}", style="red", highlight=False, soft_wrap=True, markup=False
    )


@contextmanager
def input_refused() -> Generator[None]:
    """Within it, what reading input raises becomes a `ConfigError`: a file is damaged, of another kind, or out of reach."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(one_line(error, _MOST_SHOWN)) from error
