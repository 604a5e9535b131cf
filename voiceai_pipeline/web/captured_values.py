"""``/insights/values``: the most frequent values that agents captured, for those who may read what
callers said. Each view of the page is recorded."""

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.calls.call_content import Kind
from voiceai_pipeline.calls.deleted_months import deleted_before
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.kept_days import sentence
from voiceai_pipeline.marts import captured_insights
from voiceai_pipeline.web import call_scope
from voiceai_pipeline.web.insight_query import VALUES_PATH, InsightQuery
from voiceai_pipeline.web.insights import first_open_day
from voiceai_pipeline.web.pages import PageError, reading, render
from voiceai_pipeline.web.site import site_of


def routes() -> list[Route]:
    return [Route(VALUES_PATH, reading(page), methods=["GET"])]


def page(request: Request) -> Response:
    """The values of the location, agent and days of the address, as on the page of insights."""
    if not call_scope.may_see_content(request):
        raise PageError(
            403,
            "What callers said is for operators",
            "The values that agents captured are part of what callers said.",
            "An operator can change that with VOICEAI_ANALYST_CONTENT.",
        )
    site = site_of(request)
    query = InsightQuery.of(request.query_params)
    try:
        with site.pipeline.engine.begin() as db:
            call_search.be_patient(db)
            scope = query.scope(first_open_day(db, site, query))
            found = captured_insights.frequent_values(db, scope)
            gone_before = deleted_before(db)
            if found:
                call_scope.record(db, request, Kind.VALUES, max(one.calls for one in found))
    except sa.exc.OperationalError as error:
        if call_search.took_too_long(error):
            raise call_scope.too_long() from None
        raise
    return render(
        request,
        "captured_values.html",
        query=query,
        scope=scope,
        found=found,
        not_kept=sentence(gone_before) if gone_before and scope.days.first < gone_before else "",
        shown=lambda text: cleaned(text, NAME_LENGTH),
    )
