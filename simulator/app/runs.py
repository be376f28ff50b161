"""The result form, and the run's folder that holds everything a report needs."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from podrace.simulator.errors import PodraceError, UsageError
from podrace.simulator.judge.checks import INCONCLUSIVE
from podrace.simulator.servers.embedded import ServerInfo

RESULT_VERSION = 1
_VERSIONS = ("podrace", "redis", "google-genai")


@dataclass(frozen=True)
class Cell:
    """One judgement: what a target did in a scenario, beside what was expected of it."""

    target: str
    scenario: str
    fleet: str
    verdict: str
    expected: str
    counts: Mapping[str, int]
    schedules: Mapping[str, Any] = field(default_factory=dict)
    counterexample: str | None = None
    elapsed_s: float = 0.0
    words: str = ""
    """The kinds of what was found, worst first, in the words of the failure modes."""
    note: str = ""
    row: int = 0
    """The failure mode's number; 0 where the run is about none."""
    sentence: str = ""
    """What was lost and why."""


def result_document(
    command: Sequence[str], *, seed: int, run: Path, server: ServerInfo, cells: Sequence[Cell]
) -> dict[str, Any]:
    """The one document that `--json` prints and `result.json` holds (version 1)."""
    return {
        "version": RESULT_VERSION,
        "command": list(command),
        "seed": seed,
        "run": str(run),
        "server": asdict(server),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "cells": [asdict(cell) for cell in cells],
    }


def exit_code(cells: Sequence[Cell]) -> int:
    """0 where every verdict is the expected one, else 1; 3 where nothing is wrong but something unknown."""
    unexpected = [cell for cell in cells if cell.verdict != cell.expected]
    if not unexpected:
        return 0
    return 3 if all(cell.verdict == INCONCLUSIVE for cell in unexpected) else 1


@contextmanager
def run_folder(path: Path | None, name: str) -> Iterator[Path]:
    """The run's folder, made now; gone again where the run ends in an error before it wrote anything.

    `path=None` is `runs/<time>-<name>` below the current folder. Raises UsageError where it cannot be
    written.
    """
    folder = path or _free_name(Path("runs"), f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        _remove_empty(missing)
        reason = error.strerror or error
        raise UsageError(f"run folder {folder}: expected a folder that can be written: {reason}") from error
    try:
        yield folder
    except (PodraceError, KeyboardInterrupt):
        _remove_empty(missing)
        raise


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _free_name(parent: Path, name: str) -> Path:
    number, path = 1, parent / name
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
