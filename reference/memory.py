"""The memory agent at the end of the line: a ledger in SQLite of all that was delivered."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (
    number INTEGER PRIMARY KEY AUTOINCREMENT, batch_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS part (
    batch_id TEXT NOT NULL REFERENCES batch (batch_id), position INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (batch_id, position));
"""


class MemoryLedger:
    """One row a batch, one a part; usable by many processes and threads at once.

    Raises sqlite3.OperationalError where the file cannot be opened or stays locked for 5 s.
    """

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False, isolation_level=None)
        # Outlives every killed pod; only a crash of the whole machine could lose the tail.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(_SCHEMA)

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str | None = None) -> None:
        """Record one batch; a `batch_id` already recorded has no second effect."""
        batch_id = batch_id or uuid.uuid4().hex
        rows = [(batch_id, position, json.dumps(part)) for position, part in enumerate(parts)]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                new = self._connection.execute(
                    "INSERT OR IGNORE INTO batch (batch_id, user_id) VALUES (?, ?)", (batch_id, user_id)
                ).rowcount
                if new:
                    self._connection.executemany("INSERT INTO part VALUES (?, ?, ?)", rows)

    def batches(self) -> list[tuple[str, str, list[dict[str, Any]]]]:
        """All that was recorded, in order: (batch id, user id, parts)."""
        with self._lock:
            recorded = self._connection.execute("SELECT batch_id, user_id FROM batch ORDER BY number").fetchall()
            parts = self._connection.execute("SELECT batch_id, content FROM part ORDER BY position").fetchall()
        by_batch: dict[str, list[dict[str, Any]]] = {batch_id: [] for batch_id, _ in recorded}
        for batch_id, content in parts:
            by_batch[batch_id].append(json.loads(content))
        return [(batch_id, user_id, by_batch[batch_id]) for batch_id, user_id in recorded]

    def close(self) -> None:
        self._connection.close()
