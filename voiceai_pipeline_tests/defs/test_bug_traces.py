"""A bug of ours in a real Dagster run: its frames are in the run's log, its text is nowhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.product import Product

TOKEN = "INVENTED-TOKEN-IN-A-KEY"


def test_a_bug_in_a_run_leaves_its_frames_in_dagster_and_never_its_text(
    product: Product,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def faulty(*_args: Any) -> Any:
        raise KeyError(TOKEN)

    product.connect("Pine Realty")
    monkeypatch.setattr("voiceai_pipeline.highlevel.client._list", faulty)
    result = product.sync([product.yesterday])
    assert not result.success

    events = product.instance.all_logs(result.run_id)
    (trace,) = [e.user_message for e in events if "Unexpected error, without" in e.user_message]
    frames = [line for line in trace.splitlines() if line.startswith("  File ")]
    assert any("/voiceai_pipeline/calls/window_sync.py" in frame for frame in frames)
    assert f"in {HighLevelClient.call_logs_page.__qualname__}" in frames[-2]
    assert f'"{__file__}"' in frames[-1]  # the first foreign one

    explained = FailureClass.INTERNAL.explanation
    assert any(explained.fix in event.to_json() for event in events)
    printed = capfd.readouterr()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    shown = [json.dumps([event.to_json() for event in events]), caplog.text, *printed]
    shown += [path.read_text(errors="replace") for path in kept]
    assert TOKEN not in "".join(shown)
