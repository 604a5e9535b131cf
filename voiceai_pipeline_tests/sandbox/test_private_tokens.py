"""The sandbox's private integration tokens answer as CONTRACT 14 says."""

from pathlib import Path

import requests

from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.sandbox_client import HARBOR, MAPLE, Client, Clock


def refused(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["message"]


def test_a_private_token_reads_its_location_until_it_is_rotated(sandbox: RunningSandbox) -> None:
    client = Client(sandbox)
    token = client.control("private-token", location_id=HARBOR.id).json()["token"]
    client.tokens = {"access_token": token}
    assert token in client.session.get(sandbox.url, timeout=60).text
    assert client.calls(HARBOR.id).status_code == 200
    assert client.get(f"/locations/{HARBOR.id}").status_code == 200
    wrong = (401, "This location is not accessible from this token!")
    assert refused(client.calls(MAPLE.id)) == wrong
    client.control("private-token", location_id=HARBOR.id, scopes="locations.readonly")
    assert refused(client.calls(HARBOR.id)) == (401, "The token is not authorized for this scope.")
    assert refused(client.calls(MAPLE.id)) == wrong  # which hides the missing scope
    client.control("private-token", location_id=HARBOR.id, rotate=True)
    assert refused(client.calls(HARBOR.id)) == (401, "Invalid Private Integration token")


def test_a_rotation_survives_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "sandbox.json"
    with running(World(clock=Clock(), state_file=state)) as sandbox:
        rotated = sandbox.world.private_tokens.rotate(HARBOR.id)
        sandbox.world.private_tokens.tick(HARBOR.id, ("locations.readonly",))
    again = World(clock=Clock(), state_file=state).private_tokens
    grant = again.grant_of(rotated)
    assert grant is not None
    assert grant.scopes == ("locations.readonly",)
