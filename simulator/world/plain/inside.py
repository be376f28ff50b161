"""What belongs to one pod of plain code, and how whoever runs finds the pod that it is in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NoReturn

from podrace.simulator.errors import TargetError, place_of
from podrace.simulator.target import PodEnv
from podrace.simulator.world.steps import PodKilledError

MOST_READS = 100_000
"""How often one pod may read the clock in a run: one that reads it more often waits for it in a loop."""


class Inside:
    """One pod: its environment, and what modules that all pods share would keep for all of them alike."""

    def __init__(self, env: PodEnv) -> None:
        self.env = env
        self.gate: Any = env.runtime
        self.view: Any = None
        self.threads: dict[int, Any] = {}
        """By identity, the threads that run, as `threading` keeps them."""
        self.excepthook: Any = None
        """What the pod has put in the place of `threading.excepthook`."""
        self.environ: dict[str, str] | None = None
        """Its environment variables, once it has looked at them."""
        self.addresses: dict[str, str] = {}
        """By kind of server, the one that its clients name."""
        self.loop: Any = None
        """Where the coroutines of its methods run."""
        self.calls: dict[str, Any] = {}
        """By actor, the task of the coroutine that it has called last."""
        self.set_loop: Any = None
        """What `asyncio.set_event_loop` was given."""
        self._idents: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._reads = 0

    def can_cancel(self, actor: str) -> bool:
        task = self.calls.get(actor)
        return task is not None and not task.done()

    def cancel(self, actor: str) -> None:
        """Cancel the coroutine that is the actor's call."""
        self.loop.call_soon_threadsafe(self.calls[actor].cancel)

    def count(self, name: str) -> int:
        """1, 2, …: for names and hashes, which must not depend on what other pods and schedules did."""
        number = self._counts[name] = self._counts.get(name, 0) + 1
        return number

    def ident(self) -> int:
        """What tells the actor that runs from the others of the pod."""
        return self._idents.setdefault(self.gate.me(), len(self._idents) + 1)

    def now(self) -> float:
        self._reads += 1
        if self._reads > MOST_READS:
            self.refuse(f"reads the clock {MOST_READS:,} times in one run", "sleep between two looks at it")
        return self.gate.now()  # type: ignore[no-any-return]

    def refuse(self, deed: str, instead: str) -> NoReturn:
        """End the run: what the pod wants to do cannot be led. The message names the place."""
        self.gate.refuse(unled(deed, place_of(sys._getframe(1)), instead))
        raise AssertionError("a gate that refuses does not return")


Here = Callable[[], Inside]
"""The pod whose actor is running. Raises PodKilledError where none is."""


class PodsOwn(MutableMapping[Any, Any]):
    """Leads to another mapping in each pod: to that which `of` finds for whoever runs."""

    def __init__(self, of: Callable[[], MutableMapping[Any, Any]]) -> None:
        self._of = of

    def __getitem__(self, key: Any) -> Any:
        return self._of()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._of()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._of()))

    def __len__(self) -> int:
        return len(self._of())


def inside_of(gate: Any) -> Inside:
    """The inside of the gate's pod; raises PodKilledError where that is no pod of plain code, or none yet."""
    if gate is None or gate.inside is None:
        raise PodKilledError
    return gate.inside  # type: ignore[no-any-return]


def unled(deed: str, place: str, instead: str) -> TargetError:
    """The error of a target that does what cannot be led."""
    return TargetError(f"the target {deed}, at {place}: that cannot be led; {instead}; no verdict can be given")
