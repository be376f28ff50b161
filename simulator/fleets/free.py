"""Pods as processes under the real clock, which nobody leads: clients call them, and everything is written down.

One thread does it all and waits for no pod: what a stopped pod does not read is kept for it, what it does not answer
is given up after a while. The history is a file. What a call asks is written there before the pod hears of it, so
that the call of a pod that is killed stands there without an end.
"""

from __future__ import annotations

import heapq
import os
import selectors
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import orjson

from podrace.simulator.fleets.pipes import as_error_sent, packed, unpacked
from podrace.simulator.fleets.processes import Fleet, Handle, PodSpec
from podrace.simulator.history.events import Event, plain, shorten
from podrace.simulator.history.outcome import Result
from podrace.simulator.world.services import as_shown
from podrace.simulator.world.steps import plain_reply

READ_BYTES = 1 << 18
PATIENCE_S = 2.0
"""How long a client waits for an answer; then it cannot know."""
NO_ANSWER = "no answer within"
NO_POD_S = 0.05
"""After so long a client that found no pod looks again."""
GRACE_S = 0.3
"""So long a pod that is replaced may go on with what it is at."""
START_AGAIN_S = 0.3
MOST_STARTS = 30


class Notes(Protocol):
    """Where a history goes."""

    def note(self, event: Event) -> None: ...

    def flush(self) -> None: ...


class Journal:
    """A history on its way into a file, one event a line. `epoch_s`: when the run began, by the monotonic clock."""

    def __init__(self, path: Path, epoch_s: float) -> None:
        self._file = path.open("wb", buffering=0)
        self.epoch_s = epoch_s
        self._waiting: list[bytes] = []

    def note(self, event: Event) -> None:
        """Take note of an event, with the milliseconds since the run began."""
        told = {"t_ms": round((time.monotonic() - self.epoch_s) * 1000, 3)} | event
        self._waiting.append(orjson.dumps(told, default=plain, option=orjson.OPT_NON_STR_KEYS))

    def flush(self) -> None:
        """Hand over to the operating system what is noted."""
        if self._waiting:
            self._waiting.append(b"")
            self._file.write(b"\n".join(self._waiting))
            self._waiting.clear()

    def close(self) -> None:
        self.flush()
        self._file.close()


