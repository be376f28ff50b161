"""Output streams that survive a closed pipe, an encoding that lacks letters, and a closed descriptor."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING

from podrace.simulator.errors import HarnessError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NAMES = {1: "standard output", 2: "standard error"}


class _Outlet(io.FileIO):
    """Writes to a descriptor. Once the reader has closed the pipe, output is dropped: that changes no verdict."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _to_nowhere(self.fileno())
            if not isinstance(error, BrokenPipeError):
                raise HarnessError(f"{_NAMES[self.fileno()]}: {error.strerror}") from error
            return memoryview(data).nbytes

    def seekable(self) -> bool:
        return False  # others write to the same descriptor


class _AsciiText(io.TextIOWrapper):
    """Text of which an output that takes ASCII only gets what it can show. Its encoding is said to be Latin-1.

    For click takes an encoding of ASCII for a mistake of the user's, and writes UTF-8 instead.
    """

    def write(self, text: str, /) -> int:
        super().write(text.encode("ascii", "replace").decode())
        return len(text)


def make_robust() -> None:
    """Make this process's own streams so; streams that a test or a notebook has installed stay as they are."""
    for descriptor in (0, 1, 2):
        _fill(descriptor)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    sys.stdout = _robust(sys.stdout, 1)
    sys.stderr = _robust(sys.stderr, 2)


def _robust(stream: object, descriptor: int) -> io.TextIOWrapper:
    if stream is not None and not isinstance(stream, io.TextIOWrapper):
        return stream  # type: ignore[return-value]  # something that was installed by others
    if isinstance(stream, io.TextIOWrapper):
        file = getattr(stream.buffer, "raw", stream.buffer)  # with `python -u` the buffer is the file itself
        if not isinstance(file, io.FileIO) or stream.fileno() != descriptor:
            return stream
        stream.flush()
    encoding = codecs.lookup(stream.encoding).name if stream else "utf-8"
    make = _AsciiText if encoding == "ascii" else io.TextIOWrapper
    return make(
        io.BufferedWriter(_Outlet(descriptor, "w", closefd=False)),
        encoding="latin-1" if encoding == "ascii" else encoding,
        errors="replace",  # a terminal without UTF-8 is not a reason to fail
        line_buffering=stream is not None and (stream.line_buffering or stream.write_through),
    )


def _fill(descriptor: int) -> None:
    """Open a descriptor that the caller has closed; else the next opened file would get its number and our output."""
    try:
        os.fstat(descriptor)
    except OSError:
        _to_nowhere(descriptor)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
