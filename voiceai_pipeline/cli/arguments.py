"""Reads what is typed for a command: a user, a range of days, a token."""

import sys
from datetime import date

import click
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.new_users import new_user
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.secret import Secret


def find_user(engine: sa.Engine, name: str) -> Connection:
    """The user with this id, or the only one with this name.

    Raises:
        UnknownUserError: no user has it, or several share the name.
    """
    with engine.begin() as db:
        users = connections.all_connections(db)
    found = [one for one in users if name.lower() in (str(one.user.id), one.user.name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(str(one.user.id) for one in found)
        raise UnknownUserError(f"{len(found)} users are called {name!r}; use an id: {ids}")
    raise UnknownUserError(
        f"No user {name!r}. List the users with: voiceai-pipeline users; add one with: "
        "voiceai-pipeline connect NAME --new"
    )


def added_user(engine: sa.Engine, name: str) -> Connection:
    """Add a user with this name.

    Raises:
        NewUserError: the user cannot be added.
    """
    return find_user(engine, str(new_user(engine, name)))


def entered_token(location: str | None) -> tuple[Secret, str]:
    """A private integration token and its location's id: asked for on a terminal, else read from
    standard input. The token is never an argument, which other users of the machine could read.

    Args:
        location: its id, if given as an option.

    Raises:
        click.UsageError: standard input does not hold both.
    """
    if sys.stdin.isatty():
        token = click.prompt("Private integration token", hide_input=True)
        return Secret(token), location or click.prompt("Location id")
    words = sys.stdin.read().split()
    given = [*words[:1], *([location] if location else words[1:2])]
    if len(given) != 2:
        raise click.UsageError(
            "Standard input must hold the token and, unless --location names it, the location id, "
            "each on its own line."
        )
    return Secret(given[0]), given[1]


def day_range(start: str, end: str | None) -> tuple[date, date]:
    """The first and the last day, inclusive; without an end, the first day alone.

    Raises:
        click.UsageError: a day cannot be read, or the first is after the last.
    """
    first, last = _day(start, "--from"), _day(end or start, "--to")
    if first > last:
        raise click.UsageError(f"--from {first} is after --to {last}.")
    return first, last


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is not a valid day. Use YYYY-MM-DD.") from None


from_option = click.option(
    "--from", "--start", "start", required=True, metavar="YYYY-MM-DD", help="First day."
)
to_option = click.option(
    "--to",
    "--end",
    "end",
    metavar="YYYY-MM-DD",
    help="Last day, inclusive; default: the first day.",
)
private_token_option = click.option(
    "--private-token",
    is_flag=True,
    help="Connect a location of your own with a private integration token instead of an app. Token "
    "and location id are asked for, or read from standard input, each on its own line.",
)
new_option = click.option("--new", is_flag=True, help="First add a user with the name USER.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
