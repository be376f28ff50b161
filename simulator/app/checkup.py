"""Finds everything that a target lacks, and says it in words, before anything is explored."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from podrace.simulator.errors import TargetError, users_errors_as_target_errors
from podrace.simulator.fleets.inline import InlineFleet
from podrace.simulator.fleets.watchdog import watchdog
from podrace.simulator.history.events import shorten
from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.model import Call, Scenario
from podrace.simulator.scenarios.uploads import UPLOADS, absorb, add, ask
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.record import Restart
from podrace.simulator.search.schedule import take_default
from podrace.simulator.servers.connection import Server
from podrace.simulator.target import is_plain, load_target

EVERY_VERB = Scenario(
    "uploads", {"A": [add("m1", "image-1"), ask("status", "m1")], "B": [absorb("memory")]}, (), UPLOADS
)
"""Calls every method of the uploads workload once. Used if the user names no scenario."""
STATUSES = ("pending", "completed", "failed", "unknown")
PARTS = {
    "text": ("text",),
    "google_cloud_file_uri": ("google_cloud_file_uri",),
    "missing_image": ("filename", "reason"),
    "missing_message": ("message_id", "reason"),
}
"""The keys that a part of each type must have beside `type`."""
INSTEAD = {
    "time.sleep": "env.runtime.sleep(seconds)",
    "asyncio": "plain functions, and env.runtime.spawn(name, function)",
    "time.time": "env.runtime.now()",
    "time.monotonic": "env.runtime.now()",
    "datetime.datetime.now": "env.runtime.now()",
    "datetime.datetime.utcnow": "env.runtime.now()",
    "threading.Thread": "env.runtime.spawn(name, function)",
    "threading.Timer": "env.runtime.spawn(name, function) and env.runtime.sleep(seconds)",
    "threading.Lock": "env.runtime.lock()",
    "threading.RLock": "env.runtime.lock()",
    "concurrent.futures": "env.runtime.spawn(name, function)",
    "multiprocessing": "env.runtime.spawn(name, function)",
    "random": "env.rng",
    "secrets": "env.rng",
    "os.urandom": "env.rng",
    "uuid.uuid1": "uuid.UUID(int=env.rng.getrandbits(128), version=4)",
    "uuid.uuid4": "uuid.UUID(int=env.rng.getrandbits(128), version=4)",
    "redis": "env.redis",
    "valkey": "env.redis",
    "socket": "a service of the workload, as env.NAME",
    "requests": "a service of the workload, as env.NAME",
    "httpx": "a service of the workload, as env.NAME",
    "urllib.request": "a service of the workload, as env.NAME",
    **dict.fromkeys(("random.Random", "redis.exceptions", "redis.lock", "socket.timeout"), ""),
}
"""Functions, or whole modules, that bypass the environment when they are called, and what to use instead, if any."""


@dataclass(frozen=True)
class Checkup:
    """What a target lacks, and what its calls returned: one line for each."""

    lacks: Sequence[str]
    returned: Sequence[str] = ()


def check_target(server: Server, path: str, scenario: Scenario, *, seed: int) -> Checkup:
    """Look at a target's source and methods, then make every call of the scenario once.

    Raises UsageError where the target cannot be loaded.
    """
    factory = load_target(path)
    plain = is_plain(factory)  # what bypasses an environment is led there, and its factory is called by nobody else
    lacks = [] if plain else [line for module in _modules(path, factory) for line in past_the_environment(module)]
    wrong: list[str] = []
    try:
        with (
            users_errors_as_target_errors(),
            InlineLab(server, path, scenario, seed=seed) as lab,
            watchdog(lab.moves, unblock=lab.unblock),
        ):
            calls = {call.method: call for line in scenario.lines.values() for call in line}.values()
            play = lab.play(scenario.retries[0])
            assert isinstance(play.fleet, InlineFleet)
            try:
                run = play.run(take_default)
            finally:
                wrong = [] if plain else list(_wrong_methods(play.fleet.pods[:1], calls))
                with suppress(Restart):  # the target's modules hold what changes: explorations give each pod its own
                    lab.finish(play)
        if wrong:
            return Checkup([*wrong, *lacks])
        with users_errors_as_target_errors():  # what a call returned may fail to say what it is
            wrong = [*_wrong_answers(run), *_wrong_parts(run)] if scenario.workload.name == UPLOADS.name else []
            returned = [
                f"{call.method} returned {shorten(repr(call.value), 100)}" for call in run.calls if call.type == "ok"
            ]
    except TargetError as error:
        return Checkup([*wrong, *lacks] if wrong else [*lacks, str(error)])
    raised = [f"{call.method} raised {call.error}" for call in run.calls if call.error]
    return Checkup([*lacks, *dict.fromkeys([*wrong, *raised])], tuple(dict.fromkeys(returned)))


def past_the_environment(module: Any) -> Iterator[str]:
    """Calls in a module's source that bypass the environment, with their lines and what to use instead."""
    try:
        file = Path(module.__file__ or "")
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, AttributeError):
        return
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _dotted(node.func, names)
            instead = _instead(called)
            if instead:
                yield f"{file.name}, line {node.lineno}: {called} bypasses the environment; use {instead}"


