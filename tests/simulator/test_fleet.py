"""Fleets of real processes: their calls, how they end, and that none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from podrace.simulator.errors import HarnessError, PodraceError, TargetError, UsageError
from podrace.simulator.fleets.processes import Fleet, PodSpec
from podrace.simulator.servers.embedded import EmbeddedServer

Until = Callable[..., bool]
IsGone = Callable[[int], bool]

TARGET = """
import os

class Part:
    def __init__(self, *args, **kwargs):
        pass

class Pod:
    def __init__(self, env):
        self.env = env

    def add_message(self, user_id, text, images, message_id):
        self.env.redis.set(self.env.prefix + user_id, text)
        return [{"name": self.env.name, "text": text}]

    def absorb(self, user_id):
        return os.getpid()

    def upload_status(self, placeholder):
        if placeholder == "die":
            os._exit(3)
        raise ValueError("no such upload")

    def leave(self, error):
        raise error

def raises(env):
    raise RuntimeError("cannot start")

def leaves(env):
    raise SystemExit(0)

def interrupts(env):
    raise KeyboardInterrupt

NOT_CALLABLE = 3
"""


@pytest.fixture
def spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: EmbeddedServer, open_client: Callable[..., Any]
) -> PodSpec:  # open_client: what the pods write is removed after the test
    (tmp_path / "pods_under_test.py").write_text(TARGET)
    monkeypatch.syspath_prepend(tmp_path)
    return PodSpec(
        name="A",
        target="pods_under_test:Pod",
        redis_url=server.url,
        prefix="fleet:",
        services={"memory": "pods_under_test:Part", "gemini": "pods_under_test:Part"},
    )


def specs_of(spec: PodSpec, names: str) -> list[PodSpec]:
    return [replace(spec, name=name) for name in names]


@pytest.fixture
def fleet(spec: PodSpec) -> Iterator[Fleet]:
    with Fleet(specs_of(spec, "AB")) as pods:
        yield pods


def test_pods_are_processes_of_their_own(fleet: Fleet) -> None:
    pids = {fleet.call(pod, "absorb", "u").value for pod in fleet.names}
    assert fleet.names == ["A", "B"]
    assert len(pids | {os.getpid()}) == 3
    assert all(psutil.Process(pid).is_running() for pid in pids)


def test_a_call_is_answered(fleet: Fleet) -> None:
    result = fleet.call("B", "add_message", "u", "hello", [], "m1")
    assert (result.type, result.value) == ("ok", [{"name": "B", "text": "hello"}])


def test_a_call_ends_with_the_exception_that_the_pod_raised(fleet: Fleet) -> None:
    result = fleet.call("A", "upload_status", {})
    assert (result.type, result.error) == ("fail", "ValueError: no such upload")
    assert fleet.call("A", "absorb", "u").type == "ok"


def test_a_connection_that_breaks_without_a_fault_is_not_blamed_on_the_target(spec: PodSpec) -> None:
    spec = replace(spec, redis_url="unix:///nowhere/redis.sock")
    with (
        Fleet([spec]) as fleet,
        pytest.raises(HarnessError, match="a connection of pod A broke though no fault broke it: ConnectionError"),
    ):
        fleet.call("A", "add_message", "u", "hello", [], "m1")


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()])
def test_a_pod_that_exits_its_process_is_the_targets_error(fleet: Fleet, error: BaseException) -> None:
    says = f"raised {type(error).__name__}: expected the target to return or to raise an Exception"
    with pytest.raises(TargetError, match=says):
        fleet.call("A", "leave", error)


def test_a_missing_method_is_the_targets_error(fleet: Fleet) -> None:
    with pytest.raises(TargetError, match=r"the pod .* has no method fly"):
        fleet.call("A", "fly")


def test_calls_are_answered_in_any_order(fleet: Fleet) -> None:
    calls = [(pod, fleet.submit(pod, "add_message", "u", str(n), [], "m")) for n in range(4) for pod in "AB"]
    answers = [fleet.wait(pod, call).value[0]["text"] for pod, call in reversed(calls)]
    assert answers == ["3", "3", "2", "2", "1", "1", "0", "0"]


def test_a_killed_pod_is_gone_and_no_other(fleet: Fleet, is_gone: IsGone) -> None:
    pids = {pod: fleet.call(pod, "absorb", "u").value for pod in "AB"}
    fleet.kill("A")
    assert is_gone(pids["A"])
    assert fleet.names == ["B"]
    with pytest.raises(HarnessError, match="pod A"):
        fleet.call("A", "absorb", "u")
    assert fleet.call("B", "absorb", "u").value == pids["B"]


def test_a_paused_pod_answers_once_it_is_resumed(fleet: Fleet) -> None:
    pid = fleet.call("A", "absorb", "u").value
    fleet.pause("A")
    call = fleet.submit("A", "absorb", "u")
    assert all(fleet.call("B", "absorb", "u").type == "ok" for _ in range(20))
    fleet.pump(0.1)
    assert call not in fleet._pods["A"].results
    assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    fleet.resume("A")
    assert fleet.wait("A", call).value == pid


def test_a_pod_that_does_not_answer_in_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podrace.simulator.fleets.processes.ANSWER_WITHIN_S", 0.05)
    fleet.pause("A")
    with pytest.raises(HarnessError, match=r"pod A: expected an answer within 0\.05 s"):
        fleet.call("A", "absorb", "u")


def test_a_pod_that_dies_without_being_killed_is_an_error(fleet: Fleet) -> None:
    with pytest.raises(HarnessError) as caught:
        fleet.call("B", "upload_status", "die")
    assert "pod B died unexpectedly (exit code 3)" in str(caught.value)
    assert "pods_under_test:Pod" in str(caught.value)


def test_a_pod_joins_later(fleet: Fleet, spec: PodSpec) -> None:
    fleet.add(replace(spec, name="C"))
    fleet.await_ready("C")
    assert fleet.call("C", "add_message", "u", "x", [], "m").value[0]["name"] == "C"


@pytest.mark.parametrize("how", ["left", "one paused", "one killed"])
def test_no_pod_is_left_at_the_end(spec: PodSpec, is_gone: IsGone, how: str) -> None:
    with Fleet(specs_of(spec, "ABC")) as fleet:
        pids = [fleet.call(pod, "absorb", "u").value for pod in fleet.names]
        if how == "one paused":
            fleet.pause("A")
        if how == "one killed":
            fleet.kill("A")
        assert not is_gone(pids[1])
    assert all(is_gone(pid) for pid in pids)
    assert fleet.names == []


@pytest.mark.parametrize(
    ("target", "said", "error"),
    [
        ("no_such_module:Pod", "no_such_module", UsageError),
        ("pods_under_test:Nothing", "Nothing", UsageError),
        ("pods_under_test", "module:name", UsageError),
        ("pods_under_test:NOT_CALLABLE", "expected a factory", UsageError),
        ("pods_under_test:raises", "RuntimeError: cannot start", TargetError),
        ("pods_under_test:leaves", "SystemExit", PodraceError),
        ("pods_under_test:interrupts", "KeyboardInterrupt", PodraceError),
    ],
)
def test_a_target_that_makes_no_pod_is_one_clear_line(
    spec: PodSpec, target: str, said: str, error: type[PodraceError]
) -> None:
    fleet = Fleet([replace(one, target=target) for one in specs_of(spec, "AB")])
    with pytest.raises(error) as caught, fleet:
        pytest.fail("it cannot have started")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fleet.names == []


def test_a_part_that_cannot_be_built_is_one_clear_line(spec: PodSpec, capfd: pytest.CaptureFixture[str]) -> None:
    """This happens if a pod starts while its parent is killed and the temporary folder is removed."""
    services, settings = {"memory": "builtins:open"}, {"memory": {"file": "/no/such/ledger"}}
    fleet = Fleet([replace(spec, services=services, settings=settings)])
    with pytest.raises(HarnessError, match="pod A cannot be made: FileNotFoundError") as caught, fleet:
        pytest.fail("it cannot have started")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_the_spec_shows_no_password(spec: PodSpec) -> None:
    assert "hunter2" not in repr(replace(spec, redis_url="redis://:hunter2@localhost"))


EDITS = r"""
import pathlib, sys
from podrace.simulator.fleets.processes import Fleet, PodSpec
from podrace.simulator.servers.connection import open_server

