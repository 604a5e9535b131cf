"""docs/cli.md, as the commands describe themselves; run as a program it prints the page."""

import inspect
import sys
from collections.abc import Iterator
from typing import Final

import click

from voiceai_pipeline.cli.main import cli

HOW_TO_WRITE_IT: Final = "python -m voiceai_pipeline_tests.support.cli_page > docs/cli.md"

_HEAD: Final = """\
# Commands

What `voiceai-pipeline COMMAND --help` says. `USER` is a user's id, or a name that only one user
has; settings are in [settings.md](settings.md).

| exit code | means |
|---|---|
| 0 | success |
| 1 | failure: a sentence on stderr says why and what to do |
| 2 | wrong usage |
| 130 | interrupted with Ctrl-C, or cancelled at a question |

Results are on stdout, everything else on stderr; with `--json` the results are JSON. A progress bar
is shown on a terminal only. `NO_COLOR=1` switches colours off. Only `up` and `migrate` create data:
in a folder without any, the others say where they looked.

Tab completion, in `~/.bashrc` (in `~/.zshrc`: `zsh_source`):

```sh
eval "$(_VOICEAI_PIPELINE_COMPLETE=bash_source voiceai-pipeline)"
```
"""


def cli_page() -> str:
    """The page: a section for each command."""
    return "\n".join([_HEAD, *_sections("", cli)])


def _sections(prefix: str, group: click.Group) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        yield _section(f"{prefix}{name}", command)
        if isinstance(command, click.Group):
            yield from _sections(f"{prefix}{name} ", command)


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(["voiceai-pipeline", name, *command.collect_usage_pieces(context)])
    text = inspect.cleandoc(command.help or "").replace("\b\n", "    ")
    rows = [
        record
        for option in command.params
        if isinstance(option, click.Option) and (record := option.get_help_record(context))
    ]
    table = ["| option | meaning |", "|---|---|"] if rows else []
    table += [f"| `{one}` | {meaning} |".replace("[csv|", "[csv\\|") for one, meaning in rows]
    lines = [f"## {name}", "", "```", usage, "```", "", text, "", *table]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(cli_page())
