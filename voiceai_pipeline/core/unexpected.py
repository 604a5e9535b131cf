"""What a bug of ours leaves behind: its frames in the log, and a failure to show in its place.

The one way to catch ``Exception``. Imports ``failures`` only; knows no Dagster: ``dagster.yaml``
sends this package's log to the run's.
"""

import logging
import traceback
from collections.abc import Iterator
from typing import Final

from voiceai_pipeline.core.failures import FailureClass, PipelineError

log = logging.getLogger(__name__)

_OURS: Final = __name__.partition(".")[0]


def unexpected(error: BaseException) -> PipelineError:
    """Log where an unexpected error was raised; return the failure of class INTERNAL to show.

    The log names, for the error and each that caused it, its class and the file, line and function
    of every frame of ours and of the first foreign frame that ours call. It holds no text of an
    exception and no source line: they may quote a call, a token or a number.
    """
    log.error("Unexpected error, without its text:\n%s", "\n".join(_chain(error)))
    return PipelineError(FailureClass.INTERNAL, type(error).__name__)


def _chain(error: BaseException) -> Iterator[str]:
    """The error, then its causes; those hidden by ``raise ... from None`` too, as texts are what it
    hides."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        kind = type(following)
        name = kind.__qualname__
        if kind.__module__ != "builtins":
            name = f"{kind.__module__}.{name}"
        yield name if following is error else f"Raised from {name}"
        yield from _frames(following)
        following = following.__cause__ or following.__context__


def _frames(error: BaseException) -> Iterator[str]:
    was_ours = True
    for frame, line in traceback.walk_tb(error.__traceback__):
        is_ours = frame.f_globals.get("__name__", "").partition(".")[0] == _OURS
        if is_ours or was_ours:
            code = frame.f_code
            yield f'  File "{code.co_filename}", line {line}, in {code.co_qualname}'
        was_ours = is_ours