def write(folder, word):
    pathlib.Path(folder or ".").mkdir(exist_ok=True)
    pathlib.Path(folder, "mine.py").write_text("import other\ndef pod(env): return other.Pod()\n")
    pathlib.Path(folder, "other.py").write_text(f"class Pod:\n    def says(self): return '{word}'\n")

def says():
    spec = PodSpec(name="A", target="mine:pod", redis_url=server.url, prefix="x:", services={})
    with Fleet([spec]) as fleet:
        return fleet.call("A", "says").value

sys.dont_write_bytecode = True
with open_server(None) as server:
    sys.path.insert(0, "")
    write("", "as written")
    print(says())
    write("", "as edited")
    print(says())
    sys.path[0] = "second"
    write("second", "elsewhere")
    print(says())
"""


def test_pods_run_the_code_as_it_is_now_and_not_as_the_fork_server_has_loaded_it(podrace: Any) -> None:
    (podrace.folder / "edits.py").write_text(EDITS)
    ended = podrace.script(f"{sys.executable} edits.py")
    assert (ended.code, ended.out.splitlines(), ended.err) == (0, ["as written", "as edited", "elsewhere"], "")


# --- in a process of its own: its end, and its speed ------------------------------------------------

SCRIPT = """
import signal, statistics, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from dataclasses import replace
from podrace.simulator.fleets.processes import Fleet, PodSpec
spec = PodSpec(
    name="A", redis_url="unix:///nowhere", prefix="x:", target="podrace.reference.targets:shared",
    services={{
        "memory": "podrace.reference.memory:MemoryLedger",
        "gemini": "podrace.reference.gemini:GeminiFiles",
    }},
    settings={{
        "memory": {{"path": {ledger!r}}},
        "gemini": {{"api_key": "test", "base_url": "http://127.0.0.1:9"}},
    }},
    options={{"absorb_limit": 1}},
)
specs = [replace(spec, name=name) for name in "ABCDEFGHI"]
fleet = Fleet(specs[:{pods}])
{body}
"""
END = """
try:
    with fleet:
        print(*[pod.process.pid for pod in fleet._pods.values()], flush=True)
        {before_end}
        sys.stdin.read()
