"""The ledger in memory keeps the contract of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podrace.reference.memory import MemoryLedger
from podrace.simulator.fleets.inline import MemoryList

LEDGERS = {"real": MemoryLedger, "in memory": lambda path: MemoryList()}
TEXT = {"type": "text", "text": "hello"}
IMAGE = {"type": "google_cloud_file_uri", "google_cloud_file_uri": "http://files.invalid/v1beta/files/a"}


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = LEDGERS[request.param](tmp_path / "ledger.sqlite")
    yield made
    made.close()


def test_batches_come_back_in_order_with_their_parts(ledger: Any) -> None:
    ledger.send("alice", [TEXT, IMAGE], "batch-a")
    ledger.send("bob", [TEXT], "batch-b")
    assert ledger.batches() == [("batch-a", "alice", [TEXT, IMAGE]), ("batch-b", "bob", [TEXT])]


def test_a_batch_id_seen_before_has_no_second_effect(ledger: Any) -> None:
    ledger.send("alice", [TEXT], "batch-a")
    ledger.send("alice", [IMAGE], "batch-a")
    assert ledger.batches() == [("batch-a", "alice", [TEXT])]


def test_batches_without_an_id_are_all_recorded(ledger: Any) -> None:
    ledger.send("alice", [TEXT])
    ledger.send("alice", [TEXT])
    recorded = ledger.batches()
    assert [(user, parts) for _, user, parts in recorded] == [("alice", [TEXT])] * 2
    assert len({batch_id for batch_id, _, _ in recorded}) == 2


def test_what_is_changed_after_sending_does_not_change_the_record(ledger: Any) -> None:
    part = dict(TEXT)
    ledger.send("alice", [part], "batch-a")
    part["text"] = "other"
    assert ledger.batches() == [("batch-a", "alice", [TEXT])]
