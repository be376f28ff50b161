"""How a call of a pod's method ended: done, definitely not done, or nobody can know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from podrace.simulator.history.events import shorten


@dataclass(frozen=True)
class Result:
    """How a call ended: `type` is `ok`, `fail` (definitely not done) or `info` (nobody can know)."""

    type: str
    value: Any = None
    error: str | None = None


def outcome(function: Callable[..., Any], *args: Any) -> Result:
    """Call a pod's method. What it raises is definite, but for a connection that broke on the way."""
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import TimeoutError as RedisTimeoutError

    try:
        return Result("ok", function(*args))
    except (RedisConnectionError, RedisTimeoutError) as error:
        return Result("info", error=_told(error))
    except Exception as error:
        return Result("fail", error=_told(error))


def _told(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}")
