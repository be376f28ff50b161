"""What goes with this process however it ends: children, by the kernel; temporary files, by a guardian.

The guardian is a small process in a session of its own, which makes the folder and removes it as soon as this process
has ended: neither its being killed nor a signal to its whole process group leaves anything behind.
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
_LONGEST = "pymp-12345678/listener-12345678"
"""The longest name of a socket that `multiprocess` makes in it."""


def folder() -> Path:
    """The folder for all temporary files of this process and its pods; `multiprocess` has its own within it."""
    from multiprocess.util import get_temp_dir

    before = tempfile.tempdir
    try:
        if not _opened:
            tempfile.tempdir = str(_guarded_folder())
        return Path(get_temp_dir())
    finally:
        tempfile.tempdir = before


_opened: list[int] = []
"""The guardian's standard input, which only the end of this process closes."""


def _guarded_folder() -> Path:
    from podrace.simulator.servers.guardian import private_folder, start_guardian

    path = private_folder(_LONGEST)
    guardian, end = start_guardian(path, "temporary files")
    _opened.append(end)
    guardian.returncode = 0  # nobody waits for it: it ends after this process
    return path


@contextmanager
def handed_over() -> Iterator[None]:
    """A fork server that is started meanwhile, and its pods, put their temporary files into the folder too."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder())
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before


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
