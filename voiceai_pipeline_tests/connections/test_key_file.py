"""The key file: private, written once, changed at once, refused when it cannot be trusted."""

import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from voiceai_pipeline.connections import key_file
from voiceai_pipeline.core.settings_parsing import SettingsError

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["voiceai_pipeline_tests.support.token_processes", __name__])


def keys_of(path: Path) -> dict[str, bytes]:
    """The keys of a file, which is created if there is none."""
    key_file.create(path)
    return key_file.read(path)


def test_the_key_file_is_private_and_written_once(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    mask = os.umask(0)
    try:
        keys = keys_of(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys_of(path) == keys
    assert [len(key) for key in keys.values()] == [32]
    assert list(tmp_path.iterdir()) == [path]


def make_keys(path: str, barrier: Barrier) -> None:
    barrier.wait(120)
    keys = keys_of(Path(path))
    found = Path(f"{path}.found.{os.getpid()}")
    found.write_bytes(next(iter(keys.values())))


def test_many_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    barrier = processes.Barrier(12)
    members = [processes.Process(target=make_keys, args=(str(path), barrier)) for _ in range(12)]
    for member in members:
        member.start()
    for member in members:
        member.join(120)
        assert member.exitcode == 0
        member.close()
    found = [file.read_bytes() for file in tmp_path.glob("*.found.*")]
    assert len(found) == 12
    assert set(found) == set(keys_of(path).values())
    assert [f.name for f in tmp_path.iterdir() if "found" not in f.name] == ["token.key"]


def test_many_threads_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.key"
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(keys_of, [path] * 8))
        assert all(each == keys[0] for each in keys)


def test_what_a_killed_process_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    # In a container every process has the pid that the killed one had.
    (tmp_path / f"token.key.{os.getpid()}").write_text("half")
    assert keys_of(tmp_path / "token.key")


@pytest.mark.parametrize("text", ["", "local:INVENTED-CANARY", "\xff"])
def test_a_damaged_key_file_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token.key"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="is damaged") as refused:
        key_file.read(path)
    assert "INVENTED" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token.key"
    keys = keys_of(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"chmod 600 {path}"):
        key_file.read(path)
    path.chmod(0o600)
    assert key_file.read(path) == keys


def test_keys_are_replaced_at_once_and_stay_in_order(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    keys = {"k1": key_file.new_key(), **keys_of(path)}
    key_file.write(path, keys)
    assert list(key_file.read(path).items()) == list(keys.items())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
