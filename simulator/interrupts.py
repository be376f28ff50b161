"""Ctrl-C as an error of its own, so that a KeyboardInterrupt that a target raises is known to be the target's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Interrupted(KeyboardInterrupt):
    """Raised at whatever point the process has reached when the signal arrives. `so_far`: what is known by then."""

    so_far: Any = None

    def __init__(self, number: int) -> None:
        super().__init__(WORDS[signal.Signals(number)])
        self.exit_code = 128 + number


def raise_here(error: BaseException) -> NoReturn:
    raise error


@contextmanager
def ctrl_c_as_interrupted(raise_it: Callable[[BaseException], NoReturn] = raise_here) -> Iterator[None]:
    """Meanwhile Ctrl-C raises Interrupted, by `raise_it`. For callers from Python; the command always does so.

    Python's own handler raises a plain KeyboardInterrupt. A handler that somebody else has installed stays.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def came(number: int, _: FrameType | None) -> None:
        raise_it(Interrupted(number))

    signal.signal(signal.SIGINT, came)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
