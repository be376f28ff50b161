"""The memory agent at the end of the line: a ledger in SQLite of all that was delivered."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (
    number INTEGER PRIMARY KEY AUTOINCREMENT, batch_id TEXT NOT NULL, user_id TEXT NOT NULL,
    UNIQUE (user_id, batch_id));
CREATE TABLE IF NOT EXISTS part (
    number INTEGER NOT NULL REFERENCES batch (number), position INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (number, position));
CREATE TABLE IF NOT EXISTS fence (user_id TEXT PRIMARY KEY, highest INTEGER NOT NULL);
"""


class StaleFenceError(RuntimeError):
    """Definite: nothing was recorded. The sender's claim has become another's, who has sent with `highest_fence`."""

    def __init__(self, user_id: str, fence: int, highest_fence: int) -> None:
        super().__init__(f"user {user_id!r}: fence {fence} is older than {highest_fence}")
        self.highest_fence = highest_fence


class FileOverError(ValueError):
    """Definite: nothing was recorded. A file of the batch could no longer be read: send it again with a fresh one."""


class MemoryLedger:
    """One row a batch, one a part; usable by many processes and threads at once. `now` is the agent's clock.

    Raises sqlite3.OperationalError where the file cannot be opened or stays locked for 5 s.
    """

    def __init__(self, path: str | Path, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False, isolation_level=None)
        # Outlives every killed pod; only a crash of the whole machine could lose the tail.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(_SCHEMA)

    def send(
        self,
        user_id: str,
        parts: Sequence[Mapping[str, Any]],
        batch_id: str | None = None,
        fence: int | None = None,
    ) -> None:
        """Record one batch; a `batch_id` already recorded of this user has no second effect.

        Raises StaleFenceError where the user's batches have already come with a higher `fence`, FileOverError where a
        part's `usable_until`, in seconds since the epoch, is over.
        """
        batch_id = batch_id or uuid.uuid4().hex
        contents = [json.dumps(part) for part in parts]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                if fence is not None:
                    self._raise_fence(user_id, fence)
                new = self._connection.execute(
                    "INSERT OR IGNORE INTO batch (batch_id, user_id) VALUES (?, ?)", (batch_id, user_id)
                )
                if new.rowcount:
                    if any(part.get("usable_until", self._now() + 1) <= self._now() for part in parts):
                        raise FileOverError(f"user {user_id!r}: a file of batch {batch_id} is over")
                    rows = [(new.lastrowid, position, content) for position, content in enumerate(contents)]
                    self._connection.executemany("INSERT INTO part VALUES (?, ?, ?)", rows)

    def _raise_fence(self, user_id: str, fence: int) -> None:
        row = self._connection.execute("SELECT highest FROM fence WHERE user_id = ?", (user_id,)).fetchone()
        if row and row[0] > fence:
            raise StaleFenceError(user_id, fence, row[0])
        self._connection.execute("INSERT OR REPLACE INTO fence VALUES (?, ?)", (user_id, fence))

    def batches(self) -> list[tuple[str, str, list[dict[str, Any]]]]:
        """All that was recorded, in order: (batch id, user id, parts)."""
        with self._lock:
            recorded = self._connection.execute(
                "SELECT number, batch_id, user_id FROM batch ORDER BY number"
            ).fetchall()
            parts = self._connection.execute("SELECT number, content FROM part ORDER BY position").fetchall()
        by_batch: dict[int, list[dict[str, Any]]] = {number: [] for number, _, _ in recorded}
        for number, content in parts:
            by_batch[number].append(json.loads(content))
        return [(batch_id, user_id, by_batch[number]) for number, batch_id, user_id in recorded]

    def close(self) -> None:
        self._connection.close()
