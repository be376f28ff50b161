"""The gate before every call of a service that is not Redis, whatever the service is."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from podrace.simulator.world.steps import DROP_REPLY, FAIL, HANG, Gate, as_sent


class Content(NamedTuple):
    """Stands in a step for an open file among the arguments: what can be read from it."""

    data: bytes


def unavailable() -> Exception:
    """What a client raises that says nothing else of a service which is not available."""
    return ConnectionError("the service is not available")


class GatedService:
    """A service as a pod sees it: each call of a method is a step.

    What is sent and what comes back is copied, as between processes. `failure` makes what a client of the service
    raises where that is not available, or its reply is lost.
    """

    def __init__(self, name: str, inner: Any, gate: Gate, failure: Callable[[], Exception] = unavailable) -> None:
        self._name = name
        self._inner = inner
        self._gate = gate
        self._failure = failure

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        if not callable(getattr(self._inner, method)):
            return getattr(self._inner, method)

        def call(*args: Any, **named: Any) -> Any:
            return self._call(method, args, named)

        return call

    def _call(self, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        gate, inner = self._gate, self._inner
        # as they are now: their owner may change them while this step waits
        args, named = tuple(map(_sent, args)), {name: _sent(value) for name, value in named.items()}
        shown = tuple(map(as_shown, args)), {name: as_shown(value) for name, value in named.items()}
        action = gate.before("service", (self._name, method, *shown))
        if action == HANG:
            gate.hang()
        try:
            if action == FAIL:
                raise self._failure()
            result = as_sent(getattr(inner, method)(*args, **named))
            if action == DROP_REPLY:
                raise self._failure()
        except Exception as error:
            gate.after(error)
            raise
        gate.after(result)
        return result


def _sent(value: Any) -> Any:
    return value if hasattr(value, "read") else as_sent(value)


def as_shown(value: Any) -> Any:
    """An argument as a step has it: an open file as what can be read from it."""
    if not hasattr(value, "read") or isinstance(value, Path):
        return value
    if isinstance(value, io.BytesIO):
        return Content(value.getvalue())
    place = value.tell()
    content = value.read()
    value.seek(place)
    return Content(content)
