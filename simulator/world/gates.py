"""The world as a pod sees it, with a gate before every step.

The same wrappers serve real processes under the real clock (the gate only records), real processes
whose every step a scheduler lets go, and pods inside this process. Which of these it is, is the
Gate's business alone.
"""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import hiredis

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import plain
from podrace.simulator.target import FilesService, MemoryAgent, PodEnv

if TYPE_CHECKING:
    import redis

GO = "go"
DROP_REQUEST = "drop-request"
DROP_REPLY = "drop-reply"
HANG = "hang"
FAIL = "fail"

POISON = "poison"
"""A text that holds this word makes the memory agent refuse the batch, every time."""


class Step(NamedTuple):
    """What an actor is about to do to the world.

    `kind` and `args`: `redis` (the command, or `BATCH` and its commands), `gemini` (path), `memory`
    (user id, parts), `timer` (deadline, seconds asked), `lock` (number, free?), `op` (the call's id).
    """

    actor: str
    kind: str
    args: tuple[Any, ...]

    @property
    def pod(self) -> str:
        return self.actor.partition(".")[0]


class PodKilledError(BaseException):
    """Raised inside an actor of a pod that is dead: nothing of it may go on, `except Exception` included."""


class Gate(Protocol):
    """Stands before every step of one pod, and is its runtime."""

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        """Wait until the current actor may take this step. Returns what becomes of it: GO or a fault."""
        ...

    def after(self, reply: Any) -> None:
        """Tell what the current actor's step brought: a reply, or an exception."""
        ...

    def hang(self) -> None:
        """Never return."""
        ...

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def spawn(self, name: str, function: Callable[[], None]) -> None: ...

    def lock(self) -> AbstractContextManager[Any]: ...


def make_env(
    *,
    name: str,
    gate: Gate,
    client: redis.Redis,
    prefix: str,
    gemini: FilesService,
    memory: MemoryAgent,
    seed: int,
    options: Mapping[str, Any],
) -> PodEnv:
    """A pod's environment with the gate before everything. `client` must come from `gated_client`."""
    return PodEnv(
        name=name,
        redis=client,
        prefix=prefix,
        gemini=GatedFiles(gemini, gate),
        memory=GatedMemory(memory, gate),
        runtime=gate,
        rng=SeededRandom(seed * 1009 + sum(name.encode())),
        options=options,
    )


class SeededRandom(random.Random):
    """A pod's randomness, which counts what is taken from it: to tell two states apart by that is quick."""

    draws = 0

    def seed(self, *args: Any, **kwargs: Any) -> None:
        self.draws += 1
        super().seed(*args, **kwargs)

    def random(self) -> float:
        self.draws += 1
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self.draws += 1
        return super().getrandbits(k)

    def setstate(self, state: tuple[Any, ...]) -> None:
        self.draws += 1
        super().setstate(state)


class LockState(NamedTuple):
    """A lock as another process sees it."""

    free: bool


class VirtualLock:
    """A re-entrant mutex between the actors of one pod; who waits, waits at a gate.

    `me` tells who asks. Only one actor runs at a time, so nothing here needs a lock of its own.
    """

    def __init__(self, gate: Gate, me: Callable[[], Any]) -> None:
        self._gate = gate
        self._me = me
        self.owner: Any = None
        self.depth = 0

    @property
    def free(self) -> bool:
        return self.owner is None

    def __eq__(self, other: object) -> bool:
        """Any other: steps of two runs that wait for a lock are the same step."""
        return isinstance(other, VirtualLock | LockState)

    __hash__ = None  # type: ignore[assignment]

    def acquire(self) -> bool:
        me = self._me()
        while self.owner is not None and self.owner != me:
            self._gate.before("lock", (self,))
            self._gate.after("free")
        self.owner = me
        self.depth += 1
        return True

    def release(self) -> None:
        self.depth -= 1
        if not self.depth:
            self.owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def foreign_thread() -> TargetError:
    """The error of a target that acts where no scheduler can see it."""
    return TargetError(
        f"the target acts from a thread of its own ({threading.current_thread().name}): expected every actor "
        "to come from runtime.spawn; no verdict can be given"
    )


def plain_reply(reply: Any) -> str:
    """A reply as text; an exception as its name and what it says."""
    return f"{type(reply).__name__}: {reply}" if isinstance(reply, BaseException) else plain(reply)


class Bouncer(Protocol):
    """The part of a gate that a connection needs."""

    def before(self, kind: str, args: tuple[Any, ...]) -> str: ...

    def after(self, reply: Any) -> None: ...


def gated_client(client: redis.Redis, gate: Bouncer, *, one_connection: bool = False) -> redis.Redis:
    """The same client, the gate before every command that it sends (a pipeline is one step).

    `one_connection`: for actors that never talk at the same time. `set_gate` changes the gate later.
    """
    pool: Any = client.connection_pool
    pool.connection_class = type("GatedConnection", (_GatedConnection, pool.connection_class), {"gate": gate})
    if not one_connection:
        return client
    direct = type("GatedRedis", (_DirectRedis, type(client)), {})
    return direct(connection_pool=pool, single_connection_client=True)  # type: ignore[no-any-return]


def set_gate(client: redis.Redis, gate: Bouncer) -> None:
    """Put another gate before the commands of a client that `gated_client` made."""
    pool: Any = client.connection_pool
    pool.connection_class.gate = gate


