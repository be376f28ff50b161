"""Mistakes in a first target of one's own: each ends in one message that says what to change."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podrace import explore
from podrace.simulator.errors import UsageError

Write = Callable[[str], None]
SCENARIO = """
from podrace import Call, Scenario
SCENARIO = Scenario("transfer", {pod: [Call(pod, "transfer", (10,))] for pod in "AB"}, keeps=["*"])
"""
WALLET = """
import podrace

class Wallet:
    def __init__(self, env):
        self.env = env

    def transfer(self, amount):
        self.env.redis.incrby(self.env.prefix + "balance", amount)

def pod(env):
    return Wallet(env)
"""
BODY = '        self.env.redis.incrby(self.env.prefix + "balance", amount)\n'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes `wallet.py`, which can be imported until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def make(text: str) -> None:
        (tmp_path / "wallet.py").write_text(textwrap.dedent(text) + SCENARIO, encoding="utf-8")

    yield make
    sys.modules.pop("wallet", None)


def said(target: str = "wallet:pod") -> str:
    """The reason why there is no verdict, or the note beside a verdict."""
    try:
        cell = explore(target, "wallet:SCENARIO")
    except UsageError as error:
        return f"wrong usage: {error}"
    return f"{cell.verdict}: {cell.note}"


def doing(*lines: str) -> str:
    """The wallet with another body of its method."""
    return WALLET.replace(BODY, "".join(f"        {line}\n" for line in (*lines, BODY.strip())))


def test_the_correct_wallet_holds(write: Write) -> None:
    write(WALLET)
    assert said() == "holds: "


WRONG = {
    "a module that is not there": (WALLET, "walet:pod", ("target 'walet:pod': cannot import walet: No module named",)),
    "a factory that is not there": (WALLET, "wallet:Pod", ("module wallet has no Pod",)),
    "no name of a factory": (WALLET, "wallet.py", ("expected", "module:factory")),
    "an error in the module": ("import jsn\n" + WALLET, "wallet:pod", ("cannot import wallet: No module named 'jsn'",)),
    "no factory": (WALLET + "\npod = 5\n", "wallet:pod", ("expected a factory that takes a PodEnv, got int",)),
    "a method that is missing": (
        WALLET.replace("transfer(self", "move(self"),
        "wallet:pod",
        ("inconclusive: ", "the pod (Wallet) has no method transfer, which the scenario calls"),
    ),
    "a factory that raises": (
        WALLET.replace("return Wallet(env)", "return Wallet(env, 'x')"),
        "wallet:pod",
        ("inconclusive: the target's factory raised TypeError", "at wallet.py:12 in pod", "to return a pod"),
    ),
    "a factory that returns nothing": (
        WALLET.replace("return Wallet(env)", "Wallet(env)"),
        "wallet:pod",
        ("the target's factory returned NoneType; expected it to return a pod",),
    ),
    "a thread that nobody knows": (
        "import threading\n" + doing("threading.Thread(target=int).start()"),
        "wallet:pod",
        ("starts a thread of its own, at wallet.py:10 in transfer", "use runtime.spawn, or name", "@podrace.own"),
    ),
    "time.sleep": (
        "import time\n" + doing("time.sleep(0.001)"),
        "wallet:pod",
        ("the target sleeps, at wallet.py:10 in transfer", "use runtime.sleep, or name", "@podrace.own"),
    ),
    "sleep, imported by name": (
        "from time import sleep\n" + doing("sleep(0.001)"),
        "wallet:pod",
        ("the target sleeps, at wallet.py:10 in transfer", "use runtime.sleep"),
    ),
    "prints": (
        doing("print('transfer', amount)"),
        "wallet:pod",
        ("holds: the target prints, at wallet.py:9 in transfer: left out here",),
    ),
    "a coroutine function": (
        WALLET.replace("    def transfer", "    async def transfer"),
        "wallet:pod",
        ("transfer is a coroutine function; expected a plain function, or a factory that @podrace.own marks",),
    ),
    "a factory that is a coroutine function": (
        WALLET.replace("def pod", "async def pod"),
        "wallet:pod",
        ("the target's factory returned coroutine; expected it to return a pod",),
    ),
    "another number of arguments": (
        WALLET.replace("self, amount", "self, payer, amount"),
        "wallet:pod",
        ("no call succeeds", "missing 1 required positional argument: 'amount'"),
    ),
    "chance": (
        "import uuid\n" + doing("amount += uuid.uuid4().int % 1000_000"),
        "wallet:pod",
        ("the target draws at random, at wallet.py:10 in transfer", "use env.rng"),
    ),
    "own without parentheses": (
        WALLET.replace("def pod", "@podrace.own\ndef pod"),
        "wallet:pod",
        ("wrong usage: ", "expected names of modules, for example @podrace.own('mirix.agent')"),
    ),
    "own of a module that is not there": (
        WALLET.replace("def pod", "@podrace.own('walet')\ndef pod"),
        "wallet:pod",
        ("wrong usage: target 'wallet:pod': @podrace.own names walet, and there is no such module",),
    ),
}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("mistake", WRONG)
def test_a_beginners_mistake_ends_in_one_message(write: Write, mistake: str) -> None:
    text, target, words = WRONG[mistake]
    write(text)
    message = said(target)
    assert "\n" not in message
    for some in words:
        assert some in message
