"""Load tests with Locust: `locust -f loadtests/locustfile.py`, or `from podrace.loadtests import RedisUser` in a
locustfile of one's own, which brings it all that follows. Nothing outside this package imports locust.

Read in this order: `redis_user` (one event an operation), `latency` (microseconds, corrected), `health` (how well
the generator was doing), `targets` (what is driven), `users` (what drives it, and compares each answer), `fleet`
(the pods in this process), `judging` (what became of each message), `shapes`, `slo` (the limits), `session` (a
worker's part of a run), `master` (the process that judges; `arguments` and `servers` are what it starts with),
`verdict` (how a run ends), `page` (the tab).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podrace.loadtests.redis_user import RedisUser as RedisUser


def __getattr__(name: str) -> Any:
    """RedisUser; asking for it here hooks this package into Locust, as Locust's own plugins do."""
    if name != "RedisUser":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from podrace.loadtests.hooks import install
    from podrace.loadtests.redis_user import RedisUser

    install()
    globals()[name] = RedisUser  # so that nothing asks here again
    return RedisUser
