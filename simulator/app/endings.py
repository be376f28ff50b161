"""How a command ends when it is told to: by Ctrl-C, by SIGTERM, or because its terminal is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from podrace.simulator.interrupts import WORDS, Interrupted, raise_here

UNDISTURBED_S = 2.0
"""For this long, further signals do not disturb the clean-up; after that the next one ends the process at once."""


@contextmanager
def endings() -> Iterator[None]:
    """Meanwhile each of the signals becomes one Interrupted, in the main thread.

    A signal that is ignored from the start, as under nohup, stays ignored. Python drops what is raised within a
    `__del__` or a callback of the garbage collector: then the signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    began_s: float | None = None
    hook = sys.unraisablehook

    def came(number: int, frame: FrameType | None) -> None:
        nonlocal began_s
        if began_s is not None:
            if time.monotonic() - began_s > UNDISTURBED_S:
                os._exit(128 + number)  # guardians end the servers and remove temporary files; pods die with us
            return
        began_s = time.monotonic()
        inline = sys.modules.get("podrace.simulator.fleets.inline")
        # while that module is being imported, it has none yet
        getattr(inline, "raise_in_harness", raise_here)(Interrupted(number))

    def dropped(unraisable: Any) -> None:
        nonlocal began_s
        if not isinstance(unraisable.exc_value, Interrupted):
            hook(unraisable)
            return
        began_s = None
        number = unraisable.exc_value.exit_code - 128
        # To the main thread: where another takes it, the main one goes on waiting for whatever it waits for.
        again = threading.Timer(0.02, signal.pthread_kill, [threading.main_thread().ident, number])
        again.daemon = True
        again.start()

    before = {number: signal.signal(number, came) for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN}
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