except KeyboardInterrupt:
    sys.exit(130)
"""
SPEED = """
def eight_more():
    began_s = time.monotonic()
    for spec in specs[1:]:
        fleet.add(spec)
    for spec in specs[1:]:
        fleet.await_ready(spec.name)
    return time.monotonic() - began_s

def floor():
    began_s = time.monotonic()
    for _ in range(8):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - began_s

ready_s, floor_s = [], []
for _ in range(5):
    floor_s.append(floor())
    fleet = Fleet(specs[:1])
    with fleet:
        ready_s.append(eight_more())
print(statistics.median(ready_s), statistics.median(floor_s))
"""


def script(tmp_path: Path, body: str, *, pods: int, **environment: str) -> subprocess.Popen[str]:
    bare = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    code = SCRIPT.format(ledger=str(tmp_path / "ledger.sqlite"), pods=pods, body=textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=bare | {"PYTHONPATH": paths, "TMPDIR": str(tmp_path)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_pod_outlives_its_parent(
    tmp_path: Path, until: Until, is_gone: IsGone, number: signal.Signals, paused: bool
) -> None:
    before_end = 'fleet.pause("A")' if paused else ""
    with script(tmp_path, END.format(before_end=before_end), pods=2) as process:
        assert process.stdout is not None
        pods = [int(word) for word in process.stdout.readline().split()]
        fork_server = psutil.Process(pods[0]).ppid()
        assert len(pods) == 2
        assert not any(is_gone(pid) for pid in [*pods, fork_server])
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # to the whole group, as a terminal does
        else:
            process.kill()
        _, err = process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert err == ""
    assert until(lambda: all(is_gone(pid) for pid in [*pods, fork_server]))
    assert until(lambda: not list(tmp_path.glob("podrace-*")))  # temporary files, the fork server's socket among them


@pytest.mark.slow  # it measures time: not for a loaded machine
def test_eight_pods_are_ready_within_150_ms_of_the_first(tmp_path: Path) -> None:
    """Eight more than the first, with the reference's real parts: the median of five fleets.

    Beside each, Python is started eight times in a row: about 0.12 s where nothing else runs. Above
    0.2 s the machine is busy with other things, and twice what those starts took is asked instead.
    """
    with script(tmp_path, SPEED, pods=1) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    ready_s, starts_s = map(float, out.split())
    limit_s = 0.150 if starts_s < 0.2 else 2 * starts_s
    assert ready_s < limit_s, f"{ready_s:.3f} s, Python started eight times in {starts_s:.3f} s"
