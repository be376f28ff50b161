"""Errors, named by whose fault they are; each knows the exit code it ends the command with (design: exit codes).

A message says what was expected, what came and what to do, in one line, and never holds a secret.
"""

from __future__ import annotations

import os
from types import FrameType


class PodraceError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""

    exit_code = 4


class UsageError(PodraceError):
    """The caller's fault: a wrong option, file, URL or target. Nothing was done."""

    exit_code = 2


class HarnessError(PodraceError):
    """Our fault or the machine's: a server that would not start, a pod that died unasked."""

    exit_code = 4


class TargetError(PodraceError):
    """The target's fault: it cannot be loaded, never comes back, or acts outside its environment.

    No verdict can be given, so the run is inconclusive.
    """

    exit_code = 3


_OURS = os.path.dirname(os.path.realpath(__file__))
_STANDARD = os.path.dirname(os.__file__)


def place_of(frame: FrameType) -> str:
    """The innermost place that is neither the harness's nor the standard library's, as `file:line in function`."""
    innermost, found = frame, frame
    while _is_beside_the_point(found.f_code.co_filename):
        if found.f_back is None:
            found = innermost
            break
        found = found.f_back
    path = found.f_code.co_filename
    here = os.getcwd() + os.sep
    return f"{path.removeprefix(here)}:{found.f_lineno} in {found.f_code.co_name}"


def _is_beside_the_point(path: str) -> bool:
    if path.startswith("<frozen"):
        return True
    ours = path.startswith(_OURS) or os.path.realpath(path).startswith(_OURS)
    return ours or (path.startswith(_STANDARD) and "site-packages" not in path)
