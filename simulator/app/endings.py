"""How a command ends when it is told to: by Ctrl-C, by SIGTERM, or because its terminal is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from podrace.simulator.interrupts import WORDS, Interrupted

UNDISTURBED_S = 2.0
"""For this long, further signals do not disturb the clean-up; after that the next one ends the process at once."""


class Endings:
    """Turns each of the signals into one Interrupted, while it is entered. A context manager of the main thread.

    A signal that is ignored from the start, as under nohup, stays ignored. Python drops what is raised within a
    `__del__` or a callback of the garbage collector: then the signal is sent again.
    """

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._hook = sys.unraisablehook
            sys.unraisablehook = self._dropped
            for number in WORDS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self._began_s is not None:
            if time.monotonic() - self._began_s > UNDISTURBED_S:
                os._exit(128 + number)  # guardians end the servers and remove temporary files; pods die with us
            return
        self._began_s = time.monotonic()
        error = Interrupted(number)
        inline = sys.modules.get("podrace.simulator.fleets.inline")
        getattr(inline, "raise_in_harness", _raise)(error)  # while that module is being imported, it has none yet

    def _dropped(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            self._hook(unraisable)
            return
        self._began_s = None
        number = unraisable.exc_value.exit_code - 128
        # To the main thread: where another takes it, the main one goes on waiting for whatever it waits for.
        again = threading.Timer(0.02, signal.pthread_kill, [threading.main_thread().ident, number])
        again.daemon = True
        again.start()


def _raise(error: BaseException) -> None:
    raise error
