"""A run that cannot go on."""


class RunFailed(Exception):
    """What ended a run that was well configured, and from where it continues, in one line."""
