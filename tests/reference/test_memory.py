from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import podrace
from podrace.reference.memory import MemoryLedger, StaleFenceError

PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "ä\n'quoted'"},
    {"type": "google_cloud_file_uri", "google_cloud_file_uri": "https://files.test/1"},
]

SENDER = """
import sys
from podrace.reference.memory import MemoryLedger
ledger = MemoryLedger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    ledger.send("ann", [{"number": number, "sender": sys.argv[2]}] * 3, f"batch {number}")
    ledger.send(sys.argv[2], [{"number": number}])
ledger.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.sqlite"


@pytest.fixture
def second(ledger: MemoryLedger, path: Path) -> Iterator[MemoryLedger]:
    """Another pod's connection to the same file."""
    opened = MemoryLedger(path)
    yield opened
    opened.close()


def test_a_new_ledger_is_empty(ledger: MemoryLedger) -> None:
    assert ledger.batches() == []


def test_batches_in_order_with_their_parts(ledger: MemoryLedger, second: MemoryLedger) -> None:
    ledger.send("bob", PARTS, "z")
    second.send("ann", PARTS[::-1], "a")
    ledger.send("bob", [], "empty")
    expected = [("z", "bob", PARTS), ("a", "ann", PARTS[::-1]), ("empty", "bob", [])]
    assert ledger.batches() == second.batches() == expected


def test_one_row_a_batch_and_one_a_part(ledger: MemoryLedger, path: Path) -> None:
    ledger.send("ann", PARTS, "one")
    ledger.send("ann", PARTS, "two")
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("SELECT count(*) FROM batch").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM part").fetchone() == (4,)
    finally:
        connection.close()


def test_second_send_of_a_batch_has_no_effect(ledger: MemoryLedger, second: MemoryLedger) -> None:
    ledger.send("ann", PARTS, "one")
    ledger.send("ann", PARTS, "one")
    second.send("ann", [*PARTS, {"type": "text", "text": "more"}], "one")
    assert ledger.batches() == [("one", "ann", PARTS)]


def test_batch_ids_are_remembered_by_user(ledger: MemoryLedger) -> None:
    ledger.send("ann", PARTS, "one")
    ledger.send("bob", [], "one")
    assert ledger.batches() == [("one", "ann", PARTS), ("one", "bob", [])]


def test_older_fence_is_refused(ledger: MemoryLedger, second: MemoryLedger) -> None:
    ledger.send("ann", PARTS, "one", fence=7)
    with pytest.raises(StaleFenceError, match="fence 6 is older than 7") as refused:
        second.send("ann", [], "two", fence=6)
    assert refused.value.highest_fence == 7
    second.send("bob", [], "other user", fence=6)
    second.send("ann", [], "same fence", fence=7)
    second.send("ann", [], "no fence")
    second.send("ann", PARTS, "one", fence=8)
    with pytest.raises(StaleFenceError):
        ledger.send("ann", PARTS, "one", fence=7)
    assert [batch_id for batch_id, _, _ in ledger.batches()] == ["one", "other user", "same fence", "no fence"]


def test_without_an_id_every_send_is_recorded(ledger: MemoryLedger) -> None:
    for _ in range(3):
        ledger.send("ann", PARTS)
    recorded = ledger.batches()
    assert [parts for _, _, parts in recorded] == [PARTS] * 3
    assert len({batch_id for batch_id, _, _ in recorded}) == 3


def test_what_cannot_be_recorded_leaves_nothing(ledger: MemoryLedger) -> None:
    with pytest.raises(TypeError):
        ledger.send("ann", [*PARTS, {"type": object()}], "one")
    assert ledger.batches() == []
    ledger.send("ann", PARTS, "one")
    assert ledger.batches() == [("one", "ann", PARTS)]


def test_a_reopened_ledger_has_what_was_recorded(path: Path) -> None:
    for number in range(2):
        ledger = MemoryLedger(path)
        ledger.send("ann", PARTS, str(number))
        ledger.close()
    ledger = MemoryLedger(path)
    assert [batch_id for batch_id, _, _ in ledger.batches()] == ["0", "1"]
    ledger.close()


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        MemoryLedger(tmp_path / "no such folder" / "memory.sqlite")


def test_many_threads_open_and_send_at_once(path: Path) -> None:
    shared = MemoryLedger(path)

    def send(number: int) -> None:
        own = MemoryLedger(path)
        for ledger in (own, shared):
            ledger.send("ann", [{"number": number}] * 3, f"batch {number % 20}")
            ledger.send("bob", [{"number": number}])
        own.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(40)))
    recorded = shared.batches()
    shared.close()
    named = [parts for _, user_id, parts in recorded if user_id == "ann"]
    assert len(named) == 20
    assert all(len(parts) == 3 and parts == [parts[0]] * 3 for parts in named)
    assert len(recorded) == 20 + 80


def test_two_processes_at_once(ledger: MemoryLedger, path: Path) -> None:
    root = Path(podrace.__file__).parents[1]
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, str(path), name],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("A", "B")
    ]
    for sender in senders:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    for sender in senders:
        sender.communicate(timeout=30)
        assert sender.returncode == 0
    recorded = ledger.batches()
    named = [parts for _, user_id, parts in recorded if user_id == "ann"]
    assert sorted(parts[0]["number"] for parts in named) == list(range(100))
    assert all(len(parts) == 3 and parts == [parts[0]] * 3 for parts in named)
    assert sum(user_id == "A" for _, user_id, _ in recorded) == 100
    assert sum(user_id == "B" for _, user_id, _ in recorded) == 100
