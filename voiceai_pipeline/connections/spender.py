"""Makes many requests in a row with one user's tokens, and notices within a second if the
connection was changed or ended (REQUIREMENTS T18).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from voiceai_pipeline.connections.refresh_plan import Need, needs_refresh
from voiceai_pipeline.connections.standing import Standing
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.core.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True)
class RowAhead:
    """A user's row that was read together with others, before it is needed.

    Attributes:
        read_at: a time just before the read, by ``Standing.clock``.
    """

    row: TokenRow
    read_at: float

    @property
    def user_id(self) -> UUID:
        return self.row.connection.user.id


class _Spend(Protocol):
    """``Tokens.spend``, given the token for the first attempt."""

    def __call__(
        self, user_id: UUID, token: Secret, request: Callable[[Secret], T], force: bool
    ) -> T: ...


class Spender:
    """Makes many requests with one user's tokens, each as ``Tokens.spend`` would.

    Before each request it checks the stamp of the user's rows, so that the run of a user who was
    disconnected or paused stops within a second (``standing.py``). It gets a valid token again only
    if a row has changed or the token is about to expire.

    Args:
        valid_token: returns a valid token and its row; takes the row if it is known.
        ahead: the user's row, if it was read before.
    """

    def __init__(
        self,
        valid_token: Callable[[UUID, Need, TokenRow | None], tuple[Secret, TokenRow]],
        spend: _Spend,
        standing: Standing,
        user_id: UUID,
        ahead: RowAhead | None = None,
    ) -> None:
        self._find_valid_token = valid_token
        self._spend = spend
        self._standing = standing
        self._user_id = user_id
        self._ahead = ahead
        self._token: Secret | None = None
        self._rows: str | None = None

    def __call__(self, request: Callable[[Secret], T]) -> T:
        """Make a request.

        Raises:
            UnknownUserError, PipelineError: as ``Tokens.spend``.
        """
        return self._spend(self._user_id, self._valid_token(), request, False)

    def _valid_token(self) -> Secret:
        if self._token is None or not self._is_unchanged():
            # A later change, such as a minted location token, is noticed at the next request.
            need = Need(to_read=True)
            self._token, row = self._find_valid_token(self._user_id, need, self._row_ahead())
            self._rows = row.rows
        return self._token

    def _row_ahead(self) -> TokenRow | None:
        """The row that was read ahead, the first time only, and only if it is still fresh."""
        ahead, self._ahead = self._ahead, None
        return ahead.row if ahead and self._standing.is_fresh(ahead.read_at) else None

    def _is_unchanged(self) -> bool:
        stamp = self._standing.stamp(self._user_id)
        return stamp.rows == self._rows and not needs_refresh(stamp.expires_at, stamp.now)
