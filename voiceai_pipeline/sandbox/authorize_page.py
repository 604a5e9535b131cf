"""The page where a user chooses a location and allows the app (CONTRACT 4.1).

GET `/oauth/chooselocation` or `/v2/oauth/chooselocation` with `response_type=code`, `client_id`,
`version_id`, `redirect_uri`, `scope` and usually `state` (a link of the marketplace has none);
`location=` (an id) or `user=` (a demo user's id) preselects.

The page's form is POSTed to the same address, query included, with two fields:

- `target`: a location's id, or an agency's company id;
- `action`: `allow` or `cancel`.

The answer is a 302 to the redirect URI, with `code` or with `error=access_denied`, and `state`.
"""

import html
import urllib.parse

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from voiceai_pipeline.sandbox.cast import SANDBOX_APP_VERSION_ID, SANDBOX_CLIENT_ID, DemoUser
from voiceai_pipeline.sandbox.guard import read_fields
from voiceai_pipeline.sandbox.page import page
from voiceai_pipeline.sandbox.world import World

AUTHORIZE_PATHS = ("/oauth/chooselocation", "/v2/oauth/chooselocation")


def routes() -> list[Route]:
    """The page under its older and its current path."""
    return [Route(path, _choose, methods=["GET", "POST"]) for path in AUTHORIZE_PATHS]


async def _choose(request: Request) -> Response:
    world: World = request.app.state.world
    query = request.query_params
    if problem := _problem(request):
        text = f"<h1>This link does not work</h1><p>{html.escape(problem)}</p>"
        return page("This link does not work", text, narrow=True, status=400)
    user = next((one for one in world.users if one.id == query.get("user")), None)
    if request.method == "GET":
        return _form(world, request, user)
    fields = await read_fields(request)
    if fields.get("action") == "cancel":
        return _back(request, error="access_denied")
    try:
        scopes = query.get("scope", "").split()
        target = fields.get("target", "")
        code = world.authorize(target, user, scopes, query["redirect_uri"])
    except KeyError:
        return _form(world, request, user, complaint="Choose a location first.", status=422)
    return _back(request, code=code)


def _problem(request: Request) -> str:
    query = request.query_params
    if query.get("response_type") != "code":
        return "response_type must be “code”."
    if query.get("client_id") != SANDBOX_CLIENT_ID:
        # SEEN (CONTRACT 4.1): what the real page says for an app it does not know.
        return "error.noAppVersionIdFound: no app has this client_id."
    if query.get("version_id") != SANDBOX_APP_VERSION_ID:
        # SEEN (CONTRACT 15, 16): the same for both causes.
        return (
            "error.noAppVersionIdFound: the link has no version_id of this app, or that version is "
            "still a draft. Set HIGHLEVEL_APP_VERSION_ID to the version_id of the app's install "
            "link, or submit the version in the portal under Manage, Versions."
        )
    target = urllib.parse.urlsplit(query.get("redirect_uri", ""))
    if target.scheme not in ("http", "https") or not target.netloc:
        return "redirect_uri must be an absolute http(s) URL."
    return ""


def _back(request: Request, **fields: str) -> Response:
    query = request.query_params
    target = urllib.parse.urlsplit(query["redirect_uri"])
    pairs = urllib.parse.parse_qsl(target.query) + list(fields.items())
    if "state" in query:
        pairs.append(("state", query["state"]))
    url = target._replace(query=urllib.parse.urlencode(pairs)).geturl()
    return RedirectResponse(url, 302)


def _form(
    world: World,
    request: Request,
    user: DemoUser | None,
    complaint: str = "",
    status: int = 200,
) -> Response:
    query = request.query_params
    chosen = query.get("location") or (user.installs_on if user else "")
    agencies = [one for one in world.users if one.installs_as == "Company"]
    offered = [(one.id, one.name, one.timezone) for one in world.locations.values()]
    offered += [(one.company_id, one.business_name, "as agency") for one in agencies]
    # The preselected one is listed first, so that it is visible and has the focus.
    offered.sort(key=lambda choice: choice[0] != chosen)
    choices = [_choice(*choice, chosen) for choice in offered]
    scopes = "".join(
        f"<li><code>{html.escape(scope)}</code></li>" for scope in query.get("scope", "").split()
    )
    warning = f'<p class="tag bad" role="alert">{html.escape(complaint)}</p>' if complaint else ""
    action = html.escape(f"{request.url.path}?{request.url.query}")
    where = urllib.parse.urlsplit(query["redirect_uri"]).netloc
    content = f"""
<p class="soft small">HighLevel sandbox &middot; nothing here is real</p>
<h1>Allow access to Voice AI call logs?</h1>
<p>Choose the location this connection is for. You will return to
<code>{html.escape(where)}</code>.</p>{warning}
<form class="card wide" method="post" action="{action}">
<fieldset><legend>Location</legend><div class="choices">{"".join(choices)}</div></fieldset>
<h2>Requested permissions</h2><ul class="scopes small">{scopes}</ul>
<div class="row"><button class="main" name="action" value="allow">Allow</button>
<button name="action" value="cancel" formnovalidate>Cancel</button></div>
</form>"""
    return page("Choose a location", content, narrow=True, status=status)


def _choice(value: str, name: str, detail: str, chosen: str) -> str:
    checked = " checked" if value == chosen else ""
    return (
        f'<label class="choice"><input type="radio" name="target" value="{html.escape(value)}"'
        f" required{checked}><span>{html.escape(name)}<small>{html.escape(detail)}</small>"
        "</span></label>"
    )
