"""Whole runs, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from podrace.simulator.servers.connection import connect

Start = Callable[..., "subprocess.Popen[str]"]
HEADLESS = ("--headless", "--users", "12", "--spawn-rate", "12", "--only-summary", "--run-folder", "run")
WITHIN_S = 50


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WITHIN_S)
    return process.returncode, out, err


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    return {cell["scenario"]: cell for cell in json.loads((folder / "run/result.json").read_text())["cells"]}


def until_measured(log: Path, process: subprocess.Popen[str]) -> None:
    """Until the log holds an operation of each kind of user."""
    said = ""
    while process.poll() is None and not all(name in said for name in ("GET_status", "absorb", "accept")):
        threading.Event().wait(0.05)
        said = log.read_text() if log.exists() else ""


@pytest.fixture
def lenient(tmp_path: Path) -> tuple[str, str]:
    """On a busy machine no latency is promised; that nothing is lost, is."""
    path = tmp_path / "lenient.toml"
    path.write_text("error_rate_max = 0\nlost_max = 0\nduplicated_max = 0\n")
    return "--slo", str(path)


def test_the_fix_keeps_everything(locust: Start, tmp_path: Path, lenient: tuple[str, str]) -> None:
    code, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "3s"))
    assert code == 0, out + err
    found = cells(tmp_path)
    assert {name: cell["verdict"] for name, cell in found.items()} == {
        "load-queue": "holds",
        "load-store": "holds",
        "load-upload": "holds",
    }
    assert all(cell["counts"]["accepted"] > 0 for cell in found.values())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"result.json", "latency.json", "latency.hlog"}


def test_the_bug_loses_every_image_and_that_is_expected(
    locust: Start, tmp_path: Path, lenient: tuple[str, str]
) -> None:
    code, out, err = finish(
        locust(*HEADLESS, *lenient, "--run-time", "3s", "--shape", "spike", "--target", "local", "UploadLife")
    )
    assert code == 0, out + err
    counts = cells(tmp_path)["load-upload"]["counts"]
    assert counts["lost"] == counts["delivered"] == counts["accepted"] / 2 > 0


def test_a_breach_is_named_and_decides(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text('[p99_us]\n"GET status" = 1\n')
    code, out, _ = finish(locust(*HEADLESS, "--run-time", "2s", "--slo", "strict.toml", "StoreReader"))
    assert code == 1
    assert "SLO breached: GET status: p99" in out


def test_master_and_two_workers_give_one_result(
    locust: Start, tmp_path: Path, lenient: tuple[str, str], free_port: Callable[[], str]
) -> None:
    port = free_port()
    master = locust(*HEADLESS, *lenient, "--run-time", "3s", "--master", "--expect-workers", "2",
                    "--master-bind-port", port)  # fmt: skip
    workers = [locust("--worker", "--master-port", port) for _ in range(2)]
    code, out, err = finish(master)
    assert code == 0, out + err
    assert [finish(worker)[0] for worker in workers] == [0, 0]
    latency = json.loads((tmp_path / "run/latency.json").read_text())
    counted = {operation["name"]: operation["count"] for operation in latency["operations"]}
    assert counted["GET status"] >= cells(tmp_path)["load-store"]["counts"]["delivered"] > 0
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"holds"}
    assert "2 workers connected" in err


def test_a_worker_that_dies_leaves_the_run_unknown(
    locust: Start, tmp_path: Path, lenient: tuple[str, str], free_port: Callable[[], str]
) -> None:
    port = free_port()
    master = locust(*HEADLESS, *lenient, "--run-time", "4s", "--master", "--expect-workers", "2",
                    "--master-bind-port", port)  # fmt: skip
    workers = [locust("--worker", "--master-port", port) for _ in range(2)]
    until_measured(tmp_path / "run/latency.hlog", master)
    workers[0].kill()
    code, out, err = finish(master)
    assert code == 3, out + err
    assert "unknown: workers that did not hand in their counts: 1" in out
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"inconclusive"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "redis://127.0.0.1:1"], "Connection refused"),
        (["--host", "http://127.0.0.1"], "another form"),
        (["--target", "nope"], "invalid choice: 'nope'"),
        (["--slo", "missing.toml"], "No such file"),
        (["--pods", "1"], "--pods: expected a number of at least 2"),
        (["--files-url", "http://127.0.0.1:1"], "Connection refused"),
        (["--run-folder", "/proc/nowhere"], "run folder /proc/nowhere: expected a folder that can be written"),
        (["--processes", "2", "--host", "redis://127.0.0.1:1"], "Connection refused"),  # the workers end too
    ],
)
def test_bad_input_ends_before_any_load(locust: Start, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = finish(locust(*HEADLESS, *arguments))
    assert code == 2
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert message in line
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_master_that_cannot_begin_leaves_no_worker(locust: Start) -> None:
    """Locust's own error; its workers would look for the master for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = finish(locust(*HEADLESS, "--processes", "2", "--master-bind-port", port, "--master-port", port))
    assert code == 1
    assert "Address already in use" in err


def test_a_wrong_password_is_told_and_never_printed(locust: Start, tcp_server: Callable[..., Any]) -> None:
    with tcp_server(config={"requirepass": "right"}) as server:
        url = server.tcp_url.replace("redis://", "redis://:hunter2secret@")
        code, out, err = finish(locust(*HEADLESS, "--host", url))
    assert code == 2
    assert "password" in err
    assert "hunter2secret" not in out + err


def test_a_foreign_server_is_left_as_it_was(
    locust: Start, tmp_path: Path, lenient: tuple[str, str], tcp_server: Callable[..., Any]
) -> None:
    with tcp_server(config={"requirepass": "s3cret"}) as server:
        url = server.tcp_url.replace("redis://", "redis://:s3cret@")
        with connect(url) as client:
            client.set("mirix:theirs", "1")
            code, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "2s", "--host", url))
            assert client.keys("*") == [b"mirix:theirs"]
    assert code == 0, out + err
    assert "s3cret" not in out + err + "".join(path.read_text() for path in (tmp_path / "run").iterdir())


def test_a_server_that_dies_is_named_and_the_run_ends_in_order(
    locust: Start, tmp_path: Path, tcp_server: Callable[..., Any]
) -> None:
    with tcp_server() as server:
        process = locust(*HEADLESS, "--run-time", "3s", "--host", server.tcp_url)
        with connect(server.tcp_url, socket_timeout=20) as client, client.monitor() as monitor:
            for seen, _ in enumerate(monitor.listen()):
                if seen == 500:
                    break
        server.kill()
        code, out, _ = finish(process)
    assert code == 1
    assert "failed: GET status: ConnectionError" in out
    assert "SLO breached: error rate" in out
    assert "unknown:" in out
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"inconclusive"}


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_the_manifests_parse_and_name_every_part(name: str) -> None:
    text = Path("loadtests/deploy", name).read_text()
    documents = list(yaml.safe_load_all(text))
    assert all(isinstance(document, dict) for document in documents)
    for part in ("redis", "files-api", "master", "worker"):
        assert part in text


def test_ctrl_c_ends_a_run_in_order(locust: Start, tmp_path: Path, lenient: tuple[str, str]) -> None:
    """As a terminal sends it: to the master and to its workers."""
    process = locust(*HEADLESS, *lenient, "--run-time", "40s", "--processes", "2")
    until_measured(tmp_path / "run/latency.hlog", process)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert code == 0, out + err
    assert "Traceback" not in err
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"holds"}
