"""`python -m voiceai_pipeline.sandbox`: run the sandbox as a process of its own."""

import argparse
import datetime as dt
import logging
import sys
from pathlib import Path

from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, with_stories
from voiceai_pipeline.sandbox.faults import zone_of
from voiceai_pipeline.sandbox.server import serve
from voiceai_pipeline.sandbox.world import World

logger = logging.getLogger("voiceai_pipeline.sandbox")


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; 0 after a clean stop, 1 if the port or the state file is unusable."""
    parser = argparse.ArgumentParser(prog="python -m voiceai_pipeline.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765, help="0 picks a free one")
    parser.add_argument("--state-file", type=Path, help="keep tokens and faults in this file")
    parser.add_argument("--webhook-url", metavar="URL", help="send webhook messages there")
    parser.add_argument(
        "--story-from",
        type=dt.date.fromisoformat,
        metavar="DAY",
        help="let the demo's businesses change over time, from this day (YYYY-MM-DD) on",
    )
    parser.add_argument(
        "--zone", type=zone_of, default="UTC", help="the IANA zone of the demo's bad day"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        day = given.story_from
        locations = with_stories(DEMO_LOCATIONS, day) if day else DEMO_LOCATIONS
        world = World(state_file=given.state_file, locations=locations, zone=given.zone)
    except (OSError, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    try:
        serve(
            given.host,
            given.port,
            world=world,
            webhook_url=given.webhook_url,
            ready=lambda url: logger.info("HighLevel sandbox is listening on %s", url),
        )
    except OSError as problem:
        reason = problem.strerror or str(problem)
        sys.stderr.write(f"The sandbox cannot use {given.host}:{given.port}: {reason}.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
