"""Pods as processes under the real clock, which nobody leads: clients call them, and everything is written down.

One thread does it all and waits for no pod: what a stopped pod does not read is kept for it, what it does not answer
is given up after a while. The history is a file. What a call asks is written there before the pod hears of it, so
that the call of a pod that is killed stands there without an end.
"""

from __future__ import annotations

import os
import selectors
import struct
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from podrace.simulator.fleets.pipes import packed, unpacked
from podrace.simulator.fleets.processes import Fleet, Handle, PodSpec
from podrace.simulator.history.events import Event, plain
from podrace.simulator.history.outcome import Result

READ_BYTES = 1 << 18


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