def _instead(called: str) -> str:
    parts = called.split(".")
    starts = [".".join(parts[:number]) for number in range(len(parts), 0, -1)]
    return next((INSTEAD[start] for start in starts if start in INSTEAD), "")


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Pairs of a name in the module and the full name of what was imported under it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    """The full name of a called function; empty if it is not reached through imported names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _modules(path: str, factory: Any) -> list[Any]:
    names = (path.partition(":")[0], getattr(factory, "__module__", None))
    return [sys.modules[name] for name in dict.fromkeys(names) if name in sys.modules]


def _wrong_methods(pods: Iterable[Any], calls: Iterable[Call]) -> Iterator[str]:
    for pod, call in product(pods, calls):
        pod_type = type(pod).__name__
        method = getattr(pod, call.method, None)
        if method is None:
            yield f"the pod ({pod_type}) has no method {call.method}, which the scenario calls"
        elif not callable(method):
            yield f"{call.method} of the pod ({pod_type}) is {type(method).__name__}, expected a method"
        elif inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            yield f"{call.method} is async; expected a plain function: the harness says who goes on, no event loop"
        elif inspect.isgeneratorfunction(method):
            yield f"{call.method} is a generator; expected a function that has done its work when it returns"
        elif not _takes(method, call.args):
            given = f"the {len(call.args)} arguments of {call.name}"
            yield f"{call.method}{inspect.signature(method)} cannot be called with {given}"


def _takes(method: Any, args: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(method).bind(*args)
    except TypeError:
        return False
    except ValueError:  # one that is not written in Python
        return True
    return True


def _wrong_answers(run: Run) -> Iterator[str]:
    """Return values of the uploads workload's methods whose shape is not that of the contract."""
    for call in run.calls:
        if call.type != "ok":
            continue
        returned = f"{call.method} returned {shorten(repr(call.value), 100)}"
        if call.method == "add_message":
            found = call.value if isinstance(call.value, list | tuple) else ()
            fits = [isinstance(one, dict) and {"upload_uuid", "filename", "pending"} <= one.keys() for one in found]
            if len(fits) != len(call.args[2]) or not all(fits):
                yield f'{returned}; expected {{"upload_uuid": …, "filename": …, "pending": True}} for each image'
        elif call.method == "upload_status":
            status = call.value.get("status") if isinstance(call.value, dict) else None
            if status not in STATUSES:
                yield f'{returned}; expected {{"status": …, "result": …}}, the status one of {", ".join(STATUSES)}'


def _wrong_parts(run: Run) -> Iterator[str]:
    """Parts sent to the memory agent that the checks cannot recognise."""
    batches = run.services["memory"].batches()
    for _, _, parts in batches:
        for part in parts:
            needs = PARTS.get(str(part.get("type")))
            if needs is None:
                yield f"env.memory.send got a part of type {part.get('type')!r}; expected one of {', '.join(PARTS)}"
            elif any(name not in part for name in needs):
                yield f"env.memory.send got {shorten(repr(part), 100)}; expected it to have {' and '.join(needs)}"
    sent = [part.get("text") for _, _, parts in batches for part in parts]
    for call in run.calls:
        if call.method == "add_message" and call.type == "ok" and call.args[1] not in sent:
            yield f"the text {call.args[1]!r} never came to env.memory.send; expected exactly what was handed in"
