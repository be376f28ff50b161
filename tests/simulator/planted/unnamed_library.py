"""A library that is not named in @podrace.own, and lies elsewhere: it has the real clock, threads and locks."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import threading
import time
from typing import Any

LOCK = threading.Lock()


def poll() -> None:
    time.sleep(0.001)


def start_thread() -> None:
    threading.Thread(target=int, daemon=True).start()


def talk() -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.connect("/nowhere")


def look_up() -> None:
    socket.getaddrinfo("example.invalid", 80)


def run_process() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def start_native_thread() -> None:
    """What an extension written in C does: Python hears nothing of it."""
    library = ctypes.CDLL(None)
    handle, pause = ctypes.c_ulong(), ctypes.cast(library.pause, ctypes.c_void_p)
    library.pthread_create(ctypes.byref(handle), None, pause, None)


def hold(call: Any) -> Any:
    """Holds a lock that nobody else sees while something else is called."""
    with LOCK:
        return call()


def spin() -> None:
    while True:
        pass
