"""What cases share: a ledger of effects outside Redis, and checks over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from podrace import Call, Finding, PodEnv, Run, Workload

Check = Callable[[Run], Iterator[Finding]]


class Ledger:
    """Records in order what is done to the world outside Redis."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def put(self, what: str) -> None:
        self.entries.append(what)

    def enter(self, who: str) -> None:
        self.entries.append(f"enter {who}")

    def leave(self, who: str) -> None:
        self.entries.append(f"leave {who}")


class Effects(Workload):
    """A workload with a ledger; at the end the methods in `asks` are called on every pod, in turn."""

    asks: ClassVar[tuple[str, ...]] = ()

    def services(self, now: Callable[[], float], given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ledger": Ledger()}

    def progress(self, services: Mapping[str, Any]) -> int:
        return len(services["ledger"].entries)

    def at_rest(self, pods: Sequence[str], run: Run) -> Sequence[tuple[str, Call]]:
        return [(pod, Call(method, method)) for pod in pods for method in self.asks]


class Pod:
    """The base of every target: its environment, its client, and the full name of a key."""

    def __init__(self, env: PodEnv) -> None:
        self.env = env
        self.redis: Any = env.redis

    def key(self, name: str) -> str:
        return self.env.prefix + name

    def text(self, name: str) -> str | None:
        """The value of a string key."""
        found = self.redis.get(self.key(name))
        return None if found is None else found.decode()


def entries(run: Run) -> list[str]:
    found: list[str] = run.services["ledger"].entries
    return found


def never_twice(run: Run) -> Iterator[Finding]:
    """No effect happens twice."""
    for what, count in Counter(entries(run)).items():
        if count > 1:
            yield Finding("duplicated", what, f"{what} was done {count} times")


def one_inside(run: Run) -> Iterator[Finding]:
    """Nobody enters while somebody else is inside."""
    inside: set[str] = set()
    for entry in entries(run):
        what, _, who = entry.partition(" ")
        if what == "enter":
            if inside:
                yield Finding("duplicated", who, f"{who} entered while {', '.join(sorted(inside))} was inside")
            inside.add(who)
        else:
            inside.discard(who)


def all_done(*names: str) -> Check:
    """Each of these effects happens at least once."""

    def check(run: Run) -> Iterator[Finding]:
        for name in names:
            if name not in entries(run):
                yield Finding("lost", name, f"{name} was never done")

    return check


def all_return(run: Run) -> Iterator[Finding]:
    """Every call of a client returns, unless its pod was killed."""
    killed = {
        event["actor"] for event in run.history if event["type"] == "fault" and event["what"].startswith("killed")
    }
    for call in run.calls:
        if call.type == "open" and call.pod not in killed:
            yield Finding("stuck", call.name, f"{call.name} never returns")


def value_of(run: Run, name: str) -> Any:
    """What a call returned; None if it did not return."""
    return next((call.value for call in run.calls if call.name == name and call.type == "ok"), None)
