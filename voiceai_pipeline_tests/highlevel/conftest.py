"""Fixtures of the tests of HighLevel's client."""

import pytest

from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.highlevel import HARBOR, grant_for


@pytest.fixture
def grant(sandbox: RunningSandbox, client: HighLevelClient) -> OAuthToken:
    """A location's tokens; the sandbox has forgotten the requests it took."""
    grant = grant_for(sandbox, client, HARBOR)
    sandbox.world.clear_requests()
    return grant
