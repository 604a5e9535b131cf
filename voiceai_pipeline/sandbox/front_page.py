"""The page at `/`: what the sandbox is, its users, and buttons that break and fix things."""

import datetime as dt
import html

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.sandbox.cast import DemoUser, SandboxLocation
from voiceai_pipeline.sandbox.control import refuse_strangers
from voiceai_pipeline.sandbox.page import page
from voiceai_pipeline.sandbox.world import World

_ROLES = {
    "healthy": "no problem",
    "bad_day": "one day fails until healed",
    "never_connected": "not connected in the demo",
    "revoked": "uninstalls the app after connecting",
    "paused": "is paused after connecting",
    "scope_missing": "does not grant the call-log scope",
}


def routes() -> list[Route]:
    """The front page."""
    return [Route("/", _front)]


async def _front(request: Request) -> Response:
    if refused := refuse_strangers(request):
        return refused
    world: World = request.app.state.world
    rows = "".join(_row(world, user) for user in world.users)
    content = f"""
<h1>HighLevel sandbox</h1>
<p>A local stand-in for HighLevel: the same API for OAuth and Voice AI call logs, with invented
users and calls. Break something below, watch the pipeline notice, then fix it. Current time:
<time>{world.clock():%Y-%m-%d %H:%M:%S} UTC</time>.</p>
<div class="card scroll"><table role="table"><thead role="rowgroup"><tr role="row">
<th scope="col" role="columnheader">User</th><th scope="col" role="columnheader">Location</th>
<th scope="col" role="columnheader">State</th><th scope="col" role="columnheader">Actions</th>
</tr></thead><tbody role="rowgroup">{rows}</tbody></table></div>
{_delivery(world)}
<h2>API</h2>
<p class="small"><code>GET /sandbox/state</code> returns this page as JSON,
<code>GET /sandbox/requests</code> the requests so far, <code>GET /sandbox/calls?location_id=</code>
the calls that the API lists, and <code>POST /sandbox/faults</code> injects many more faults.</p>"""
    return page("HighLevel sandbox", content)


def _delivery(world: World) -> str:
    done = world.outbox.counts
    action, text = ("resume", "Resume") if world.outbox.is_paused else ("pause", "Pause")
    return (
        f"<h2>Webhooks</h2><p>Each call that ends and each removal is announced: "
        f"{done['delivered']} messages delivered, {done['given up']} given up, "
        f"{done['lost']} lost while paused.</p>"
        f'<form method="post" action="/sandbox/{action}-delivery">'
        f"<button>{text} delivery</button></form>"
    )


def _row(world: World, user: DemoUser) -> str:
    location = world.locations[user.location_id] if user.location_id else None
    name = html.escape(f"{user.first_name} {user.last_name}")
    business = html.escape(user.business_name)
    agency = ", installs as agency" if user.installs_as == "Company" else ""
    where = "" if location is None else _where(world, location, user)
    return (
        f'<tr role="row"><td role="cell"><strong>{name}</strong><br>{business}<br>'
        f'<span class="soft small">{_ROLES[user.role]}{agency}</span></td>'
        f'<td role="cell" class="nowrap">{where}</td><td role="cell">{_tags(world, user)}</td>'
        f'<td role="cell"><div class="try">{_buttons(world, user)}</div></td></tr>'
    )


def _where(world: World, location: SandboxLocation, user: DemoUser) -> str:
    busy = f"about {location.calls_per_day} calls a day" if location.calls_per_day else "no calls"
    name = "" if location.name == user.business_name else f"{html.escape(location.name)}<br>"
    return (
        f"{name}<code>{html.escape(location.id)}</code><br>"
        f'<span class="soft small">{busy}<br>{html.escape(location.timezone)}</span>'
        '<details class="small"><summary>Private integration token</summary>'
        f"<code>{world.private_tokens.of(location.id)}</code></details>"
    )


def _tags(world: World, user: DemoUser) -> str:
    tags = [("good", "connected") if world.is_connected(user) else ("", "not connected")]
    # If an agency is revoked or paused, so is its user's location.
    resources = {user.installs_on, user.location_id or user.installs_on}
    if any(world.is_revoked(one) for one in resources):
        tags.append(("bad", "revoked"))
    if any(world.is_paused(one) for one in resources):
        tags.append(("warn", "paused"))
    for fault in world.faults:
        if fault.location_id in resources or fault.location_id == "*":
            day = f" on {fault.day}" if fault.day else ""
            kind = str(fault.status) if fault.kind == "server_error" else fault.kind
            tags.append(("bad", f"{kind}{day}"))
    return "".join(f'<span class="tag {tone}">{html.escape(text)}</span>' for tone, text in tags)


def _buttons(world: World, user: DemoUser) -> str:
    resource = user.location_id or user.installs_on
    label = html.escape(user.business_name)
    day = (world.today() - dt.timedelta(days=3)).isoformat()
    paused = world.is_paused(resource)
    broken = any(fault.location_id == resource for fault in world.faults)
    forms = [
        _form("call-now", "Call now", resource, label) if user.location_id else "",
        _form("heal", "Heal", resource, label, main=True) if broken else "",
        _form("resume", "Resume", resource, label, main=True)
        if paused
        else _form("pause", "Pause", resource, label),
        _form("revoke", "Revoke", user.installs_on, label),
        _form(
            "private-token",
            "Rotate token",
            resource,
            label,
            '<input type="hidden" name="rotate" value="1">',
        ),
        _form("grant-scopes", "Grant all scopes", resource, label) if user.withheld_scopes else "",
        _form(
            "faults",
            "Break a day",
            resource,
            label,
            '<input type="hidden" name="kind" value="server_error">'
            f'<input type="date" name="day" value="{day}" required aria-label="Day (UTC)">',
        ),
    ]
    return "".join(forms)


def _form(
    action: str, text: str, resource: str, label: str, inputs: str = "", *, main: bool = False
) -> str:
    tone = ' class="main"' if main else ""
    return (
        f'<form method="post" action="/sandbox/{action}">{inputs}'
        f'<input type="hidden" name="location_id" value="{html.escape(resource)}">'
        f'<button{tone} aria-label="{text}: {label}">{text}</button></form>'
    )
