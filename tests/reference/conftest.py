"""What the tests of `durable` share: a Gemini that can fail as the real one does, and pods that can die."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from podrace.reference.durable import DurablePod
from podrace.reference.durable_dead_letters import DeadLetters
from podrace.simulator.target import PodEnv

sys.path.insert(0, str(Path(__file__).parent))  # the explorer imports `crippled` by its name

TAG = "mirix:durable:{ann}:"


class RefusalError(Exception):
    """An error with a code, like google-genai's APIError."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code} refused")
        self.code = code


@dataclass
class GeminiFile:
    name: str
    uri: str
    create_time: str | None = None
    state: str | None = "ACTIVE"


@dataclass
class Gemini:
    """Each upload uses up one of `errors`, each answer one of `states` (then ACTIVE); `lost` maps names to codes."""

    errors: list[Exception | None] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    contents: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    during: Callable[[], None] = lambda: None
    chunk: int = -1

    def upload(self, *, file: Any) -> GeminiFile:
        content = b"".join(iter(lambda: file.read(self.chunk), b""))
        self.contents.append(content)
        number = len(self.contents)
        self.during()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return GeminiFile(f"files/{number}", f"https://files.test/{number}", None, self._state())

    def get(self, *, name: str) -> GeminiFile:
        self.asked.append(name)
        if name in self.lost:
            raise RefusalError(self.lost[name])
        return GeminiFile(name, f"https://files.test/{name.rpartition('/')[2]}", None, self._state())

    def delete(self, *, name: str) -> None:
        self.deleted.append(name)

    def _state(self) -> str:
        return self.states.pop(0) if self.states else "ACTIVE"


@pytest.fixture
def gemini() -> Gemini:
    return Gemini()


@pytest.fixture
def make_durable(make_env: Callable[..., PodEnv], gemini: Gemini) -> Callable[..., DurablePod]:
    """Makes pods. A pod with its own runtime does nothing until that runtime runs."""

    def make(name: str = "A", **replaced: Any) -> DurablePod:
        options = {"durability": "off", **replaced.pop("options", {})}
        scripts = replaced.pop("scripts", None)
        env = make_env(name, options=options, **{"gemini": gemini, **replaced})
        return DurablePod(env, **({"scripts": scripts} if scripts else {}))

    return make


@pytest.fixture
def pod(make_durable: Callable[..., DurablePod]) -> DurablePod:
    return make_durable("A")


@pytest.fixture
def letters(redis_client: redis.Redis) -> DeadLetters:
    return DeadLetters(redis_client, prefix="mirix:")


@pytest.fixture
def lapse(redis_client: redis.Redis) -> Callable[[str], None]:
    """Makes a lease of the user ann lapse: `claim`, or `lease:` and a message id."""

    def let_it(lease: str) -> None:
        assert redis_client.delete(TAG + lease) == 1, f"nobody has the lease {lease}"

    return let_it


@pytest.fixture
def left(redis_client: redis.Redis) -> Callable[[], list[str]]:
    """The keys without a time to live, which nothing will ever remove."""

    def keys() -> list[str]:
        return sorted(key.decode() for key in redis_client.scan_iter() if redis_client.ttl(key) < 0)

    return keys
