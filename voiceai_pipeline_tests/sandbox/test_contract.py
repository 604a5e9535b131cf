"""The sandbox's answers against the published OpenAPI files and the examples of the contract.

The OpenAPI files lie outside the repository, in `../shared/contract` or where VOICEAI_CONTRACT_DIR
points; on a machine without them the tests that validate with them are skipped, and say so.
"""

import datetime as dt
import functools
import json
from typing import Any

import jsonschema
import pytest
import referencing
import requests
from referencing.jsonschema import DRAFT202012

from voiceai_pipeline.sandbox.cast import SANDBOX_APP_ID
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.contract import SPECIFICATION, example_body, needs_specification
from voiceai_pipeline_tests.support.sandbox_client import (
    A_DAY,
    CALL_LOGS,
    HARBOR,
    MAPLE,
    REDIRECT,
    Client,
    window,
)

# Every test leaves the shared sandbox in peace.
pytestmark = pytest.mark.usefixtures("sandbox")

MOTORS = "LocNorthwindMotors000005"
AGENCY = "CoNorthwindAgency000005"
DIALECTS = pytest.mark.parametrize("v3", [False, True], ids=["pre-v3", "v3"])


@functools.cache
def registry() -> referencing.Registry[Any]:
    """The OpenAPI files under the addresses their `../common/...` references expect."""
    found = []
    for path in sorted(SPECIFICATION.rglob("*.json")):
        address = path.relative_to(SPECIFICATION).as_posix()
        if path.parent.name != "common":
            address = address.replace(path.name, f"apps/{path.name}")
        spec = json.loads(path.read_text())
        for schema in spec["components"]["schemas"].values():
            parameters = schema.get("properties", {}).get("actionParameters")
            if parameters:
                # The spec's own examples fail its own oneOf (CONTRACT 2.4).
                parameters.pop("oneOf", None)
        found.append((f"https://contract.test/{address}", DRAFT202012.create_resource(spec)))
    return referencing.Registry().with_resources(found)


FORMATS = jsonschema.FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def is_moment(text: object) -> bool:
    """jsonschema leaves date-time unchecked without another package."""
    return not isinstance(text, str) or dt.datetime.fromisoformat(text).tzinfo is not None


def spec(name: str, *, v3: bool) -> tuple[str, dict[str, Any]]:
    address = (
        f"https://contract.test/v3/apps/{name}-v3.json"
        if v3
        else f"https://contract.test/apps/{name}.json"
    )
    return address, registry().contents(address)


def check(answer: requests.Response, name: str, path: str, *, v3: bool, method: str = "get") -> Any:
    """The body, valid under what the spec says of this path and status."""
    address, document = spec(name, v3=v3)
    assert str(answer.status_code) in document["paths"][path][method]["responses"], answer.text
    pointer = "/".join(
        part.replace("~", "~0").replace("/", "~1")
        for part in (
            *("paths", path, method, "responses", str(answer.status_code)),
            *("content", "application/json", "schema"),
        )
    )
    validator = jsonschema.Draft202012Validator(
        {"$ref": f"{address}#/{pointer}"},
        registry=registry(),
        format_checker=FORMATS,
    )
    problems = [
        f"{error.json_path}: {error.message}" for error in validator.iter_errors(answer.json())
    ]
    assert problems == []
    return answer.json()


def assert_error(answer: requests.Response, name: str) -> None:
    expected = example_body(f"errors/{name}.json")
    assert (answer.status_code, answer.json()) == (expected["_http_status"], expected["body"])


@pytest.fixture(scope="module", params=[False, True], ids=["pre-v3", "v3"])
def harbor(request: pytest.FixtureRequest, shared_sandbox: RunningSandbox) -> Client:
    return Client(shared_sandbox, v3=request.param).connect(HARBOR.id)


@pytest.fixture(scope="module", params=[False, True], ids=["pre-v3", "v3"])
def agency(request: pytest.FixtureRequest, shared_sandbox: RunningSandbox) -> Client:
    return Client(shared_sandbox, v3=request.param).connect(AGENCY)


@needs_specification
def test_call_logs_are_valid_and_show_every_field_of_the_example(harbor: Client) -> None:
    seen: set[str] = set()
    for back in range(3):
        for page in (1, 2):
            answer = harbor.calls(
                HARBOR.id, **window(A_DAY - dt.timedelta(days=back)), page=page, pageSize=50
            )
            body = check(answer, "voice-ai", CALL_LOGS, v3=harbor.v3)
            seen.update(*body["callLogs"])
    assert set(example_body("call_logs_page.json")) <= set(body)
    assert set(example_body("call_log_single.json")) <= seen


