"""Errors, named by whose fault they are; each knows the exit code it ends the command with (design: exit codes).

A message says what was expected, what came and what to do, in one line, and never holds a secret.
"""

from __future__ import annotations


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
