"""`podrace check` says in words what a target lacks; `podrace init` writes one that lacks nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.checkup import PARTS
from podrace.simulator.app.cli import main
from podrace.simulator.app.commands.check import EXAMPLE

README = Path(__file__).parents[2] / "README.md"
Check = Callable[..., tuple[int, str]]
GOOD = """
class Pod:
    def __init__(self, env):
        self.env, self.waiting = env, []
    def add_message(self, user, text, images, message_id):
        self.waiting.append((user, text))
        return [{"upload_uuid": str(n), "filename": "i.png", "pending": True} for n, _ in enumerate(images)]
    def absorb(self, user):
        self.env.redis.incr(self.env.prefix + "absorbed")
    def upload_status(self, placeholder):
        user, text = self.waiting.pop()
        self.env.memory.send(user, [{"type": "text", "text": text}])
        return {"status": "completed", "result": None}
def pod(env): return Pod(env)
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Check]:
    """Checks a target whose module has this text; returns the exit code and what is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(text: str, *arguments: str) -> tuple[int, str]:
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(SystemExit) as ended:
            main(["check", "mine:pod", *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        assert isinstance(ended.value.code, int)
        return ended.value.code, out

    yield run
    sys.modules.pop("mine", None)


def test_a_target_that_lacks_nothing(check: Check) -> None:
    code, out = check(GOOD)
    assert (code, out.splitlines()[-1]) == (0, "mine:pod: nothing lacking")
    assert "upload_status returned {'status': 'completed', 'result': None}" in out


@pytest.mark.parametrize("target", ["local", "shared"])
def test_our_own_targets_lack_nothing(capsys: pytest.CaptureFixture[str], target: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", target])
    assert ended.value.code == 0
    assert f"{target}: nothing lacking" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("def absorb", "def absorbs", "the pod (Pod) has no method absorb, which the scenario calls"),
        ("    def absorb", "    absorb = 5\n    def other", "absorb of the pod (Pod) is int, expected a method"),
        ("def absorb", "async def absorb", "absorb is async; expected a plain function"),
        ('self.env.redis.incr(self.env.prefix + "absorbed")', "yield", "absorb is a generator"),
        ("absorb(self, user)", "absorb(self)", "absorb() cannot be called with the 1 arguments of memory"),
        ("return [{", "[{", "add_message returned None; expected"),
        ("for n, _ in enumerate(images)", "for n in range(5)", 'expected {"upload_uuid": …'),
        ('"upload_uuid"', '"id"', "add_message returned [{'id': '0'"),
        ('"completed"', '"done"', "the status one of pending, completed, failed, unknown"),
        ('return {"status": "completed", "result": None}', "return 'done'", "upload_status returned 'done'"),
        ('"type": "text"', '"type": "words"', "got a part of type 'words'; expected one of text,"),
        ('"text": text}', '"content": text}', "expected it to have text"),
        (
            '"text": text}',
            '"text": text.upper()}',
            "never came to env.memory.send; expected exactly what was handed in",
        ),
        ("return Pod(env)", "return None", "the target's factory returned NoneType; expected it to return a pod"),
        ("return Pod(env)", "raise ValueError('x')", "the target's factory raised ValueError: x"),
        ("return Pod(env)", "raise SystemExit(0)", "A raised SystemExit: expected the target to"),
        ("return Pod(env)", "raise KeyboardInterrupt", "A raised KeyboardInterrupt: expected"),
        ("return {", "raise KeyboardInterrupt#", "raised KeyboardInterrupt: expected the target to return"),
        ("self.waiting.pop()", "self.missing.pop()", "upload_status raised AttributeError"),
    ],
)
def test_what_a_target_lacks_is_named(check: Check, before: str, after: str, says: str) -> None:
    assert before in GOOD
    code, out = check(GOOD.replace(before, after))
    assert code == 3
    assert says in out
    assert re.search(r"mine:pod: \d lacking", out)


@pytest.mark.parametrize(
    ("line", "called", "instead"),
    [
        ("import time; time.sleep(0)", "time.sleep", "env.runtime.sleep(seconds)"),
        ("from time import sleep as nap; nap(0)", "time.sleep", "env.runtime.sleep(seconds)"),
        ("import time; time.time()", "time.time", "env.runtime.now()"),
        ("import datetime as d; d.datetime.now()", "datetime.datetime.now", "env.runtime.now()"),
        ("import redis; redis.Redis", "", ""),
        ("import redis; redis.Redis(port=1)", "redis.Redis", "env.redis"),
        ("from redis import StrictRedis; StrictRedis(port=1)", "redis.StrictRedis", "env.redis"),
        ("import redis.asyncio as r; r.from_url('redis://x')", "redis.asyncio.from_url", "env.redis"),
        ("import random; random.random()", "random.random", "env.rng"),
        ("import random; random.Random(7)", "", ""),
        ("import uuid; uuid.uuid4()", "uuid.uuid4", "env.rng"),
        ("import threading; threading.Lock()", "threading.Lock", "env.runtime.lock()"),
        ("import threading; threading.Thread(target=print)", "threading.Thread", "env.runtime.spawn"),
    ],
)
def test_a_call_that_bypasses_the_environment_is_reported_with_its_line(
    check: Check, line: str, called: str, instead: str
) -> None:
    code, out = check(f"{line}\n{GOOD}")
    assert code == (3 if called else 0)
    assert f"✗ mine.py, line 1: {called} bypasses the environment; use " in out or not called
    assert instead in out


def test_check_makes_the_calls_of_the_scenario_that_is_named(check: Check) -> None:
    scenario = 'from podrace import Call, Scenario\nONE = Scenario("one", lines={"A": [Call("c", "fly", (1, 2))]})\n'
    code, out = check(scenario + GOOD, "--scenario", "mine:ONE")
    assert code == 3
    assert "the pod (Pod) has no method fly, which the scenario calls" in out


def test_the_readme_lists_every_recognised_part() -> None:
    assert all(f'"{name}"' in README.read_text(encoding="utf-8") for name in PARTS)


def test_init_writes_the_readmes_example_and_it_lacks_nothing(podrace: Any) -> None:
    explore = "podrace explore --target wallet:pod --scenario wallet:TRANSFER"
    ended = podrace.script(f"podrace init && podrace check wallet:pod --scenario wallet:TRANSFER && {explore}")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"written: wallet.py\nnext: {explore}\n")
    assert "wallet:pod: nothing lacking" in ended.out
    assert "holds: ok" in ended.out
    written = (podrace.folder / "wallet.py").read_text(encoding="utf-8")
    assert written == EXAMPLE.read_text(encoding="utf-8")
    assert f"```python\n{written}```" in README.read_text(encoding="utf-8")


def test_plain_code_may_use_threads_and_clocks_of_its_own(check: Check) -> None:
    """The harness controls these calls in plain code, and only the harness calls the factory."""
    plain = GOOD.replace("def pod(env)", "@podrace.own()\ndef pod(env)")
    threads = "time.sleep(1)\n        threading.Thread(target=time.time).start()\n        self.env.redis.incr"
    assert check("import podrace, threading, time\n" + plain.replace("self.env.redis.incr", threads))[0] == 0
