"""The race that frontrun explores too, as a target: GET, check, SET of one key."""

from __future__ import annotations

from typing import Any


class RacingPod:
    """One of the two that race."""

    def __init__(self, env: Any) -> None:
        self._redis = env.redis
        self._key = f"{env.prefix}race"

    def absorb(self, user_id: str) -> int:
        if self._redis.get(self._key) is None:
            self._redis.set(self._key, "mine")
        return 0
