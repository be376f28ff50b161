"""What goes over the pipe between a pod and its parent, and how."""

from __future__ import annotations

import io
import pickle
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
