"""However a command ends, its exit code says how, it leaves nothing behind, and shows no traceback."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.servers.embedded import EmbeddedServer

Podrace = Any
Until = Callable[..., bool]
EACH = int(os.environ.get("PODRACE_ENDINGS", "1"))
"""Endings of each command; `make nightly` takes a hundred."""

# --- streams, folders and surroundings -------------------------------------------------------------

EXPLORE = "podrace explore --scenario foreign-pod"
LONG = "mkdir -p $(printf 't/%0200d/%0190d' 1 1); TMPDIR=$PWD/$(printf 't/%0200d/%0190d' 1 1)"
FULL = "No space left on device"
GONE = "mkdir d; cd d; rmdir ../d;"


@dataclass(frozen=True)
class Ending:
    """`script` is for bash, or, where an `environment` is given, a command to be started with that.

    `out` and `err` are patterns to be found in what it prints.
    """

    name: str
    script: str
    code: int
    out: str = "^"
    err: str = "^$"
    environment: Mapping[str, str] = field(default_factory=dict)


ENDINGS = (
    *(
        Ending(f"output in {name}", f"PYTHONIOENCODING={name} {EXPLORE} --target local", 0, "image-1 of message m1")
        for name in ("latin-1", "ascii", "cp1252")
    ),
    Ending(
        "an output that takes ASCII only, of explore and replay",
        f"export PYTHONIOENCODING=ascii; {EXPLORE} --target local --run-dir r > out && "
        "podrace replay r/*.podrace.json >> out && LC_ALL=C tr -d '\\0-\\177' < out | wc -c",
        0,
        "^0$",
    ),
    Ending("output in strict ASCII", "PYTHONIOENCODING=ascii:strict podrace scenarios", 0, "foreign-pod"),
    Ending("the C locale", "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 podrace scenarios", 0, "foreign-pod"),
    Ending("no environment", f"env -i PYTHONPATH=$PYTHONPATH {sys.executable} -m podrace scenarios", 0, "foreign-pod"),
    Ending("python -m podrace", f"{sys.executable} -m podrace --version", 0, "podrace, version"),
    Ending("a reader that goes away", "podrace scenarios | head -1; exit $PIPESTATUS", 0, "^.*foreign-pod.*\n$"),
    Ending("a reader that reads nothing", "podrace --help | true; exit $PIPESTATUS", 0, "^$"),
    Ending("a reader of a failure", "podrace report gone | true; exit $PIPESTATUS", 3, "^$", "left out: gone"),
    Ending("a reader of a verdict", f"{EXPLORE} --target local | head -1; exit $PIPESTATUS", 0, "violated: lost"),
    Ending("a reader of an error", "podrace nope 2> >(true); exit $?", 2),
    Ending(
        "a full output", "podrace scenarios > /dev/full", 4, err="^podrace: standard output: No space left on device\n$"
    ),
    Ending("a full output of help", "podrace --help > /dev/full", 4, err=f"standard output: {FULL}"),
    Ending("a full standard error", "podrace nope 2> /dev/full", 2),
    Ending("a closed output", "podrace scenarios >&-", 0),
    Ending("a closed output of a run", f"{EXPLORE} --target local >&-; ls runs", 0, "explore"),
    Ending("a closed standard error", "podrace nope 2>&-", 2),
    Ending("a closed standard input", "podrace scenarios <&-", 0, "foreign-pod"),
    Ending("all closed", "podrace nope <&- >&- 2>&-", 2),
    Ending("a deleted folder", f"{GONE} {EXPLORE}", 2, err="^podrace: the current folder has been deleted"),
    Ending("a deleted folder, a report", f"{GONE} podrace report x", 2, err="^podrace: report report.html: .*\n$"),
    Ending("a deleted folder, a list", f"{GONE} podrace scenarios", 0, "foreign-pod"),
    Ending("a long TMPDIR", f"{LONG} {EXPLORE}; ls -R t | grep -c podrace", 1, "holds: ok(.|\n)*^0$"),
    Ending("a TMPDIR that is relative", f"TMPDIR=. {EXPLORE}; ls -A | grep -c podrace-", 1, "holds: ok(.|\n)*^0$"),
    Ending(
        "a TMPDIR that is missing",
        f"{EXPLORE} --target local",
        0,
        "violated: lost",
        environment={"TMPDIR": "/nothing"},
    ),
    Ending("few files", f"ulimit -n 16; {EXPLORE}", 4, err="^podrace: embedded server: expected it to run"),
    Ending(
        "small files", f"(ulimit -f 4; {EXPLORE} --target local --run-dir r)", 4, err="^podrace: r: File too large\n$"
    ),
    Ending(
        "a full disk",
        f"mkdir r; ln -s /dev/full r/local-foreign-pod.txt; {EXPLORE} --target local --run-dir r",
        4,
        err=f"^podrace: r: {FULL}\n$",
    ),
    Ending("no PATH", f"PATH= {EXPLORE} --target local", 4, err="^podrace: .*not found"),
    *(
        Ending(f"COLUMNS={columns}", f"{EXPLORE} --target local", 0, "violated: lost", environment={"COLUMNS": columns})
        for columns in ("0", "-5", "many", "1")
    ),
)
TARGET = """
import logging, os, sys
from podrace import Call, Scenario
print("on import")
class Pod:
    def __init__(self, env): self.env = env
    def go(self):
        print("in a call")
        os.write(1, b"past Python\\n")
        logging.warning("a warning")
        self.env.redis.set(self.env.prefix + "k", "v", ex=5)
