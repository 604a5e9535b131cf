"""What the tests of the commands share: an installation whose HighLevel is the sandbox."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.cast import (
    DEMO_LOCATIONS,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    make_location,
)
from voiceai_pipeline.sandbox.server import running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.command_line import (
    Program,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.keys import KEYRING
from voiceai_pipeline_tests.support.ports import free_port


@pytest.fixture
def world() -> World:
    """A HighLevel of today, in which the agency has two locations."""
    second = replace(
        make_location("Northwind Bikes", 12, "motors", "Europe/Berlin", 3),
        company_id=DEMO["Northwind Agency"].company_id,
    )
    return World(locations=(*DEMO_LOCATIONS, second))


@pytest.fixture
def program(
    world: World,
    database: Secret,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Program]:
    with running(world, limits=False) as highlevel:
        env = {
            "VOICEAI_HOME": str(tmp_path / "home"),
            "VOICEAI_DATABASE_URL": database.reveal(),
            "VOICEAI_TOKEN_KEYS": KEYRING,
            "HIGHLEVEL_CLIENT_ID": SANDBOX_CLIENT_ID,
            "HIGHLEVEL_CLIENT_SECRET": SANDBOX_CLIENT_SECRET,
            "HIGHLEVEL_REDIRECT_URI": f"http://127.0.0.1:{free_port()}/oauth/callback",
            "HIGHLEVEL_AUTH_URL": f"{highlevel.url}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{highlevel.url}/oauth/token",
            "HIGHLEVEL_API_URL": highlevel.url,
        }
        program = Program(env, highlevel, monkeypatch, capsys)
        yield program
        program.engine.dispose()
