"""``voiceai-pipeline export``: its options and messages. ``marts.export`` writes the file."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import sqlalchemy as sa

from voiceai_pipeline.cli.arguments import (
    day_range,
    find_user,
    from_option,
    json_option,
    to_option,
)
from voiceai_pipeline.cli.existing_data import require_data
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.marts import extracts
from voiceai_pipeline.marts.export import Format, Order, export
from voiceai_pipeline.pipeline import open_database


@click.command("export")
@click.argument("what", type=click.Choice([extracts.CALLS, *extracts.MART_NAMES]))
@from_option
@to_option
@click.option(
    "--user", "names", multiple=True, metavar="USER", help="Only USER's location; repeatable."
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice([one.value for one in Format]),
    help="Default: from FILE's extension, else csv.",
)
@click.option("--include-trial", is_flag=True, help="Include test calls.")
@click.option("--include-missing", is_flag=True, help="Include calls HighLevel no longer lists.")
@click.option("--content", is_flag=True, help="Include phone numbers and conversations.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="File to write; default: standard output (csv).",
)
@json_option
def export_command(
    what: str,
    start: str,
    end: str | None,
    names: Sequence[str],
    format_name: str | None,
    include_trial: bool,
    include_missing: bool,
    content: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write calls, or a table of metrics, to a CSV, JSON Lines or Parquet file.

    Days are in VOICEAI_TIMEZONE for calls and in the location's time zone for metrics. Times are in
    UTC. Test calls and calls that HighLevel no longer lists are left out, as in every metric;
    numbers and conversations are left out too, unless you ask for them. An existing file is never
    overwritten. A file with content can be read by its owner only.

    \b
    voiceai-pipeline export calls --from 2026-11-01 --to 2026-11-07 -o week.parquet
    """
    first, last = day_range(start, end)
    if what != extracts.CALLS and (include_trial or include_missing or content):
        raise click.UsageError(
            "--include-trial, --include-missing and --content apply to calls only. Metrics never "
            "include such calls; separate columns count them."
        )
    file = None if output is None or str(output) == "-" else output
    by_suffix = {f".{one.value}": one for one in Format}
    guess = by_suffix.get(file.suffix if file else "", Format.CSV)
    format_ = Format(format_name) if format_name else guess
    if file is None and format_ is Format.PARQUET:
        raise click.UsageError("Parquet needs a file: -o FILE.parquet.")
    settings = Settings.load(os.environ)
    require_data(settings)
    with open_database(settings, pool_size=1) as engine:
        order = Order(
            what,
            first,
            last,
            settings.timezone,
            _locations(engine, names),
            trial=include_trial,
            missing=include_missing,
            content=content,
        )
        try:
            count = export(engine, order, format_, file or sys.stdout.buffer)
        except BrokenPipeError:
            # The reader has closed the pipe; nothing must be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
    if as_json:
        facts = {"what": what, "from": str(first), "to": str(last), "rows": count}
        click.echo(json.dumps({**facts, "file": file and str(file)}), err=file is None)
        return
    rows = "calls" if what == extracts.CALLS else "rows"
    target = f" to {file}" if file else ""
    days = str(first) if first == last else f"{first} to {last}"
    click.echo(f"Wrote {count:,} {rows} of {days}{target}.", err=True)


def _locations(engine: sa.Engine, names: Sequence[str]) -> set[str] | None:
    """The locations of the users called ``names``; None (all locations) if there are no names.

    Raises:
        click.ClickException: a user has no location.
    """
    users = [find_user(engine, name) for name in names]
    if homeless := [one.user.name for one in users if not one.location_id]:
        raise click.ClickException(
            f"{', '.join(homeless)}: no location yet, so no calls. Nothing was written."
        )
    return {str(one.location_id) for one in users} if users else None
