"""The simulator's memory agent keeps the contract of the real one, and has features that only a run needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from podrace.reference.memory import MemoryLedger
from podrace.simulator.scenarios.uploads import POISON, UPLOADS, Memory

LEDGERS = {"real": MemoryLedger, "in memory": lambda path: Memory()}
TEXT = {"type": "text", "text": "hello"}
URI = "http://files.invalid/v1beta/files/a"
IMAGE = {"type": "google_cloud_file_uri", "google_cloud_file_uri": URI}


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = LEDGERS[request.param](tmp_path / "ledger.sqlite")
    yield made
    with suppress(AttributeError):
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


def test_a_batch_with_a_file_that_is_over_is_refused_whole(ledger: Any) -> None:
    """Unless it was recorded before: then the sender only repeats it because it got no answer."""
    now = time.time()
    over, usable = {**IMAGE, "usable_until": now - 1}, {**IMAGE, "usable_until": now + 3600}
    with pytest.raises(ValueError, match="file"):
        ledger.send("alice", [TEXT, usable, over], "batch-a")
    assert ledger.batches() == []
    ledger.send("alice", [TEXT, usable], "batch-a")
    ledger.send("alice", [TEXT, over], "batch-a")
    assert ledger.batches() == [("batch-a", "alice", [TEXT, usable])]


# --- only in the simulator ---


@pytest.fixture
def memory() -> Memory:
    return Memory(lambda: 12.5)


def test_a_batch_id_belongs_to_its_user(memory: Memory) -> None:
    memory.send("alice", [TEXT], "batch-a")
    memory.send("bob", [TEXT], "batch-a")
    assert [user for _, user, _ in memory.batches()] == ["alice", "bob"]


def test_the_time_of_each_batch_is_recorded(memory: Memory) -> None:
    memory.send("alice", [TEXT], "batch-a")
    memory.send("alice", [TEXT], "batch-a")
    assert memory.times_s == [12.5]


def test_a_poisonous_batch_is_refused_whole_every_time(memory: Memory) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot take this batch"):
            memory.send("alice", [TEXT, {"type": "text", "text": f"a {POISON} message"}], "batch-a")
    assert memory.batches() == []
    memory.send("alice", [TEXT], "batch-a")
    assert len(memory.batches()) == 1


def test_an_older_fence_is_refused(memory: Memory) -> None:
    memory.send("alice", [TEXT], fence=2)
    memory.send("alice", [TEXT], fence=2)
    with pytest.raises(PermissionError, match="fence 1 is older than 2"):
        memory.send("alice", [TEXT], fence=1)
    memory.send("bob", [TEXT], fence=1)
    assert [user for _, user, _ in memory.batches()] == ["alice", "alice", "bob"]


def test_files_that_cannot_be_read_are_noted_with_their_batch_for_the_pod_that_sends_them(memory: Memory) -> None:
    memory.is_usable = lambda uri, pod: (uri, pod) != (URI, "B")
    for pod in "AB":
        UPLOADS.service_for(pod, "memory", memory).send("alice", [TEXT, IMAGE])
    assert memory.unusable == {(1, URI)}
