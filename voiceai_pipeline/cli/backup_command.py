"""``voiceai-pipeline backup`` and ``restore``: database, key, spool and newest pairs as one folder.

They belong together: a dump without its key is unreadable, and a dump without the newest pairs
holds refresh tokens that have been spent since. A restore brings connections up to date before any
token is used (``connections/restoration.py``).
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import sqlalchemy as sa

from voiceai_pipeline.cli import output
from voiceai_pipeline.cli.arguments import json_option
from voiceai_pipeline.cli.existing_data import require_data
from voiceai_pipeline.cli.up import dagster_environment
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.restoration import Restoration
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.private_file import write_private
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import dump, migrate
from voiceai_pipeline.database.dump import DumpError
from voiceai_pipeline.pipeline import (
    key_path,
    open_database,
    open_vault,
    pairs_path,
    spool_path,
)

_ABOUT, _KEY, _SPOOL, _PAIRS = "backup.json", "token.key", "spool", "pairs"
_DUMPS: Final = ("voiceai", "dagster")


@click.command("backup")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def backup_command(folder: Path, as_json: bool) -> None:
    """Write a backup to FOLDER, which must not exist yet.

    It holds both databases and, from VOICEAI_HOME, the key file and the tokens kept on disk. The
    pipeline may keep running. Only you can read the folder: with it, the tokens could be used.
    """
    settings = Settings.load(os.environ)
    require_data(settings, dagster=True)
    try:
        folder.mkdir(mode=0o700, parents=True)
        with ExitStack() as stack:
            unfinished = stack.enter_context(ExitStack())
            unfinished.callback(shutil.rmtree, folder, ignore_errors=True)
            engines = _databases(settings, stack)
            # The spool before the dump, because a pair moves from it to the database. The newest
            # pairs after it, because they must not be older than the database.
            _copy(spool_path(settings), folder / _SPOOL)
            for name, engine in engines.items():
                dump.dump(engine.url, folder / f"{name}.dump")
            _copy(pairs_path(settings), folder / _PAIRS)
            has_key = not settings.token_keys and settings.database_url is None
            if has_key:
                key = key_path(settings).read_text(encoding="utf-8")
                write_private(folder / _KEY, key)
            with engines["voiceai"].begin() as db:
                revision = migrate.current(db)
            at = datetime.now(UTC).isoformat(timespec="seconds")
            write_private(folder / _ABOUT, json.dumps({"at": at, "revision": revision}))
            unfinished.pop_all()
    except FileExistsError:
        raise DumpError(f"{folder} exists already. Name a folder that does not.") from None
    except OSError as error:
        raise DumpError(f"{folder} cannot be written: {error.strerror}.") from None
    if as_json:
        facts = {"folder": str(folder), "at": at, "revision": revision, "has_keys": has_key}
        output.show_json(facts)
        return
    click.echo(f"Wrote a backup to {folder}.")
    if not has_key:
        click.echo("It does not contain the keys: back up VOICEAI_TOKEN_KEYS separately.")


@click.command("restore")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.confirmation_option(prompt="This replaces all users, tokens and calls. Restore?")
@json_option
def restore_command(folder: Path, as_json: bool) -> None:
    """Replace both databases with the backup in FOLDER.

    Stop the pipeline first. Tokens that were refreshed since the backup are taken from
    VOICEAI_HOME, so a connection is lost only if its newest tokens exist nowhere.
    """
    settings = Settings.load(os.environ)
    about = _about(folder)
    _put_back_key(folder / _KEY, key_path(settings))
    with ExitStack() as stack:
        engines = _databases(settings, stack)
        for engine in engines.values():
            _refuse_others(engine)
        ours = engines["voiceai"]
        with ours.begin() as db:
            revision = migrate.current(db)
        if revision not in (None, about["revision"]):
            raise DumpError(
                f"The database is at revision {revision}, the backup at {about['revision']}. "
                "Restore into an empty database, or with the version that made the backup."
            )
        for name, engine in engines.items():
            engine.dispose()
            dump.restore(engine.url, folder / f"{name}.dump")
        migrate.upgrade(ours)
        for saved in (folder / _SPOOL).glob("*.json"):
            write_private(spool_path(settings) / saved.name, saved.read_text(encoding="utf-8"))
        vault = open_vault(settings, ours)
        pairs = NewestPairs(pairs_path(settings), vault)
        pairs.put_back(NewestPairs(folder / _PAIRS, vault))
        restoration = Restoration(ours, vault, pairs, actor=Actor("command line"))
        found = restoration.update_all()
    updated = sum(error is None for error in found.values())
    if as_json:
        lost = [str(user_id) for user_id, error in found.items() if error]
        facts = {"at": about["at"], "newer_connections": updated, "lost_user_ids": lost}
        output.show_json(facts)
        return
    click.echo(f"Restored the backup of {about['at']}.")
    click.echo(f"{updated} connections were newer in {pairs_path(settings)} and taken from there.")
    for user_id, error in found.items():
        if error:
            output.say(f"User {user_id}: {cleaned(str(error))}", err=True)


def _databases(settings: Settings, stack: ExitStack) -> Mapping[str, sa.Engine]:
    """Our database and Dagster's, by the name of their dumps."""
    # The product's own login cannot read everything, and cannot create anything.
    owners = replace(settings, database_url=settings.owner_url or settings.database_url)
    ours = stack.enter_context(open_database(owners, pool_size=1))
    env = stack.enter_context(dagster_environment(settings))
    dagster = sa.create_engine(env["DAGSTER_POSTGRES_URL"], poolclass=sa.NullPool)
    return dict(zip(_DUMPS, (ours, dagster), strict=True))


def _about(folder: Path) -> dict[str, str]:
    missing = [name for name in (_ABOUT, *(f"{n}.dump" for n in _DUMPS)) if not _has(folder, name)]
    if missing:
        raise DumpError(f"{folder} is not a complete backup: {', '.join(missing)} is missing.")
    about: dict[str, str] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    return about


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _refuse_others(engine: sa.Engine) -> None:
    """Refuse while anything else uses the database."""
    with engine.connect() as db:
        others = db.execute(
            sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        ).scalar_one()
    if others:
        raise DumpError(
            f"The database {engine.url.database} is in use by {others} connections. Stop the "
            "pipeline (Ctrl-C in the terminal of make up) and everything else that uses it."
        )


def _put_back_key(saved: Path, key: Path) -> None:
    if not saved.is_file():
        return
    content = saved.read_text(encoding="utf-8")
    if not key.exists():
        write_private(key, content)
    elif key.read_text(encoding="utf-8") != content:
        raise DumpError(
            f"{key} differs from the backup's key. Move {key.parent} away, or set VOICEAI_HOME to "
            "a new folder, and restore again."
        )


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a folder, with mode 0600; a file that vanishes meanwhile is left out."""
    for file in source.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            write_private(target / file.name, file.read_text(encoding="utf-8"))
