"""The judge: for each kind of failure a history that has it, beside one as like it as can be that has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from podrace.simulator.history.events import Event
from podrace.simulator.judge.checks import HOLDS, VIOLATED, Judgement, judge

URI = "http://localhost/v1beta/files/"


class Story:
    """A history written by hand: calls in their order, then what the world held."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._calls = 0
        self._ledger: list[tuple[str, list[dict[str, Any]]]] = []

    def begin(self, op: str, actor: str = "A", **arguments: Any) -> int:
        self._calls += 1
        self.events.append({"type": "invoke", "actor": actor, "call": self._calls, "op": op, **arguments})
        return self._calls

    def end(self, call: int, how: str = "ok", result: Any = None) -> None:
        self.events.append({"type": how, "call": call, "result": result, "error": None})

    def add(self, message: str = "m1", *, images: Sequence[str] = (), how: str = "ok") -> None:
        self.end(self.begin_add(message, images), how)

    def begin_add(self, message: str = "m1", images: Sequence[str] = ()) -> int:
        return self.begin("add", message=message, user="u1", text=f"text of {message}", images=list(images))

    def status(self, image: str, answer: str, actor: str = "A") -> None:
        self.end(self.begin("status", actor, image=image), result={"status": answer})

    def deliver(
        self, *texts: str, images: Sequence[str] = (), missing: Mapping[str, str] | None = None, user: str = "u1"
    ) -> None:
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"text of {text}"} for text in texts]
        parts += [{"type": "google_cloud_file_uri", "google_cloud_file_uri": URI + image} for image in images]
        if missing:
            parts.append({"type": "missing_image", "reason": "upload failed", **missing})
        self._ledger.append((user, parts))

    def drain(self) -> None:
        """From here on nothing is delivered but what a key's end set free."""
        self.events.append({"type": "drain", "stage": "ttl", "batches": len(self._ledger)})

    def judged(self, *, held: Sequence[str] = (), keys: Sequence[str] = ()) -> Judgement:
        images = {URI + name: name for name in ("image-0001", "image-0002")}
        final = {"ledger": self._ledger, "images": images, "keys": list(keys)}
        return judge([*self.events, {"type": "final", "held": [f"text of {name}" for name in held], **final}])


@pytest.fixture
def story() -> Story:
    return Story()


def found(judgement: Judgement) -> list[tuple[str, str]]:
    return [(finding.kind, finding.subject) for finding in judgement.findings]


def test_a_history_without_an_end_cannot_be_judged(story: Story) -> None:
    story.add()
    story.deliver("m1")
    with pytest.raises(ValueError, match="final"):
        judge(story.events)


def test_nothing_promised_nothing_broken(story: Story) -> None:
    judgement = story.judged()
    assert (judgement.verdict, judgement.accepted, judgement.delivered) == (HOLDS, 0, 0)


def test_a_good_run_holds_and_is_counted(story: Story) -> None:
    story.add("m1", images=["image-0001", "image-0002"])
    story.add("m2")
    story.status("image-0001", "pending")
    story.status("image-0001", "completed", actor="B")
    story.deliver("m1", "m2", images=["image-0001", "image-0002"])
    judgement = story.judged()
    assert found(judgement) == []
    assert judgement.verdict == HOLDS
    assert judgement.kinds == ()
    assert judgement.images == 2
    assert judgement.counts == {
        "accepted": 4,
        "delivered": 4,
        "lost": 0,
        "duplicated": 0,
        "misreported": 0,
        "stuck": 0,
        "leaked": 0,
    }


# --- lost ------------------------------------------------------------------------------------------


def test_an_accepted_message_that_is_nowhere_is_lost(story: Story) -> None:
    story.add("m1")
    story.add("m2")
    story.deliver("m2")
    judgement = story.judged()
    assert found(judgement) == [("lost", "m1")]
    assert (judgement.verdict, judgement.counts["lost"], judgement.delivered) == (VIOLATED, 1, 1)


