"""What a step is, what may become of it, and the gate that stands before it."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, Protocol

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import plain

GO = "go"
DROP_REQUEST = "drop-request"
DROP_REPLY = "drop-reply"
HANG = "hang"
FAIL = "fail"

TRANSACTION = "TRANSACTION"
"""Stands for MULTI, its commands and EXEC, which the client sends in one go: one step."""


@lru_cache(maxsize=1000)
def pod_of(actor: str) -> str:
    """The name of the pod whose actor this is."""
    return actor.partition(".")[0]


class Step(NamedTuple):
    """What an actor is about to do to the world.

    `kind` and `args`:

    - `redis`: the command, or `TRANSACTION` and its commands
    - `service`: the service's name, the method, a tuple of arguments, a dict of named arguments
    - `call`: the name of the call that a client is about to make
    - `timer`: deadline in microseconds of the clock, seconds that were asked for, and the lock that ends the wait
      where one does
    - `lock`: the lock
    - `reply`: none; it is about to hear what its last step has brought
    - `receive`: a number that names the wait, deadline in microseconds or None, a text that says for what
    """

    actor: str
    kind: str
    args: tuple[Any, ...]

    @property
    def pod(self) -> str:
        return pod_of(self.actor)


SENT = frozenset({"redis", "service"})
"""Kinds that act outside the pod: it may hear of them later than they are done, and others may go in between."""

PAST_US = 1
"""So much later than asked plain code wakes: never too early by what a float leaves out, as under a real clock."""

WAITING = frozenset({"timer", "call", "lock", "receive"})
"""Kinds before which an actor waits of its own accord: to switch away there is no preemption."""


def could_go_on(step: Step, now_us: int) -> bool:
    """Whether an actor that stands before this step may be let go without time passing."""
    if step.kind == "timer":
        return bool(step.args[0] <= now_us) or is_woken(step)
    return bool(step.args[0].free) if step.kind == "lock" else True


def is_woken(step: Step) -> bool:
    """Whether what a timer waits for besides its deadline is there."""
    return len(step.args) == 3 and bool(step.args[2].free)


class PodKilledError(BaseException):
    """Raised inside an actor of a pod that is dead: nothing of it may go on, `except Exception` included."""


class Gate(Protocol):
    """Stands before every step of one pod, and is its runtime."""

    virtual: bool
    """Whether time is the harness's: then a reply that depends on time or chance is made by the harness too."""
    answer: Any
    """The reply that the harness gives in the server's place, in a tuple; None where the server gives it."""

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        """Wait until the current actor may take this step. Returns what becomes of it: GO or a fault."""
        ...

    def after(self, reply: Any) -> None:
        """Tell what the current actor's step brought, a reply or an exception; wait until the pod may hear of it."""
        ...

    def sent(self) -> None:
        """Tell that the current actor's step is done, and that its reply is waited for at a gate of its own."""
        ...

    def receive(self, connection: Any, seconds: float | None, source: str) -> bool:
        """Wait until the connection has something to read (True), or so many seconds have passed (False).

        Raises the redis-py error of a lost connection where that fault strikes the wait.
        """
        ...

    def wait(self, lock: Any, seconds: float | None) -> bool:
        """Wait until the lock is free (True), or so many seconds have passed (False)."""
        ...

    def park(self, seconds: float | None) -> bool:
        """Stand aside until `unpark` (True), which is no step, or until so many seconds have passed (False)."""
        ...

    def unpark(self, actor: str) -> None:
        """Let an actor go on that stands aside, as soon as the one that is running has stopped."""
        ...

    def set_aside(self, function: Callable[[Callable[[], Any]], Any] | None) -> None:
        """Have the current actor stop through this function, which is given what lets others go on."""
        ...

    def me(self) -> str:
        """The name of the actor that is running."""
        ...

    def refuse(self, error: TargetError) -> NoReturn:
        """End the run with this error: the pod does what cannot be led."""
        ...

    def lost(self, error: BaseException) -> None:
        """Tell that a connection broke that no fault had broken."""
        ...

    def hang(self) -> None:
        """Never return."""
        ...

    def now(self) -> float: ...

    def sleep(self, seconds: float, past_us: int = 0) -> None: ...

    def spawn(self, name: str, function: Callable[[], None]) -> str:
        """Run the function as an actor of this pod. Returns the actor's name."""
        ...

    def lock(self) -> AbstractContextManager[Any]: ...


def foreign_thread() -> TargetError:
    """The error of a target that acts where no scheduler can see it."""
    return TargetError(
        f"the target acts from a thread of its own ({threading.current_thread().name}): expected every actor "
        "to come from runtime.spawn; no verdict can be given"
    )


def plain_reply(reply: Any) -> str:
    """A reply as text; an exception as its name and what it says."""
    return f"{type(reply).__name__}: {reply}" if isinstance(reply, BaseException) else plain(reply)


def as_sent(thing: Any) -> Any:
    """A copy, as a process at the other end of a pipe would get it; what cannot be changed is as good itself.

    A class says so of its instances by `is_immutable`.
    """
    kind = type(thing)
    if kind in _IMMUTABLE or getattr(kind, "is_immutable", False):
        return thing
    try:
        return pickle.loads(pickle.dumps(thing, pickle.HIGHEST_PROTOCOL))
    except Exception:  # slower, and takes what pickle does not
        return deepcopy(thing)


_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


class Failed(str):
    """A reply that was an exception, as text that has come from another process."""

    __slots__ = ()
