"""Which errors say that a disk was full, read-only or away, and that the same write may succeed later."""

import re
from errno import EDQUOT, EIO, ENOSPC, EROFS, ESTALE, ETIMEDOUT

_OUTAGES = (ENOSPC, EDQUOT, EROFS, EIO, ESTALE, ETIMEDOUT)
# As Rust's libraries and those that put an error into a text of their own write it.
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
_TORCH_WRITES = re.compile(r"enforce fail at inline_container\.cc|PytorchStreamWriter failed")  # it tells no number


def is_outage(error: BaseException) -> bool:
    """Whether a write failed for what the storage lacked, and not for what was asked of it.

    >>> is_outage(OSError(ENOSPC, "No space left on device"))
    True
    >>> is_outage(FileNotFoundError(2, "No such file or directory"))
    False
    >>> is_outage(Exception("Error while serializing: I/O error: No space left on device (os error 28)"))
    True
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _OUTAGES
    text = str(error)
    return bool(_TORCH_WRITES.search(text)) or any(int(one or other) in _OUTAGES for one, other in _NUMBER.findall(text))
