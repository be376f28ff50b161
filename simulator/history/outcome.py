"""How a call of a pod's method ended: done, definitely not done, or nobody can know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from podrace.simulator.errors import PodraceError, error_in_words
from podrace.simulator.history.events import shorten


class Result(NamedTuple):
    """How a call ended: `type` is `ok`, `fail` (definitely not done) or `info` (nobody can know)."""

    type: str
    value: Any = None
    error: str | None = None


def outcome(function: Callable[..., Any], *args: Any) -> Result:
    """Call a pod's method. An error is definite unless it is, or comes from, a broken connection or a timeout."""
    try:
        return Result("ok", function(*args))
    except PodraceError:
        raise
    except Exception as error:
        text = shorten(error_in_words(error))
        return Result("info" if is_indefinite(error) else "fail", error=text)


def is_indefinite(error: BaseException) -> bool:
    """Whether the error, or one that it comes from, leaves open whether the server did what it was asked."""
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import TimeoutError as RedisTimeoutError

    open_ended = (RedisConnectionError, RedisTimeoutError, TimeoutError, OSError)
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, open_ended):
            return True
        seen.add(id(one))
        chain += [one.__cause__, one.__context__]
    return False
