"""Pods as processes under the real clock, which nobody leads: clients call them, and everything is written down.

One thread does it all and waits for no pod: what a stopped pod does not read is kept for it, what it does not answer
is given up after a while. The history is a file. What a call asks is written there before the pod hears of it, so
that the call of a pod that is killed stands there without an end.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from podrace.simulator.fleets.pipes import READ_BYTES, framed, packed, taken, unpacked
from podrace.simulator.fleets.processes import Fleet, Handle, PodSpec
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


@dataclass(eq=False, slots=True)
class _Channel:
    """One connection to a pod: what is still to be written to it, and what has come of its next message.

    A pod says everything over its pipe; its lanes, which nobody reads, are for what it is told.
    """

    pod: str
    is_read: bool
    file: int
    quick: bool
    is_open: bool = True
    out: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


class FreeFleet(Fleet):
    """A fleet whose pipes are read and written without waiting. `on_message` gets (pod, kind, *rest).

    A call takes a lane of the pod's, as long as it lasts, where one is free, else the pod's pipe.
    """

    def __init__(self, specs: Sequence[PodSpec], *, on_message: Callable[..., None]) -> None:
        super().__init__(specs, on_event=lambda event: None)
        self._on_message = on_message
        self._selector = selectors.DefaultSelector()
        self._channels: dict[str, list[_Channel]] = {}
        """By pod that runs: its pipe, then its lanes."""
        self._idle: dict[str, list[_Channel]] = {}
        """Of these the lanes that have no call."""
        self._busy: dict[str, dict[int, _Channel]] = {}
        """By pod and number of a call, the lanes that have one."""
        self._paused: set[str] = set()

    def __enter__(self) -> FreeFleet:
        super().__enter__()
        for name in self._pods:
            self._watch(name)
        return self

    def _watch(self, pod: str) -> None:
        handle = self._pods[pod]
        channels = [
            _Channel(pod, one is handle.connection, one.fileno(), handle.spec.free)
            for one in (handle.connection, *handle.lanes)
        ]
        for channel in channels:
            os.set_blocking(channel.file, False)
        self._await(channels[0])
        self._channels[pod], self._idle[pod], self._busy[pod] = channels, channels[1:], {}

    def send(self, pod: str, *message: Any) -> None:
        self._send(self._channels[pod][0], message)

    def begin_call(self, pod: str, number: int, method: str, args: tuple[Any, ...]) -> None:
        """Have a method of the pod's called, which says `result` with that number once it has ended."""
        channel = self._channels[pod][0]
        if self._idle[pod]:
            channel = self._busy[pod][number] = self._idle[pod].pop()
        self._send(channel, ("call", number, pod, method, args))

    def answer(self, pod: str, number: int, worked: bool, value: Any) -> None:
        """Answer what a pod has asked a service: by the question's number, or the lane's, which is negative."""
        self._send(self._channels[pod][max(0, -number)], ("reply", number, worked, value))

    def _send(self, channel: _Channel, message: tuple[Any, ...]) -> None:
        data = framed(packed(message, quick=channel.quick))
        if channel.out:
            channel.out += data
        elif channel.is_open:
            channel.out += self._write(channel, data)
            if channel.out:
                self._await(channel)

    def _write(self, channel: _Channel, data: bytes | bytearray) -> bytes | bytearray:
        """Write what the pod takes. Returns the rest."""
        try:
            return data[os.write(channel.file, data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            self._end(channel, error)
            return b""

    def _end(self, channel: _Channel, error: OSError | None) -> None:
        """A connection has ended. Raises HarnessError for a pod's pipe; a lane may end before that says why."""
        if channel.is_read:
            raise self._died(self._pods[channel.pod]) from error
        channel.is_open = False

    def _await(self, channel: _Channel) -> None:
        """Hear of it when there is something to read, and when what is left to be written can be."""
        events = (selectors.EVENT_READ if channel.is_read else 0) | (selectors.EVENT_WRITE if channel.out else 0)
        if channel.file in self._selector.get_map():
            self._selector.unregister(channel.file)
        if events and channel.is_open:
            self._selector.register(channel.file, events, channel)

    def pump(self, timeout_s: float) -> None:
        """Take what has come from the pods, and wait at most so long for the first of it."""
        for key, ready in self._selector.select(max(0.0, timeout_s)):
            channel = key.data
            if channel.is_open and ready & selectors.EVENT_WRITE:
                channel.out = bytearray(self._write(channel, channel.out))
                if not channel.out:
                    self._await(channel)
            if channel.is_open and ready & selectors.EVENT_READ:
                self._read(channel)

    def _read(self, channel: _Channel) -> None:
        try:
            data = os.read(channel.file, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(channel, None)
            return
        channel.received += data
        while channel.is_open and (one := taken(channel.received)) is not None:  # it may be killed for what it said
            message = unpacked(one, quick=channel.quick)
            if message[0] == "result" and (lane := self._busy[channel.pod].pop(message[1], None)):
                self._idle[channel.pod].append(lane)
            self._on_message(channel.pod, *message)

    def _take(self, handle: Handle, message: tuple[Any, ...]) -> None:
        if handle.spec.name not in self._channels:  # it is not watched yet
            super()._take(handle, message)
        else:
            self._on_message(handle.spec.name, *message)

    def incarnation(self, pod: str) -> int:
        """Which start of the pod is running, 0 where it is not."""
        return self._pods[pod].spec.incarnation if pod in self._channels else 0

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
        for channel in self._channels.pop(pod):
            channel.is_open = False
            self._await(channel)
        self._paused.discard(pod)
        handle.alive = False
        handle.process.kill()
        handle.process.join()
        for connection in (handle.connection, *handle.lanes):
            connection.close()

    def close(self) -> None:
        for pod, channels in [*self._channels.items()]:
            if channels[0].out or pod in self._paused:
                self.kill(pod)  # it would not hear that it should end
        self._selector.close()
        super().close()
