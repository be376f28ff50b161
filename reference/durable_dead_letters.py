"""Messages that the memory agent could not take, for an operator to see and to queue again.

Nothing here needs a pod: `DurableStore(client, prefix="mirix:")` is enough.
"""

from __future__ import annotations

from typing import Any

import orjson

from podrace.reference.durable_input import checked_message_id, checked_user_id
from podrace.reference.durable_store import DurableStore


def users(store: DurableStore) -> list[str]:
    """Who has dead letters."""
    return store.users_with_dead_letters()


def dead_letters(store: DurableStore, user_id: str) -> list[dict[str, Any]]:
    """One user's: `{"message_id", "reason", "text"}`; no text where the record was damaged."""
    found = store.dead_letters(checked_user_id(user_id))
    return [
        {"message_id": message_id, "reason": reason, "text": _text_of(record)}
        for message_id, (reason, record) in found.items()
    ]


def requeue(store: DurableStore, user_id: str, message_id: str) -> bool:
    """Put a dead letter at the end of the queue again, with its images. True where the message now waits there.

    Raises ValueError while the queue has still to tell the memory agent that it is missing: absorb first.
    """
    outcome = store.requeue(checked_user_id(user_id), checked_message_id(message_id))
    if outcome < 0:
        raise ValueError(f"message {message_id[:60]!r}: that it is missing was not delivered yet; absorb first")
    return outcome > 0


def _text_of(record: bytes) -> str | None:
    try:
        return str(orjson.loads(record)["text"])
    except (ValueError, TypeError, KeyError):
        return None
