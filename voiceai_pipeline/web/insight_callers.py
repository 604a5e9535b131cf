"""The cards of the page of insights about callers, languages and captured data."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.percent import SMALL, percent
from voiceai_pipeline.marts.caller_insights import CallerReport, CallerWeek, Peak
from voiceai_pipeline.marts.captured_insights import CapturedName
from voiceai_pipeline.marts.insights import Days, Scope
from voiceai_pipeline.web import insight_charts
from voiceai_pipeline.web.insight_charts import Cell, Chart
from voiceai_pipeline.web.insight_numbers import UNKNOWN
from voiceai_pipeline.web.insight_query import calls_address


def weeks(scope: Scope, found: Sequence[CallerWeek]) -> Chart:
    """New and returning callers of each week; for a single agent, only the number of callers."""
    labels = [f"{one.days.first.day} {one.days.first:%b}" for one in found]
    series: list[tuple[str, list[float | None]]] = [
        ("new", [one.new for one in found]),
        ("returning", [one.returning for one in found]),
    ]
    if scope.agent_id is not None:
        series = [("callers", [one.callers for one in found])]
    rows = [
        (
            f"From {one.days.first}{'' if one.is_complete else ', not complete'}",
            [
                _count(one.calls, calls_address(scope, one.days)),
                _count(one.callers),
                *(
                    _count(number, few=(one.callers or 0) < SMALL)
                    for number in (one.new, one.returning)
                ),
            ],
        )
        for one in found
    ]
    return Chart(
        insight_charts.bars("Callers by week", labels, series),
        rows,
        ("Calls", "Callers", "New", "Returning"),
    )


def _count(number: int | None, href: str = "", *, few: bool = False) -> Cell:
    return Cell(UNKNOWN) if number is None else Cell(f"{number:,}", href, few)


def facts(
    scope: Scope,
    report: CallerReport,
    now: Mapping[str, Any] | None,
    before: Mapping[str, Any] | None,
) -> list[tuple[str, Cell, Cell]]:
    """Facts about conversations: name, value of these days, value of the days before."""
    found = [("Caller turns a call", _turns(now), _turns(before))]
    if scope.agent_id is None:
        name = "Most calls at once" if scope.location_id else "Most calls at once, at one location"
        found.append((name, _peak(scope, report.peak), _peak(scope, report.peak_before)))
    return found


def _turns(sums: Mapping[str, Any] | None) -> Cell:
    of = sums["calls"] - sums["calls_with_unknown_speakers"] if sums else 0
    if not sums or not of:
        return Cell(UNKNOWN)
    return Cell(f"{Decimal(sums['caller_turns']) / of:.1f} (of {of:,} calls)", is_small=of < SMALL)


def _peak(scope: Scope, peak: Peak | None) -> Cell:
    if peak is None:
        return Cell(UNKNOWN)
    where = (
        ""
        if scope.location_id
        else f", {cleaned(peak.location_name or peak.location_id, NAME_LENGTH)}"
    )
    href = calls_address(scope, Days(peak.day, peak.day), {"location": peak.location_id})
    return Cell(f"{peak.calls:,} ({peak.day:%a} {peak.day}{where})", href)


def languages(found: Mapping[str, tuple[int, int]], *, is_comparable: bool) -> Chart | None:
    """Calls by the language that HighLevel gives; None if it gives none."""
    if not any(found):
        return None
    names = [cleaned(name, NAME_LENGTH) or "not said" for name in found]
    before = [earlier if is_comparable else None for _, earlier in found.values()]
    total = sum(calls for calls, _ in found.values())
    rows = [
        (
            name,
            [
                Cell(f"{calls:,}"),
                _count(earlier),
                Cell(f"{percent(calls, total)} %" if total else UNKNOWN, is_small=total < SMALL),
            ],
        )
        for name, (calls, _), earlier in zip(names, found.values(), before, strict=True)
    ]
    series: list[tuple[str, list[float | None]]] = [
        ("these days", [calls for calls, _ in found.values()]),
        ("days before", list(before)),
    ]
    heads = ("These days", "Days before", "Share")
    return Chart(insight_charts.rows("Calls by language", names, series), rows, heads)


_HEADS: Final = ("These days", "Days before", "Of engaged calls")


def captured(found: Sequence[CapturedName], *, is_comparable: bool) -> Chart | None:
    """Calls by the name of the data captured in them; None if none was captured."""
    if not found:
        return None
    names = [cleaned(one.name, NAME_LENGTH) for one in found]
    before = [one.calls_before if is_comparable else None for one in found]
    rows = [
        (
            name,
            [
                Cell(f"{one.calls:,}"),
                _count(earlier),
                Cell(
                    f"{percent(one.engaged_calls, one.of)} % of {one.of:,}", is_small=one.of < SMALL
                )
                if one.of
                else Cell(UNKNOWN),
            ],
        )
        for name, one, earlier in zip(names, found, before, strict=True)
    ]
    series: list[tuple[str, list[float | None]]] = [
        ("these days", [one.calls for one in found]),
        ("days before", list(before)),
    ]
    return Chart(insight_charts.rows("Calls with captured data", names, series), rows, _HEADS)
