"""Old and new pods side by side, as the README says how to move from `shared` to `durable`: pod A is an old one."""

from __future__ import annotations

from typing import Any

from podrace.reference.targets import durable, shared
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.scenarios.uploads import UPLOADS, absorb, add

MOVING = Scenario(
    "moving",
    {
        "A": (add("m1", ["image-1"]), absorb("absorb-a")),
        "B": (add("m2", ["image-2"], after=("m1",)), absorb("absorb-b")),
    },
    workload=UPLOADS,
    keeps=durable.keeps,  # type: ignore[attr-defined]
    what="a user's first message is accepted by an old pod, the second one by a new pod",
)


class Both:
    """Accepts as `durable`, and absorbs of that only what comes after all that `shared` has accepted."""

    waits_for_the_old = True

    def __init__(self, env: Any) -> None:
        self._old, self._new = shared(env), durable(env)
        self._redis, self._prefix = env.redis, env.prefix

    def add_message(self, user_id: str, text: str, images: Any, message_id: str) -> Any:
        return self._new.add_message(user_id, text, images, message_id)

    def absorb(self, user_id: str) -> int:
        absorbed = self._old.absorb(user_id)
        if self.waits_for_the_old and self._redis.exists(f"{self._prefix}temp_messages:{user_id}"):
            return absorbed  # another pod may be about to send them
        return absorbed + self._new.absorb(user_id)

    def upload_status(self, placeholder: Any) -> Any:
        return (self._new if "message_id" in placeholder else self._old).upload_status(placeholder)


class Hasty(Both):
    """Does not wait for what `shared` has accepted."""

    waits_for_the_old = False


def pods(env: Any) -> Any:
    return shared(env) if env.name == "A" else Both(env)


def hasty_pods(env: Any) -> Any:
    return shared(env) if env.name == "A" else Hasty(env)
