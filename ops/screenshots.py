"""Pictures of the page for the README: `python -m ops.screenshots`.

Starts the whole system with the demo model in a home of its own, fills it as a person would, and takes each view in
light and in dark. Needs Chromium on PATH. The pictures are the page as it is: nothing is drawn over them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "images"
MAX_BYTES = 200_000
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 375, "height": 780}
START_SECONDS = 120.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SUBJECTS = ("ice hockey", "the sea", "autumn leaves", "a mountain", "winter", "the moon", "a river", "coffee", "a cat")
POEM = [
    {"role": "system", "content": "You write short poems."},
    {"role": "user", "content": "Write a haiku about ice hockey"},
]


def main() -> int:
    """Take the pictures; 1 if one is too large for a README."""
    options = _arguments()
    options.folder.mkdir(parents=True, exist_ok=True)
    with _system() as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as api, _browser() as browser:
        shots = fill(api)
        for theme in ("light", "dark"):
            _take(browser, url, theme, shots, options.folder)
    sizes = {path.name: path.stat().st_size for path in sorted(options.folder.glob("page-*.png"))}
    for name, num_bytes in sizes.items():
        print(f"{num_bytes:>8} {name}")
    return int(max(sizes.values()) > MAX_BYTES)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.screenshots", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser.parse_args()


@contextmanager
def _system() -> Iterator[str]:
    """A running system; its URL."""
    with tempfile.TemporaryDirectory(prefix="penstock-shots-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        environment = inherited | {"PENSTOCK_HOME": str(home), "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "cli", "up", "--model", "demo", "--port", "0", "--flower-port", "0"]
        with (Path(folder) / "log").open("wb") as log:
            running = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        try:
            _until(lambda: (home / "up.json").exists() or running.poll() is not None, START_SECONDS)
            yield str(json.loads((home / "up.json").read_text())["api"])
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)


@contextmanager
def _browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit("No Chromium on PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _until(happened: Callable[[], object], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit("The system did not come so far in time.")
        time.sleep(0.05)


def fill(api: httpx.Client) -> dict[str, str]:
    """What the pictures show: a job with a replay, a finished batch with a few bad lines, one that runs for long."""
    job = api.post("/v1/jobs", json={"messages": POEM, "max_tokens": 60, "seed": 42, "temperature": 0.7}).json()["id"]
    _until(lambda: _read(api, "jobs", job)["state"] == "succeeded")
    replay = api.post(f"/v1/jobs/{job}/replay").json()["id"]
    done = _batch(api, "haiku for the calendar", 365, bad=3)
    _until(lambda: _read(api, "batches", done)["status"] == "completed")
    running = _batch(api, "product blurbs, autumn", 60_000)
    _batch(api, "translations", 20_000, weight="2")
    _until(lambda: (_read(api, "batches", running)["eta_seconds"] or {}).get("p50"))
    for subject in ("coffee", "the moon", "an old house"):
        api.post("/v1/jobs", json={"messages": [{"role": "user", "content": f"Write a haiku about {subject}"}]})
    return {"job": f"#/jobs/{job}?replay={replay}", "batch": f"#/batches/{running}"}


def _read(api: httpx.Client, kind: str, id: str) -> dict[str, Any]:  # noqa: A002
    found: dict[str, Any] = api.get(f"/v1/{kind}/{id}").json()
    return found


def _batch(api: httpx.Client, name: str, num_lines: int, *, bad: int = 0, **metadata: str) -> str:
    lines = "".join(_line(number, temperature=-1 if number < bad else 1) for number in range(num_lines))
    form = {"file": ("prompts.jsonl", lines.encode(), "application/jsonl")}
    file = api.post("/v1/files", files=form, data={"purpose": "batch"}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/jobs", "completion_window": "24h"}
    reply = api.post("/v1/batches", json=body | {"metadata": {"name": name, **metadata}})
    return str(reply.json()["id"])


def _line(number: int, temperature: float) -> str:
    subject = SUBJECTS[number % len(SUBJECTS)]
    messages = [{"role": "user", "content": f"Write a haiku about {subject}"}]
    body = {"messages": messages, "max_tokens": 40, "temperature": temperature}
    return json.dumps({"custom_id": f"day-{number + 1}", "method": "POST", "url": "/v1/jobs", "body": body}) + "\n"


def _take(browser: Browser, url: str, theme: str, shots: dict[str, str], folder: Path) -> None:
    views = {"overview": "#/", "workers": "#/workers", "new": "#/new", **shots}
    with _opened(browser, url, theme, WIDE) as page:
        for name, place in views.items():
            _shoot(page, url + "/" + place, name, folder / f"page-{name}-{theme}.png")
    with _opened(browser, url, theme, PHONE) as page:
        _shoot(page, url + "/#/", "overview", folder / f"page-phone-{theme}.png")


@contextmanager
def _opened(browser: Browser, url: str, theme: str, size: dict[str, int]) -> Iterator[Page]:
    look = {"light": "light", "dark": "dark"}[theme]
    page = browser.new_page(viewport=size, color_scheme=look, reduced_motion="reduce")  # type: ignore[arg-type]
    page.goto(url)
    yield page
    page.close()


def _shoot(page: Page, url: str, name: str, file: Path) -> None:
    page.goto(url)
    page.wait_for_selector(_SEEN[name])
    page.wait_for_timeout(6000 if name in {"overview", "workers", "batch"} else 800)  # the curves need a few looks
    page.screenshot(path=file)


_SEEN = {
    "overview": ".batch-row",
    "workers": ".slot.is-busy",
    "new": "form",
    "job": "[data-result=match]",
    "batch": ".legend li",
}

if __name__ == "__main__":
    raise SystemExit(main())