def test_an_image_that_did_not_come_with_its_message_is_lost(story: Story) -> None:
    story.add(images=["image-0001", "image-0002"])
    story.deliver("m1", images=["image-0002"])
    judgement = story.judged()
    assert found(judgement) == [("lost", "image-0001")]
    assert (judgement.accepted, judgement.delivered) == (3, 2)


def test_a_uri_that_leads_to_no_image_is_no_delivery(story: Story) -> None:
    story.add(images=["image-0001"])
    story.deliver("m1", images=["somebody-elses"])
    assert found(story.judged()) == [("lost", "image-0001")]


@pytest.mark.parametrize(
    "name",
    [{"image": "image-0001"}, {"filename": "/tmp/x/image-0001.png"}, {"filename": "image-0001.jpg"}],
)
def test_an_image_named_as_missing_is_not_lost(story: Story, name: dict[str, str]) -> None:
    story.add(images=["image-0001"])
    story.deliver("m1", missing=name)
    assert found(story.judged()) == []


def test_naming_another_image_as_missing_does_not_help(story: Story) -> None:
    story.add(images=["image-0001"])
    story.deliver("m1", missing={"filename": "/tmp/x/image-0002.png"})
    assert found(story.judged()) == [("lost", "image-0001")]


def test_one_picture_in_two_messages_is_due_twice(story: Story) -> None:
    story.add("m1", images=["image-0001"])
    story.add("m2", images=["image-0001"])
    story.deliver("m1", images=["image-0001"])
    story.deliver("m2")
    assert found(story.judged()) == [("lost", "image-0001")]


def test_one_picture_in_two_messages_may_come_twice(story: Story) -> None:
    story.add("m1", images=["image-0001"])
    story.add("m2", images=["image-0001"])
    story.deliver("m1", images=["image-0001"])
    story.deliver("m2", images=["image-0001"])
    assert found(story.judged()) == []


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("how", ["info", "open"])
def test_a_call_whose_end_nobody_knows_promises_nothing(story: Story, how: str, delivered: bool) -> None:
    call = story.begin_add("m1", images=["image-0001"])
    if how == "info":
        story.end(call, "info")
    if delivered:
        story.deliver("m1", images=["image-0001"])
    judgement = story.judged()
    assert found(judgement) == []
    assert judgement.accepted == 0


def test_a_refused_message_that_never_came_is_well(story: Story) -> None:
    story.add(how="fail", images=["image-0001"])
    assert found(story.judged()) == []


# --- duplicated ------------------------------------------------------------------------------------


def test_a_message_and_its_image_that_came_twice(story: Story) -> None:
    story.add(images=["image-0001"])
    story.deliver("m1", images=["image-0001"])
    story.deliver("m1", images=["image-0001"])
    judgement = story.judged()
    assert found(judgement) == [("duplicated", "m1"), ("duplicated", "image-0001")]
    assert judgement.delivered == 2


def test_twice_in_one_batch_is_twice(story: Story) -> None:
    story.add()
    story.deliver("m1", "m1")
    assert found(story.judged()) == [("duplicated", "m1")]


@pytest.mark.parametrize("first", ["ok", "info", "fail"])
def test_a_message_accepted_again_under_its_id_counts_once(story: Story, first: str) -> None:
    story.add("m1", images=["image-0001"], how=first)
    story.add("m1", images=["image-0001"])
    story.deliver("m1", images=["image-0001"])
    judgement = story.judged()
    assert found(judgement) == []
    assert (judgement.accepted, judgement.delivered) == (2, 2)


def test_a_message_accepted_again_under_its_id_may_not_come_twice(story: Story) -> None:
    story.add("m1", how="info")
    story.add("m1")
    story.deliver("m1")
    story.deliver("m1")
    assert found(story.judged()) == [("duplicated", "m1")]


# --- misreported -----------------------------------------------------------------------------------


def test_a_promised_upload_is_not_unknown(story: Story) -> None:
    story.add(images=["image-0001"])
    story.status("image-0001", "unknown", actor="B")
    story.deliver("m1", images=["image-0001"])
    assert found(story.judged()) == [("misreported", "image-0001")]


