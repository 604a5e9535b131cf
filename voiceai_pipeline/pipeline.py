"""Puts the parts together: from settings to a working pipeline, for the CLI and for Dagster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.models import Secret
from voiceai_pipeline.postgres import EmbeddedPostgres
from voiceai_pipeline.settings import Settings, SettingsError
from voiceai_pipeline.storage.engine import open_engine
from voiceai_pipeline.storage.vault import TokenVault, local_keys
from voiceai_pipeline.sync import Sync
from voiceai_pipeline.tokens import Tokens

DATABASE = "voiceai"
"""Our database in the embedded server; Dagster's is beside it."""


@dataclass(frozen=True)
class Pipeline:
    """The parts, ready to use. Shared by threads; not by processes."""

    engine: sa.Engine
    client: HighLevelClient
    tokens: Tokens
    sync: Sync
    zone: ZoneInfo


@contextmanager
def open_database(settings: Settings) -> Iterator[Secret]:
    """The URL of our database, with the embedded server held running where it is the one used.

    Raises:
        voiceai_pipeline.postgres.PostgresError: the embedded server cannot run; it says why.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedPostgres.hold(settings.home) as server:
        server.create_database(DATABASE)
        yield Secret(server.url(DATABASE))


def open_vault(settings: Settings) -> TokenVault:
    """The vault with the configured keys, or with the key file beside the embedded server.

    Raises:
        SettingsError: a real server is configured, and no keys.
    """
    if settings.token_keys:
        return TokenVault(settings.token_keys)
    if settings.database_url is not None:
        raise SettingsError(
            "VOICEAI_DATABASE_URL is set but VOICEAI_TOKEN_KEYS is not. Set it to a key of your "
            'own, kept outside the database: VOICEAI_TOKEN_KEYS="k1:$(openssl rand -base64 32)".'
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    return TokenVault(local_keys(settings.home / "token.key"))


@contextmanager
def open_pipeline(settings: Settings) -> Iterator[Pipeline]:
    """Every part, opened; closed again at the end of the ``with``.

    Raises:
        SettingsError, voiceai_pipeline.postgres.PostgresError: with what to do.
    """
    with ExitStack() as stack:
        vault = open_vault(settings)
        engine = open_engine(stack.enter_context(open_database(settings)))
        stack.callback(engine.dispose)
        client = stack.enter_context(HighLevelClient(settings.highlevel))
        tokens = Tokens(engine, vault, client)
        sync = Sync(engine, tokens, client, settings.timezone)
        yield Pipeline(engine, client, tokens, sync, settings.timezone)
