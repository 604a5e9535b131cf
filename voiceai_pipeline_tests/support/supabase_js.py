"""The real supabase-js, installed once per session from npm's registry.

Without Node or the registry the tests are skipped, and the end of a run says so.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

VERSION: Final = "2.109.0"
"""Raised by hand: the library is what our old dashboard's pages are built with."""

NO_NODE: Final = "supabase-js cannot run"

_PROGRAM: Final = """
import { createClient } from "@supabase/supabase-js";
import ws from "ws";
const { url, key, login, calls } = JSON.parse(process.argv[1]);
// Node 20 has no WebSocket of its own.
const options = { realtime: { transport: ws } };
if (login) options.accessToken = async () => login;
const client = createClient(url, key, options);
const answers = [];
for (const [name, given] of calls) {
  const { data, error } = await client.functions.invoke(name, given);
  const body = error ? await error.context.json() : data;
  answers.push({ status: error ? error.context.status : 200, kind: error?.name ?? null, body });
}
console.log(JSON.stringify(answers));
process.exit(0);
"""


class SupabaseJs:
    """The library in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def for_browsers(self) -> str:
        """The script that defines ``supabase`` in a page."""
        package = self.folder / "node_modules/@supabase/supabase-js"
        return (package / "dist/umd/supabase.js").read_text()

    def invoke(
        self, url: str, key: str, *calls: tuple[str, dict[str, Any]], login: str = ""
    ) -> list[dict[str, Any]]:
        """``functions.invoke`` for each call, from Node: status, class of the error, and body.

        Args:
            key: what the client is made with.
            login: the JWT of the user who is signed in; empty: nobody is.
        """
        given = json.dumps({"url": url, "key": key, "login": login, "calls": calls})
        done = subprocess.run(
            ["node", "--input-type=module", "-e", _PROGRAM, given],  # noqa: S607 - node of the PATH
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers


@pytest.fixture(scope="session")
def supabase_js(tmp_path_factory: pytest.TempPathFactory) -> SupabaseJs:
    """Installed, or the test is skipped."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        _cannot("Node is not installed")
    folder = tmp_path_factory.mktemp("supabase-js")
    (folder / "package.json").write_text('{"private": true}')
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            ["npm", "install", *quiet, f"@supabase/supabase-js@{VERSION}", "ws@8"],  # noqa: S607 - likewise
            cwd=folder,
            capture_output=True,
            timeout=180,
        )
    except subprocess.TimeoutExpired:
        _cannot("npm's registry does not answer")
    if done.returncode != 0:
        _cannot("npm's registry cannot be reached")
    return SupabaseJs(folder)


def _cannot(reason: str) -> None:
    if os.environ.get("VOICEAI_REQUIRE_NODE") == "1":
        pytest.fail(f"VOICEAI_REQUIRE_NODE is set and {NO_NODE}: {reason}")
    pytest.skip(f"{NO_NODE}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that tests of the old dashboard were skipped, and what lets them run."""
    reports = terminalreporter.stats.get("skipped", [])
    skipped = [report for report in reports if NO_NODE in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} of the tests with supabase-js skipped: it takes Node 20 and npm, and "
            "npm's registry.",
            yellow=True,
        )
