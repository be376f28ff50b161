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

import psutil
import pytest

from podrace.simulator.servers.connection import connect

Start = Callable[..., "subprocess.Popen[str]"]
HEADLESS = ("--headless", "--users", "12", "--spawn-rate", "12", "--only-summary", "--run-folder", "run")
WITHIN_S = 50
LOCUSTFILE = Path(__file__).parent.parent.parent / "loadtests/locustfile.py"


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WITHIN_S)
    return process.returncode, out, err


def cells(folder: Path, name: str = "run") -> dict[str, dict[str, Any]]:
    return {cell["scenario"]: cell for cell in json.loads((folder / name / "result.json").read_text())["cells"]}


OF_EACH_USER = ("GET_status", "absorb", "upload_status")


def until_measured(folder: Path, process: subprocess.Popen[str], *names: str) -> None:
    """Until the logs hold these operations, by default one of each kind of user."""
    said = ""
    while process.poll() is None and not all(name in said for name in names or OF_EACH_USER):
        threading.Event().wait(0.05)
        said = "".join(log.read_text() for log in folder.glob("*.hlog"))


@pytest.fixture
def lenient(tmp_path: Path) -> tuple[str, str]:
    """On a busy machine no latency is promised; that nothing is lost, is."""
    path = tmp_path / "lenient.toml"
    path.write_text("error_rate = 0\n")
    return "--slo", str(path)


def test_a_run_of_shared_is_green_and_writes_its_files(locust: Start, tmp_path: Path, lenient: tuple[str, str]) -> None:
    code, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "3s"))
    assert code == 0, out + err
    found = cells(tmp_path)
    assert {name: cell["verdict"] for name, cell in found.items()} == {
        "load-queue": "holds",
        "load-store": "holds",
        "load-upload": "holds",
        "limits": "holds",
    }
    assert all(cell["counts"]["accepted"] > 0 for name, cell in found.items() if name != "limits")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"result.json", "latency.json", "worker-0.hlog", "hgrm"}
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["ran"] == {"users": 12, "rate": 20.0, "aborted": False}
    assert result["options"]["spawn_rate"] == 12
    assert result["generator"]["tasks"]["begun"] > 0
    assert result["generator"]["wake_lag"]["max_us"] > 0
    assert result["cpu"]
    assert {"locust", "gevent", "redis"} <= result["versions"].keys()
    assert "generator: woke up late by p50" in out
    assert "  from the intended start" in out
    again = locust(*result["command"][1:-2], "--run-folder", "again")  # how to repeat it
    assert finish(again)[0] == 0
    assert cells(tmp_path, "again").keys() == found.keys()


def test_durable_keeps_everything_and_leaves_nothing_but_what_it_says(
    locust: Start, tmp_path: Path, lenient: tuple[str, str]
) -> None:
    code, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "2s", "--target", "durable"))
    assert code == 0, out + err
    found = cells(tmp_path)
    assert {name: cell["verdict"] for name, cell in found.items()} == {
        "load-queue": "holds",
        "load-upload": "holds",
        "limits": "holds",
    }
    assert all(found[name]["counts"]["delivered"] > 0 for name in ("load-queue", "load-upload"))


def test_local_loses_every_image_and_that_is_expected(locust: Start, tmp_path: Path, lenient: tuple[str, str]) -> None:
    code, out, err = finish(
        locust(*HEADLESS, *lenient, "--run-time", "3s", "--shape", "spike", "--target", "local", "UploadLife")
    )
    assert code == 0, out + err
    counts = cells(tmp_path)["load-upload"]["counts"]
    assert counts["lost"] == counts["delivered"] == counts["accepted"] / 2 > 0


@pytest.mark.parametrize("target", ["broken:keeps_all", "broken:lists_nothing"])
def test_a_broken_store_is_no_green_run(locust: Start, tmp_path: Path, lenient: tuple[str, str], target: str) -> None:
    code, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "2s", "--target", target, "StoreReader"))
    assert code == 1, out + err
    assert cells(tmp_path)["load-store"]["words"] == "misreported"
    assert ": expected" in cells(tmp_path)["load-store"]["sentence"]


