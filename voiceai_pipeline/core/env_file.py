"""Reads ``.env``, the settings file in the working directory, the same way in every program."""

from pathlib import Path
from typing import Final

import dotenv

from voiceai_pipeline.core.settings_parsing import SettingsError

ENV_FILE: Final = Path(".env")


def load(path: Path = ENV_FILE) -> None:
    """Add the file's variables to the environment; those that are set already take precedence.

    Raises:
        SettingsError: the file is not UTF-8; none of its variables was read.
    """
    try:
        dotenv.load_dotenv(path, encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(
            f"{path} is not in UTF-8, so none of it was read. Save it again as UTF-8."
        ) from None
