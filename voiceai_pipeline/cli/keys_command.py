"""``voiceai-pipeline keys``: shows the keys that encrypt tokens, and changes them while it runs."""

import os
from typing import Any

import click
import sqlalchemy as sa

from voiceai_pipeline.cli import output
from voiceai_pipeline.cli.arguments import json_option
from voiceai_pipeline.cli.existing_data import require_data
from voiceai_pipeline.cli.progress import rows_bar
from voiceai_pipeline.connections import key_file, key_rotation
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.key_rotation import PLAIN, Usage
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.pipeline import key_path, open_database, open_vault, pairs_path, spool_path

_VARIABLE = "VOICEAI_TOKEN_KEYS"


@click.group("keys", invoke_without_command=True)
@json_option
@click.pass_context
def keys_command(context: click.Context, as_json: bool) -> None:
    """Show which keys the stored tokens need; add, use and remove keys.

    \b
    To change the key:
      voiceai-pipeline keys add
      voiceai-pipeline keys encrypt
      voiceai-pipeline keys remove OLD
    """
    settings = Settings.load(os.environ)
    require_data(settings)
    if context.invoked_subcommand is not None:
        return
    with open_database(settings, pool_size=1) as engine:
        vault = open_vault(settings, engine)
        usage = _usage(settings, engine)
        if as_json:
            output.show_json(_facts(usage, vault.key_ids))
        else:
            _show(usage, vault.key_ids, in_file=not settings.token_keys)


@keys_command.command()
@click.argument("key_id", required=False)
@json_option
def add(key_id: str | None, as_json: bool) -> None:
    """Add a new key, named KEY_ID, that encrypts from now on.

    With VOICEAI_TOKEN_KEYS or your own database server, it is printed, for you to add to that
    variable.
    """
    settings = Settings.load(os.environ)
    path = key_path(settings)
    is_first = not settings.token_keys and not path.exists()
    keys = dict(settings.token_keys) or ({} if is_first else key_file.read(path))
    with open_database(settings, pool_size=1) as engine:
        taken = _usage(settings, engine).key_ids | keys.keys()
    key_id = key_id or next(name for n in range(1, 10_000) if (name := f"k{n}") not in taken)
    if not key_id.isidentifier() or key_id in taken:
        raise SettingsError(f"{key_id!r} cannot name a new key. Choose a word that is not in use.")
    key = key_file.new_key()
    facts = {"key_id": key_id, "added_to": None, "entry": None}
    if settings.database_url is not None or settings.token_keys:
        if as_json:
            output.show_json({**facts, "entry": key_file.line_of(key_id, key)})
            return
        click.echo(
            f"{key_file.line_of(key_id, key)}\n\nKeep it secret. 1. Add it at the END of "
            f"{_VARIABLE} and restart every process, so that all can read it. 2. Move it to the "
            "FRONT and restart again: it encrypts from then on. 3. Run: voiceai-pipeline keys "
            "encrypt"
        )
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    key_file.write(path, {key_id: key, **keys})
    if as_json:
        output.show_json({**facts, "added_to": str(path)})
        return
    click.echo(f"Added the key {key_id} to {path}. Run now: voiceai-pipeline keys encrypt")


@keys_command.command()
@json_option
def encrypt(as_json: bool) -> None:
    """Encrypt every stored token with the newest key.

    This includes paused and disconnected users, and pairs that wait on disk. Nothing has to be
    stopped. Safe to repeat.
    """
    settings = Settings.load(os.environ)
    with open_database(settings, pool_size=1) as engine:
        vault = open_vault(settings, engine)
        spool = Spool(spool_path(settings), vault)
        pairs = NewestPairs(pairs_path(settings), vault)
        with rows_bar("Encrypting") as show:
            result = key_rotation.encrypt_again(engine, vault, spool, show, pairs)
        usage = _usage(settings, engine)
        if as_json:
            output.show_json(
                {
                    "encrypted": result.done,
                    "busy": result.busy,
                    "unreadable_user_ids": [str(user_id) for user_id in result.unreadable],
                    "keys": _facts(usage, vault.key_ids),
                }
            )
        else:
            click.echo(f"Encrypted {result.done} connections with the key {vault.current}.")
            if result.busy:
                click.echo(f"{result.busy} are being refreshed and were skipped; run it again.")
            _show(usage, vault.key_ids, in_file=not settings.token_keys)
        if result.unreadable:
            with engine.begin() as db:
                users = connections.all_connections(db, result.unreadable)
            names = ", ".join(one.user.name for one in users)
            raise SettingsError(
                f"No key decrypts the tokens of {names}. Put the missing key back, or reconnect."
            )


