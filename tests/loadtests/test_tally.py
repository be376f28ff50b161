from __future__ import annotations

from typing import Any

import pytest

from podrace.loadtests.tally import Tally

URI = "https://files.test/1"


@pytest.fixture
def tally() -> Tally:
    return Tally("load-upload")


def text(tally: Tally, number: int) -> dict[str, Any]:
    return {"type": "text", "text": tally.text(number)}


IMAGE = {"type": "google_cloud_file_uri", "google_cloud_file_uri": URI}


def accept(tally: Tally, *, image: bool = True) -> int:
    number = tally.issue(image=image)
    if image:
        tally.uploaded(URI, number)
    tally.accepted("u", number)
    return number


def test_what_arrives_is_kept(tally: Tally) -> None:
    tally.send("u", [text(tally, accept(tally)), IMAGE])
    tally.close({})
    assert tally.counts == {"accepted": 2, "delivered": 2}


def test_a_message_without_its_image_has_lost_it(tally: Tally) -> None:
    tally.send("u", [text(tally, accept(tally))])
    assert tally.counts["lost"] == 1


def test_an_image_named_as_missing_is_not_lost(tally: Tally) -> None:
    tally.send("u", [text(tally, accept(tally)), {"type": "missing_image", "filename": "x", "reason": "gone"}])
    tally.close({})
    assert tally.counts["lost"] == 0


def test_a_second_delivery_is_a_duplicate(tally: Tally) -> None:
    number = accept(tally, image=False)
    tally.send("u", [text(tally, number)])
    tally.send("u", [text(tally, number)])
    assert tally.counts == {"accepted": 1, "delivered": 1, "duplicated": 1}


def test_delivery_may_come_before_the_pod_has_answered(tally: Tally) -> None:
    number = tally.issue(image=False)
    tally.send("u", [text(tally, number)])
    tally.accepted("u", number)
    tally.close({})
    assert tally.counts == {"accepted": 1, "delivered": 1}


def test_what_was_never_promised_is_not_missed(tally: Tally) -> None:
    tally.issue(image=True)
    tally.close({})
    assert not tally.counts


def test_left_in_the_queue_is_stuck_and_nowhere_is_lost(tally: Tally) -> None:
    stuck, _ = accept(tally, image=False), accept(tally, image=False)
    tally.close({"u": {stuck}})
    assert (tally.counts["stuck"], tally.counts["lost"]) == (1, 1)
