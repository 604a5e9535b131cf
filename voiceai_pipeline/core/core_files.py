"""Disables core dumps of processes that hold tokens: a dump has them in plain text."""

import resource


def forbid() -> None:
    """Disable core dumps of this process and of the processes that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
