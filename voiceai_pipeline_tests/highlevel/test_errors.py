"""What each answer of HighLevel means: every row of the contract, and what must never be concluded
from an undocumented one.
"""

import json
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.highlevel import errors
from voiceai_pipeline.highlevel.answer import Answer
from voiceai_pipeline.highlevel.errors import Endpoint, HighLevelError
from voiceai_pipeline_tests.support.contract import EXAMPLES, example_body

ERRORS = EXAMPLES / "errors"
API, TOKEN = Endpoint.API, Endpoint.TOKEN


def answer(
    status: int, body: bytes, content_type: str = "application/json", **headers: str
) -> Answer:
    request = requests.Request("GET", "https://api.example.test/x").prepare()
    names = CaseInsensitiveDict({"Content-Type": content_type} | headers)
    return Answer(request, status, names, body)


def refusal(
    endpoint: Endpoint, status: int, body: Any, content_type: str = "application/json"
) -> HighLevelError:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with pytest.raises(HighLevelError) as caught:
        errors.read(endpoint, answer(status, raw, content_type), path="/x")
    return caught.value


MEANINGS = {
    "400_documented.json": (API, FailureClass.OUR_REQUEST),
    "400_location_missing.json": (API, FailureClass.OUR_REQUEST),
    "401_documented.json": (API, FailureClass.ACCESS_REJECTED),
    "401_gateway_timeout.json": (API, FailureClass.PROVIDER_ERROR),
    "401_invalid_jwt.json": (API, FailureClass.ACCESS_REJECTED),
    "401_no_authorization.json": (API, FailureClass.OUR_REQUEST),
    "401_scope.json": (API, FailureClass.SCOPE_MISSING),
    "401_version_invalid.json": (API, FailureClass.OUR_REQUEST),
    "401_version_missing.json": (API, FailureClass.OUR_REQUEST),
    "403_location.json": (API, FailureClass.WRONG_LOCATION),
    "422_limit.json": (API, FailureClass.OUR_REQUEST),
    "token_400_invalid_refresh.json": (TOKEN, FailureClass.REFRESH_REJECTED),
    "token_400_location_inactive.json": (TOKEN, FailureClass.LOCATION_PAUSED),
    "token_400_missing_param.json": (TOKEN, FailureClass.CLIENT_REFUSED),
    "v3_404_aip.json": (API, FailureClass.CONTRACT_DRIFT),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_every_error_of_the_contract_has_its_meaning(name: str) -> None:
    found = example_body(f"errors/{name}")
    endpoint, meaning = MEANINGS[name]
    assert refusal(endpoint, found["_http_status"], found["body"]).failure is meaning


def test_no_error_of_the_contract_is_left_out() -> None:
    assert {path.name for path in ERRORS.glob("*.json")} == set(MEANINGS)


@pytest.mark.parametrize(
    ("endpoint", "status", "message", "meaning"),
    [
        # REQUIREMENTS, "What HighLevel's answers mean"; CONTRACT 4.3 and 6.
        (TOKEN, 400, "Invalid grant: refresh token is invalid", FailureClass.REFRESH_REJECTED),
        (TOKEN, 400, "Location is not active", FailureClass.LOCATION_PAUSED),
        (TOKEN, 401, "Location is not active", FailureClass.LOCATION_PAUSED),
        (TOKEN, 400, "Invalid parameter: grantType", FailureClass.CLIENT_REFUSED),
        (TOKEN, 400, "Invalid grant_type", FailureClass.CLIENT_REFUSED),
        (TOKEN, 400, "Missing parameter: clientSecret", FailureClass.CLIENT_REFUSED),
        (TOKEN, 400, "Missing parameter: refreshToken", FailureClass.CLIENT_REFUSED),
        (TOKEN, 401, "Invalid client: client is invalid", FailureClass.CLIENT_REFUSED),
        (TOKEN, 401, "unauthorized_client", FailureClass.CLIENT_REFUSED),
        (TOKEN, 401, "This client has been revoked", FailureClass.CLIENT_REFUSED),
        (TOKEN, 401, "", FailureClass.CLIENT_REFUSED),
        (TOKEN, 400, "invalid_grant", FailureClass.REFRESH_REJECTED),
        (TOKEN, 401, "Invalid JWT", FailureClass.REFRESH_REJECTED),
        (TOKEN, 400, "The refresh token was revoked", FailureClass.REFRESH_REJECTED),
        (TOKEN, 401, "version header is invalid", FailureClass.OUR_REQUEST),
        (TOKEN, 401, "Command timed out", FailureClass.PROVIDER_ERROR),
        (
            TOKEN,
            400,
            "/oauth/token is not available in API version v3",
            FailureClass.CONTRACT_DRIFT,
        ),
        (TOKEN, 400, "This API endpoint has been removed", FailureClass.CONTRACT_DRIFT),
        (TOKEN, 404, "Cannot POST /oauth/token", FailureClass.CONTRACT_DRIFT),
        (TOKEN, 422, "client_id must be a string", FailureClass.OUR_REQUEST),
        (TOKEN, 429, "Too Many Requests", FailureClass.RATE_LIMITED),
        (TOKEN, 500, "Invalid grant: refresh token is invalid", FailureClass.PROVIDER_ERROR),
        (TOKEN, 400, "Bad Request", FailureClass.UNKNOWN_ANSWER),
        (TOKEN, 403, "Forbidden", FailureClass.UNKNOWN_ANSWER),
        (TOKEN, 418, "Invalid grant: refresh token is invalid", FailureClass.UNKNOWN_ANSWER),
        (API, 401, "Invalid JWT", FailureClass.ACCESS_REJECTED),
        (API, 401, "Invalid token: access token is invalid", FailureClass.ACCESS_REJECTED),
        (API, 401, "The token is not authorized for this scope.", FailureClass.SCOPE_MISSING),
        (
            API,
            401,
            "This authClass type is not allowed to access this scope. Please use the correct "
            "token type.",
            FailureClass.SCOPE_MISSING,
        ),
        (API, 401, "version header was not found.", FailureClass.OUR_REQUEST),
        (
            API,
            401,
            "No Authorization header found for authentication!",
            FailureClass.OUR_REQUEST,
        ),
        (API, 401, "Command timed out", FailureClass.PROVIDER_ERROR),
        (API, 403, "The token does not have access to this location.", FailureClass.WRONG_LOCATION),
        (API, 401, "This location is not accessible from this token!", FailureClass.WRONG_LOCATION),
        (API, 400, "Location is not active", FailureClass.LOCATION_PAUSED),
        (API, 400, "Bad Request", FailureClass.OUR_REQUEST),
        (API, 400, "x is not available in API version v3", FailureClass.CONTRACT_DRIFT),
        (API, 410, "API endpoint has been removed", FailureClass.CONTRACT_DRIFT),
        (API, 404, "Cannot GET /oauth/installed-locations", FailureClass.CONTRACT_DRIFT),
        (API, 422, "startDate must be a number", FailureClass.OUR_REQUEST),
        (API, 429, "", FailureClass.RATE_LIMITED),
        (API, 500, "Invalid JWT", FailureClass.PROVIDER_ERROR),
        (API, 503, "", FailureClass.PROVIDER_ERROR),
        (API, 408, "Request Timeout", FailureClass.UNREACHABLE),
        (API, 401, "something new", FailureClass.UNKNOWN_ANSWER),
        (API, 403, "something new", FailureClass.UNKNOWN_ANSWER),
        (API, 418, "", FailureClass.UNKNOWN_ANSWER),
        (API, 302, "", FailureClass.UNKNOWN_ANSWER),
    ],
)
def test_an_answer_means_what_its_endpoint_status_and_message_say(
    endpoint: Endpoint, status: int, message: str, meaning: FailureClass
) -> None:
    error = refusal(endpoint, status, {"statusCode": status, "message": message})
    assert error.failure is meaning
    assert error.status == status


@pytest.mark.parametrize(
    "body",
    [
        {"error": "invalid_grant", "error_description": "Token expired"},
        # RFC 6749 5.2, word for word: the user's grant is meant, though it names a client.
        {
            "error": "invalid_grant",
            "error_description": "The provided authorization grant or refresh token is invalid, "
            "expired, revoked, or was issued to another client.",
        },
        {"error": {"code": "INVALID_GRANT", "message": "Invalid grant: refresh token is invalid"}},
        {"statusCode": 400, "message": ["Invalid grant: refresh token is invalid"]},
    ],
)
def test_a_dead_refresh_token_is_known_in_every_shape_of_error_body(body: object) -> None:
    assert refusal(TOKEN, 400, body).failure is FailureClass.REFRESH_REJECTED


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html><h1>Error 1010</h1>browser_signature_banned</html>", "text/html"),
        ("<p>error code: 1010</p>", "text/html; charset=UTF-8"),
        ("error code: 1010", "text/plain"),
        ({"title": "Error 1010: Access denied", "error_code": 1010}, "application/json"),
    ],
)
def test_a_banned_user_agent_is_our_request(
    endpoint: Endpoint, body: object, content_type: str
) -> None:
    assert refusal(endpoint, 403, body, content_type).failure is FailureClass.OUR_REQUEST


