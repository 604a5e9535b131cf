"""The cast of the sandbox: invented users, businesses, locations and agents.

Constants and frozen values only. `world` has what happens to them; `calls` makes their calls.
Every name is invented, every number is +1555…, every address ends in `.test`.
"""

import datetime as dt
import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from voiceai_pipeline.sandbox.story import Story, story_of

Role = Literal["healthy", "bad_day", "never_connected", "revoked", "paused", "scope_missing"]
Envelope = Literal["spec", "wild", "no_total"]
UserType = Literal["Location", "Company"]

CALL_LOG_SCOPE = "voice-ai-dashboard.readonly"
AGENT_SCOPE = "voice-ai-agents.readonly"
LOCATION_SCOPE = "locations.readonly"

# The app id of CONTRACT 4.4 is the part of the client id before the dash.
SANDBOX_APP_ID = "65f0c0ffee0000000000e000"
SANDBOX_CLIENT_ID = f"{SANDBOX_APP_ID}-sandbox"
SANDBOX_CLIENT_SECRET = "SANDBOX-CLIENT-SECRET-0f3a"
# A first version has the app's own id (CONTRACT 15); the second one is still a draft.
SANDBOX_APP_VERSION_ID = SANDBOX_APP_ID
SANDBOX_DRAFT_VERSION_ID = "65f0c0ffee0000000000e001"


@dataclass(frozen=True)
class SandboxAgent:
    """A Voice AI agent. A deleted one is no longer listed, but calls of it exist."""

    id: str
    name: str
    inbound_number: str
    is_deleted: bool = False
    is_draft: bool = False


@dataclass(frozen=True)
class SandboxLocation:
    """A sub-account. `envelope` "wild" answers in the undocumented shapes of CONTRACT 2.2/2.3."""

    id: str
    company_id: str
    name: str
    kind: str
    timezone: str
    calls_per_day: int
    agents: tuple[SandboxAgent, ...]
    envelope: Envelope = "spec"
    story: Story | None = None


@dataclass(frozen=True)
class DemoUser:
    """A user of the dashboard, and their role in the demo."""

    id: str
    first_name: str
    last_name: str
    business_name: str
    location_id: str | None
    company_id: str
    role: Role = "healthy"
    installs_as: UserType = "Location"
    withheld_scopes: tuple[str, ...] = ()

    @property
    def installs_on(self) -> str:
        """The id to choose on the authorize page: a location's, or an agency's company id."""
        if self.installs_as == "Company" or self.location_id is None:
            return self.company_id
        return self.location_id

    @property
    def highlevel_user_id(self) -> str:
        """HighLevel's own id of this user, which is not the dashboard's."""
        return "Usr" + hashlib.sha256(self.id.encode()).hexdigest()[:17]


def make_location(
    name: str,
    number: int,
    kind: str,
    timezone: str,
    calls_per_day: int,
    *,
    company: str | None = None,
    envelope: Envelope = "spec",
) -> SandboxLocation:
    """Invent a location with two live agents, one deleted one and, if wild, a draft."""
    compact = "".join(part.capitalize() for part in name.split())
    agents = [
        SandboxAgent(_hex_id(name, "front desk"), "Front desk", f"+1555010{number:02d}01"),
        SandboxAgent(_hex_id(name, "after hours"), "After hours", f"+1555010{number:02d}02"),
        SandboxAgent(_hex_id(name, "old"), "Old receptionist", f"+1555010{number:02d}03", True),
    ]
    if envelope == "wild":
        draft = SandboxAgent(_hex_id(name, "draft"), "Draft agent", "", is_draft=True)
        agents.append(draft)
    return SandboxLocation(
        id=f"Loc{compact}{number:06d}",
        company_id=f"Co{company or compact}{number:06d}",
        name=name,
        kind=kind,
        timezone=timezone,
        calls_per_day=calls_per_day,
        agents=tuple(agents),
        envelope=envelope,
    )


def with_stories(
    locations: tuple[SandboxLocation, ...], first_day: dt.date
) -> tuple[SandboxLocation, ...]:
    """The same locations, each with the story of its kind of business from `first_day` on."""
    return tuple(replace(one, story=story_of(one.kind, first_day)) for one in locations)


def _hex_id(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:24]


_HARBOR = make_location("Harbor Dental", 1, "dental", "America/New_York", 60)
_MAPLE = make_location("Maple Plumbing", 2, "plumbing", "America/Chicago", 25, envelope="wild")
_QUIET = make_location("Quiet Law", 3, "law", "America/New_York", 0)
_SUNRISE = make_location("Sunrise Clinic", 4, "clinic", "America/Los_Angeles", 35)
_NORTHWIND = make_location(
    "Northwind Motors", 5, "motors", "Europe/Berlin", 15, company="NorthwindAgency"
)
_PINE = make_location("Pine Realty", 6, "realty", "America/Denver", 8)
_COPPER = make_location("Copper Kettle Catering", 7, "catering", "America/New_York", 20)
_JUNIPER = make_location("Juniper Fitness", 8, "fitness", "America/Phoenix", 12)
_LARCH = make_location("Larch Auto Care", 9, "garage", "America/Chicago", 18)
_WILLOW = make_location("Willow Spa", 10, "spa", "Pacific/Auckland", 10)
_CEDAR = make_location("Cedar Vets", 11, "vets", "Europe/London", 14)

DEMO_LOCATIONS: tuple[SandboxLocation, ...] = (
    _HARBOR,
    _MAPLE,
    _QUIET,
    _SUNRISE,
    _NORTHWIND,
    _PINE,
    _COPPER,
    _JUNIPER,
    _LARCH,
    _WILLOW,
    _CEDAR,
)


def _user(
    number: int,
    first_name: str,
    last_name: str,
    location: SandboxLocation,
    role: Role = "healthy",
    *,
    business_name: str = "",
    installs_as: UserType = "Location",
    withheld_scopes: tuple[str, ...] = (),
) -> DemoUser:
    return DemoUser(
        id=f"00000000-0000-4000-8000-{number:012d}",
        first_name=first_name,
        last_name=last_name,
        business_name=business_name or location.name,
        location_id=location.id,
        company_id=location.company_id,
        role=role,
        installs_as=installs_as,
        withheld_scopes=withheld_scopes,
    )


DEMO_USERS: tuple[DemoUser, ...] = (
    _user(1, "Ada", "Harper", _HARBOR),
    _user(2, "Ben", "Ortiz", _MAPLE),
    _user(3, "Clara", "Winter", _QUIET),
    _user(4, "Dana", "Reyes", _SUNRISE),
    _user(5, "Eli", "Novak", _SUNRISE, business_name="Sunrise Front Desk"),
    _user(6, "Freya", "Lind", _NORTHWIND, business_name="Northwind Agency", installs_as="Company"),
    _user(7, "Gus", "Palmer", _PINE),
    _user(8, "Hana", "Sato", _COPPER, "bad_day"),
    _user(9, "Ivan", "Brooks", _JUNIPER, "never_connected"),
    _user(10, "June", "Castillo", _LARCH, "revoked"),
    _user(11, "Kofi", "Mensah", _WILLOW, "paused"),
    _user(12, "Lena", "Fischer", _CEDAR, "scope_missing", withheld_scopes=(CALL_LOG_SCOPE,)),
)
