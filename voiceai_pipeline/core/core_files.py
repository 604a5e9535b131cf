"""Disables core dumps of processes that hold tokens: a dump has them in plain text."""

import resource


def forbid() -> None:
    """Let the kernel write none for this process and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