@needs_specification
def test_every_documented_parameter_is_understood(harbor: Client) -> None:
    values = {
        "locationId": HARBOR.id,
        "sort": "ascend",
        "sortBy": "duration",
        "callType": "LIVE",
        "page": 2,
        "pageSize": 7,
    }
    _, document = spec("voice-ai", v3=harbor.v3)
    described = [
        one for one in document["paths"][CALL_LOGS]["get"]["parameters"] if one["in"] == "query"
    ]
    sent = {one["name"]: values.get(one["name"], one["schema"].get("example")) for one in described}
    assert all(sent.values())
    body = check(harbor.get(CALL_LOGS, **sent), "voice-ai", CALL_LOGS, v3=harbor.v3)
    assert (body["page"], body["pageSize"]) == (2, 7)


@needs_specification
def test_a_single_call_is_a_bare_call_log(harbor: Client) -> None:
    wanted = harbor.day(HARBOR.id, A_DAY)[3]
    answer = harbor.get(f"{CALL_LOGS}/{wanted['id']}", locationId=HARBOR.id)
    body = check(answer, "voice-ai", CALL_LOGS + "/{callId}", v3=harbor.v3)
    wanted.pop("transcriptWithToolCalls", None)
    assert body == wanted


def test_an_empty_day_has_the_shape_of_the_example(harbor: Client) -> None:
    body = harbor.calls(HARBOR.id, startDate=1, endDate=2, pageSize=50).json()
    del body["traceId"]
    assert body == example_body("call_logs_empty.json")


@needs_specification
def test_agents_and_the_location_are_valid(harbor: Client) -> None:
    listed = check(
        harbor.get("/voice-ai/agents", locationId=HARBOR.id),
        "voice-ai",
        "/voice-ai/agents",
        v3=harbor.v3,
    )
    assert set(example_body("agents_page.json")["agents"][0]) <= set(listed["agents"][0])
    one = f"/voice-ai/agents/{listed['agents'][0]['id']}"
    found = harbor.get(one, locationId=HARBOR.id)
    check(found, "voice-ai", "/voice-ai/agents/{agentId}", v3=harbor.v3)
    location = harbor.get(f"/locations/{HARBOR.id}")
    body = check(location, "locations", "/locations/{locationId}", v3=harbor.v3)
    assert set(example_body("location.json")["location"]) <= set(body["location"])


def test_the_wild_envelope_is_the_example_s(shared_sandbox: RunningSandbox) -> None:
    client = Client(shared_sandbox).connect(MAPLE.id)
    seen: set[str] = set()
    action_keys: set[str] = set()
    for back in range(5):
        body = client.calls(MAPLE.id, **window(A_DAY - dt.timedelta(days=back)), pageSize=50).json()
        seen.update(*body["callLogs"])
        action_keys.update(*(a for call in body["callLogs"] for a in call["executedCallActions"]))
    wanted = example_body("call_logs_page.wild_variant.json")
    assert set(body) == set(wanted)
    assert set(wanted["callLogs"][0]) <= seen
    assert "_id" in action_keys
    assert "actionId" not in action_keys


@needs_specification
@DIALECTS
def test_token_answers_are_valid_in_both_dialects(shared_sandbox: RunningSandbox, v3: bool) -> None:
    client = Client(shared_sandbox, v3=v3).connect(HARBOR.id)
    answer = client.refresh()
    body = check(answer, "oauth", "/oauth/token", v3=v3, method="post")
    name = "oauth_token_location.v3" if v3 else "oauth_token_location.pre_v3"
    assert set(example_body(f"{name}.json")) <= set(body)
    assert ("access_token" in body) != v3
    assert ("accessToken" in body) == v3


@needs_specification
def test_company_tokens_and_what_they_open_are_valid(agency: Client) -> None:
    v3 = agency.v3
    wanted = set(example_body("oauth_token_company.pre_v3.json"))
    if not v3:
        assert wanted <= set(agency.tokens)
    path = "/oauth/installed-locations" if v3 else "/oauth/installedLocations"
    answer = agency.get(path, companyId=AGENCY, appId=SANDBOX_APP_ID)
    body = check(answer, "oauth", path, v3=v3)
    shape = example_body(f"installed_locations.{'v3' if v3 else 'pre_v3'}.json")
    assert set(body) == set(shape)
    items = body["items" if v3 else "locations"]
    assert [item["_id"] for item in items] == [MOTORS]
    path = "/oauth/location-token" if v3 else "/oauth/locationToken"
    form = {"companyId": AGENCY, "locationId": MOTORS}
    answer = agency.request("POST", path, data=form)
    minted = check(answer, "oauth", path, v3=v3, method="post")
    assert minted["locationId"] == MOTORS
    if not v3:
        assert set(example_body("oauth_location_token.pre_v3.json")) <= set(minted)


