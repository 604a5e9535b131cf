"""The sandbox's users never mix with an installation's own."""

from pathlib import Path
from uuid import UUID

from voiceai_pipeline.cli.demo_users import connect_demo_users
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import open_pipeline
from voiceai_pipeline_tests.support.up import own_servers


def test_demo_users_are_not_added_to_a_database_with_users_of_its_own(
    tmp_path: Path, database: Secret
) -> None:
    env = own_servers(database.reveal(), database.reveal(), "http://127.0.0.1:9")
    said: list[str] = []
    with open_pipeline(Settings.load({**env, "VOICEAI_HOME": str(tmp_path)})) as pipeline:
        with pipeline.engine.begin() as db:
            connections.add_user(db, UUID(int=7), business_name="A real customer")
        connect_demo_users(pipeline, "http://127.0.0.1:9", said.append)
        with pipeline.engine.begin() as db:
            names = [one.user.name for one in connections.all_connections(db)]
    assert names == ["A real customer"]
    assert said == ["Sandbox: the database has users of its own, so no demo users are added"]
