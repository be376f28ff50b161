from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from podrace.loadtests.judging import AT_ONCE, Journal, image_name, text_of

UPLOAD = "load-upload"


@pytest.fixture
def journal() -> Journal:
    return Journal()


def hand_in(journal: Journal, *, image: bool = True, user: str = "u", ended: str = "ok") -> int:
    number = journal.begin(UPLOAD, user, image=image)
    if image:
        journal.uploaded(uri(number), number)
    journal.end(number, ended)
    journal.close(number)
    return number


def uri(number: int) -> str:
    return f"https://files.test/{number}"


def text(number: int) -> dict[str, Any]:
    return {"type": "text", "text": text_of(UPLOAD, number)}


def image(number: int) -> dict[str, Any]:
    return {"type": "google_cloud_file_uri", "google_cloud_file_uri": uri(number)}


def wrong(journal: Journal, held: tuple[str, ...] = ()) -> dict[str, int]:
    """What is wrong at the end."""
    journal.settle()
    journal.finish(held)
    counts = journal.counts.get(UPLOAD, {})
    return {kind: count for kind, count in counts.items() if count and kind not in ("accepted", "delivered")}


def test_delivered_messages_and_images_are_counted(journal: Journal) -> None:
    number = hand_in(journal)
    journal.send("u", [text(number), image(number)])
    assert wrong(journal) == {}
    assert journal.counts[UPLOAD] == {"accepted": 2, "delivered": 2}


def test_a_batch_that_comes_again_or_too_late_has_no_second_effect(journal: Journal) -> None:
    one, two = hand_in(journal, image=False), hand_in(journal, image=False)
    journal.send("u", [text(one)], "batch-a", 1)
    journal.send("u", [text(one)], "batch-a", 2)
    with pytest.raises(PermissionError, match="fence 1 is older than 2"):
        journal.send("u", [text(two)], "batch-b", 1)
    journal.send("u", [text(two)], "batch-b", 2)
    assert wrong(journal) == {}


def test_a_message_without_its_image_has_lost_it(journal: Journal) -> None:
    journal.send("u", [text(hand_in(journal))])
    assert wrong(journal) == {"lost": 1}


@pytest.mark.parametrize(("why", "found"), [("", {"lost": 1}), ("refused", {}), ("failed", {}), ("late", {})])
def test_an_image_may_be_named_as_missing_where_something_went_wrong(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, why: str, found: dict[str, int]
) -> None:
    number = journal.begin(UPLOAD, "u", image=True)
    if why == "refused":
        journal.refused(number)
    journal.failed = why == "failed"
    journal.end(number, "ok")
    journal.close(number)
    missing = {"type": "missing_image", "filename": f"/tmp/{image_name(number)}.png", "reason": "gone"}
    journal.send("u", [text(number), missing])
    if why == "late":
        now_s = time.monotonic()
        monkeypatch.setattr("podrace.loadtests.judging.time", SimpleNamespace(monotonic=lambda: now_s + 6))
    assert wrong(journal) == found


def test_a_second_delivery_is_a_duplicate_however_late(journal: Journal) -> None:
    number = hand_in(journal, image=False)
    journal.send("u", [text(number)])
    journal.settle()
    journal.send("u", [text(number)])
    assert wrong(journal) == {"duplicated": 1}


def test_delivery_may_come_before_the_pod_has_answered(journal: Journal) -> None:
    number = journal.begin(UPLOAD, "u", image=False)
    journal.send("u", [text(number)])
    journal.settle()
    journal.end(number, "ok")
    journal.close(number)
    assert wrong(journal) == {}
    assert journal.counts[UPLOAD]["delivered"] == 1


@pytest.mark.parametrize(("ended", "found"), [("info", {}), ("fail", {"misreported": 1})])
@pytest.mark.parametrize("late", [False, True])
def test_a_refused_message_that_is_delivered_is_misreported(
    journal: Journal, ended: str, found: dict[str, int], late: bool
) -> None:
    number = hand_in(journal, image=False, ended=ended)
    if late:
        journal.settle()
    journal.send("u", [text(number)])
    assert wrong(journal) == found


def test_a_message_left_in_a_queue_is_stuck_and_one_that_is_nowhere_is_lost(journal: Journal) -> None:
    held, _ = hand_in(journal, image=False), hand_in(journal, image=False)
    assert journal.waiting() == ["u"]
    assert wrong(journal, held=(text_of(UPLOAD, held),)) == {"stuck": 1, "lost": 1}


def test_an_image_delivered_with_anothers_message_is_misreported(journal: Journal) -> None:
    one, two = hand_in(journal), hand_in(journal)
    journal.send("u", [text(one), image(two), text(two), image(one)])
    assert wrong(journal) == {"misreported": 2, "lost": 2}


def test_a_message_delivered_to_another_user_is_misreported(journal: Journal) -> None:
    journal.send("somebody", [text(hand_in(journal, image=False))])
    assert wrong(journal)["misreported"] == 1


@pytest.mark.parametrize("settled", [False, True])
def test_the_order_of_one_user_is_kept(journal: Journal, settled: bool) -> None:
    one, two = hand_in(journal, image=False), hand_in(journal, image=False)
    journal.send("u", [text(two)])
    if settled:
        journal.settle()
    journal.send("u", [text(one)])
    assert wrong(journal) == {"misreported": 1}


def test_a_message_that_overtakes_many_is_counted_once(journal: Journal) -> None:
    *before, last = (hand_in(journal, image=False) for _ in range(5))
    journal.send("u", [text(last), *map(text, before)])
    assert wrong(journal) == {"misreported": 1}


def test_messages_that_were_under_way_together_have_no_order(journal: Journal) -> None:
    one, two = (journal.begin(UPLOAD, "u", image=False) for _ in range(2))
    for number in (one, two):
        journal.end(number, "ok")
        journal.close(number)
    journal.send("u", [text(two), text(one)])
    assert wrong(journal) == {}


def test_a_status_that_goes_back_is_misreported(journal: Journal) -> None:
    number = journal.begin(UPLOAD, "u", image=True)
    journal.uploaded(uri(number), number)
    journal.end(number, "ok")
    for status in ("pending", "completed", "pending"):
        journal.read(number, {"status": status})
    journal.close(number)
    journal.send("u", [text(number), image(number)])
    assert wrong(journal) == {"misreported": 1}


def test_judged_messages_are_forgotten(journal: Journal) -> None:
    for _ in range(3 * AT_ONCE):
        journal.send("u", [text(hand_in(journal, image=False))])
    journal.settle()
    assert journal._open == {}
    assert journal.counts[UPLOAD] == {"accepted": 3 * AT_ONCE, "delivered": 3 * AT_ONCE}


def test_a_delivery_that_nobody_handed_in_is_ignored(journal: Journal) -> None:
    journal.send("u", [{"type": "text", "text": "spam"}, text(7)])
    assert wrong(journal) == {}