@pytest.mark.parametrize("status", [401, 403])
def test_a_web_page_is_no_statement_about_the_connection(status: int) -> None:
    page = (
        '<!DOCTYPE html><table><th scope="row">Access</th></table> token is invalid, expired; '
        "the token does not have access to this location. Ray 1010"
    )
    assert refusal(API, status, page, "text/html").failure is FailureClass.UNKNOWN_ANSWER
    assert not refusal(TOKEN, status, page, "text/html").failure.needs_action


@given(status=st.integers(300, 599), message=st.text())
def test_no_answer_of_the_api_ever_revokes_a_connection(status: int, message: str) -> None:
    assert errors.meaning(API, status, message) is not FailureClass.REFRESH_REJECTED


TEMPTING = st.sampled_from(
    [
        "Invalid grant: refresh token is invalid",
        "The token is not authorized for this scope.",
        "Location is not active",
        "The token does not have access to this location.",
        "revoked",
    ]
)


@given(
    endpoint=st.sampled_from(Endpoint),
    status=st.integers(500, 599) | st.just(429),
    message=st.text() | TEMPTING,
)
def test_an_overloaded_or_broken_highlevel_never_needs_action(
    endpoint: Endpoint, status: int, message: str
) -> None:
    assert not errors.meaning(endpoint, status, message).needs_action


