"""What goes over the pipe between a pod and its parent, and how."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
from itertools import count
from typing import Any, NamedTuple


def packed(message: tuple[Any, ...], *, quick: bool) -> bytes:
    """A message as bytes. `quick`: by the standard pickle where it can, which takes a tenth of the time."""
    if quick:
        try:
            return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        except Exception:
            pass  # such as a function: the slower one takes more
    from multiprocess.reduction import ForkingPickler

    return bytes(ForkingPickler.dumps(message))


def unpacked(data: bytes, *, quick: bool) -> tuple[Any, ...]:
    if quick:
        return pickle.loads(data)  # type: ignore[no-any-return]
    from multiprocess.reduction import ForkingPickler

    return ForkingPickler.loads(data)  # type: ignore[no-any-return]


_SIZE = struct.Struct("!i")
READ_BYTES = 1 << 14
"""A buffer of more than 128 KB would be mapped and unmapped for every read."""


def framed(data: bytes) -> bytes:
    """A message's bytes as multiprocess sends them."""
    return _SIZE.pack(len(data)) + data


def taken(received: bytearray) -> bytes | None:
    """The next message's bytes, taken out of what has come; None while some of them are missing."""
    if len(received) < _SIZE.size:
        return None
    end = _SIZE.size + _SIZE.unpack_from(received)[0]
    if len(received) < end:
        return None
    data = bytes(received[_SIZE.size : end])
    del received[:end]
    return data


class SentFile(io.BytesIO):
    """What was left to read of an open file, with its name and type, where it has any."""

    name: Any = None
    mime_type: Any = None


def as_file_sent(value: Any) -> Any:
    """An open file as one that can go over the pipe; anything else as it is."""
    if not hasattr(value, "read"):
        return value
    sent = SentFile(value.read())
    sent.name, sent.mime_type = getattr(value, "name", None), getattr(value, "mime_type", None)
    return sent


class SentError(NamedTuple):
    """An error on its way: one whose class asks for other arguments than it keeps does not survive a pickle."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]


def as_error_sent(error: BaseException) -> SentError:
    return SentError(type(error), error.args, vars(error))


def as_error_came(sent: SentError) -> BaseException:
    """The error as it was, made without its class's own way to make it."""
    error = sent.kind.__new__(sent.kind, *sent.args)
    error.args = sent.args
    vars(error).update(sent.state)
    return error


def answered_with(worked: bool, value: Any) -> Any:
    """What a service returned; what it raised is raised."""
    if not worked:
        raise as_error_came(value)
    return value


class Pipe:
    """The connection to the parent, safe to send on from every thread."""

    def __init__(self, connection: Any, *, quick: bool) -> None:
        self._connection = connection  # which closes its file with itself
        self._file = connection.fileno()
        self._quick = quick
        self._received = bytearray()
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._replies: dict[int, tuple[threading.Event, list[Any]]] = {}

    def send(self, *message: Any) -> None:
        data = framed(packed(message, quick=self._quick))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError:
                os._exit(1)  # the parent is gone

    def receive(self) -> tuple[Any, ...]:
        while (data := taken(self._received)) is None:
            try:
                came = os.read(self._file, READ_BYTES)
            except OSError:
                came = b""
            if not came:
                os._exit(1)
            self._received += came
        return unpacked(data, quick=self._quick)

    def ask(self, *question: Any) -> Any:
        """Ask the parent to call a service, and wait for what that returns, or raises."""
        number = next(self._numbers)
        answered, reply = self._replies[number] = threading.Event(), []
        self.send("service", number, *question)
        answered.wait()
        return answered_with(*reply)

    def answer(self, number: int, worked: bool, value: Any) -> None:
        answered, reply = self._replies.pop(number)
        reply += [worked, value]
        answered.set()


class Lane(Pipe):
    """A connection on which one thread is told everything: its calls, and answers to what these ask.

    So no other thread has to be woken for it. What it says goes over the pod's pipe, `back`, where many messages are
    read at once. `number` names the lane, in place of what it asks: that is one thing at a time.
    """

    def __init__(self, connection: Any, number: int, back: Pipe) -> None:
        super().__init__(connection, quick=True)
        self._number = number
        self._back = back

    def send(self, *message: Any) -> None:
        self._back.send(*message)

    def ask(self, *question: Any) -> Any:
        self.send("service", self._number, *question)
        _, _, worked, value = self.receive()
        return answered_with(worked, value)