def test_a_factory_of_ones_own_is_driven_without_a_store(
    locust: Start, tmp_path: Path, lenient: tuple[str, str]
) -> None:
    code, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "4s", "--target", "broken:plain"))
    assert code == 0, out + err
    assert cells(tmp_path).keys() == {"load-queue", "load-upload", "limits"}


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
@pytest.mark.parametrize(
    ("factory", "raised"),
    [
        ("raises", "RuntimeError: this factory makes nothing"),
        ("exits", "SystemExit: expected the target to return"),
        ("interrupts", "KeyboardInterrupt: expected the target to return"),
    ],
)
def test_a_factory_that_makes_nothing_is_inconclusive(
    locust: Start, processes: tuple[str, ...], factory: str, raised: str
) -> None:
    target = ("--target", f"broken:{factory}")
    code, out, err = finish(locust(*HEADLESS, "--run-time", "30s", *target, *processes, "Absorber"))
    assert code == 3, out + err
    assert err.count(f"error: the target's factory raised {raised}") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("factory", "code", "said", "verdict"),
    [
        ("exits_in_a_call", 1, "failed: absorb: SystemExit: ", "inconclusive"),
        ("exits_in_the_background", 0, "died in a pod: leaver: SystemExit: ", "holds"),
    ],
)
def test_a_pod_that_exits_does_not_end_the_run_as_if_all_were_well(
    locust: Start, lenient: tuple[str, str], factory: str, code: int, said: str, verdict: str
) -> None:
    target = ("--target", f"broken:{factory}")
    ended, out, err = finish(locust(*HEADLESS, *lenient, "--run-time", "3s", *target, "Absorber"))
    assert ended == code, out + err
    assert said in out
    assert f"load-queue: {verdict}" in out


OWN = """
from locust import task
from podrace.loadtests import RedisUser

class Mine(RedisUser):
    @task
    def work(self):
        self.client.set(self.prefix + "k", "1", name="SET k")
        with self.client.pipeline(name="batch") as pipeline:
            pipeline.get("a")
            pipeline.get("b")
            pipeline.execute()
"""


