"""``voiceai-pipeline keys`` on keys of the environment and on a key file."""

import base64
from pathlib import Path

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import key_file
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError, parse_keys
from voiceai_pipeline.pipeline import open_vault
from voiceai_pipeline_tests.support.command_line import Program
from voiceai_pipeline_tests.support.keys import KEYRING


def test_keys_of_the_environment_are_changed_in_three_steps(program: Program) -> None:
    program.connect("Harbor Dental")
    shown = program("keys")
    assert shown.code == 0
    assert [line.split() for line in shown.out.splitlines()] == [
        ["test", "1", "connections", "0", "on", "disk", "encrypts"]
    ]
    added = program("keys", "add")
    entry = added.out.splitlines()[0]
    (new,) = parse_keys(entry)
    assert (new, "at the END" in added.out) == ("k1", True)
    both = f"{entry},{KEYRING}"
    assert (
        "still needed; run: voiceai-pipeline keys encrypt"
        in program("keys", VOICEAI_TOKEN_KEYS=both).out
    )
    assert "need an older key than k1" in program("doctor", VOICEAI_TOKEN_KEYS=both).out

    shown = program("keys", "--json", VOICEAI_TOKEN_KEYS=both)
    assert shown.json == [
        {"key_id": "k1", "state": "encrypts", "connections": 0, "on_disk": 0},
        {"key_id": "test", "state": "needed", "connections": 1, "on_disk": 0},
    ]
    printed = program("keys", "add", "--json").json
    assert (printed["key_id"], printed["added_to"]) == ("k1", None)
    assert parse_keys(printed["entry"]).keys() == {"k1"}

    done = program("keys", "encrypt", VOICEAI_TOKEN_KEYS=both)

    assert done.code == 0
    assert done.out.startswith("Encrypted 1 connections with the key k1.\n")
    assert "not needed any more; remove it from VOICEAI_TOKEN_KEYS" in done.out
    assert program("check", "Harbor Dental", VOICEAI_TOKEN_KEYS=entry).code == 0
    again = program("keys", "encrypt", "--json", VOICEAI_TOKEN_KEYS=entry).json
    assert (again["busy"], again["unreadable_user_ids"]) == (0, [])
    gone = program("keys", "encrypt")
    assert (gone.code, "No key decrypts the tokens of Harbor Dental" in gone.err) == (1, True)
    assert "MISSING" in gone.out
    wrong = program("keys", "add", "test")
    assert (wrong.code, "cannot name a new key" in wrong.err) == (1, True)


def test_a_key_file_that_vanished_is_not_replaced_while_a_row_needs_it(
    program: Program, tmp_path: Path
) -> None:
    settings = Settings.load({"VOICEAI_HOME": str(tmp_path)})
    engine, path = program.engine, tmp_path / "token.key"
    assert open_vault(settings, engine).current == "local"
    path.unlink()
    open_vault(settings, engine)  # no row needs it
    path.unlink()
    program.add("Harbor Dental")
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, service, refresh_token) "
                "SELECT gen_random_uuid(), id, 'highlevel', 'enc:v2:local:AAAA' FROM users"
            )
        )
    with pytest.raises(SettingsError, match=r"token.key is gone, and 1 stored connections need"):
        open_vault(settings, engine)
    assert not path.exists()
    key_file.write(path, {"local": base64.b64decode(b"bG9j" * 11)[:32]})
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        open_vault(settings, engine)
