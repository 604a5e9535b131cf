"""Error pages, bugs included."""

from uuid import UUID

import pytest
import requests
import sqlalchemy as sa
from jinja2 import DictLoader

from voiceai_pipeline.web import pages
from voiceai_pipeline_tests.support.installation import HARBOR, Installation
from voiceai_pipeline_tests.support.processes import wait_until


def test_a_database_without_tables_is_a_page_that_says_what_to_do(
    installation: Installation,
) -> None:
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("ALTER TABLE users RENAME TO gone"))
    with installation.visitor() as visitor:
        answer = visitor.get()

    assert answer.status_code == 503
    assert "Create them with: voiceai-pipeline migrate" in answer.text


def test_a_database_that_does_not_answer_is_a_page_in_time_and_the_health_is_known(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "READ_TIMEOUT", 0.2)
    with installation.pipeline.engine.connect() as db:
        db.execute(sa.text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
        answers = [requests.get(installation.url, timeout=30) for _ in range(3)]
        assert requests.get(f"{installation.url}/health", timeout=30).status_code == 200
        db.rollback()

    assert {answer.status_code for answer in answers} == {503}
    assert "The database has not answered" in answers[0].text
    monkeypatch.undo()
    assert requests.get(installation.url, timeout=30).status_code == 200


def test_unknown_users_and_addresses_have_an_error_page(installation: Installation) -> None:
    with installation.visitor() as visitor:
        for path in (f"/users/{UUID(int=99)}", "/users/harbor", "/nothing"):
            answer = visitor.get(path)
            assert answer.status_code == 404
            assert "What to do" in answer.text
        assert visitor.get(f"/users/{HARBOR}/sync").status_code == 405
        installation.add("Harbor Dental")  # whose form has a token
        assert visitor.post(f"/users/{UUID(int=99)}/test").status_code == 404


def test_a_bug_is_a_page_with_the_same_headers_and_no_details(
    installation: Installation,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    templates = installation.site.templates
    whole = templates.loader
    assert whole is not None
    kept = {name: whole.get_source(templates, name)[0] for name in ("base.html", "problem.html")}
    # The list's own template has gone; all sites of a process share the templates.
    monkeypatch.setattr(templates, "loader", DictLoader(kept))
    answer = requests.get(installation.url, timeout=60)

    assert answer.status_code == 500
    assert "Unexpected error (TemplateNotFound)." in answer.text
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "Traceback" not in answer.text
    wait_until(lambda: "Unexpected error" in caplog.text)
    assert "jinja2.exceptions.TemplateNotFound" in caplog.text
    assert "voiceai_pipeline/web/user_list.py" in caplog.text
    assert "users.html" not in caplog.text  # the error's text
    assert "Traceback" not in caplog.text
