"""``voiceai-pipeline pause`` and ``resume``: stop and continue the syncs of users."""

import os

import click

from voiceai_pipeline.cli import output
from voiceai_pipeline.cli.arguments import find_user, json_option
from voiceai_pipeline.cli.existing_data import require_data
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.pauses import Pauses
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import open_database


@click.command("pause")
@click.argument("user")
@click.option("--reason", default="", help="Why; shown on the pages, kept in the history.")
@json_option
def pause_command(user: str, reason: str, as_json: bool) -> None:
    """Pause USER's syncs; tokens are kept and refreshed.

    No calls of USER are read until you run voiceai-pipeline resume USER.
    """
    _change(user, as_json, reason=reason)


@click.command("resume")
@click.argument("user")
@json_option
def resume_command(user: str, as_json: bool) -> None:
    """Resume USER's paused syncs.

    The days that were missed are synced automatically.
    """
    _change(user, as_json, reason=None)


def _change(name: str, as_json: bool, reason: str | None) -> None:
    """Pause a user for a reason; None: resume."""
    settings = Settings.load(os.environ)
    require_data(settings)
    with open_database(settings, pool_size=1) as engine:
        user_id = find_user(engine, name).user.id
        pauses = Pauses(engine, actor=Actor("command line"))
        if reason is None:
            pauses.resume([user_id])
        else:
            pauses.pause([user_id], reason)
        after = find_user(engine, str(user_id))
    output.show_result(after, as_json=as_json)
