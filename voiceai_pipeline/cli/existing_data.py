"""Checks that there are data: only ``up`` and ``migrate`` create any. The other commands fail and
say where they looked."""

from voiceai_pipeline.core.installation import START
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import embedded


class NoDataError(RuntimeError):
    """There is no database yet; the text says where it was looked for, and what to do."""


def require_data(settings: Settings, *, dagster: bool = False) -> None:
    """Check that the embedded databases exist, if a setting does not name another; create nothing.

    Args:
        dagster: the command needs Dagster's database too.

    Raises:
        NoDataError: they do not.
    """
    needed = {"VOICEAI_DATABASE_URL": settings.database_url}
    if dagster:
        needed["DAGSTER_POSTGRES_URL"] = settings.dagster_url
    embedded_ones = [name for name, url in needed.items() if url is None]
    if embedded_ones and not embedded.exists(settings.home):
        raise NoDataError(
            f"There are no data in {settings.home}. If they are elsewhere, run this in the folder "
            "where the pipeline was started, or set VOICEAI_HOME to the folder that has them, or "
            f"{' and '.join(embedded_ones)} to your own server. To begin: {START}"
        )
