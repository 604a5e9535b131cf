"""What the README says is true of the code."""

import re
from pathlib import Path

from voiceai_pipeline.cli import cli
from voiceai_pipeline.settings import VARIABLES
from voiceai_pipeline.up import PROJECT

README = (PROJECT / "README.md").read_text()


def test_the_readme_lists_every_variable_with_its_meaning() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", README, re.MULTILINE)
    assert rows == list(VARIABLES.items())


def test_the_readme_names_every_command() -> None:
    for name in set(cli.commands) - {"up"}:
        assert re.search(rf"\b{name}\b", README), name


def test_the_readmes_make_targets_and_pictures_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", README):
        assert Path(PROJECT / picture).is_file(), picture
