"""The result form, and the run's folder that holds everything a report needs."""

from __future__ import annotations

import errno
import json
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from podrace.simulator.errors import HarnessError, PodraceError, TargetError, UsageError
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, NOT_APPLICABLE
from podrace.simulator.servers.connection import BUSY, is_busy
from podrace.simulator.servers.embedded import ServerInfo

if TYPE_CHECKING:
    from podrace.simulator.app.directed import Directed
    from podrace.simulator.scenarios.model import Scenario

Form = TypeVar("Form")
RESULT_VERSION = 1
RESULT = "result.json"
MOST_BYTES = 4 * 1024 * 1024
"""A counterexample, or a file of known violations, is never larger than this."""
_VERSIONS = ("podrace", "redis", "google-genai")


@dataclass(frozen=True)
class Cell:
    """One judgement: what a target did in a scenario, and what was expected of it."""

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
    """What went wrong and why."""
    what: str = ""
    """What the row shows."""
    known: bool = False
    """Whether it was known before that this target violates this scenario."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Of a fleet that ran free: its operations, the faults that struck, every finding."""

    @property
    def is_expected(self) -> bool:
        """Whether the verdict is expected. `–` instead of an expected `holds` counts as expected, not as a pass."""
        return self.verdict == self.expected or (self.verdict == NOT_APPLICABLE and self.expected == HOLDS)


def unjudged(one: Scenario | Directed, target: str, fleet: str) -> Cell:
    """The cell of a target of which nothing is known yet."""
    return Cell(
        target=target,
        scenario=one.name,
        fleet=fleet,
        verdict=INCONCLUSIVE,
        expected=one.expected(target),
        counts={},
        words=INCONCLUSIVE,
        row=one.row,
        what=one.what,
    )


def stem_of(target: str, scenario: str) -> str:
    """What the files of a cell's counterexample are called, without their suffixes."""
    return f"{target}-{scenario}".replace(":", ".")


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
    """0 if every verdict is expected; 3 if the only unexpected ones are inconclusive; else 1."""
    unexpected = [cell for cell in cells if not cell.is_expected]
    if not unexpected:
        return 0
    return 3 if all(cell.verdict == INCONCLUSIVE for cell in unexpected) else 1


@contextmanager
def run_folder(path: Path | None, name: str) -> Iterator[Path]:
    """The run's folder, made now; gone again where the run ends in an error before it wrote anything.

    `path=None` is `runs/<time>-<name>` below the current folder. Raises UsageError where it cannot be written, or
    holds a result already; HarnessError, with the traceback in the folder, for what nobody expected.
    """
    try:
        folder = path or _free_name(Path("runs"), f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    except OSError as error:
        raise UsageError(f"run folder {path}: {error.strerror or error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        _remove_empty(missing)
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"run folder {folder}: expected a folder that can be written: {reason}") from error
    if (folder / RESULT).exists():
        raise UsageError(f"run folder {folder}: it holds a result already; name another, or remove it")
    try:
        yield folder
    except (PodraceError, KeyboardInterrupt):
        _remove_empty(missing)
        raise
    except Exception as error:
        raise unexpected(error, folder) from error


_NO_MORE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""Errors that mean that the machine has run out of something. They often name no file."""


def unexpected(error: BaseException, folder: Path | None = None) -> PodraceError:
    """An unexpected error as one line. Its traceback goes into the folder, or into a temporary file without one."""
    if is_busy(str(error)):
        return TargetError(f"the server is {BUSY}")
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return TargetError("a file descriptor of podrace was closed: expected a target that closes only its own")
    if isinstance(error, OSError) and error.strerror:
        if not _has_current_folder():
            return UsageError("the current folder has been deleted; change to another one")
        if error.filename is not None or error.errno in _NO_MORE:
            return HarnessError(f"{error.filename or folder or 'this machine'}: {error.strerror}")
    text = "".join(traceback.format_exception(error))
    try:
        if folder is None:
            handle, name = tempfile.mkstemp(prefix="podrace-traceback-", suffix=".txt")
            os.close(handle)
            path = Path(name)
        else:
            path = folder / "traceback.txt"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        where = f"; the traceback is in {path}"
    except OSError:
        where = ""
    first = str(error).partition("\n")[0]
    return HarnessError(f"an error of podrace's own: {type(error).__name__}: {first}{where}")


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def write_json(path: Path, document: Any) -> None:
    """Write a document completely or not at all. Raises HarnessError if the disk cannot hold it."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    real = Path(os.path.realpath(path))  # the target of a link is replaced, not the link
    part = real.with_name(f".{real.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.replace(real)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def read_as(path: Path, form: type[Form], *, noun: str, kind: str) -> Form:
    """Read a JSON document of this form. Raises UsageError, with the place in it, if the file is missing or damaged."""
    from pydantic import TypeAdapter, ValidationError

    try:
        if not path.is_file():
            raise UsageError(f"{noun} {path}: expected a {kind}, found none")
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{noun} {path}: expected at most {MOST_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(form).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise UsageError(f"{noun} {path}: damaged: {place}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{noun} {path}: expected a {kind}: {getattr(error, 'strerror', None) or error}") from error


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
