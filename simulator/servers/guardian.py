"""A small process that removes a folder, and kills what it is told to, as soon as this process has ended."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from podrace.simulator.errors import HarnessError

SOCKET_PATH_BYTES_MAX = 103
"""The kernel takes 107 bytes on Linux and 103 on macOS."""

# Runs in a session of its own, so that Ctrl-C does not reach it. It reads until its standard input ends,
# which the kernel sees to however the parent dies. Each line replaces what is to be killed then: a
# process group, or nothing. It makes the folder too: there is no instant at which nobody would remove it.
# SIGPIPE is ignored because "ready" may find the parent dead; the removal is repeated because a dying
# server may still add its socket while the folder is being emptied.
_GUARDIAN = """
trap '' PIPE
umask 077
mkdir "$1" || exit 1
echo ready
exec >/dev/null 2>&1
while read -r line; do group=$line; done
[ -z "$group" ] || kill -9 "-$group"
for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" && break; sleep 0.05; done
"""


def private_folder(longest: str) -> Path:
    """A folder that is not there yet, for temporary files with names up to so long; a socket's is limited."""
    path = Path(tempfile.gettempdir(), f"podrace-{os.urandom(6).hex()}").absolute()  # TMPDIR=. is left as it is
    fits = len(os.fsencode(path / longest)) <= SOCKET_PATH_BYTES_MAX
    return path if fits else Path("/tmp", path.name)


def start_guardian(folder: Path, purpose: str) -> tuple[subprocess.Popen[bytes], int]:
    """Make the folder and guard it. Returns the guardian, and the descriptor whose end it waits for.

    Raises HarnessError, about `purpose`, where the folder cannot be made.
    """
    read_end, write_end = os.pipe()  # neither survives an exec: no other process can keep it open
    try:
        try:
            guardian = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDIAN, "podrace-guardian", str(folder)],
                stdin=read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(read_end)
        assert guardian.stdout is not None
        with guardian.stdout as said:
            answer = said.readline().decode(errors="replace").strip()
        if answer != "ready":
            guardian.wait()
            raise HarnessError(f"{purpose}: cannot make {folder}: {answer}; check TMPDIR")
    except BaseException:
        os.close(write_end)
        raise
    return guardian, write_end
