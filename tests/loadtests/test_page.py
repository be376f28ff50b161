"""Locust's page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars")  # fmt: skip

Start = Callable[..., "subprocess.Popen[str]"]


def start_page(locust: Start, port: str, *arguments: str) -> tuple[str, str]:
    """The page's URL and the line that tells it."""
    process = locust("--web-port", port, *arguments)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"web interface at (http://[^ ,]+)", line):
            return found[1], line
    raise AssertionError("the page did not come up")


def fetch(url: str, **form: str) -> str:
    data = urllib.parse.urlencode(form).encode() if form else None
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:  # the line that names the page comes before its socket
        try:
            with urllib.request.urlopen(url, data, timeout=20) as reply:
                return str(reply.read().decode())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
    raise AssertionError(f"{url}: nobody listens")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_tab_shows_microseconds_and_losses(locust: Start, tmp_path: Path, free_port: Callable[[], str]) -> None:
    url, line = start_page(locust, free_port(), "--target", "local")
    assert "127.0.0.1" in line
    refused = json.loads(fetch(f"{url}/swarm", user_count="12", spawn_rate="12", pods="1"))
    assert (refused["success"], refused["message"]) == (False, "--pods: expected a number of at least 2, got 1")
    assert json.loads(fetch(f"{url}/swarm", user_count="12", spawn_rate="12"))["success"]
    rows: dict[str, int] = {}
    state = ""
    while not (state == "running" and rows.get("(lost) load-upload", 0) and rows.get("absorb")):
        report = json.loads(fetch(f"{url}/stats/requests"))
        state = report["state"]
        (table,) = report["extended_stats"]
        rows = {row["name"]: row["count"] for row in table["data"]}
    kept = Path(os.environ.get("PODRACE_SCREENSHOTS") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)
    shot = kept / "locust.png"
    common = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}/profile", "--window-size=1400,1000",
              "--virtual-time-budget=8000"]  # fmt: skip
    subprocess.run([*common, f"--screenshot={shot}", f"{url}/?tab=podrace"], check=True, timeout=50,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    dumped = subprocess.run([*common, "--dump-dom", f"{url}/?tab=podrace"], check=True, timeout=50,
                            capture_output=True, text=True).stdout  # fmt: skip
    for expected in ("Microseconds and losses", "p99.9 (µs)", "(lost) load-upload", "GET status"):
        assert expected in dumped
    with Image.open(shot) as picture:
        assert picture.size == (1400, 1000)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50  # not an empty page
