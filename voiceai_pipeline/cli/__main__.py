"""Entry point: the command line, or a sentence where the platform is not supported."""

import sys

from voiceai_pipeline.core import installation


def main() -> None:
    """Run the command line. It is imported late: on Windows its modules do not exist."""
    if reason := installation.obstacle():
        sys.exit(f"Error: {reason}")
    from voiceai_pipeline.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
