"""A server as a program of its own: it prints one line that says where it listens, and ends with its input."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from podrace.simulator.errors import PodraceError

T = TypeVar("T")


def serve(server: Callable[[], AbstractContextManager[T]], line: Callable[[T], str]) -> int:
    """Serve until standard input ends, SIGTERM or SIGINT. Returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with server() as opened:
            print(line(opened), flush=True)
            while sys.stdin.readline():
                pass
    except PodraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