def pod(env): return Pod(env)
ONE = Scenario("one", lines={"A": [Call("go", "go", ())]})
"""


@pytest.mark.parametrize("ending", ENDINGS, ids=[ending.name for ending in ENDINGS])
def test_every_ending_says_how_it_ended(ending: Ending, podrace: Podrace) -> None:
    if ending.environment:
        ended = podrace(*ending.script.split()[1:], **ending.environment)
    else:
        ended = podrace.script(ending.script)
    assert ended.code == ending.code, (ended.out, ended.err)
    assert re.search(ending.out, ended.out, re.MULTILINE), ended.out
    assert re.search(ending.err, ended.err, re.MULTILINE), ended.err
    assert "Traceback" not in ended.out + ended.err
    assert "Exception ignored" not in ended.err
    assert ended.left == []


def test_what_a_target_prints_is_kept_apart(podrace: Podrace) -> None:
    (podrace.folder / "mine.py").write_text(TARGET)
    ended = podrace("explore", "--target", "mine:pod", "--scenario", "mine:ONE", "--json", "--run-dir", "r")
    assert (ended.code, ended.err, ended.left) == (0, "", [])
    assert json.loads(ended.out)["cells"][0]["verdict"] == "holds"
    kept = (podrace.folder / "r" / "target-output.txt").read_text()
    assert {"on import", "in a call", "past Python", "a warning"} == set(kept.splitlines())


@pytest.mark.parametrize("body", ["sys.stdout.close()", "os.close(1)"])
def test_nothing_is_missing_if_a_target_closes_our_output(podrace: Podrace, body: str) -> None:
    (podrace.folder / "mine.py").write_text(TARGET.replace('print("in a call")', body))
    ended = podrace("explore", "--target", "mine:pod", "--scenario", "mine:ONE", "--json")
    assert "Traceback" not in ended.err
    assert ended.code in (0, 3)
    assert json.loads(ended.out)["version"] == 1


# --- signals ---------------------------------------------------------------------------------------

COMMANDS = {
    "reproduce": (("reproduce", "--uploads", "20"), 4.0),
    "explore": (("explore", "--scenario", "two-users", "--preemptions", "4", "--faults", "2"), 2.0),
    "explore on many": (("explore", "--target", "durable", "--scenario", "late-completion", "--workers", "3"), 5.0),
    "explore what holds": (("explore", "--scenario", "foreign-pod"), 2.5),
    "matrix": (("matrix",), 6.0),
    "run": (("run", "--duration", "3", "--users", "8", "--pods", "3", "--messages", "100"), 7.0),
    "check": (("check", "shared"), 1.5),
    "check of a history": (("check", "history.jsonl", "--model", "register"), 1.0),
    "dead-letters": (("dead-letters", "--redis-url", "URL"), 0.6),
    "scenarios": (("scenarios",), 0.3),
    "init": (("init",), 0.2),
    "replay": (("replay", "run/local-foreign-pod.podrace.json"), 2.5),
    "report": (("report", "run"), 0.3),
    "bench-compare": (("bench-compare", "b.json", "b.json"), 0.2),
}
"""Each command, and the number of seconds within which it is sent a signal."""
BOTH = ("invoke", "ok")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which signals are caught")


def catches_signals(process: subprocess.Popen[str]) -> bool:
    """Whether our code has started: before that a signal ends Python itself, which we cannot change."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True
    (caught,) = re.findall(r"SigCgt:\s+(\w+)", status)
    return process.poll() is not None or bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def a_run(podrace_once: Podrace) -> Path:
    ended = podrace_once("explore", "--target", "local", "--scenario", "foreign-pod", "--run-dir", "run")
    assert ended.code == 0, ended.err
    folder: Path = podrace_once.folder
    (folder / "b.json").write_text(json.dumps({"ratios": {"shared set": 1.1}}))
    lines = ({"process": 0, "type": kind, "f": "write", "key": n, "value": n} for n in range(20_000) for kind in BOTH)
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@linux
@pytest.mark.parametrize("number", range(EACH))
@pytest.mark.parametrize("command", COMMANDS)
def test_an_ending_at_any_moment_leaves_nothing(
    podrace: Podrace, until: Until, a_run: Path, server: EmbeddedServer, command: str, number: int
) -> None:
    words, within_s = COMMANDS[command]
    rng = random.Random(f"{command} {number}")
    sent = rng.choice(list(CODES))
    for path in ("run", "b.json", "history.jsonl"):
        (podrace.folder / path).symlink_to(a_run / path)
    typed = (server.url if word == "URL" else word for word in words)
    process = podrace.start(*typed, measured=False, fresh=True)  # a moment during the imports is one too
    assert until(lambda: catches_signals(process), timeout_s=30.0)
    threading.Event().wait(rng.uniform(0, within_s))
    (os.killpg if rng.random() < 0.5 else os.kill)(process.pid, sent)
    out, err = process.communicate(timeout=60)
    ended = (CODES[sent], 0, 1) if command == "run" else (CODES[sent], 0)  # `shared` may lose messages under faults
    assert process.returncode in ended, (sent, err)
    assert "Traceback" not in out + err
    assert "Exception ignored" not in err
    assert podrace.left() == []


