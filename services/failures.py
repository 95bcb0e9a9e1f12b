"""What a process of a group of ranks raised, as the one sees it that asked all of them."""

from ray.exceptions import RayTaskError


def cause(failure: BaseException) -> BaseException:
    """What was raised, as it was raised."""
    return failure.cause if isinstance(failure, RayTaskError) else failure


def first_line(failure: BaseException) -> str:
    """Its kind and the first line of what it says, without where."""
    raised = cause(failure)
    return f"{type(raised).__name__}: {str(raised).strip().splitlines()[0] if str(raised).strip() else 'no more is said'}"
