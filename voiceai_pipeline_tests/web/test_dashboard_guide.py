"""docs/dashboard.md and docs/api.md: the forwarding function as it stands there, and every endpoint
and error of the code."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from uuid import UUID

import requests

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.settings import VARIABLES
from voiceai_pipeline.web import api
from voiceai_pipeline_tests.support.installation import API_KEY, HARBOR, MAPLE, Installation
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted
from voiceai_pipeline_tests.support.supabase_js import SupabaseJs

DASHBOARD: Final = (PROJECT / "docs" / "dashboard.md").read_text()
API: Final = (PROJECT / "docs" / "api.md").read_text()
ADMIN: Final = UUID(int=77)

_DENO: Final = """
import { createServer } from "node:http";
import ws from "ws";
globalThis.WebSocket = ws;
globalThis.Deno = {
  env: { get: (name) => process.env[name] },
  serve: (answer) => createServer(async (asked, said) => {
    const chunks = [];
    for await (const chunk of asked) chunks.push(chunk);
    const body = chunks.length ? Buffer.concat(chunks) : undefined;
    const url = `http://127.0.0.1${asked.url}`;
    const request = new Request(url, { method: asked.method, headers: asked.headers, body });
    const response = await answer(request);
    said.writeHead(response.status, Object.fromEntries(response.headers));
    said.end(Buffer.from(await response.arrayBuffer()));
  }).listen(Number(process.env.PORT), "127.0.0.1"),
};
"""
"""What the function uses of Deno, in Node."""


def _supabase(asked: Asked) -> Reply:
    """Supabase's login service and the table `users`: logins are "login of" an id."""
    login = asked.headers.get("authorization", asked.headers.get("Authorization", ""))
    user = login.removeprefix("Bearer login-of-")
    if asked.path == "/auth/v1/user":
        is_one = login.startswith("Bearer login-of-")
        return Reply({"id": user, "aud": "authenticated"}) if is_one else Reply({}, 401)
    return Reply({"role": "admin" if user == str(ADMIN) else "user"})


@contextmanager
def forwarding(folder: SupabaseJs, installation: Installation) -> Iterator[str]:
    """The guide's function, running; yields the address of the functions."""
    (source,) = re.findall(r"<!-- forward -->\n```ts\n(.+?)```", DASHBOARD, re.DOTALL)
    program = _DENO + source.replace('"npm:@supabase/supabase-js@2"', '"@supabase/supabase-js"')
    (folder.folder / "forward.mjs").write_text(program)
    port = free_port()
    with ExitStack() as stack:
        supabase = stack.enter_context(Scripted(_supabase)).url
        process = subprocess.Popen(
            ["node", "forward.mjs"],  # noqa: S607 - node of the PATH
            cwd=folder.folder,
            env={
                "PATH": os.environ["PATH"],
                "PORT": str(port),
                "SUPABASE_URL": supabase,
                "SUPABASE_ANON_KEY": "anon",
                "VOICEAI_PAGE_URL": installation.url,
                "VOICEAI_API_KEY": API_KEY,
            },
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_until(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def ask(functions: str, user: object, login: str, name: str = "oauth-test") -> requests.Response:
    headers = {"Authorization": f"Bearer {login}", "Origin": "https://dashboard.example.test"}
    body = {"userId": str(user)}
    return requests.post(f"{functions}/{name}", json=body, headers=headers, timeout=60)


def test_the_forwarding_function_of_the_guide_lets_users_name_themselves_and_admins_all(
    installation: Installation, supabase_js: SupabaseJs
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    installation.connect(HARBOR)
    with forwarding(supabase_js, installation) as functions:
        own = ask(functions, HARBOR, f"login-of-{HARBOR}")
        synced = ask(functions, HARBOR, f"login-of-{HARBOR}", "sync-highlevel-calls?wait=0")
        others = ask(functions, MAPLE, f"login-of-{HARBOR}")
        by_admin = ask(functions, HARBOR, f"login-of-{ADMIN}")
        stranger = ask(functions, HARBOR, "anon")

    assert (own.status_code, own.json()["message"]) == (200, "Calls can be read.")
    assert synced.status_code == 202
    assert len(installation.dagster.launched) == 1
    assert (others.status_code, by_admin.status_code, stranger.status_code) == (403, 200, 401)
    assert API_KEY not in own.text
    assert {answer.headers["Access-Control-Allow-Origin"] for answer in (own, stranger)} == {"*"}


def test_the_page_on_the_api_names_every_endpoint_and_error() -> None:
    for route in api.routes():
        assert f"{api.PREFIX}{route.path}" in API
    web = PROJECT / "voiceai_pipeline" / "web"
    code = "".join((web / name).read_text() for name in ("api.py", "api_callers.py", "app.py"))
    given = r'(?:CallError|refusal)\(\s*[\w.]+,\s*"(\w+)"|"error": "(\w+)"|"(not_\w+)"'
    errors = {name for found in re.findall(given, code) for name in found if name}
    assert errors - set(re.findall(r"`(\w+)`", API.partition("## Errors")[2])) == set()
    assert len(errors) > 12


def test_the_guides_to_the_api_name_settings_that_there_are() -> None:
    for page in (API, DASHBOARD):
        assert set(re.findall(r"\bVOICEAI_[A-Z_]+\b", page)) <= VARIABLES.keys()
