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

from podrace.simulator.errors import HarnessError

_PR_SET_PDEATHSIG = 1
_PATH_BYTES_MAX = 70
"""A longer one leaves no room for a socket's name below it: the kernel takes 107 bytes on Linux and 103 on macOS."""


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
    import subprocess

    from podrace.simulator.servers.embedded import GUARDIAN

    path = Path(tempfile.gettempdir(), f"podrace-{os.urandom(4).hex()}")
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        path = Path("/tmp", path.name)
    read_end, write_end = os.pipe()  # neither survives an exec: no other process can keep it open
    try:
        guardian = subprocess.Popen(
            ["/bin/sh", "-c", GUARDIAN, "podrace-guardian", str(path)],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(read_end)
    _opened.append(write_end)
    guardian.returncode = 0  # nobody waits for it: it ends after this process
    assert guardian.stdout is not None
    with guardian.stdout as said:
        answer = said.readline().decode(errors="replace").strip()
    if answer != "ready":
        raise HarnessError(f"temporary files: cannot make {path}: {answer}; check TMPDIR")
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
