"""What was changed, and by whom: of all users together, without routine."""

import html
import re
from datetime import UTC, datetime
from uuid import UUID

from voiceai_pipeline.connections import history
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline_tests.support.installation import CEDAR, HARBOR, Installation


def plain(text: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)))


def test_changes_of_all_users_are_on_one_page_newest_first(installation: Installation) -> None:
    installation.add("Harbor Dental", "Cedar Vets")
    installation.connect(HARBOR)
    now = datetime.now(UTC)
    with installation.pipeline.engine.begin() as db:
        for event, user in (
            (TokenEvent.REFRESHED, HARBOR), (TokenEvent.DISCONNECTED, CEDAR),
            (TokenEvent.CIRCUIT_OPENED, None), (TokenEvent.TESTED, UUID(int=7)),
        ):  # fmt: skip
            history.record(db, event, at=now, actor=Actor("command line"), user_id=user)
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync")
        assert 'href="/changes"' in visitor.get("/").text
        page = visitor.get("/changes").text
    rows = [plain(row) for row in re.findall("<tr role.*?</tr>", page, re.DOTALL)][1:]
    assert len(rows) == 5
    assert "Harbor Dental Requested a sync of" in rows[0]
    assert ": queued, 0 new calls connections page run" in rows[0]
    assert "Harbor Dental Connected by consent in the browser connections page" in rows[-1]
    others = " ".join(rows[1:-1])
    assert "Cedar Vets Disconnected by an operator; the tokens were deleted command line" in others
    assert "all users Token refresh suspended for all users command line" in others
    assert str(UUID(int=7)) in others
    assert "Token refreshed" not in page
