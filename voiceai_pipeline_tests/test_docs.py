"""What the README and docs/ say is true of the code."""

import re
from collections.abc import Iterator
from datetime import date

from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.calls.queries import Talk
from voiceai_pipeline.cli.main import cli
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections.refresh_outcome import STATE_AFTER
from voiceai_pipeline.core.connection import CAUSES, STATES, ConnectionState
from voiceai_pipeline.core.failures import FailureClass, PipelineError, Remedy
from voiceai_pipeline.core.outcome import Outcome, label
from voiceai_pipeline.core.settings import VARIABLES, MetricRules, PageSettings
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs.numbers import of_status
from voiceai_pipeline.highlevel.errors import RULES, Rule
from voiceai_pipeline_tests.support import dbt_sources, superset_dashboard
from voiceai_pipeline_tests.support.cli_page import HOW_TO_WRITE_IT, cli_page

EMPTY = DayReport(date(2026, 11, 20), (), (), (), ())
PAGE = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")
README = (PROJECT / "README.md").read_text()
CONNECTIONS = (PROJECT / "docs" / "connections.md").read_text()
METRICS = (PROJECT / "docs" / "metrics.md").read_text()
OPERATING = (PROJECT / "docs" / "operating.md").read_text()


def test_the_page_on_settings_lists_every_variable_with_its_meaning() -> None:
    settings = (PROJECT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", settings, re.MULTILINE)
    assert rows == list(VARIABLES.items())


def test_dg_lists_every_setting() -> None:
    settings = (PROJECT / "voiceai_pipeline" / "defs" / "settings" / "defs.yaml").read_text()
    assert re.findall(r"^    - ([A-Z_]+)$", settings, re.MULTILINE) == list(VARIABLES)


def test_the_readme_names_every_command() -> None:
    for name in set(cli.commands) - {"up"}:
        assert re.search(rf"\b{name}\b", README), name


def test_the_page_on_commands_says_what_they_say() -> None:
    assert (PROJECT / "docs" / "cli.md").read_text() == cli_page(), HOW_TO_WRITE_IT


def test_the_dbt_sources_are_the_views_with_their_comments() -> None:
    written = (PROJECT / "docs" / "dbt" / "models" / "sources.yml").read_text()
    assert written == dbt_sources.dbt_sources(), dbt_sources.HOW_TO_WRITE_IT


def test_the_dashboard_for_superset_is_as_the_views_are() -> None:
    written = (PROJECT / "docs" / "superset-dashboard.zip").read_bytes()
    assert written == superset_dashboard.superset_dashboard(), superset_dashboard.HOW_TO_WRITE_IT


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("deploy/*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_readmes_make_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readmes_figures_are_those_of_the_page_on_performance() -> None:
    page = (PROJECT / "docs" / "performance.md").read_text()
    measured = {row["contender"]: row for row in _rows(page) if row.get("scenario") == "fleet"}
    shown = [row for row in _rows(README) if "contender" in row]
    assert [row["contender"] for row in shown] == [name for name in measured if "bound" not in name]
    for row in shown:
        assert row.items() <= measured[row["contender"]].items()


def _rows(page: str) -> Iterator[dict[str, str]]:
    """The rows of a page's tables, by the names of their columns."""
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        header, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        )
        for row in rows:
            yield dict(zip(header, row, strict=False))


# docs/connections.md ------------------------------------------------------------------------------


def states_table() -> str:
    return _markdown(
        ("state", "means", "what to do"),
        [
            (state.label, state.meaning, _as_code(state.fix) or "nothing")
            for state in STATES.values()
        ],
    )


def needs_table() -> str:
    return _markdown(
        ("needs reconnection", "because", "what to do"),
        [
            (
                cause.label,
                PipelineError(failure, cause.detail).message,
                _as_code(failure.explanation.fix),
            )
            for failure, cause in CAUSES.items()
            if failure
        ],
    )


def answers_table() -> str:
    return _markdown(
        ("endpoint", "status", "message", "means", "the connection", "source"),
        [
            (
                rule.endpoint.value,
                ", ".join(map(str, rule.statuses)),
                f"`{rule.pattern}`".replace("|", r"\|") if rule.pattern else "any other",
                rule.failure.explanation.message,
                _effect(rule),
                rule.source,
            )
            for rule in RULES
        ],
    )


def _effect(rule: Rule) -> str:
    if rule.failure in STATE_AFTER:
        state = STATE_AFTER[rule.failure]
        cause = (
            f": {CAUSES[rule.failure].label}" if state is ConnectionState.NEEDS_RECONNECT else ""
        )
        return f"{state.explanation.label}{cause}"
    if rule.failure is FailureClass.ACCESS_REJECTED:
        return "unchanged; the token is refreshed and the request retried, once"
    ours = rule.failure.explanation.remedy is Remedy.OPERATOR
    return "unchanged; ours to fix" if ours else "unchanged; retried automatically"


def _as_code(text: str) -> str:
    return re.sub(r"(voiceai-pipeline \w+ USER)", r"`\1`", text)


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = f"|{'---|' * len(head)}"
    first, *others = (f"| {' | '.join(cells)} |" for cells in (head, *rows))
    return "\n".join([first, rule, *others])


def test_the_page_on_connections_lists_the_codes_states_causes_and_answers() -> None:
    for table in (states_table(), needs_table(), answers_table()):
        assert table in CONNECTIONS, table


def test_the_page_on_connections_names_only_what_there_is() -> None:
    for variable in re.findall(r"`(VOICEAI_[A-Z_]+)`", CONNECTIONS):
        assert variable in VARIABLES
    for command in re.findall(r"`voiceai-pipeline (\w+)", CONNECTIONS):
        assert command in cli.commands


# docs/metrics.md ----------------------------------------------------------------------------------


def test_the_page_on_metrics_names_only_what_there_is_and_every_share() -> None:
    columns = {column.name for table in ALL_MARTS for column in table.columns}
    names = columns | {table.name for table in ALL_MARTS} | set(VARIABLES)
    names |= {view.name for view in VIEWS} | set(Outcome) | {"translation"}
    named = set(re.findall(r"`([A-Za-z_0-9]+)`", METRICS))
    assert named - names == {"executedAt", "stale_marts", "the_marts_add_up_to_the_calls"}
    for outcome in Outcome:
        assert f"| `{outcome}` | {label(outcome, MetricRules.goal_actions)}" in METRICS
    shares = {name for name in columns if name.endswith(("_rate", "_share"))}
    assert shares <= named
    for variable in re.findall(r"VOICEAI_[A-Z_]+", METRICS):
        assert variable in VARIABLES


# docs/operating.md --------------------------------------------------------------------------------


def test_the_page_on_operating_explains_every_check_with_its_severity() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (red|warning) \|$", OPERATING, re.MULTILINE))
    keys = defs.get_repository_def().asset_graph.asset_check_keys
    ours = {"user_tokens", "call_logs", "sync_status", "reconciliation"}
    assert set(rows) == {key.name for key in keys if key.asset_key.to_user_string() in ours}
    assert {name for name, colour in rows.items() if colour == "red"} == {
        "every_connected_user_is_complete",
        "every_connected_user_is_up_to_date",
        "no_call_is_stored_twice",
    }


def test_the_page_on_operating_names_and_shows_only_what_there_is() -> None:
    repository = defs.get_repository_def()
    assets = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert set(re.findall(r"/assets/(\w+)", OPERATING)) <= assets
    for job in re.findall(r"the job `(\w+)`", OPERATING):
        assert repository.has_job(job)
    for command in re.findall(r"`voiceai-pipeline (\w+)", OPERATING):
        assert command in cli.commands
    names = set(of_status(EMPTY, PAGE, Talk(), is_open=False, hours_until_complete=1.0))
    (plots,) = re.findall(r"^\*Plots\* .+$", OPERATING, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", plots)) <= names
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", OPERATING)
    assert len(pictures) == 6
    for picture in pictures:
        assert (PROJECT / "docs" / picture).stat().st_size <= 150_000, picture