def test_a_users_own_locustfile_gets_histograms_limits_and_a_verdict_with_one_line(
    locust: Start, tmp_path: Path, tcp_server: Callable[..., Any]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    limits = "warm_up_s = 1\n[operations]\nbatch = {samples = 1, p99_us = 1e9}\nHGET = {samples = 1}\n"
    (tmp_path / "own.toml").write_text(limits)
    with tcp_server(config={"requirepass": "s3cret"}) as server:
        url = server.tcp_url.replace("redis://", "redis://:s3cret@")
        code, out, err = finish(locust(*HEADLESS, "--slo", "own.toml", "--run-time", "4s", "--host", url,
                                       locustfile="own.py"))  # fmt: skip
        with connect(url) as client:
            assert client.keys("*") == []
    assert code == 1, out + err
    assert "limit exceeded: HGET: has a limit and never ran" in out
    assert "batch: " not in out
    assert "s3cret" not in out + err
    operations = {each["name"]: each for each in json.loads((tmp_path / "run/latency.json").read_text())["operations"]}
    assert operations["batch"]["commands"] == 2 * operations["batch"]["count"] > 0
    assert operations["SET k"]["corrected"]["p50_us"] > 0
    tasks = json.loads((tmp_path / "run/result.json").read_text())["generator"]["tasks"]
    assert tasks["intended_per_s"] < 12 * 20 * 1.05, "what belongs to the warm-up is in the counts"


def test_a_breach_is_named_and_ends_the_run_with_exit_code_1(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text('abort = true\nerror_rate = 0\n[operations."SET k"]\nerror_rate = 0\n')
    (tmp_path / "failing.py").write_text(OWN.replace('self.prefix + "k"', "{}"))
    code, out, err = finish(locust(*HEADLESS, "--run-time", "40s", "--slo", "strict.toml", locustfile="failing.py"))
    assert code == 1, out + err
    assert "limit exceeded: SET k: error rate: 100.000%" in out
    assert "aborted: a limit was exceeded" in out
    assert "failed: SET k: DataError" in out


BUSY = (
    OWN
    + """
        sum(range(300_000))  # a generator that has no time
"""
)


def test_a_slow_generator_is_not_charged_to_the_server(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    (tmp_path / "own.toml").write_text("[operations]\nbatch = {p99_us = 1}\n")
    code, out, err = finish(locust(*HEADLESS, "--slo", "own.toml", "--run-time", "3s", "--rate", "100",
                                   locustfile="busy.py"))  # fmt: skip
    assert code == 3, out + err
    assert "inconclusive: the generator" in out
    assert cells(tmp_path)["limits"]["verdict"] == "inconclusive"
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["generator"]["tasks"]["never_begun"] > 0


def test_a_search_goes_by_rate_and_says_when_the_generator_is_the_limit(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    code, out, err = finish(locust(*HEADLESS, "--shape", "search", "--rate", "40", "--slo-p99-us", "1000000",
                                   locustfile="busy.py"))  # fmt: skip
    assert code == 3, out + err
    assert "the generator is the limit" in out
    steps = json.loads((tmp_path / "run/result.json").read_text())["search"]["steps"]
    assert steps[0]["rate"] == 40
    assert steps[-1]["generator"]


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
    assert sum(counted.values()) > cells(tmp_path)["load-store"]["counts"]["delivered"] > counted["GET status"] > 0
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"holds"}
    assert "2 workers connected" in err
    assert {path.name for path in (tmp_path / "run").glob("*.hlog")} == {"worker-0.hlog", "worker-1.hlog"}


OLD = f"""
from podrace.loadtests import session
session.VERSION = "0.0.1"
exec(open({str(LOCUSTFILE)!r}).read())
"""
FAILING = OLD.replace('session.VERSION = "0.0.1"', "session.Fleet = None")
ANOTHER = "from locust import User, task\nclass StoreReader(User):\n    @task\n    def nothing(self): ...\n"


@pytest.mark.parametrize(
    ("locustfile", "message"),
    [
        (OLD, "runs podrace 0.0.1, this master podrace "),
        (FAILING, "TypeError: 'NoneType' object is not callable"),
        (ANOTHER, "runs no podrace, this master podrace "),
    ],
)
def test_a_worker_that_cannot_do_its_part_fails_the_run(
    locust: Start, tmp_path: Path, free_port: Callable[[], str], locustfile: str, message: str
) -> None:
    (tmp_path / "worker.py").write_text(locustfile)
    port = free_port()
    master = locust(*HEADLESS, "--run-time", "30s", "--master", "--expect-workers", "2", "--master-bind-port", port,
                    "StoreReader")  # fmt: skip
    good = locust("--worker", "--master-port", port, "StoreReader")
    locust("--worker", "--master-port", port, "StoreReader", locustfile="worker.py")
    code, out, err = finish(master)
    assert code == 4, out + err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in err
    assert finish(good)[0] == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["failures"]


def test_users_that_did_not_run_leave_the_run_unknown(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        OWN
        + """
    def on_start(self):
        super().on_start()
        if self.environment.runner.user_count > 6:
            from locust.exception import StopUser
            raise StopUser
"""
    )
    code, out, err = finish(locust(*HEADLESS, "--run-time", "2s", locustfile="own.py"))
    assert code == 3, out + err
    assert "unknown: users: 12 were asked for, " in out


def test_a_closed_pipe_changes_no_exit_code(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    process = locust(*HEADLESS, "--run-time", "2s", locustfile="own.py")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    code, _, err = finish(process)
    assert code == 0, err


def test_an_exception_in_a_user_is_the_harnesss_failure(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN + "        raise KeyError('oops')\n")
    code, out, err = finish(locust(*HEADLESS, "--run-time", "2s", locustfile="own.py"))
    assert code == 4, out + err
    assert "error: the users themselves: 1 kinds of exceptions, such as \"'oops'\"" in err
    assert "KeyError" in (tmp_path / "run/traceback.txt").read_text() or "oops" in err


def test_a_task_that_exits_the_process_is_no_green_run(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN + "    @task\n    def leave(self):\n        raise SystemExit(0)\n")
    code, _, err = finish(locust(*HEADLESS, "--run-time", "30s", locustfile="own.py"))
    assert (code, err.splitlines()[-1]) == (
        4,
        "error: the process was ended in the middle of a run: nothing was judged",
    )


def test_two_runs_at_once_never_meet(locust: Start, tmp_path: Path, lenient: tuple[str, str]) -> None:
    runs = [locust(*HEADLESS[:-1], name, *lenient, "--run-time", "4s", "--processes", "2", "StoreReader")
            for name in ("one", "two")]  # fmt: skip
    for process, name in zip(runs, ("one", "two"), strict=True):
        code, out, err = finish(process)
        assert code == 0, out + err
        assert len(list((tmp_path / name).glob("*.hlog"))) == 2


def test_a_worker_that_dies_leaves_the_run_unknown(
    locust: Start, tmp_path: Path, lenient: tuple[str, str], free_port: Callable[[], str]
) -> None:
    port = free_port()
    master = locust(*HEADLESS, *lenient, "--run-time", "4s", "--master", "--expect-workers", "2",
                    "--master-bind-port", port)  # fmt: skip
    workers = [locust("--worker", "--master-port", port) for _ in range(2)]
    until_measured(tmp_path / "run", master)
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
        (["--target", "nope"], "target 'nope': expected one of local, shared, durable, or module:factory"),
        (["--target", "nowhere:nope"], "cannot import nowhere"),
        (["NoSuchUser"], "NoSuchUser: expected one of Absorber, StoreReader, StoreWriter, UploadLife"),
        (["--target", "broken:plain", "StoreReader"], "has no store"),
        (["--shape", "search", "--rate", "0"], "expected --rate above 0"),
        (["--slo", "missing.toml"], "No such file"),
        (["--pods", "1"], "--pods: expected a number of at least 2"),
        (["--users", "0"], "--users: expected a number of at least 1, got 0"),
        (["--users", "-5"], "--users: expected a number of at least 1, got -5"),
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


def test_a_warm_up_as_long_as_the_run_is_wrong_usage(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "warm.toml").write_text("warm_up_s = 2")
    code, _, err = finish(locust(*HEADLESS, "--run-time", "2s", "--slo", "warm.toml"))
    assert code == 2
    assert "error: --slo warm.toml: its warm_up_s leaves nothing of 2 s" in err


def test_a_port_that_is_taken_is_wrong_usage_and_leaves_no_worker(locust: Start) -> None:
    """Locust's own error would end with 1, and its workers would look for the master for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = finish(locust(*HEADLESS, "--processes", "2", "--master-bind-port", port, "--master-port", port))
    assert code == 2
    assert f"--master-bind-port {port}: expected a free port on 127.0.0.1: Address already in use" in err


def test_a_run_folder_is_never_overwritten(locust: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text("{}")
    code, _, err = finish(locust(*HEADLESS))
    assert code == 2
    assert "error: run folder run: it holds a result already" in err


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
    assert "s3cret" not in out + err + "".join(path.read_text() for path in (tmp_path / "run").rglob("*.*"))


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
    assert code == 3
    assert "failed: GET status: ConnectionError" in out
    assert "failed: GET status: after p50" in out
    assert "unknown: the server is gone" in out
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"inconclusive"}


def test_a_files_api_that_dies_is_no_loss_of_the_targets(locust: Start, tmp_path: Path) -> None:
    process = locust(*HEADLESS, "--run-time", "4s", "UploadLife")
    until_measured(tmp_path / "run", process, "upload_status")
    (files_api,) = [child for child in psutil.Process(process.pid).children() if "files_api" in str(child.cmdline())]
    files_api.kill()
    code, out, err = finish(process)
    assert code == 3, out + err
    assert "unknown: the Files API does not answer (" in out
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"inconclusive"}


def test_ctrl_c_ends_a_run_in_order(locust: Start, tmp_path: Path, lenient: tuple[str, str]) -> None:
    """As a terminal sends it: to the master and to its workers."""
    process = locust(*HEADLESS, *lenient, "--run-time", "40s", "--processes", "2")
    until_measured(tmp_path / "run", process)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert code == 0, out + err
    assert "Traceback" not in err
    assert {cell["verdict"] for cell in cells(tmp_path).values()} == {"holds"}