@linux
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_matrix_keeps_its_cells(podrace: Podrace, until: Until, sent: int, code: int) -> None:
    names = "foreign-pod,timeout-overwrites-completion,two-users,foreign-unlock"
    process = podrace.start(
        "matrix",
        "--targets",
        "local,shared",
        "--scenarios",
        names,
        "--preemptions",
        "4",
        "--run-dir",
        "r",
        measured=False,
    )
    # A cell's file is written just before the cell: once the fourth file exists, the first cell is kept for certain.
    assert until(lambda: any((podrace.folder / "r").glob("shared-timeout-*.podrace.json")), timeout_s=60.0)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    cells = json.loads((podrace.folder / "r" / "result.json").read_text())["cells"]
    assert [cell["scenario"] for cell in cells] == [name for name in names.split(",") for _ in range(2)]
    ended = [cell for cell in cells if cell["note"] != "interrupted"]
    assert cells[0] in ended
    assert len(ended) < len(cells)
    assert {cell["verdict"] for cell in cells if cell not in ended} == {"inconclusive"}
    assert "inconclusive" in (podrace.folder / "r" / "matrix.md").read_text()
    assert "inconclusive" in out
    assert podrace.left() == []


def test_an_interrupt_that_python_drops_is_sent_again(podrace: Podrace) -> None:
    """An exception raised within a `__del__` is lost: Python prints it and goes on, here with a long wait."""
    (podrace.folder / "dropping.py").write_text(
        """
import signal, threading
from podrace.simulator.app.endings import Interrupted, endings
class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as in a job of a shell
try:
    with endings():
        Dropped()
        threading.Event().wait(600)
        print("nothing came")
except Interrupted as error:
    print(error.exit_code)
"""
    )
    ended = podrace.script(f"{sys.executable} dropping.py")
    assert (ended.code, ended.out, ended.err) == (0, "130\n", "")


@linux
@pytest.mark.parametrize("body", ["self.env.redis.ping()", "sum(range(1000))"])
def test_a_target_that_catches_everything_does_not_catch_the_end(podrace: Podrace, until: Until, body: str) -> None:
    loop = f'open("begun", "w")\n        while True:\n            try: {body}\n            except BaseException: pass'
    (podrace.folder / "mine.py").write_text(TARGET.replace('print("in a call")', loop))
    process = podrace.start("explore", "--target", "mine:pod", "--scenario", "mine:ONE", measured=False)
    assert until((podrace.folder / "begun").exists, timeout_s=30.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", "podrace: interrupted")
    assert podrace.left() == []


@linux
def test_a_second_signal_ends_a_command_whose_clean_up_hangs(podrace: Podrace, until: Until) -> None:
    """Here the clean-up itself hangs: the first signal starts it, one that comes later ends the process at once."""
    (podrace.folder / "hanging.py").write_text(
        """
import pathlib, threading
from podrace.simulator.app.endings import endings
try:
    with endings():
        try:
            pathlib.Path("begun").touch()
            threading.Event().wait(30)
        finally:
            pathlib.Path("ending").touch()
            threading.Event().wait(60)
except KeyboardInterrupt:
    pass
"""
    )
    process = subprocess.Popen(
        [sys.executable, "hanging.py"],
        cwd=podrace.folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )
    assert until((podrace.folder / "begun").exists, timeout_s=30.0)
    try:
        process.send_signal(signal.SIGTERM)
        assert until((podrace.folder / "ending").exists, timeout_s=30.0)
        assert process.poll() is None

        def is_over() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        assert until(is_over, timeout_s=30.0)
        assert process.returncode == 143
    finally:
        process.kill()
        process.wait()