@keys_command.command()
@click.argument("key_id")
@json_option
def remove(key_id: str, as_json: bool) -> None:
    """Remove KEY_ID from the key file, if no stored token needs it."""
    settings = Settings.load(os.environ)
    if settings.token_keys:
        raise SettingsError(f"The keys are in {_VARIABLE}. Remove {key_id} from it.")
    with open_database(settings, pool_size=1) as engine:
        vault = open_vault(settings, engine)
        needed = _usage(settings, engine).needed(key_id)
        if key_id not in vault.key_ids:
            raise SettingsError(f"There is no key {key_id}, only: {', '.join(vault.key_ids)}.")
        if key_id == vault.current or needed:
            raise SettingsError(
                f"The key {key_id} is needed: "
                + (f"by {needed} connections. " if needed else "it encrypts. ")
                + "Run first: voiceai-pipeline keys add, then voiceai-pipeline keys encrypt."
            )
        keys = key_file.read(key_path(settings))
        key_file.write(
            key_path(settings), {name: key for name, key in keys.items() if name != key_id}
        )
    if as_json:
        output.show_json({"key_id": key_id, "removed": True})
        return
    click.echo(f"Removed the key {key_id}. Older backups still need it: keep a copy with them.")


def _usage(settings: Settings, engine: sa.Engine) -> Usage:
    with engine.begin() as db:
        return key_rotation.usage(db, spool_path(settings), pairs_path(settings))


def _facts(usage: Usage, key_ids: list[str]) -> list[dict[str, Any]]:
    """Every key that exists, the newest first, then those that are needed but missing."""

    def fact(key_id: str, state: str) -> dict[str, Any]:
        counts = {"connections": usage.rows[key_id], "on_disk": usage.spooled[key_id]}
        return {"key_id": key_id, "state": state, **counts}

    def state(number: int, key_id: str) -> str:
        return "encrypts" if number == 0 else "needed" if usage.needed(key_id) else "not needed"

    missing = [fact(key_id, "missing") for key_id in sorted(usage.key_ids.difference(key_ids))]
    plain = [fact(PLAIN, "needs none")] if usage.rows[PLAIN] else []
    return [*(fact(one, state(n, one)) for n, one in enumerate(key_ids)), *missing, *plain]


def _show(usage: Usage, key_ids: list[str], *, in_file: bool) -> None:
    where = "voiceai-pipeline keys remove {}" if in_file else f"remove it from {_VARIABLE}"
    for number, key_id in enumerate(key_ids):
        if number == 0:
            state = "encrypts"
        elif usage.needed(key_id):
            state = "still needed; run: voiceai-pipeline keys encrypt"
        else:
            state = f"not needed any more; {where.format(key_id)}"
        click.echo(_line(key_id, usage.rows[key_id], usage.spooled[key_id], state))
    for key_id in sorted(usage.key_ids.difference(key_ids)):
        state = "MISSING: put it back, or reconnect these users"
        click.echo(_line(key_id, usage.rows[key_id], usage.spooled[key_id], state))
    if plain := usage.rows[PLAIN]:
        click.echo(_line(PLAIN, plain, 0, "encrypted at the next refresh"))
    if usage.unbound:
        click.echo(
            f"{usage.unbound} connections could be replaced by an older copy of themselves: "
            "voiceai-pipeline keys encrypt"
        )


def _line(key_id: str, rows: int, spooled: int, state: str) -> str:
    return f"{key_id:12} {rows:6} connections {spooled:4} on disk   {state}"