def pod_name(index: int) -> str:
    """A, B, … Z, then AA, AB, …"""
    name = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants a pod to do. `told` are the arguments as the history has them, `pod` None for any."""

    name: str
    method: str
    args: tuple[Any, ...]
    told: tuple[Any, ...]
    pod: str | None = None


Client = Generator[Asked | float, Result, None]
"""A client of the fleet: it asks, and is sent how that ended; or it waits for so many seconds."""


class FreeFleet(Fleet):
    """A fleet whose pipes are read and written without waiting. `on_message` gets (pod, kind, *rest)."""

    def __init__(self, specs: Sequence[PodSpec], *, on_message: Callable[..., None]) -> None:
        super().__init__(specs, on_event=lambda event: None)
        self._on_message = on_message
        self._selector = selectors.DefaultSelector()
        self._out: dict[str, bytearray] = {}
        self._in: dict[str, bytearray] = {}
        self._paused: set[str] = set()

    def __enter__(self) -> FreeFleet:
        super().__enter__()
        for name in self._pods:
            self._watch(name)
        return self

    def _watch(self, pod: str) -> None:
        connection = self._pods[pod].connection
        os.set_blocking(connection.fileno(), False)
        self._out[pod], self._in[pod] = bytearray(), bytearray()
        self._selector.register(connection, selectors.EVENT_READ, pod)

    def send(self, pod: str, *message: Any) -> None:
        data = packed(message, quick=self._pods[pod].spec.free)
        out = self._out[pod]
        was_empty = not out
        out += struct.pack("!i", len(data))  # as multiprocess frames a message
        out += data
        if was_empty:
            self._write(pod)

    def _write(self, pod: str) -> None:
        out, connection = self._out[pod], self._pods[pod].connection
        try:
            del out[: os.write(connection.fileno(), out)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._died(self._pods[pod]) from error
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if out else 0)
        if self._selector.get_key(connection).events != events:
            self._selector.modify(connection, events, pod)

    def pump(self, timeout_s: float) -> None:
        """Take what has come from the pods, and wait at most so long for the first of it."""
        for key, ready in self._selector.select(max(0.0, timeout_s)):
            if key.data in self._out and ready & selectors.EVENT_WRITE:
                self._write(key.data)
            if key.data in self._in and ready & selectors.EVENT_READ:
                self._read(key.data)

    def _read(self, pod: str) -> None:
        handle, into = self._pods[pod], self._in[pod]
        try:
            data = os.read(handle.connection.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise self._died(handle)
        into += data
        place = 0
        while len(into) >= place + 4:
            (size,) = struct.unpack_from("!i", into, place)
            if len(into) < place + 4 + size:
                break
            message = unpacked(bytes(into[place + 4 : place + 4 + size]), quick=handle.spec.free)
            place += 4 + size
            self._take(handle, message)
            if self._in.get(pod) is not into:  # it was killed for what it said
                return
        del into[:place]

    def _take(self, handle: Handle, message: tuple[Any, ...]) -> None:
        if handle.spec.name not in self._in:  # it is not watched yet
            super()._take(handle, message)
        else:
            self._on_message(handle.spec.name, *message)

    def incarnation(self, pod: str) -> int:
        """Which start of the pod is running, 0 where it is not."""
        return self._pods[pod].spec.incarnation if pod in self._in else 0

    def spec(self, pod: str) -> PodSpec:
        return self._pods[pod].spec

    def begin_again(self, pod: str) -> None:
        """Start a killed pod again under its name; it says `ready` once it can be called."""
        spec = self._pods[pod].spec
        self.begin(replace(spec, incarnation=spec.incarnation + 1))

    def begin(self, spec: PodSpec) -> None:
        """Start a pod, which says `ready` once it can be called."""
        self.add(spec)
        self._watch(spec.name)

    def pause(self, pod: str) -> None:
        super().pause(pod)
        self._paused.add(pod)

    def resume(self, pod: str) -> None:
        super().resume(pod)
        self._paused.discard(pod)

    def kill(self, pod: str) -> None:
        """SIGKILL. What it had said and nobody had read yet is lost with it."""
        handle = self._pods[pod]
        self._selector.unregister(handle.connection)
        del self._out[pod], self._in[pod]
        self._paused.discard(pod)
        handle.alive = False
        handle.process.kill()
        handle.process.join()
        handle.connection.close()

    def close(self) -> None:
        for pod in [*self._in]:
            if self._out[pod] or pod in self._paused:
                self.kill(pod)  # it would not hear that it should end
        self._selector.close()
        super().close()


@dataclass(frozen=True, slots=True)
class Spoilt:
    """What goes wrong with one call of a service: it is late, fails with an error, before or after it was done.

    `late_s=inf`: it is neither done nor answered until the fault is over, and then its connection breaks.
    """

    error: Exception | None = None
    is_done: bool = False
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Open:
    client: Client
    pod: str
    method: str


class Driver:
    """Clients, pods, services and what is due later, in one thread. Use it as a context manager.

    `choose` says on which of the pods a call is made. `services`: (pod, service) to the object that serves it, of
    services that are called over the pipe; `says` puts a call of one into words, `spoil` says what befalls it.
    `takes_s`: how long a service takes, by its name.
    """

    def __init__(
        self,
        specs: Sequence[PodSpec],
        journal: Notes,
        *,
        choose: Callable[[Sequence[str]], str],
        services: Callable[[str, str], Any] = lambda pod, service: None,
        says: Callable[..., str] = lambda service, method, args, named: f"{service}.{method}",
        on_event: Callable[[Event], None] = lambda event: None,
        takes_s: Mapping[str, float] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.fleet = FreeFleet(specs, on_message=self._heard)
        self.journal = journal
        self.spoil: Callable[[str, str], Spoilt | None] = lambda service, method: None
        self.ended: Counter[tuple[str, str]] = Counter()
        """How many calls have ended, by method and how."""
        self.ready = [spec.name for spec in specs]
        """Pods that can be called, those that are stopped included: nobody can tell."""
        self.first: dict[tuple[str, str], Asked] = {}
        """By method and first argument, where that is a text, the first call."""
        self.open: dict[int, _Open] = {}
        """Calls whose end is waited for."""
        self._choose = choose
        self._services = services
        self._says = says
        self._on_event = on_event
        self._takes_s = takes_s or {}
        self._patience_s = patience_s
        self._numbers = count()
        self._turns = count()
        self._patience: deque[tuple[float, int]] = deque()
        self._to_send: list[tuple[Any, ...]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._starts: Counter[str] = Counter()
        self._hanging: list[Callable[[], None]] = []
        self._clients: set[Client] = set()

    def __enter__(self) -> Driver:
        self.fleet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close()
        self.journal.flush()

    def at(self, due_s: float, action: Callable[[], None]) -> None:
        """Do something at a time of the monotonic clock."""
        heapq.heappush(self._due, (due_s, next(self._turns), action))

    def play(self, clients: Iterable[Client], *, until_s: float = float("inf")) -> None:
        """Let clients begin, and go on until all have come to an end, or to that time of the monotonic clock."""
        for client in clients:
            self._clients.add(client)
            self._advance(client, None)
        while self._clients and time.monotonic() < until_s:
            self.turn(until_s)
        self.journal.flush()

    def turn(self, until_s: float = float("inf")) -> None:
        """Send what is to be sent, hear what has come, do what is due; wait for that a second at most."""
        self.journal.flush()
        sending, self._to_send = self._to_send, []
        for pod, *message in sending:
            self.fleet.send(pod, *message)
        now_s = time.monotonic()
        due_s = min(until_s, now_s + 1.0, *(one[0][0] for one in (self._due, self._patience) if one))
        self.fleet.pump(due_s - now_s)
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            heapq.heappop(self._due)[2]()
        while self._patience and self._patience[0][0] <= now_s:
            self._end(self._patience.popleft()[1], Result("info", error=f"{NO_ANSWER} {self._patience_s:g} s"))

    def kill(self, pod: str) -> None:
        """Kill a pod. Its calls stay without an end; its clients notice, and cannot know."""
        self.fleet.kill(pod)
        if pod in self.ready:
            self.ready.remove(pod)
        self._to_send = [one for one in self._to_send if one[0] != pod]
        for number, one in list(self.open.items()):
            if one.pod == pod:
                del self.open[number]
                self._advance(one.client, Result("info", error=f"pod {pod} was killed"))

    def start_again(self, pod: str) -> None:
        """Start a killed pod again under its name, unless somebody has done so."""
        if not self.fleet.incarnation(pod):
            self.fleet.begin_again(pod)

    def replace(self, pod: str, target: str) -> None:
        """Let a pod end its calls, for a while, and start one of another target under its name."""
        if pod in self.ready:
            self.ready.remove(pod)
        self.journal.note({"type": "fault", "actor": pod, "fault": "deploy", "stage": "strikes", "what": f"→ {target}"})

        def start() -> None:
            spec = self.fleet.spec(pod)
            if self.fleet.incarnation(pod):
                self.kill(pod)
            self.fleet.begin(replace(spec, target=target, incarnation=spec.incarnation + 1))
            self.journal.note(
                {"type": "fault", "actor": pod, "fault": "deploy", "stage": "is over", "what": "deployed"}
            )

        self.at(time.monotonic() + GRACE_S, start)

    def release(self) -> None:
        """Break the connection of every call of a service that hangs."""
        hanging, self._hanging = self._hanging, []
        for end in hanging:
            end()

    def dismiss(self) -> None:
        """Let no client go on. What they have asked for ends as it may."""
        self._clients.clear()

    def _advance(self, client: Client, result: Result | None) -> None:
        if client not in self._clients:
            return
        try:
            wanted = next(client) if result is None else client.send(result)
        except StopIteration:
            self._clients.discard(client)
            return
        self._begin(client, wanted)

    def _begin(self, client: Client, wanted: Asked | float) -> None:
        if not isinstance(wanted, Asked):
            self.at(time.monotonic() + wanted, lambda: self._advance(client, Result("ok")))
            return
        if wanted.pod not in self.ready and (wanted.pod or not self.ready):
            self.at(time.monotonic() + NO_POD_S, lambda: self._begin(client, wanted))
            return
        pod, number, method = wanted.pod or self._choose(self.ready), next(self._numbers), wanted.method
        if wanted.told and isinstance(wanted.told[0], str):
            self.first.setdefault((method, wanted.told[0]), wanted)
        event = {"type": "invoke", "actor": pod, "call": number, "name": wanted.name, "method": method}
        self.journal.note(event | {"args": wanted.told})
        self.open[number] = _Open(client, pod, method)
        self._patience.append((time.monotonic() + self._patience_s, number))
        self._to_send.append((pod, "call", number, pod, method, wanted.args))

    def _end(self, number: int, result: Result) -> None:
        one = self.open.pop(number, None)
        if one is None:
            return  # its client has given up long ago
        event: Event = {"type": result.type, "actor": one.pod, "call": number}
        self.journal.note(event | ({"result": result.value} if result.type == "ok" else {"error": result.error}))
        self.ended[one.method, result.type] += 1
        self._advance(one.client, result)

    def _heard(self, pod: str, kind: str, *rest: Any) -> None:
        if kind == "result":
            self._end(*rest)
        elif kind == "service":
            self._serve(pod, *rest)
        elif kind == "event":
            self._on_event(rest[0])
        elif kind == "ready":
            if pod not in self.ready:
                self.ready.append(pod)
            self._starts[pod] = 0
        elif kind == "broken":
            self._broke(pod, rest[0])
        elif kind == "died":
            self.journal.note({"type": "died", "actor": rest[0], "error": shorten(rest[1])})

    def _broke(self, pod: str, error: Exception) -> None:
        """A pod that cannot be made, while faults are about, is started again a little later, as Kubernetes does."""
        if pod in self.ready or self._starts[pod] >= MOST_STARTS:
            raise error
        self._starts[pod] += 1
        self.journal.note({"type": "died", "actor": pod, "error": shorten(str(error))})
        self.fleet.kill(pod)
        self.at(time.monotonic() + START_AGAIN_S, lambda: self.start_again(pod))

    def _serve(
        self, pod: str, number: int, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        """Call a service for a pod, and answer it."""
        spoilt = self.spoil(service, method) or Spoilt()
        event: Event = {"type": "step", "actor": pod, "kind": "service", "service": service, "method": method}
        event |= {"of": args[0] if args and isinstance(args[0], str) else None}
        shown = tuple(map(as_shown, args)), {name: as_shown(value) for name, value in named.items()}
        event |= {"says": self._says(service, method, *shown), "action": "go"}
        error, value = spoilt.error, None
        if spoilt.late_s == float("inf"):
            error = ConnectionError(f"{service} closed the connection")
        elif error is None or spoilt.is_done:
            try:
                value = getattr(self._services(pod, service), method)(*args, **named)
            except Exception as raised:
                error = raised
            else:
                event["action"] = "go" if error is None else "drop-reply"
        event |= {"failed": error is not None, "reply": shorten(plain_reply(value if error is None else error), 120)}
        self.journal.note(event)
        incarnation = self.fleet.incarnation(pod)

        def reply() -> None:
            if self.fleet.incarnation(pod) == incarnation:
                self.fleet.send(pod, "reply", number, error is None, value if error is None else as_error_sent(error))

        late_s = spoilt.late_s + self._takes_s.get(service, 0.0)
        if late_s == float("inf"):
            self._hanging.append(reply)
        elif late_s:
            self.at(time.monotonic() + late_s, reply)
        else:
            reply()
