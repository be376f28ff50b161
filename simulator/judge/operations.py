"""Operations read from JSON lines, such as `{"process": 1, "type": "ok", "f": "read", "key": "x", "value": 3}`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import orjson

from podrace.simulator.errors import UsageError
from podrace.simulator.judge.linear import Model, Operation

TYPES = ("invoke", "ok", "fail", "info")
"""An operation begins; was done; was definitely not done; nobody can know. One that never ends is treated as `info`."""


def read_operations(lines: Iterable[bytes], model: Model, *, source: str) -> dict[Hashable, list[Operation]]:
    """The operations of each key. A place in real time is a line's number. Fields beside the five are left alone.

    `value` may be left out where it says nothing: at the begin of a read, and at the end of any other operation.
    Raises UsageError, which names `source` and the line, for one that is no event, or does not follow from those
    before it.
    """
    found: dict[Hashable, list[Operation]] = {}
    under_way: dict[Hashable, tuple[int, str, Hashable, Any]] = {}
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            event = orjson.loads(line)
            event_type, f = event["type"], event["f"]
            process, key = _frozen(event["process"]), _frozen(event["key"])
            value = _frozen(event.get("value"))
            if f not in model.operations:
                raise _LineError(
                    f"f: expected one of {', '.join(sorted(model.operations))} for {model.name}, got {f!r}"
                )
            if event_type == "invoke":
                if process in under_way:
                    raise _LineError(f"process {process!r} begins an operation before its last one has ended")
                if f != "read":
                    _check_value(f, value, model)
                under_way[process] = (number, f, key, value)
                continue
            if event_type not in TYPES:
                raise _LineError(f"type: expected one of {', '.join(TYPES)}, got {event_type!r}")
            if process not in under_way:
                raise _LineError(f"process {process!r} ends an operation that it has not begun")
            began, begun_f, begun_key, given = under_way.pop(process)
            if (begun_f, begun_key) != (f, key):
                raise _LineError(f"expected the end of the {begun_f} of {begun_key!r} that began in line {began}")
            if event_type == "fail":
                continue
            if f != "read" and value is not None and value != given:
                raise _LineError(f"value: expected {given!r}, as in line {began}, got {value!r}")
            if event_type == "info":
                found.setdefault(key, []).append(Operation(process, f, given, began))
                continue
            if f == "read":
                _check_value(f, value, model)
            found.setdefault(key, []).append(Operation(process, f, value if f == "read" else given, began, number))
    except _LineError as error:
        raise UsageError(f"{source}, line {number}: {error}") from None
    except KeyError as error:
        raise UsageError(f"{source}, line {number}: expected the field {error}") from None
    except (ValueError, TypeError, RecursionError):
        raise UsageError(f"{source}, line {number}: expected one JSON object") from None
    for process, (began, f, key, value) in under_way.items():
        found.setdefault(key, []).append(Operation(process, f, value, began))
    return found


class _LineError(Exception):
    """What is wrong with a line."""


def _check_value(f: str, value: Any, model: Model) -> None:
    if f == "cas" and not (isinstance(value, tuple) and len(value) == 2):
        raise _LineError(f"value of a cas: expected [expected, new], got {value!r}")
    if model.values is not None and value not in model.values:
        raise _LineError(f"value: expected one of {', '.join(sorted(model.values))}, got {value!r}")


def _frozen(value: Any) -> Any:
    """A JSON value as one that can be a key of a dict; true is not 1."""
    if type(value) is str or type(value) is int or value is None:
        return value
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return ("object", *sorted((name, _frozen(item)) for name, item in value.items()))
    return value