@needs_specification
def test_an_unknown_app_is_an_aip_error_in_v3(shared_sandbox: RunningSandbox) -> None:
    client = Client(shared_sandbox, v3=True).connect(AGENCY)
    path = "/oauth/installed-locations"
    answer = client.get(path, companyId=AGENCY, appId="abc")
    check(answer, "oauth", path, v3=True)
    assert_error(answer, "v3_404_aip")
    missing = client.get(path, appId="abc")
    check(missing, "oauth", path, v3=True)
    assert missing.status_code == 400


@needs_specification
def test_api_errors_are_the_examples(harbor: Client) -> None:
    v3 = harbor.v3
    calls = functools.partial(harbor.request, "GET", CALL_LOGS, params={"locationId": HARBOR.id})
    assert_error(calls(headers={"Version": None}), "401_version_missing")
    # Checked before authorization.
    anonymous = {"Version": "2022-01-01", "Authorization": None}
    assert_error(calls(headers=anonymous), "401_version_invalid")
    assert_error(calls(headers={"Authorization": None}), "401_no_authorization")
    assert_error(calls(headers={"Authorization": "Bearer nonsense"}), "401_invalid_jwt")
    assert_error(harbor.calls(MAPLE.id), "403_location")
    assert_error(harbor.get(CALL_LOGS), "400_location_missing")
    assert_error(harbor.calls(HARBOR.id, limit=50), "422_limit")
    assert_error(harbor.get("/voice-ai/agents/x"), "400_location_missing")
    for wrong in (
        calls(headers={"Authorization": "Bearer nonsense"}),
        harbor.get(CALL_LOGS),
        harbor.calls(HARBOR.id, startDate=5, endDate=5),
        harbor.calls(HARBOR.id, startDate=5),
    ):
        check(wrong, "voice-ai", CALL_LOGS, v3=v3)
    unprocessable = harbor.get("/voice-ai/agents", locationId=HARBOR.id, pageSize=51)
    check(unprocessable, "voice-ai", "/voice-ai/agents", v3=v3)
    assert unprocessable.status_code == 422


def test_faults_answer_with_the_example_bodies(harbor: Client) -> None:
    expected = {
        ("unauthorized", "documented"): "401_documented",
        ("unauthorized", "invalid_jwt"): "401_invalid_jwt",
        ("unauthorized", "scope"): "401_scope",
        ("unauthorized", "version"): "401_version_invalid",
        ("unauthorized", "no_authorization"): "401_no_authorization",
        ("gateway_timeout_401", ""): "401_gateway_timeout",
        ("forbidden_location", ""): "403_location",
    }
    for (kind, variant), name in expected.items():
        more = {"variant": variant} if variant else {}
        harbor.fault(HARBOR.id, kind, times=1, **more)
        assert_error(harbor.calls(HARBOR.id), name)
    assert harbor.calls(HARBOR.id).status_code == 200


@needs_specification
@DIALECTS
def test_token_errors_are_the_examples(shared_sandbox: RunningSandbox, v3: bool) -> None:
    client = Client(shared_sandbox, v3=v3).connect(HARBOR.id)
    no_client = client.token(client_id="", grant_type="refresh_token")
    assert_error(no_client, "token_400_missing_param")
    assert_error(client.refresh("never-issued"), "token_400_invalid_refresh")
    client.control("pause", location_id=HARBOR.id)
    assert_error(client.refresh(), "token_400_location_inactive")
    client.control("resume", location_id=HARBOR.id)
    wrong = client.token(client_secret="wrong", grant_type="refresh_token", refresh_token="x")
    assert wrong.status_code == 401
    code = client.token(grant_type="authorization_code", code="x", redirect_uri=REDIRECT)
    for answer in (no_client, wrong, code):
        check(answer, "oauth", "/oauth/token", v3=v3, method="post")
    assert client.refresh().status_code == 200


def test_a_location_without_the_scope_gets_the_example_error(
    shared_sandbox: RunningSandbox,
) -> None:
    client = Client(shared_sandbox).connect("LocCedarVets000011")
    assert_error(client.calls("LocCedarVets000011"), "401_scope")
    company = Client(shared_sandbox).connect(AGENCY)
    assert_error(company.calls(MOTORS), "401_scope")
