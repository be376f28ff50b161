"""Keeps reports safe to read and to pass on: no secrets, no invisible characters, no endless texts."""

from __future__ import annotations

import re
from pathlib import Path

DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Errors that reading a damaged or foreign file can raise."""

_SECRET = re.compile(r"(://[^/\s:@\"'<>]*):[^/\s@\"'<>]+@")
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")

MOST_BYTES = 256 * 1024 * 1024
"""A larger file of results is not read: it would take gigabytes of memory, and no run of ours writes one."""


def read_regular(path: Path) -> str:
    """The text of a regular file. Raises ValueError for a pipe or a device, which may never end, and a huge file."""
    if not path.is_file():
        raise ValueError("expected a regular file" if path.exists() else "there is no such file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES // 1024**2} MiB")
    return path.read_text(encoding="utf-8")


def presentable(text: str) -> str:
    """The text without what no file of ours may hold: passwords in URLs, lone surrogates, control characters."""
    text = _UNSEEN.sub("\ufffd", text.encode("utf-8", "backslashreplace").decode())
    return _SECRET.sub(r"\1:***@", text)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def cut(text: str, limit: int) -> str:
    """The text, its middle left out where it is too long: of a command and its reply both ends are seen."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 1].rstrip()}…{text[-tail:].lstrip()}"
