"""The page of captured values: for those who may read what callers said, and each look recorded."""

import html
import re
from collections.abc import Iterator
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline_tests.support.call_desk import (
    HARBOR,
    MORNING,
    NEW_YORK,
    CallDesk,
    running_desk,
)

DAY = date(2026, 11, 18)
ADDRESS = f"?from={DAY}&to={DAY}&location={HARBOR}"


@pytest.fixture(scope="module")
def desk(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CallDesk]:
    with running_desk(postgres, template, tmp_path_factory.mktemp("values")) as desk:
        desk.location(HARBOR, "Harbor Dental", NEW_YORK)
        desk.read(HARBOR, DAY, DAY + timedelta(days=1))
        for n, reason in enumerate(("<b>refund</b>", "<b>refund</b>", "visit")):
            data = {"reason": reason, "name": f"Caller {n}"}
            desk.call(at=MORNING + timedelta(minutes=n), extracted_data=data)
        Marts(desk.engine, ZoneInfo("UTC"), MetricRules()).build([DAY])
        yield desk


def test_an_operator_sees_repeated_values_and_the_look_is_recorded(desk: CallDesk) -> None:
    before = len(desk.openings())
    with desk.visitor() as visitor:
        insights = visitor.get(f"/insights{ADDRESS}").text
        page = visitor.get(f"/insights/values{ADDRESS}").text
        record = visitor.get("/calls/openings").text
    assert f'href="/insights/values{html.escape(ADDRESS)}"' in insights
    assert "refund" not in insights
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))
    assert "reason 3 calls, 2 different values Value Calls <b>refund</b> 2" in text
    assert "name 3 calls, 3 different values No two calls have the same value." in text
    assert "visit" not in text
    assert desk.openings()[before:] == [("operator", "values", 3, None)]
    assert "Captured values of 3 calls" in record


def test_an_analyst_sees_values_only_if_granted(desk: CallDesk) -> None:
    before = len(desk.openings())
    with desk.visitor(analyst=True) as visitor:
        assert "/insights/values" not in visitor.get(f"/insights{ADDRESS}").text
        answer = visitor.get(f"/insights/values{ADDRESS}")
    assert (answer.status_code, "refund" in answer.text) == (403, False)
    assert len(desk.openings()) == before
    with desk.visitor(analyst=True, granted=True) as visitor:
        assert "refund" in visitor.get(f"/insights/values{ADDRESS}").text
    assert desk.openings()[before:] == [("analyst", "values", 3, None)]
