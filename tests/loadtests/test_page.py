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
from typing import Any

import pytest
from PIL import Image

from podrace.simulator.servers.connection import connect

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


def swarm(url: str, **form: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(fetch(f"{url}/swarm", user_count="12", spawn_rate="12", **form))
    return answer


def table(url: str) -> tuple[str, dict[str, Any]]:
    """The state of the run, and the tab's rows by name."""
    report = json.loads(fetch(f"{url}/stats/requests"))
    (rows,) = report["extended_stats"]
    return report["state"], {row["name"]: row for row in rows["data"]}


def until(url: str, found: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        state, rows = table(url)
        if found(state, rows):
            return rows
    raise AssertionError(f"{state}: {list(rows)}")


WRONG = (
    ({"pods": "1"}, "--pods: expected a number of at least 2, got 1"),
    ({"pods": "2.5"}, "--pods: expected a number, got '2.5'"),
    ({"rate": "nan"}, "--rate: expected a number of at least 0, got nan"),
    ({"rate": "fast"}, "--rate: expected a number, got 'fast'"),
    ({"stop_timeout": "x"}, "--stop-timeout: expected a number, got 'x'"),
    ({"target": "nope"}, "target 'nope': expected one of local, shared, durable, or module:factory"),
    ({"target": "broken:plain"}, "--target broken:plain: has no store"),
    ({"slo": "/etc/passwd"}, "slo: is settled when Locust starts"),
    ({"host": "redis://:hunter2@127.0.0.1:1"}, "Connection refused"),
    ({"host": "http://127.0.0.1"}, "another form"),
)


def test_what_is_wrong_in_the_form_is_a_message(locust: Start, free_port: Callable[[], str]) -> None:
    url, _ = start_page(locust, free_port())
    for form, message in WRONG:
        answer = swarm(url, **form)
        assert answer["success"] is False
        assert message in answer["message"]
        assert "hunter2" not in json.dumps(answer)
    assert table(url)[0] == "ready"


def test_the_host_on_the_page_is_the_one_that_is_used(
    locust: Start, tmp_path: Path, free_port: Callable[[], str], tcp_server: Callable[..., Any]
) -> None:
    with tcp_server(config={"requirepass": "s3cret"}) as server, connect(server.url, password="s3cret") as client:
        url, _ = start_page(locust, free_port(), "--run-folder", "run", "StoreReader")
        asked = server.tcp_url.replace("redis://", "redis://:s3cret@")
        answer = swarm(url, host=asked)
        assert (answer["success"], answer["host"]) == (True, asked.replace("s3cret", "***"))
        until(url, lambda state, rows: state == "running" and rows.get("GET status", {}).get("count", 0) > 0)
        assert client.keys("podrace:*")
        fetch(f"{url}/stop", stop="1")
        rows = until(url, lambda state, rows: any(name.startswith("(1 verdict)") for name in rows))
        assert "(1 verdict) load-store: holds, expected holds" in rows
        assert "(4 run folder) run" in rows
        assert any(name.startswith("(3 generator) woke up late by p50") for name in rows)
        assert {"GET status", "GET status, from the intended start"} < rows.keys()
        assert "s3cret" not in fetch(url) + fetch(f"{url}/stats/requests")
        fetch(f"{url}/stats/reset", reset="1")
        assert "GET status" not in until(url, lambda state, rows: "GET status" not in rows)
        assert swarm(url, host="")["success"]  # the next run: our own server, and a folder of its own
        until(url, lambda state, rows: state == "running" and "(4 run folder) run-2" in rows)
        assert client.keys("podrace:*") == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_tab_shows_microseconds_and_losses(locust: Start, tmp_path: Path, free_port: Callable[[], str]) -> None:
    (tmp_path / "slo.toml").write_text("[operations]\nabsorb = {p50_us = 1}\n")
    url, line = start_page(locust, free_port(), "--target", "local", "--slo", "slo.toml")
    assert "127.0.0.1" in line
    assert swarm(url)["success"]
    until(url, lambda state, rows: state == "running" and rows.get("(lost) load-upload", {}).get("count", 0) > 0
          and "absorb" in rows)  # fmt: skip
    kept = Path(os.environ.get("PODRACE_SCREENSHOTS") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)
    shot = kept / "locust.png"
    common = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}/profile", "--window-size=1400,1000",
              "--virtual-time-budget=8000"]  # fmt: skip
    subprocess.run([*common, f"--screenshot={shot}", f"{url}/?tab=podrace"], check=True, timeout=50,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    dumped = subprocess.run([*common, "--dump-dom", f"{url}/?tab=podrace"], check=True, timeout=50,
                            capture_output=True, text=True).stdout  # fmt: skip
    for expected in ("Microseconds and losses", "p99.9 (µs)", "(lost) load-upload", "GET status",
                     "from the intended start", "(2 limit exceeded) absorb: p50_us", "(3 generator) woke up late",
                     "(4 run folder) runs/"):  # fmt: skip
        assert expected in dumped
    with Image.open(shot) as picture:
        assert picture.size == (1400, 1000)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50  # not an empty page
