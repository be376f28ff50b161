"""A library in another folder, not named in @podrace.own: it uses the real clock, threads and locks."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import threading
import time
from socket import getaddrinfo
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


def look_up_by_its_name() -> None:
    getaddrinfo("example.invalid", 80)


def run_process() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def start_native_thread() -> None:
    """Starts a thread as a C extension does: Python does not know of it."""
    library = ctypes.CDLL(None)
    handle, pause = ctypes.c_ulong(), ctypes.cast(library.pause, ctypes.c_void_p)
    library.pthread_create(ctypes.byref(handle), None, pause, None)


def hold(call: Any) -> Any:
    """Holds a lock, unseen by the harness, while it calls a function."""
    with LOCK:
        return call()


def spin() -> None:
    while True:
        pass
