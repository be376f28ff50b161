"""What goes with this process however it ends: children, by the kernel; temporary files, by the fork server.

The fork server outlives this process, and imports this first. It also makes its pods put their temporary
files there, so that those of a pod that was killed go too.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_VARIABLE = "PODRACE_GUARDED_FOLDER"
_TEMPDIR_BYTES_MAX = 64
"""A longer one leaves no room for a socket's name: the kernel takes 107 bytes on Linux and 103 on macOS."""
_REMOVALS = 9
"""Pods that are being killed may still add files while their folder is being emptied."""


def folder() -> Path:
    """The folder, with the fork server's socket in it. It is guarded from the fork server's start on."""
    from multiprocess.util import get_temp_dir

    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > _TEMPDIR_BYTES_MAX:
        tempfile.tempdir = "/tmp"
    try:
        return Path(get_temp_dir())
    finally:
        tempfile.tempdir = before


@contextmanager
def handed_over() -> Iterator[None]:
    """A fork server that is started meanwhile guards the folder."""
    os.environ[_VARIABLE] = str(folder())
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


def _guard(path: str) -> None:
    import atexit

    tempfile.tempdir = path
    atexit.register(_remove, path)  # the fork server ends when its parent has; forked pods run no such thing


def _remove(path: str) -> None:
    import shutil
    import time

    for _ in range(_REMOVALS):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.exists(path):
            return
        time.sleep(0.05)


if _VARIABLE in os.environ:
    _guard(os.environ.pop(_VARIABLE))


def die_with_parent() -> None:
    """Ask Linux to kill this process with its parent, so that even one that is stopped outlives nobody.

    Elsewhere nothing is asked; a pod that runs ends with its pipe.
    """
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
