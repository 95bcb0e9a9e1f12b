"""How a value of somebody's file is shown in a message: cut, so that the message stays one line that a person reads."""

from collections.abc import Iterable
from reprlib import Repr
from typing import Any

MOST_SHOWN = 100  # characters of a value
MOST_LISTED = 1000  # characters of a list of names

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MOST_SHOWN
_SHORT.maxlevel = 2  # lists in lists grow as a power of it


def shown(value: Any) -> str:
    """A value as `repr` writes it, without what is too long or nested too deep to be read.

    >>> shown("a cat")
    "'a cat'"
    >>> len(shown("cat " * 1_000_000))
    100
    """
    return _cut(_SHORT.repr(value), MOST_SHOWN + 2)  # the quotes of a text count too


def one_line(text: object, most: int = MOST_LISTED) -> str:
    """A text, or what an error says, with its line breaks as spaces, cut where nobody reads on; of an error that says nothing
    its name."""
    return _cut(" ".join(str(text).split()) or type(text).__name__, most)


def listed(names: Iterable[str]) -> str:
    """Names of columns, in their order, in one line; `none` for none."""
    return one_line(", ".join(names) or "none")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
