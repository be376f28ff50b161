"""The users of pods against targets with one planted bug each, in this process and without Locust's runner."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import broken

from podrace.loadtests.fleet import Fleet
from podrace.loadtests.health import Health
from podrace.loadtests.redis_user import OperationFailedError
from podrace.loadtests.targets import QUEUE, STORE, TARGETS, UPLOAD, LoadTarget, Plan
from podrace.loadtests.users import TOGETHER, Absorber, FleetUser, StoreReader, StoreWriter, UploadLife
from podrace.reference import targets
from podrace.simulator.servers.embedded import EmbeddedServer

Make = Callable[[LoadTarget, type[FleetUser]], Any]


class InMemory:
    """Gemini's files service for a fleet, in memory."""

    def __init__(self, **_: Any) -> None:
        self.stored = 0

    def upload(self, *, file: Any) -> Any:
        self.stored += 1
        return SimpleNamespace(uri=f"https://files.test/{id(self)}/{self.stored}", name="files/x", create_time=None)

    def close(self) -> None: ...


@pytest.fixture
def make_user(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a user, its fleet behind it; actors of the pods run at once, and timers never."""
    monkeypatch.setattr("podrace.loadtests.fleet.GeminiFiles", InMemory)
    made: list[Any] = []
    plan = Plan(token="", target="", redis_url=server.url, prefix="mirix:", files_url="", pods=2,
                image_size_bytes=100, rate_per_s=0.0, seed=1)  # fmt: skip

    def make(target: LoadTarget, kind: type[FleetUser]) -> Any:
        fleet = Fleet(dataclasses.replace(plan), target, worker="w")
        monkeypatch.setattr(fleet.runtime, "spawn", lambda name, function: name == "timeout" or function())
        session = SimpleNamespace(fleet=fleet, health=Health(), plan=plan)
        fired: list[str] = []
        request = SimpleNamespace(fire=lambda **event: fired.append(event["name"]))
        user: Any = kind(SimpleNamespace(podrace=session, events=SimpleNamespace(request=request)))
        user.fired = fired
        user.on_start()
        made.append(user)
        return user

    yield make
    for user in made:
        user.fleet.close()
        user.client.redis.flushall()
        user.on_stop()


def run(user: Any, turns: int) -> dict[str, int]:
    """Let the user do some tasks, absorb what is left, and return what is wrong by kind."""
    for _ in range(turns):
        for task in user.tasks:
            task(user)
    user.fleet.drain(within_s=0.5)
    counts = user.fleet.journal.counts.get(user.scenario, {})
    return {kind: count for kind, count in counts.items() if count and kind not in ("accepted", "delivered")}


@pytest.mark.parametrize("kind", [StoreReader, StoreWriter, UploadLife, Absorber])
def test_users_of_shared_find_nothing_wrong_and_measure_every_limited_operation(
    make_user: Make, kind: type[FleetUser]
) -> None:
    user = make_user(TARGETS["shared"], kind)
    assert run(user, 82) == {}
    assert user.fleet.journal.counts[kind.scenario]["accepted"] > 0
    assert set(user.fired) == set(kind.limited)


@pytest.mark.parametrize("name", broken.STORES)
def test_no_broken_store_is_green(make_user: Make, name: str) -> None:
    target = broken.with_store(broken.STORES[name])
    found = [run(make_user(target, kind), 82) for kind in (StoreReader, StoreWriter)]
    assert any("misreported" in one for one in found)


@pytest.mark.parametrize(("command", "answer"), [("ltrim", True), ("lrange", []), ("rpush", 1)])
def test_a_server_that_ignores_a_command_is_misreported(make_user: Make, command: str, answer: Any) -> None:
    user = make_user(TARGETS["shared"], StoreWriter)
    setattr(user.client.redis, command, lambda *_: answer)
    assert run(user, 1)["misreported"] >= 1


@pytest.mark.parametrize("name", broken.ACCUMULATORS)
def test_no_broken_pod_is_green(make_user: Make, name: str) -> None:
    assert run(make_user(broken.with_accumulator(broken.ACCUMULATORS[name]), UploadLife), 1) != {}


@pytest.mark.parametrize(("method", "answer"), [("add_message", None), ("add_message", []), ("upload_status", None)])
def test_a_pod_that_answers_nonsense_is_misreported_and_ends_no_user(make_user: Make, method: str, answer: Any) -> None:
    user = make_user(TARGETS["shared"], UploadLife)
    for pod in user.fleet.pods:
        real = getattr(pod, method)
        setattr(pod, method, lambda *args, real=real: (real(*args), answer)[1])
    with pytest.raises(OperationFailedError) if method == "add_message" else nullcontext():
        user.live()
    assert run(user, 0)["misreported"] >= 1


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_a_pod_that_never_says_that_an_upload_is_over_well_is_misreported(
    make_user: Make, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr("podrace.loadtests.users.UPLOAD_TIMEOUT_S", -0.9)
    user = make_user(TARGETS["shared"], UploadLife)
    for pod in user.fleet.pods:
        pod.upload_status = lambda _: {"status": status, "result": None}
    assert run(user, 1) == {"misreported": TOGETHER}


@pytest.mark.parametrize("factory", [targets.shared, targets.durable])
def test_a_pod_that_waits_for_ever_does_not_keep_a_run_from_ending_and_its_messages_are_stuck(
    make_user: Make, factory: Any
) -> None:
    user = make_user(LoadTarget(factory=factory), Absorber)
    user.accept()
    for pod in user.fleet.pods:
        pod.absorb = lambda _: gevent.sleep(1000)
    assert run(user, 0) == {"stuck": 1}


@pytest.mark.parametrize("scenario", [STORE, UPLOAD])
def test_users_of_local_find_its_bug(make_user: Make, scenario: str) -> None:
    user = make_user(TARGETS["local"], StoreReader if scenario == STORE else UploadLife)
    assert run(user, 4) != {}
    assert user.fleet.journal.sentences[scenario]
    assert TARGETS["local"].expected(scenario) == "violated"
    assert TARGETS["local"].expected(QUEUE) == "holds"


def test_a_message_that_was_refused_and_is_delivered_is_misreported(make_user: Make) -> None:
    """The pod pushes, and then raises what is no connection error: a definite no."""
    user = make_user(broken.with_accumulator(broken.Accumulator), Absorber)
    for pod in user.fleet.pods:
        accept = pod.add_message

        def refuse(*args: Any, accept: Any = accept) -> None:
            accept(*args)
            raise ValueError("no")

        pod.add_message = refuse
    with pytest.raises(OperationFailedError):
        user.accept()
    for _ in range(8):
        user.absorb()
    assert run(user, 0) == {"misreported": 1}
