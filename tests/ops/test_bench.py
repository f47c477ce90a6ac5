"""The benchmark runs: every workload, the contest, the picture, the proposal and the soak, on the tiny model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ops.bench import __main__ as command
from ops.bench import exact
from ops.bench.contest import contest
from ops.bench.engines import Bench
from ops.bench.picture import picture
from ops.bench.soak import soak
from ops.bench.tune import Trial, chosen, tune
from ops.bench.workload import NAMES, shared_prefix, short_chats, workload

SERVER = """#!{python}
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({{"status": "ok"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply({{"tokens_predicted": body["n_predict"]}})

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def server_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named llama-server that answers as the real one does, with tokens it never made."""
    if shutil.which("llama-server"):
        return
    program = tmp_path / "llama-server"
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_is_the_same_each_time_and_fits_its_context(name: str) -> None:
    jobs = workload(name, 6)
    assert jobs.work == workload(name, 6).work
    assert all(len(job.prompt.split()) + job.max_tokens < jobs.context_tokens for job in jobs.work)


def test_prompts_that_share_a_beginning_share_four_hundred_words() -> None:
    first, second = (job.prompt.split() for job in shared_prefix(2))
    assert first[:399] == second[:399]
    assert first != second


def test_a_contest_compares_with_the_raw_calls_and_with_the_server(tiny_model_path: Path, server_on_path: None) -> None:
    result = contest(tiny_model_path, workload("short", 4), 2, "chain", rounds=1)
    assert 0 < result.of_raw < 2
    assert result.of_server is not None
    assert result.run.rate.num_tokens == 4 * 64
    assert json.loads(json.dumps(result.as_dict()))["slots"] == 2


def test_the_calls_made_again_leave_no_cells(tiny_model_path: Path) -> None:
    bench = Bench(tiny_model_path, 16, 512)
    run, raw_seconds = bench.run_and_replay(shared_prefix(4))
    shared = 400 if bench.model.cuts_are_free else 384  # in wholes of a tile, or of a block
    assert run.details["num_reused_tokens"] == 3 * shared
    assert raw_seconds > 0
    assert [bench.model.num_cells(slot) for slot in range(bench.model.num_slots)] == [0] * 16
    bench.close()


def test_the_command_writes_figures_and_a_picture(tiny_model_path: Path, tmp_path: Path) -> None:
    figures, curves = tmp_path / "figures.json", tmp_path / "curves.svg"
    command.main([
        "--model", str(tiny_model_path), "--workload", "short", "--slots", "1,16", "--jobs", "3", "--rounds", "1",
        "--json", str(figures), "--picture", str(curves),
    ])  # fmt: skip
    report = json.loads(figures.read_text())
    assert [entry["slots"] for entry in report["contest"]] == [1, 16]
    assert ET.parse(curves).getroot().tag.endswith("svg")


def test_a_picture_has_a_line_for_each_curve() -> None:
    root = ET.fromstring(picture("a < b", {"engine": [(1, 90.0), (16, 600.0)], "server": [(1, 80.0), (16, 500.0)]}))
    assert sum(element.tag.endswith("polyline") for element in root) == 2


def test_the_fewest_slots_that_are_nearly_the_fastest_are_chosen() -> None:
    trials = [Trial(1, 2, per_second=90.0), Trial(16, 2, per_second=585.0), Trial(32, 2, per_second=600.0)]
    assert chosen(trials).slots == 16


def test_the_proposal_names_settings(tiny_model_path: Path) -> None:
    said: list[str] = []
    proposal = tune(tiny_model_path, (1, 16), 2, said.append)
    assert set(proposal) == {"PENSTOCK_SLOTS", "PENSTOCK_THREADS", "PENSTOCK_FLASH_ATTENTION", "PENSTOCK_KV_TYPE"}
    assert len(said) >= 4


def test_a_soak_leaves_no_cells_and_flat_memory(tiny_model_path: Path) -> None:
    result = soak(tiny_model_path, 16, 3.0, warm_jobs=100)
    assert result["cells_left"] == 0
    assert result["jobs"] > 100
    assert result["last_bytes"] - result["first_bytes"] < 64 * 2**20


def test_what_exactness_costs_is_compared_in_turn(tiny_model_path: Path, tmp_path: Path) -> None:
    figures = tmp_path / "exact.json"
    exact.main([
        "--model", str(tiny_model_path), "--slots", "16", "--jobs", "16", "--rounds", "2", "--json", str(figures),
    ])  # fmt: skip
    report = json.loads(figures.read_text())
    full, lone = report["comparisons"]
    assert (full["bar"], lone["bar"]) == (0.95, 0.9)
    for each in (full, lone):
        assert len(each["exact"]) == len(each["ordinary"]) == 2
        assert each["ratio"] > 0
        assert each["passes"] is (each["ratio"] >= each["bar"])


def test_short_chats_have_one_length() -> None:
    assert {len(job.prompt.split()) for job in short_chats(5)} == {54}