@given(status=st.integers(300, 499), message=st.text(alphabet="abcxyz 019.,"))
def test_an_undocumented_answer_of_the_token_endpoint_never_needs_action(
    status: int, message: str
) -> None:
    assert not errors.meaning(TOKEN, status, message).needs_action


@pytest.mark.parametrize(
    ("inner", "meaning"),
    [
        ({"statusCode": 500, "message": "Internal server error"}, FailureClass.PROVIDER_ERROR),
        ({"statusCode": 401, "message": "Invalid JWT"}, FailureClass.ACCESS_REJECTED),
    ],
)
def test_an_error_inside_a_200_is_an_error(inner: object, meaning: FailureClass) -> None:
    assert refusal(API, 200, inner).failure is meaning


@pytest.mark.parametrize(
    "body", ["", "[]", '"text"', "null", '{"callLogs": [', "<html></html>", "[" * 100_000]
)
def test_a_200_that_is_no_json_object_is_malformed(body: str) -> None:
    assert refusal(API, 200, body).failure is FailureClass.MALFORMED


def test_an_error_names_the_trace_id_but_no_other_text_of_the_body() -> None:
    error = refusal(API, 500, {"message": "CANARY", "traceId": "0000-4000-abcd"})
    assert "0000-4000-abcd" in str(error)
    assert "CANARY" not in str(error)
    odd = refusal(API, 500, {"traceId": "CANARY with spaces, so no trace id"})
    assert "CANARY" not in str(odd)


@pytest.mark.parametrize(
    ("sent", "understood"),
    [("7", 7.0), ("0", 0.0), ("9" * 400, 86_400.0), ("²", None), ("soon", None), ("-1", None)],
)
def test_retry_after_is_read_or_ignored(sent: str, understood: float | None) -> None:
    response = answer(429, b"{}", **{"Retry-After": sent})
    with pytest.raises(HighLevelError) as caught:
        errors.read(API, response, path="/x")
    assert caught.value.retry_after == understood


def test_every_rule_names_its_source() -> None:
    assert all(rule.source for rule in errors.RULES)