@pytest.mark.parametrize("how", ["before the promise", "as it ends"])
def test_before_the_promise_an_upload_may_be_unknown(story: Story, how: str) -> None:
    call = story.begin_add("m1", ["image-0001"])
    asked = story.begin("status", "B", image="image-0001")
    if how == "as it ends":  # the question was on its way when the promise was given
        story.end(call)
    story.end(asked, result={"status": "unknown"})
    if how == "before the promise":
        story.end(call)
    story.deliver("m1", images=["image-0001"])
    assert found(story.judged()) == []


@pytest.mark.parametrize(
    ("earlier", "later"), [("completed", "pending"), ("completed", "failed"), ("failed", "pending")]
)
def test_a_status_does_not_go_back(story: Story, earlier: str, later: str) -> None:
    story.add(images=["image-0001"])
    story.status("image-0001", earlier)
    story.status("image-0001", later, actor="B")
    story.deliver("m1", images=["image-0001"])
    assert found(story.judged()) == [("misreported", "image-0001")]


def test_two_questions_at_once_may_be_answered_in_any_order(story: Story) -> None:
    story.add(images=["image-0001"])
    first, second = (story.begin("status", pod, image="image-0001") for pod in "AB")
    story.end(first, result={"status": "completed"})
    story.end(second, result={"status": "pending"})
    story.deliver("m1", images=["image-0001"])
    assert found(story.judged()) == []


def test_two_images_have_a_status_each(story: Story) -> None:
    story.add(images=["image-0001", "image-0002"])
    story.status("image-0001", "completed")
    story.status("image-0002", "pending")
    story.deliver("m1", images=["image-0001", "image-0002"])
    assert found(story.judged()) == []


def test_a_message_under_another_users_name(story: Story) -> None:
    story.add()
    story.deliver("m1", user="u2")
    assert found(story.judged()) == [("misreported", "m1")]


def test_a_message_refused_and_delivered_all_the_same(story: Story) -> None:
    story.add(how="fail")
    story.deliver("m1")
    assert found(story.judged()) == [("misreported", "m1")]


# --- stuck and leaked ------------------------------------------------------------------------------


def test_a_message_still_queued_at_the_end_is_stuck_with_its_image(story: Story) -> None:
    story.add(images=["image-0001"])
    judgement = story.judged(held=["m1"], keys=["temp_messages:u1"])
    assert found(judgement) == [("stuck", "m1"), ("stuck", "image-0001")]


def test_a_message_that_only_the_end_of_a_key_set_free_was_stuck(story: Story) -> None:
    story.add("m1")
    story.add("m2")
    story.deliver("m1")
    story.drain()
    story.deliver("m2")
    assert found(story.judged()) == [("stuck", "m2")]


def test_a_copy_of_what_was_delivered_is_not_stuck(story: Story) -> None:
    story.add()
    story.deliver("m1")
    assert found(story.judged(held=["m1"])) == []


def test_a_key_that_is_left_behind_leaked(story: Story) -> None:
    story.add()
    story.deliver("m1")
    assert found(story.judged(keys=["upload_status:1"])) == [("leaked", "upload_status:1")]


def test_while_messages_wait_their_keys_are_in_use(story: Story) -> None:
    story.add()
    assert ("leaked", "upload_status:1") not in found(story.judged(held=["m1"], keys=["upload_status:1"]))


# --- together --------------------------------------------------------------------------------------


def test_the_worst_comes_first(story: Story) -> None:
    story.add("m1", images=["image-0001"])
    story.add("m2")
    story.status("image-0001", "unknown")
    story.deliver("m2")
    story.deliver("m2")
    judgement = story.judged(keys=["upload_status:1"])
    assert judgement.kinds == ("lost", "duplicated", "misreported", "leaked")
    assert [finding.kind for finding in judgement.findings] == ["lost", "lost", "duplicated", "misreported", "leaked"]
    assert all("\n" not in finding.sentence and finding.subject in finding.sentence for finding in judgement.findings)
