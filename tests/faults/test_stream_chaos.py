"""A short run of the streams' trial: strikes on workers and Redis, readers that come and go, and no lie.

The long one is run by hand: `python -m ops.chaos.streams` (50 streams, 10 workers, 3 times Redis, 2 times the API).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ops.chaos.evidence import StoredText
from ops.chaos.readers import Frame, NativeReader, ResponseReader, Stream
from ops.chaos.streams import lies

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_no_stream_lies_while_workers_redis_and_the_api_are_killed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    # A database that is named in the environment is somebody's own: it must never be touched.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PENSTOCK_DATABASE_URL": "postgresql://nobody@nowhere.invalid"}
    command = [
        sys.executable, "-m", "ops.chaos.streams", "--streams", "8", "--worker-kills", "2", "--redis-kills", "1",
        "--api-kills", "1", "--slots", "8", "--lease-seconds", "2", "--tokens", "500", "--seed", "2",
        "--json", str(file),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    assert figures["strikes"] == {"worker killed": 2, "Redis killed": 1, "API killed": 1}
    assert figures["equal"] == sum(figures["streams"].values()) >= 8
    assert figures["jobs_of_several_attempts"] > 0
    assert figures["readers"]["connections"] > figures["equal"], "some came back"


def text(told: str, seq: int) -> Frame:
    return Frame("text", str(seq), json.dumps({"seq": seq, "text": told}))


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([text("ice", 3), text("hockey", 9)], []),
        ([text("ice", 3), text("key", 9)], ["ends at 9 where 6"]),
        ([text("ice", 3), text("icehockey", 9)], ["ends at 9 where 12", "parts"]),
        ([text("ice", 3), text("skates", 9)], ["part at 3"]),
        ([text("ice", 3)], ["3 code points, 9 are stored"]),
        ([text("pucks", 5), Frame("reset", "0@2", "{}"), text("icehockey", 9)], []),
    ],
)
def test_a_lie_is_caught(frames: list[Frame], found: list[str]) -> None:
    reader = NativeReader("http://nowhere", Stream(1, "native", False, "job_1"), random.Random(1), threading.Event())
    for frame in frames:
        reader._take(frame)
    reader.finished = True
    said = " / ".join([*reader.problems, *lies(reader, StoredText("icehockey", 1, None))])
    assert bool(said) == bool(found), said
    assert all(words in said for words in found if words != "parts"), said


def test_a_number_that_goes_back_is_caught() -> None:
    reader = ResponseReader(
        "http://nowhere", Stream(1, "response", False, "job_1"), random.Random(1), threading.Event()
    )
    for number in (4, 9, 5):
        told = {"sequence_number": number, "delta": "ice"}
        reader._take(Frame("response.output_text.delta", "", json.dumps(told)))
    assert reader.problems == ["event 5 after 9"]
