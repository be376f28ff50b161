"""What goes over the pipe between a pod and its parent, and how."""

from __future__ import annotations

import io
import os
import pickle
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


class Pipe:
    """The connection to the parent, safe to send on from every thread."""

    def __init__(self, connection: Any, *, quick: bool) -> None:
        self._connection = connection
        self._quick = quick
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._replies: dict[int, tuple[threading.Event, list[Any]]] = {}

    def send(self, *message: Any) -> None:
        with self._lock:
            try:
                self._connection.send_bytes(packed(message, quick=self._quick))
            except OSError:
                os._exit(1)  # the parent is gone

    def receive(self) -> tuple[Any, ...]:
        try:
            return unpacked(self._connection.recv_bytes(), quick=self._quick)
        except (EOFError, OSError):
            os._exit(1)

    def ask(self, *question: Any) -> Any:
        """Ask the parent to call a service, and wait for what that returns, or raises."""
        number = next(self._numbers)
        answered, reply = self._replies[number] = threading.Event(), []
        self.send("service", number, *question)
        answered.wait()
        worked, value = reply
        if not worked:
            raise as_error_came(value)
        return value

    def answer(self, number: int, worked: bool, value: Any) -> None:
        answered, reply = self._replies.pop(number)
        reply += [worked, value]
        answered.set()