class _DirectRedis:
    """Mixed into redis-py's client: a command that nothing befalls goes straight to its one connection.

    redis-py's retry loop and its measuring, which take longer than the server, are entered for what a
    fault befalls: there they matter.
    """

    connection: Any

    def execute_command(self, *args: Any, **options: Any) -> Any:
        connection = self.connection
        if args[0].startswith("HIMPORT"):
            return super().execute_command(*args, **options)  # type: ignore[misc]
        action = connection.gate.before("redis", args)
        if action != GO:
            connection.decided = action
            return super().execute_command(*args, **options)  # type: ignore[misc]
        if connection._sock is None:  # new, or broken by what befell another actor while this one waited
            connection.connect()
        connection.send_passed(args)
        options.pop("keys", None)  # of a cache that we have not
        if options:
            return self.parse_response(connection, args[0], **options)  # type: ignore[attr-defined]
        reply = connection.read_response()
        understand = self.response_callbacks.get(args[0])  # type: ignore[attr-defined]
        return understand(reply) if understand else reply


class _GatedConnection:
    """Mixed into redis-py's connection: here a retry of the client's own is a step like any other.

    A dropped request was never sent. A dropped reply was read, so that the server has applied the
    command for certain, and is then withheld. Both look to the client like a broken connection.
    """

    gate: Bouncer
    decided: str | None = None
    """What the gate said already of the next command."""
    _dead_at: Bouncer | None = None
    """The gate at which the pod of this connection died."""
    _connecting = False
    _batch: tuple[Any, ...] = ()
    _action = GO
    _replies_due = 0

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        self._connecting = True
        try:
            super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._connecting = False

    def pack_commands(self, commands: Any) -> Any:
        self._batch = tuple(tuple(command) for command in commands)
        return super().pack_commands(self._batch)  # type: ignore[misc]

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        if not self._connecting:
            self._pass_gate(args, 1)
        super().send_command(*args, **kwargs)  # type: ignore[misc]

    def send_passed(self, args: tuple[Any, ...]) -> None:
        """Send a command that has passed the gate."""
        self._action, self._replies_due = GO, 1
        try:
            packed = hiredis.pack_command(args) if " " not in args[0] else None
        except TypeError:  # redis-py converts some that hiredis refuses
            packed = None
        self._sock.sendall(packed or b"".join(self._command_packer.pack(*args)))  # type: ignore[attr-defined]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._batch and not self._connecting:
            batch, self._batch = self._batch, ()
            self._pass_gate(("BATCH", *batch), len(batch))
        super().send_packed_command(command, check_health)  # type: ignore[misc]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if self._connecting or not self._replies_due:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        if self._action == DROP_REPLY:
            while self._replies_due:
                self._replies_due -= 1
                self._read_quietly(*args, **kwargs)
            self._action = GO
            self.gate.after(_broken("reply"))
            raise _broken("reply")
        self._replies_due -= 1
        try:
            reply = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except Exception as error:
            if not self._replies_due:
                self.gate.after(error)
            raise
        if not self._replies_due:
            self.gate.after(reply)
        return reply

    def _read_quietly(self, *args: Any, **kwargs: Any) -> None:
        from redis.exceptions import ResponseError

        try:
            super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError:
            pass

    def _pass_gate(self, command: tuple[Any, ...], replies: int) -> None:
        if self._dead_at is self.gate:  # a pipeline that is being cleared away wants to UNWATCH
            raise _broken("request")
        try:
            action, self.decided = self.decided or self.gate.before("redis", command), None
        except PodKilledError:
            self._dead_at = self.gate
            raise
        if action == DROP_REQUEST:
            self.gate.after(_broken("request"))
            raise _broken("request")
        self._action = action
        self._replies_due = replies


def _broken(what: str) -> Exception:
    from redis.exceptions import ConnectionError as RedisConnectionError

    return RedisConnectionError(f"connection broken: the {what} was lost")


class GatedFiles:
    """The files service, the gate before every upload."""

    def __init__(self, inner: FilesService, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def upload(self, *, file: Any) -> Any:
        action = self._gate.before("gemini", (str(file),))
        if action == HANG:
            self._gate.hang()
        try:
            if action == FAIL:
                raise _unavailable()
            result = self._inner.upload(file=file)
            if action == DROP_REPLY:
                raise _unavailable()
        except Exception as error:
            self._gate.after(error)
            raise
        self._gate.after(result.uri)
        return result


def _unavailable() -> Exception:
    from google.genai.errors import ServerError

    message = "The service is currently unavailable."
    return ServerError(503, {"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}})


def as_sent(thing: Any) -> Any:
    """A copy, as a process at the other end of a pipe would get it."""
    try:
        return pickle.loads(pickle.dumps(thing, pickle.HIGHEST_PROTOCOL))
    except Exception:  # slower, and takes what pickle does not
        return deepcopy(thing)


class GatedMemory:
    """The memory agent, the gate before every batch."""

    def __init__(self, inner: MemoryAgent, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str | None = None) -> None:
        parts = as_sent(tuple(parts))  # as they are now: their owner may change them while this step waits
        self._gate.before("memory", (user_id, parts))
        try:
            if any(POISON in str(part.get("text", "")) for part in parts):
                raise ValueError("the memory agent cannot take this batch")
            self._inner.send(user_id, parts, batch_id)
        except Exception as error:
            self._gate.after(error)
            raise
        self._gate.after("recorded")
