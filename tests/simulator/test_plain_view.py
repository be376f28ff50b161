"""Which modules are a pod's own, where `@podrace.own` names packages, and which are shared as they are."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import podrace
from podrace import Call, Scenario
from podrace.simulator.app.campaign import lab_for
from podrace.simulator.app.names import named_target
from podrace.simulator.search.schedule import take_default
from podrace.simulator.servers.connection import Server

TARGET = """
import podrace

@podrace.own({names})
def pod(env):
    {body}
    class Pod:
        def call(self):
            return {value}
    return Pod()
"""
COUNTER = """
import time
SEEN = []

def count():
    SEEN.append(1)
    time.sleep(0.001)
    return len(SEEN)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes a target, and modules in another folder than it, which can be imported until the test ends."""
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    for folder in (elsewhere, here):
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)

    def make(names: str, body: str, value: str, modules: Mapping[str, str]) -> None:
        for name, text in modules.items():
            path = elsewhere / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        (here / "target.py").write_text(TARGET.format(names=names, body=body, value=value), encoding="utf-8")

    yield make
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("target", "counter", "suite"):
            del sys.modules[name]


def values(server: Server) -> list[object]:
    """The results of two calls on each of two pods."""
    lines = {pod: [Call(f"{pod}{number}", "call") for number in range(2)] for pod in "AB"}
    with lab_for("inline", server, named_target("target:pod"), Scenario("calls", lines), seed=1) as lab:
        play = lab.play(0)
        try:
            run = play.run(take_default)
        finally:
            lab.finish(play)
    assert not [call for call in run.calls if call.type != "ok"]
    return [call.value for call in sorted(run.calls, key=lambda call: call.name)]


def test_a_library_that_is_named_is_each_pods_own(run_server: Server, write: Callable[..., None]) -> None:
    write("'counter'", "import counter", "counter.count()", {"counter": COUNTER})
    assert values(run_server) == [1, 2, 1, 2]
    assert "counter" not in sys.modules


def test_a_library_that_is_not_named_is_shared_as_it_is(run_server: Server, write: Callable[..., None]) -> None:
    text = COUNTER.replace("    time.sleep(0.001)\n", "")
    write("", "import counter", "counter.count()", {"counter": text})
    assert values(run_server) == [1, 2, 3, 4]


def test_environment_variables_are_each_pods_own(run_server: Server, write: Callable[..., None]) -> None:
    look = "os.environ.setdefault('PODRACE_SEEN', env.name)"
    write("", "import os", look, {})
    assert values(run_server) == ["A", "A", "B", "B"]


def test_a_part_of_a_package_may_be_a_pods_own_and_the_rest_shared(
    run_server: Server, write: Callable[..., None]
) -> None:
    write(
        "'suite.agent'",
        "import suite.agent.worker, suite.agent as agent; from suite import shared",
        "(suite.agent.worker.count(), agent.worker is suite.agent.worker, shared.SEEN.append(1) or len(shared.SEEN))",
        {
            "suite/__init__": "",
            "suite/shared": "SEEN = []",
            "suite/agent/__init__": "from . import worker",
            "suite/agent/worker": COUNTER + "\nfrom .. import shared\nfrom ..agent import worker as again\n",
        },
    )
    own, same, shared = zip(*values(run_server), strict=True)  # type: ignore[call-overload]
    assert (own, set(same), sorted(shared)) == ((1, 2, 1, 2), {True}, [1, 2, 3, 4])


def test_packages_without_an_init_file_are_found(run_server: Server, write: Callable[..., None]) -> None:
    write("'suite'", "from suite.deep import counter", "counter.count()", {"suite/deep/counter": COUNTER})
    assert values(run_server) == [1, 2, 1, 2]


def test_an_import_by_name_and_within_a_function_finds_the_pods_own(
    run_server: Server, write: Callable[..., None]
) -> None:
    body = "import importlib, counter"
    value = "(importlib.import_module('counter') is counter, __import__('counter').count())"
    write("'counter'", body, value, {"counter": COUNTER})
    assert values(run_server) == [(True, 1), (True, 2), (True, 1), (True, 2)]


def test_a_package_that_is_written_in_c_in_part_can_be_named(run_server: Server, write: Callable[..., None]) -> None:
    write("'greenlet'", "import greenlet", "greenlet.getcurrent().__class__.__mro__[-2].__name__", {})
    assert values(run_server) == ["greenlet"] * 4


def test_dataclasses_with_annotations_as_text_can_be_made(run_server: Server, write: Callable[..., None]) -> None:
    text = """
    from __future__ import annotations
    from dataclasses import dataclass, field
    from typing import ClassVar

    @dataclass
    class Job:
        made: ClassVar[list[int]] = []
        name: str = "x"
        parts: list[str] = field(default_factory=list)
    """
    write("'counter'", "import counter", "counter.Job.made.append(1) or len(counter.Job.made)", {"counter": text})
    assert values(run_server) == [1, 2, 1, 2]


def test_podrace_own_refuses_what_is_no_module_name() -> None:
    with pytest.raises(podrace.simulator.errors.UsageError, match="expected names of modules"):
        podrace.own("a-b")
