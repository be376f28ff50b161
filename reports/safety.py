"""What may be read and what may be written: no secrets, no invisible characters, no endless texts, nothing damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

_T = TypeVar("_T")
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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a regular file. Raises one of DAMAGE for what is none."""
    document = json.loads(read_regular(path))
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")
    return document


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


Text = Annotated[str, BeforeValidator(lambda value: presentable("" if value is None else str(value)))]
"""Of a file, as far as it can be shown."""
Number = Annotated[float, Field(ge=0, lt=1e300)]
"""One that can be drawn: JSON as Python writes it may hold NaN and Infinity."""
AS_READ = ConfigDict(extra="ignore")


def whole(kind: type[_T], items: Any, noun: str, name: Callable[[str], None]) -> Iterator[_T]:
    """The items as records of this kind; those that are damaged are left out, and named, each with the reason."""
    reader = TypeAdapter(kind)
    for number, item in enumerate(items or (), 1):
        try:
            yield reader.validate_python(item)
        except DAMAGE as error:
            name(f"{noun} {number}: {in_words(error)}")


def in_words(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, ("damaged", ".".join(map(str, first["loc"])), first["msg"])))
    if isinstance(error, JSONDecodeError):
        return f"expected JSON: {error}"
    if isinstance(error, OSError | ValueError):
        return str(getattr(error, "strerror", None) or error)
    return f"damaged: {error!r}"
