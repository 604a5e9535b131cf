"""Handles a bug of ours: logs its stack frames, and returns a failure to show instead.

The only way to catch ``Exception``. It does not depend on Dagster: ``dagster.yaml`` sends this
package's log to the run's log.
"""

import logging
import traceback
from collections.abc import Iterator
from typing import Final

from voiceai_pipeline.core.failures import FailureClass, PipelineError

log = logging.getLogger(__name__)

_OURS: Final = __name__.partition(".")[0]


def unexpected(error: BaseException) -> PipelineError:
    """Log where an unexpected error was raised; return a failure of class INTERNAL to show.

    For the error and each of its causes, the log names the class and the file, line and function of
    each of our frames and of each foreign frame that ours call directly. It holds no exception's
    text and no source line: they may quote a call, a token or a number.
    """
    log.error("Unexpected error, without its text:\n%s", "\n".join(_chain(error)))
    return PipelineError(FailureClass.INTERNAL, type(error).__name__)


def _chain(error: BaseException) -> Iterator[str]:
    """Lines for the error, then for its causes. Those hidden by ``raise ... from None`` are
    included: it is used to hide texts, and these lines have none."""
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
