"""No canary stands on any surface, and one that is planted there is found (REQUIREMENTS X1)."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline_tests.canary.canaries import CANARIES, found
from voiceai_pipeline_tests.canary.plants import ENCODINGS, PLANTED, planted
from voiceai_pipeline_tests.canary.scenario import Canaries, canary_run
from voiceai_pipeline_tests.canary.surfaces import SURFACES, Machine, build_wheel

pytestmark = pytest.mark.acceptance

Hits = dict[str, dict[str, set[str]]]
"""Canaries by surface and place."""

MEANT: Final[Hits] = {
    "environments and command lines": {
        "HIGHLEVEL_CLIENT_SECRET": {"client secret"},
        "VOICEAI_PAGE_SECRET": {"password"},
    },
    "our tables": {
        "call_logs.from_number": {"phone"},
        "call_logs.transcript": {"transcript word"},
        "call_logs.summary": {"transcript word"},
        "call_words.words": {"transcript word"},
        "set_aside_calls.raw": {"phone", "transcript word"},
    },
}
"""Where a canary has its place: what analysts read, and how a process is configured."""


@pytest.fixture(scope="module")
def canaries(
    postgres: EmbeddedPostgres,
    template: str,
    dagster_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Canaries]:
    folder = tmp_path_factory.mktemp("canary")
    with canary_run(postgres, template, dagster_template, folder) as canaries:
        canaries.machine.wheel = build_wheel(folder / "dist")
        yield canaries


def scan(machine: Machine) -> tuple[Hits, dict[str, int]]:
    """The canaries on every surface, and how many bytes each had."""
    hits: Hits = {}
    sizes = dict.fromkeys(SURFACES, 0)
    for surface, pieces in SURFACES.items():
        places = defaultdict(set)
        for place, data in pieces(machine):
            sizes[surface] += len(data)
            if names := found(data):
                places[place] |= names
        if places:
            hits[surface] = dict(places)
    return hits, sizes


def test_no_canary_stands_on_any_surface(canaries: Canaries) -> None:
    hits, sizes = scan(canaries.machine)
    assert hits == MEANT
    # Where nothing is left there is nothing to find; that these are searched, a planted leak shows.
    empty = [name for name, size in sizes.items() if not size]
    assert empty == ["IO managers", "temporary files", "cores and pickles"]


def test_every_kind_of_failure_occurred(canaries: Canaries) -> None:
    told = "\n".join(canaries.machine.said)
    assert [one for one in FailureClass if one.explanation.message not in told] == []
    assert len(canaries.failures) >= 18


def test_a_leak_on_any_surface_is_found(canaries: Canaries, tmp_path: Path) -> None:
    with planted(canaries.machine, canaries.instance, tmp_path) as machine:
        hits, _ = scan(machine)
    everywhere = {name for name, places in hits.items() if PLANTED in set().union(*places.values())}
    assert everywhere == SURFACES.keys()
    assert {"git", "leak.whl"} <= hits["git history and wheel"].keys()
    assert {"LEAK", "command line"} <= hits["environments and command lines"].keys()


def test_every_canary_is_found_in_every_encoding_and_nothing_else_is() -> None:
    for name, value in CANARIES.items():
        for encoded in ENCODINGS.values():
            assert found(b"before " + encoded(value).encode() + b" after") == {name}
    assert found(b"nothing of the kind: +15550100042, SANDBOX-ACCESS") == set()
    # What one scans for is invented, and distinct also where only its beginning is left.
    assert len({value[:12] for value in CANARIES.values()}) == len(CANARIES)
