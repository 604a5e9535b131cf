"""Builds a working pipeline from settings, for the CLI, the pages and Dagster."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls.dimensions import Directory
from voiceai_pipeline.calls.reconciliation import Reconciliation
from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import key_file, key_rotation
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.marketplace import Marketplace
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.pauses import Pauses
from voiceai_pipeline.connections.private_tokens import PrivateTokens
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core import core_files
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import MetricRules, Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database import engine as engine_of
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.embedded_server import DATABASE
from voiceai_pipeline.database.engine import DEFAULT_POOL_SIZE, open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient

if TYPE_CHECKING:
    from voiceai_pipeline.marts.build import Marts


@dataclass(frozen=True)
class Pipeline:
    """The parts, ready to use. Safe to share between threads, not between processes."""

    engine: sa.Engine
    client: HighLevelClient
    tokens: Tokens
    consent: Consent
    marketplace: Marketplace
    private_tokens: PrivateTokens
    pauses: Pauses
    sync: Sync
    directory: Directory
    reconciliation: Reconciliation
    zone: ZoneInfo
    metrics: MetricRules
    keep_days: int | None = None

    @cached_property
    def marts(self) -> "Marts":
        # Imported on first use: pandas takes 45 MB, which a sync does not need.
        from voiceai_pipeline.marts.build import Marts

        return Marts(self.engine, self.zone, self.metrics)


@contextmanager
def open_database(settings: Settings, *, pool_size: int = DEFAULT_POOL_SIZE) -> Iterator[sa.Engine]:
    """Our database. If that is on the embedded server, the server is held while this is open.

    Args:
        pool_size: connections kept open; 1 is enough for a single thread.

    Raises:
        SettingsError: the URL cannot be read.
        PostgresError (``database/embedded_server.py``): the embedded server cannot run; the text
            says why.
    """
    with ExitStack() as stack:
        url = settings.database_url
        if url is None:
            server = stack.enter_context(
                EmbeddedPostgres.hold(settings.home, sql_port=settings.sql_port)
            )
            server.create_database(DATABASE)
            url = Secret(server.url(DATABASE))
        else:
            check_url(url, "VOICEAI_DATABASE_URL")
        engine = open_engine(url, pool_size=pool_size)
        stack.callback(engine.dispose)
        yield engine


def check_url(url: Secret, name: str) -> None:
    """Check that a database URL can be parsed; the parser's own error would quote parts of it.

    Raises:
        SettingsError: it cannot be parsed.
    """
    try:
        sa.make_url(url.reveal())
    except (sa.exc.ArgumentError, ValueError):
        raise SettingsError(
            f"{name} cannot be read. Write postgresql://user:password@host:5432/name, with every "
            "@, : and / inside the password percent-encoded (%40, %3A, %2F)."
        ) from None


def server_version(url: Secret, name: str) -> str:
    """The version of the PostgreSQL server at ``url``, read by connecting to it.

    Args:
        name: the variable that holds the URL.

    Raises:
        SettingsError: the URL cannot be read.
        sqlalchemy.exc.OperationalError: the server does not answer.
    """
    check_url(url, name)
    return engine_of.server_version(url)


def key_path(settings: Settings) -> Path:
    """The path of the key file, which is used if ``VOICEAI_TOKEN_KEYS`` is not set."""
    return settings.home / "token.key"


def spool_path(settings: Settings) -> Path:
    """The folder of token pairs that wait for the database."""
    return settings.home / "spool"


def pairs_path(settings: Settings) -> Path:
    """The folder of every user's newest token pair."""
    return settings.home / "pairs"


def open_vault(settings: Settings, engine: sa.Engine) -> TokenVault:
    """The vault with the configured keys, or with the key file beside the embedded server.

    Args:
        engine: our database's. If that has encrypted tokens, no key file is created.

    Raises:
        SettingsError: a database URL is configured without keys, or the key file is damaged,
            readable for others, or missing although stored tokens need its keys.
    """
    path = key_path(settings)
    keys = _configured_keys(settings)
    if keys is None:
        _check_that_none_is_needed(settings, engine)
        key_file.create(path)
        keys = key_file.read(path)
    reload = None if settings.token_keys else lambda: key_file.read(path)
    return TokenVault(keys, refuse_plain=settings.refuse_plain_tokens, reload=reload)


def _configured_keys(settings: Settings) -> Mapping[str, bytes] | None:
    """The keys of the environment or of the key file; None if there is no file yet.

    Raises:
        SettingsError: as ``open_vault``.
    """
    if settings.token_keys:
        return settings.token_keys
    if settings.database_url is not None:
        raise SettingsError(
            "VOICEAI_DATABASE_URL is set but VOICEAI_TOKEN_KEYS is not. Set it to a key of your "
            'own, kept outside the database: VOICEAI_TOKEN_KEYS="k1:$(openssl rand -base64 32)".'
        )
    path = key_path(settings)
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        return key_file.read(path) if path.exists() else None
    except OSError as error:
        raise SettingsError(
            f"{error.filename or path} cannot be used: {error.strerror}. Make it accessible to "
            "this user, or choose another folder with VOICEAI_HOME."
        ) from error


def _check_that_none_is_needed(settings: Settings, engine: sa.Engine) -> None:
    with engine.begin() as db:
        if migrate.current(db) is None:
            return
        usage = key_rotation.usage(db, spool_path(settings))
    if usage.key_ids:
        needed = sum(map(usage.needed, usage.key_ids))
        raise SettingsError(
            f"{key_path(settings)} is gone, and {needed} stored connections need its keys "
            f"({', '.join(sorted(usage.key_ids))}). Put it back from a backup. If it is lost for "
            "good, make a new one with voiceai-pipeline keys add; every user has to connect again."
        )


@contextmanager
def open_pipeline(settings: Settings, *, actor: Actor | None = None) -> Iterator[Pipeline]:
    """Open all parts; they are closed at the end of the ``with`` block.

    Args:
        actor: recorded in the history of connections.

    Raises:
        SettingsError, PostgresError: as ``open_vault`` and ``open_database``.
    """
    core_files.forbid()
    with ExitStack() as stack:
        _configured_keys(settings)  # checked first: with invalid keys, no server is started
        engine = stack.enter_context(open_database(settings))
        vault = open_vault(settings, engine)
        client = stack.enter_context(HighLevelClient(settings.highlevel))
        spool = Spool(spool_path(settings), vault)
        pairs = NewestPairs(pairs_path(settings), vault)
        tokens = Tokens(engine, vault, client, actor=actor, spool=spool, pairs=pairs)
        directory = Directory(engine, tokens, client)
        consent = Consent(
            engine,
            vault,
            client,
            actor=actor,
            spool=spool,
            pairs=pairs,
            connected=directory.read_new,
        )
        sync = Sync(
            engine, tokens, client, settings.timezone,
            helpers=settings.helpers, keep_days=settings.keep_calls_days,
        )  # fmt: skip
        reconciliation = Reconciliation(engine, tokens, client, settings.timezone)
        yield Pipeline(
            engine,
            client,
            tokens,
            consent,
            Marketplace(engine, vault, consent),
            PrivateTokens(engine, vault, client, actor=actor, spool=spool),
            Pauses(engine, actor=actor),
            sync,
            directory,
            reconciliation,
            settings.timezone,
            settings.metrics,
            settings.keep_calls_days,
        )
