"""``python -m voiceai_pipeline.defs.dagster_ui``: Dagster's UI, for the web process alone.

Dagster's own web server answers everyone who reaches it, accepts mutations by GET and checks
neither Host nor Origin. This one serves the same application under ``/dagster``, but only to
requests with the key of the web process; a header names the user's role. The web process checks
everything that a browser may send (``web/guard.py``, ``web/dagster_proxy.py``).
"""

import argparse
import contextlib
import hmac
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

import dagster as dg
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.cli import (
    DEFAULT_DB_STATEMENT_TIMEOUT,
    DEFAULT_POOL_MAX_OVERFLOW,
    DEFAULT_POOL_RECYCLE,
)
from dagster_webserver.version import __version__
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server

from voiceai_pipeline.core import env_file
from voiceai_pipeline.core.dagster_access import DAGSTER_PATH, KEY_HEADER, ROLE_HEADER, Role
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.defs.dagster_internals import (
    WorkspaceFileTarget,
    WorkspaceProcessContext,
    WorkspaceRequestContext,
    configure_loggers,
    setup_interrupt_handlers,
)

POLL_RATE: Final = 2000
"""Milliseconds between an open tab's polls for live data: the web server's default."""


_role: ContextVar[Role] = ContextVar("role of the current request", default=Role.ANALYST)
"""Set once the key has been checked. A request's threads and subscriptions inherit it. Dagster's
own threads have the default, which may change nothing."""


class RoleContext(WorkspaceProcessContext):
    """Decides per request what it may change: everything for operators, nothing for anyone else."""

    def create_request_context(self, source: object | None = None) -> WorkspaceRequestContext:
        return WorkspaceRequestContext(
            instance=self.instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
            read_only=self.read_only or _role.get() is not Role.OPERATOR,
        )


class KeyRequired:
    """Answers requests that carry the key, and tells everyone else where the UI is.

    Args:
        address: the URL at which users open the UI.
    """

    def __init__(self, app: ASGIApp, key: Secret, address: str) -> None:
        self._app = app
        self._key = key.reveal().encode()
        self._address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self._is_ours(headers):
            is_operator = headers.getlist(ROLE_HEADER) == [Role.OPERATOR]
            _role.set(Role.OPERATOR if is_operator else Role.ANALYST)
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] == "/health":
            await JSONResponse({"service": "voiceai-pipeline dagster"})(scope, receive, send)
        else:
            text = f"Open Dagster at {self._address}: this port answers the web process only.\n"
            await PlainTextResponse(text, 403)(scope, receive, send)

    def _is_ours(self, headers: Headers) -> bool:
        presented = headers.get(KEY_HEADER, "")
        return hmac.compare_digest(presented.encode(), self._key)


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped.

    Returns:
        0 after a clean stop, 1 with a message on stderr if it cannot start.
    """
    parser = argparse.ArgumentParser(
        prog="python -m voiceai_pipeline.defs.dagster_ui", description=__doc__
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=3000, help="port to listen on")
    parser.add_argument("-w", "--workspace", required=True, help="Dagster's workspace.yaml")
    parser.add_argument(
        "--read-only", action="store_true", help="allow no changes, whatever the role"
    )
    given = parser.parse_args(arguments)
    try:
        env_file.load()
        page = Settings.load(os.environ).page
        if page.dagster_key is None:
            raise SettingsError(
                "VOICEAI_DAGSTER_KEY is not set. Set it to the same value, at least 16 characters, "
                "for this process and the web process (openssl rand -base64 24)."
            )
        if not os.environ.get("DAGSTER_HOME"):
            raise SettingsError(
                "DAGSTER_HOME is not set. Set it to the folder of dagster.yaml: without it this "
                "process would show an empty, temporary instance."
            )
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    # The code server and the runs that it starts have no use for it.
    os.environ.pop("VOICEAI_DAGSTER_KEY", None)
    configure_loggers(log_level="INFO")
    # Once stopped, uvicorn raises again the signal that stopped it. As an interrupt it ends the
    # code server on its way out; otherwise it would end this process and leave the code server.
    setup_interrupt_handlers()
    with (
        contextlib.suppress(KeyboardInterrupt),
        _application(
            page.dagster_key, page.dagster_url, given.workspace, read_only=given.read_only
        ) as app,
    ):
        return _serve(app, given.host, given.port)
    return 0


@contextlib.contextmanager
def _application(
    key: Secret, address: str, workspace: str, *, read_only: bool
) -> Iterator[ASGIApp]:
    """The application. The end of the ``with`` also stops the code server that it started."""
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(
            DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW
        )
        with RoleContext(
            instance,
            workspace_load_target=WorkspaceFileTarget([workspace]),
            version=__version__,
            read_only=read_only,
            code_server_log_level="info",
        ) as process:
            app = create_app_from_workspace_process_context(process, DAGSTER_PATH, POLL_RATE)
            yield KeyRequired(app, key, address)


def _serve(app: ASGIApp, host: str, port: int) -> int:
    server = Server(
        Config(
            app,
            host=host,
            port=port,
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    try:
        server.run()
    except SystemExit:  # the port is taken; uvicorn has logged it
        logging.getLogger(__name__).error("Dagster's UI cannot listen on %s:%d.", host, port)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
