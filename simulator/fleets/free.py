"""Pods as processes under the real clock, which nobody leads: clients call them, and everything is written down.

One thread does it all and waits for no pod: what a stopped pod does not read is kept for it, what it does not answer
is given up after a while. The history is a file. What a call asks is written there before the pod hears of it, so
that the call of a pod that is killed stands there without an end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from podrace.simulator.fleets.processes import Channel, Fleet, Handle, PodSpec
from podrace.simulator.history.events import Event, plain
from podrace.simulator.history.outcome import Result


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
        stamped = {"t_ms": int((time.monotonic() - self.epoch_s) * 1e6) / 1000} | event
        self._waiting.append(orjson.dumps(stamped, default=plain, option=orjson.OPT_NON_STR_KEYS))

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


class Asked(NamedTuple):
    """What a client wants a pod to do. `told` are the arguments as the history has them, `pod` None for any."""

    name: str
    method: str
    args: tuple[Any, ...]
    told: tuple[Any, ...]
    pod: str | None = None


Client = Generator[Asked | float, Result, None]
"""A client of the fleet: it asks, and is sent how that ended; or it waits for so many seconds."""


class FreeFleet(Fleet):
    """A fleet for which nobody waits. `on_message` gets (pod, kind, *rest); HarnessError for a pod that dies unasked.

    A call takes a lane of the pod's, as long as it lasts, where one is free, else the pod's pipe.
    """

    def __init__(self, specs: Sequence[PodSpec], *, on_message: Callable[..., None]) -> None:
        super().__init__(specs)
        self._on_message = on_message

    def begin_call(self, pod: str, number: int, method: str, args: tuple[Any, ...]) -> None:
        """Have a method of the pod's called, which says `result` with that number once it has ended."""
        handle = self._pods[pod]
        channel = handle.channels[0]
        if handle.idle:
            channel = handle.busy[number] = handle.idle.pop()
        self._send(channel, ("call", number, pod, method, args))

    def answer(self, pod: str, number: int, worked: bool, value: Any) -> None:
        """Answer what a pod has asked a service: by the question's number, or the lane's, which is negative."""
        self._send(self._pods[pod].channels[max(0, -number)], ("reply", number, worked, value))

    def _heard(self, handle: Handle, message: tuple[Any, ...]) -> None:
        if message[0] == "result" and (lane := handle.busy.pop(message[1], None)):
            handle.idle.append(lane)
        elif message[0] == "ready":
            handle.is_ready = True
        self._on_message(handle.spec.name, *message)

    def _ended(self, channel: Channel) -> None:
        super()._ended(channel)
        handle = self._pods[channel.pod]
        if channel.is_read and handle.alive:  # a lane may end before that says why
            raise self._died(handle)

    def incarnation(self, pod: str) -> int:
        """Which start of the pod is running, 0 where it is not."""
        handle = self._pods[pod]
        return handle.spec.incarnation if handle.alive else 0

    def spec(self, pod: str) -> PodSpec:
        return self._pods[pod].spec

    def begin_again(self, pod: str) -> None:
        """Start a killed pod again under its name; it says `ready` once it can be called."""
        spec = self._pods[pod].spec
        self.add(replace(spec, incarnation=spec.incarnation + 1))
