"""Errors, named by whose fault they are; each knows the exit code it ends the command with (design: exit codes).

A message says what was expected, what came and what to do, in one line, and never holds a secret.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from podrace.simulator.interrupts import Interrupted


class PodraceError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""

    exit_code = 4


class UsageError(PodraceError):
    """The caller's fault: a wrong option, file, URL or target. Nothing was done."""

    exit_code = 2


class HarnessError(PodraceError):
    """Our fault or the machine's: a server that would not start, a pod that died unexpectedly."""

    exit_code = 4


class TargetError(PodraceError):
    """The target's fault: it cannot be loaded, never comes back, or acts outside its environment.

    No verdict can be given, so the run is inconclusive.
    """

    exit_code = 3


class AnotherWayError(TargetError):
    """The same schedule went another way."""


def connection_error(pod: str, error: BaseException) -> PodraceError:
    """A pod's connection broke though no fault broke it: the target's error if it has closed the descriptor."""
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return TargetError(f"pod {pod} has closed a file descriptor that it has not opened; no verdict can be given")
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return HarnessError(f"a connection of pod {pod} broke though no fault broke it: {reason}")


def error_in_words(error: BaseException) -> str:
    """The kind of an error, and its text where it has one; a user's own may fail to make it."""
    try:
        text = str(error)
    except Exception as failed:
        text = f"its text cannot be made, which raised {type(failed).__name__}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def users_errors_as_target_errors() -> Iterator[None]:
    """Turns what the user's own scenario, workload or check raises in this process into a TargetError with the place.

    Nobody has judged anything then: SystemExit(0) in a check must not look like a run that ended well.
    """
    try:
        yield
    except (PodraceError, Interrupted):
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        place = _users_place(error.__traceback__)
        if place is None:
            raise
        raise TargetError(f"the scenario's own code raised {error_in_words(error)}, at {place}") from error


def _users_place(trace: TracebackType | None) -> str | None:
    """Where the user's code raised an error, or called what raised it; None if the code of podrace did."""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    for frame, line in reversed(frames):
        path = frame.f_code.co_filename
        if _is_ours(path):
            return None
        if not _is_beside_the_point(path) and "site-packages" not in path:
            return _said(frame, line)
    return None


_OURS = os.path.dirname(os.path.realpath(__file__))
_STANDARD = os.path.dirname(os.__file__)


def place_of(frame: FrameType) -> str:
    """The innermost place that is neither the harness's nor the standard library's, as `file:line in function`.

    One in a library is followed by who has called that.
    """
    places = [one for one in _frames(frame) if not _is_beside_the_point(one.f_code.co_filename)] or [frame]
    said = _said(places[0])
    if "site-packages" in places[0].f_code.co_filename:
        callers = [one for one in places if "site-packages" not in one.f_code.co_filename]
        said += f", called at {_said(callers[0])}" if callers else ""
    return said


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _said(frame: FrameType, line: int | None = None) -> str:
    path = frame.f_code.co_filename.removeprefix(os.getcwd() + os.sep)
    return f"{path}:{line or frame.f_lineno} in {frame.f_code.co_name}"


def _is_ours(path: str) -> bool:
    return path.startswith(_OURS) or os.path.realpath(path).startswith(_OURS)


def _is_beside_the_point(path: str) -> bool:
    if path.startswith("<frozen") or _is_ours(path):
        return True
    return path.startswith(_STANDARD) and "site-packages" not in path
