"""Messages that the memory agent could not take, for an operator to see and to queue again. No pod is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from podrace.reference.durable_input import checked_id
from podrace.reference.durable_store import DurableStore

if TYPE_CHECKING:
    import redis


class DeadLetters:
    """Those under a prefix. `client` as the pods have one: replies in bytes."""

    def __init__(self, client: redis.Redis, *, prefix: str) -> None:
        self._store = DurableStore(client, prefix=prefix)

    def find(self, user_id: str | None = None) -> list[dict[str, Any]]:
        """One user's, or all users' (which looks at every key of the server, without blocking it).

        `{"user_id", "message_id", "reason", "text"}` each; no text where the record was damaged.
        """
        found = []
        for user in self._store.users_with("dead") if user_id is None else [checked_id(user_id, "user id")]:
            held: dict[bytes, bytes] = self._store.redis.hgetall(self._store.key(user, "dead"))  # type: ignore[assignment]
            for field, record in sorted(held.items()):
                if field.startswith(b"record/"):
                    name = field.removeprefix(b"record/")
                    reason = held.get(b"reason/" + name, b"").decode()
                    found.append(
                        {"user_id": user, "message_id": name.decode(), "reason": reason, "text": _text_of(record)}
                    )
        return found

    def requeue(self, user_id: str, message_id: str) -> bool:
        """Put one at the end of its user's queue again, with its images. True where the message now waits there.

        Raises ValueError while the queue has still to tell the memory agent that it is missing: absorb first.
        """
        outcome = self._store.requeue(checked_id(user_id, "user id"), checked_id(message_id, "message id"))
        if outcome < 0:
            raise ValueError(f"message {message_id[:60]!r}: that it is missing was not delivered yet; absorb first")
        return outcome > 0


def _text_of(record: bytes) -> str | None:
    try:
        return str(orjson.loads(record)["text"])
    except (ValueError, TypeError, KeyError):
        return None
