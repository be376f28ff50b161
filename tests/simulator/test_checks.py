"""The checks: for each kind of failure a run that has it, and one as similar as possible without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import Event
from podrace.simulator.judge.findings import HOLDS, VIOLATED, Finding, Judgement, by_severity
from podrace.simulator.judge.run import CallRecord, Left, Run
from podrace.simulator.scenarios import upload_checks, uploads
from podrace.simulator.scenarios.model import Call, Scenario, Workload
from podrace.simulator.search.record import judge
from podrace.simulator.world.steps import DROP_REPLY, FAIL, GO, Step

URI = "http://localhost/v1beta/files/"
RESTED_S = 1000.0
IMAGES = ("image-1", "image-2")


class Story:
    """A run written by hand: calls and steps in their order, then what is left."""

    def __init__(self) -> None:
        self.now_s = RESTED_S - 1
        self.history: list[Event] = []
        self.calls: list[CallRecord] = []
        self.store = SimpleNamespace(marks={URI + image: image for image in IMAGES}, failed=[])
        self.memory = uploads.Memory(lambda: self.now_s)
        self.struck = 0
        self.left: list[Left] = []
        self.waits: dict[str, str] = {}
        self.keeps: tuple[str, ...] = ()

    def begin(self, call: Call, actor: str = "A") -> int:
        self.calls.append(CallRecord(call.name, actor, call.method, call.args, began=len(self.history)))
        self.history.append({"type": "invoke", "actor": actor, "call": len(self.calls) - 1})
        return len(self.calls) - 1

    def end(self, number: int, how: str = "ok", value: Any = None) -> None:
        self.calls[number] = replace(self.calls[number], type=how, value=value, ended=len(self.history))
        self.history.append({"type": how, "call": number})

    def begin_add(self, name: str = "m1", images: Sequence[str] = (), **given: Any) -> int:
        return self.begin(uploads.add(name, images, **given))

    def add(self, name: str = "m1", *images: str, how: str = "ok", **given: Any) -> None:
        self.end(self.begin_add(name, images, **given), how)

    def ask(self, answer: Any, *, place: int = 0, actor: str = "B") -> None:
        """A client asks for the status of an image of m1; a bare word gets the rest of the contract's answer."""
        self.end(self.begin(uploads.ask("ask", "m1", place), actor), value=self.answer(answer, place))

    def answer(self, answer: Any, place: int = 0) -> Any:
        if answer not in ("pending", "failed", "completed", "unknown"):
            return answer
        return {"status": answer, "result": {"uri": URI + IMAGES[place]} if answer == "completed" else None}

    def service(self, service: str, method: str, *args: Any, action: str, failed: bool, says: str) -> None:
        step = Step("A.worker", "service", (service, method, args, {}))
        told = {"type": "step", "actor": "A.worker", "step": step, "action": action, "reply": None}
        self.history.append(told | {"says": says, "failed": failed})

    def upload(self, image: str = "image-1", *, action: str = GO, failed: bool = False) -> None:
        self.service("gemini", "upload", action=action, failed=failed, says=f"upload {image}")

    def refuse_batch(self, user: Any = uploads.ALICE) -> None:
        self.service("memory", "send", user, [], action=GO, failed=True, says=f"send to {user}: ")

    def deliver(self, *parts: Any, user: Any = uploads.ALICE) -> None:
        """Record one batch: `m1` is the text of that message, `image-1` an image, anything else a part."""
        self.memory.send(user, [self.part(part) for part in parts])

    @staticmethod
    def part(part: Any) -> dict[str, Any]:
        if not isinstance(part, str):
            return dict(part)
        if part.startswith("image"):
            return {"type": "google_cloud_file_uri", "google_cloud_file_uri": URI + part}
        return {"type": "text", "text": f"text of {part}"}

    def keep(self, key: str, value: Any = "", left_s: float | None = None) -> None:
        self.left.append(Left(key, value, left_s))

    def run(self) -> Run:
        services = {"gemini": SimpleNamespace(store=self.store), "memory": self.memory}
        left = lambda: self.left  # noqa: E731 - a run asks for it where a check does
        return Run(self.history, self.calls, services, self.struck, RESTED_S, self.waits, left)

    def judged(self) -> Judgement:
        workload = replace(uploads.UPLOADS, checks=(upload_checks.check,))
        return judge(Scenario("story", {}, workload=workload, keeps=self.keeps), self.run())

    def found(self) -> list[tuple[str, str]]:
        return [(finding.kind, finding.subject) for finding in self.judged().findings]


def missing(filename: str = "image-1", reason: str | None = "upload failed") -> dict[str, Any]:
    return {"type": "missing_image", "filename": filename, "reason": reason}


def missing_message(message_id: str = "m1", reason: str | None = "it cannot be taken") -> dict[str, Any]:
    return {"type": "missing_message", "message_id": message_id, "reason": reason}


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_run_without_calls_holds(story: Story) -> None:
    judgement = story.judged()
    assert (judgement.verdict, judgement.words) == (HOLDS, "ok")
    assert set(judgement.counts.values()) == {0}


def test_a_good_run_holds_and_is_counted(story: Story) -> None:
    story.add("m1", "image-1", "image-2")
    story.add("m2")
    story.ask("pending")
    story.upload("image-1")
    story.upload("image-2")
    story.ask("completed")
    story.deliver("m1", "image-1", "image-2", "m2")
    judgement = story.judged()
    assert judgement.findings == ()
    wrong = {"lost": 0, "duplicated": 0, "misreported": 0, "stuck": 0, "leaked": 0}
    assert judgement.counts == {"accepted": 4, "delivered": 4, "messages": 2, "images": 2} | wrong


# --- lost ---


def test_an_accepted_message_that_is_nowhere_is_lost(story: Story) -> None:
    story.add("m1")
    story.add("m2")
    story.deliver("m2")
    judgement = story.judged()
    assert story.found() == [("lost", "m1")]
    assert (judgement.verdict, judgement.counts["lost"], judgement.counts["delivered"]) == (VIOLATED, 1, 1)


def test_an_image_that_did_not_come_with_its_message_is_lost(story: Story) -> None:
    story.add("m1", "image-1", "image-2")
    story.deliver("m1", "image-2")
    assert story.found() == [("lost", "image-1")]
    assert (story.judged().counts["accepted"], story.judged().counts["delivered"]) == (3, 2)


def test_an_image_under_a_uri_that_gemini_never_gave_out_is_lost(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver("m1", "image-of-somebody-else")
    assert story.found() == [("lost", "image-1"), ("misreported", "alice")]


def test_an_image_whose_file_could_not_be_read_on_arrival_is_lost(story: Story) -> None:
    story.add("m1", "image-1")
    story.memory.is_usable = lambda uri, pod: uri != URI + "image-1"
    story.deliver("m1", "image-1")
    assert story.found() == [("lost", "image-1")]


def test_an_image_in_two_messages_must_arrive_with_both(story: Story) -> None:
    story.add("m1", "image-1")
    story.add("m2", "image-1")
    story.deliver("m1", "image-1", "m2")
    assert story.found() == [("lost", "image-1")]


def test_an_image_in_two_messages_may_arrive_twice(story: Story) -> None:
    story.add("m1", "image-1")
    story.add("m2", again=[("m1", 0)])
    story.deliver("m1", "image-1")
    story.deliver("m2", "image-1")
    assert story.found() == []


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("how", ["info", "open"])
def test_a_call_with_an_unknown_outcome_promises_nothing(story: Story, how: str, delivered: bool) -> None:
    call = story.begin_add("m1", ["image-1"])
    if how == "info":
        story.end(call, "info")
    if delivered:
        story.deliver("m1", "image-1")
    assert story.found() == []
    assert story.judged().counts["accepted"] == 0


def test_an_image_twice_with_a_message_that_was_not_promised_is_a_duplicate(story: Story) -> None:
    story.add("m1", "image-1", how="info")
    story.deliver("m1", "image-1", "image-1")
    assert story.found() == [("duplicated", "image-1")]


def test_a_refused_message_that_never_arrives_is_right(story: Story) -> None:
    story.add("m1", "image-1", how="fail")
    assert story.found() == []


# --- named as missing: only where something in the history could be the reason ---


def test_an_image_named_as_missing_though_nothing_went_wrong_is_lost(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver("m1", missing())
    assert story.found() == [("lost", "image-1")]


def test_a_message_named_as_missing_though_nothing_went_wrong_is_lost(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver(missing_message())
    assert story.found() == [("lost", "m1")]


@pytest.mark.parametrize("name", ["image-1", "/tmp/x/image-1.png", "image-1.jpg"])
def test_an_image_may_be_named_as_missing_after_a_fault(story: Story, name: str) -> None:
    story.struck = 1
    story.add("m1", "image-1")
    story.deliver("m1", missing(name))
    assert story.found() == []


def test_an_image_may_be_named_as_missing_when_its_upload_was_refused(story: Story) -> None:
    story.add("m1", "image-1", "image-2")
    story.upload("image-1", action=FAIL, failed=True)
    story.deliver("m1", missing("image-1"), missing("image-2"))
    assert story.found() == [("lost", "image-2")]


def test_an_image_may_be_named_as_missing_when_gemini_made_it_unusable(story: Story) -> None:
    story.add("m1", "image-1", "image-2")
    story.store.failed.append(SimpleNamespace(mark="image-2"))
    story.deliver("m1", missing("image-1"), missing("image-2"))
    assert story.found() == [("lost", "image-1")]


def test_a_message_may_be_named_as_missing_when_its_users_batch_was_refused(story: Story) -> None:
    story.add("m1")
    story.add("m2", user="bob")
    story.refuse_batch("bob")
    story.deliver(missing_message("m1"))
    story.deliver(missing_message("m2"), user="bob")
    assert story.found() == [("lost", "m1")]


def test_a_refused_upload_does_not_excuse_a_missing_message(story: Story) -> None:
    story.add("m1", "image-1")
    story.upload("image-1", action=FAIL, failed=True)
    story.deliver(missing_message())
    assert story.found() == [("lost", "m1")]


@pytest.mark.parametrize("reason", [None, ""])
def test_an_image_named_as_missing_without_a_reason_is_lost(story: Story, reason: str | None) -> None:
    story.struck = 1
    story.add("m1", "image-1")
    story.deliver("m1", missing("image-1", reason))
    assert story.found() == [("lost", "image-1"), ("misreported", "image-1")]


def test_a_message_named_as_missing_without_a_reason_is_lost(story: Story) -> None:
    story.struck = 1
    story.add("m1")
    story.deliver(missing_message("m1", None))
    assert story.found() == [("lost", "m1")]


def test_naming_another_image_as_missing_does_not_excuse_this_one(story: Story) -> None:
    story.struck = 1
    story.add("m1", "image-1")
    story.deliver("m1", missing("image-2"))
    assert story.found() == [("lost", "image-1"), ("misreported", "image-2")]


def test_an_image_named_as_missing_for_one_message_is_still_due_with_another(story: Story) -> None:
    story.struck = 1
    story.add("m1", "image-1")
    story.add("m2", "image-1")
    story.deliver("m1", missing("image-1"), "m2")
    assert story.found() == [("lost", "image-1")]


def test_a_message_named_as_missing_to_another_user_is_lost(story: Story) -> None:
    story.struck = 1
    story.add("m1")
    story.deliver(missing_message(), user="bob")
    assert story.found() == [("lost", "m1")]


def test_a_message_that_is_delivered_and_named_as_missing_is_misreported(story: Story) -> None:
    story.struck = 1
    story.add("m1")
    story.deliver("m1")
    story.deliver(missing_message())
    assert story.found() == [("misreported", "m1")]


def test_a_target_that_delivers_nothing_and_names_everything_does_not_hold(story: Story) -> None:
    story.add("m1", "image-1")
    story.add("m2")
    story.deliver(missing_message("m1"), missing_message("m2"))
    assert story.found() == [("lost", "m1"), ("lost", "m2")]


# --- duplicated ---


def test_a_message_delivered_twice_is_a_duplicate(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver("m1", "image-1")
    story.deliver("m1", "image-1")
    assert story.found() == [("duplicated", "m1")]
    assert story.judged().counts["delivered"] == 2


def test_a_message_twice_in_one_batch_is_a_duplicate(story: Story) -> None:
    story.add()
    story.deliver("m1", "m1")
    assert story.found() == [("duplicated", "m1")]


def test_an_image_delivered_twice_with_its_message_is_a_duplicate(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver("m1", "image-1", "image-1")
    assert story.found() == [("duplicated", "image-1")]


def test_an_image_that_a_message_carries_twice_may_arrive_twice(story: Story) -> None:
    story.add("m1", "image-1", "image-1")
    story.deliver("m1", "image-1", "image-1")
    assert story.found() == []


@pytest.mark.parametrize("first", ["ok", "info", "fail"])
def test_a_message_accepted_again_under_its_id_counts_once(story: Story, first: str) -> None:
    story.add("m1", "image-1", how=first)
    story.add("m1", "image-1")
    story.deliver("m1", "image-1")
    assert story.found() == []
    assert (story.judged().counts["accepted"], story.judged().counts["delivered"]) == (2, 2)


def test_a_message_accepted_again_under_its_id_may_not_be_delivered_twice(story: Story) -> None:
    story.add("m1", how="info")
    story.add("m1")
    story.deliver("m1")
    story.deliver("m1")
    assert story.found() == [("duplicated", "m1")]


def test_a_batch_that_is_sent_again_under_its_id_has_one_effect(story: Story) -> None:
    story.add()
    for _ in range(2):
        story.memory.send(uploads.ALICE, [story.part("m1")], "batch-a")
    assert story.found() == []


# --- misreported: deliveries ---


def test_a_message_delivered_to_another_user_is_misreported(story: Story) -> None:
    story.add()
    story.deliver("m1", user="bob")
    assert story.found() == [("lost", "m1"), ("misreported", "m1")]


def test_the_user_none_is_not_the_user_whose_id_is_the_text_none(story: Story) -> None:
    story.add("m1", user=None)
    story.deliver("m1", user="None")
    assert ("misreported", "m1") in story.found()


def test_an_image_delivered_with_another_message_is_misreported(story: Story) -> None:
    story.add("m1", "image-1")
    story.add("m2")
    story.deliver("m1", "m2", "image-1")
    assert story.found() == [("lost", "image-1"), ("misreported", "image-1")]


def test_an_image_delivered_without_its_message_is_misreported(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver("image-1")
    story.deliver("m1", "image-1")
    assert story.found() == [("misreported", "image-1")]


def test_an_image_delivered_to_another_user_is_misreported(story: Story) -> None:
    story.add("m1", "image-1")
    story.deliver("m1", "image-1", user="bob")
    assert ("misreported", "image-1") in story.found()


def test_messages_of_one_user_out_of_order_are_misreported(story: Story) -> None:
    story.add("m1")
    story.add("m2")
    story.deliver("m2")
    story.deliver("m1")
    assert story.found() == [("misreported", "m2")]


def test_messages_that_were_handed_in_at_once_may_come_in_any_order(story: Story) -> None:
    first, second = story.begin_add("m1"), story.begin_add("m2")
    story.end(first)
    story.end(second)
    story.deliver("m2")
    story.deliver("m1")
    assert story.found() == []


def test_messages_of_two_users_may_come_in_any_order(story: Story) -> None:
    story.add("m1")
    story.add("m2", user="bob")
    story.deliver("m2", user="bob")
    story.deliver("m1")
    assert story.found() == []


def test_a_message_that_was_refused_and_is_delivered_is_misreported(story: Story) -> None:
    story.add(how="fail")
    story.deliver("m1")
    assert story.found() == [("misreported", "m1")]


def test_a_message_refused_once_and_accepted_later_may_be_delivered(story: Story) -> None:
    story.add(how="fail")
    story.add(how="info")
    story.deliver("m1")
    assert story.found() == []


# --- misreported: statuses ---


@pytest.fixture
def promised(story: Story) -> Story:
    """A message with two images that arrives."""
    story.add("m1", "image-1", "image-2")
    story.deliver("m1", "image-1", "image-2")
    return story


def test_a_promised_upload_that_is_unknown_is_misreported(promised: Story) -> None:
    promised.ask("unknown")
    assert promised.found() == [("misreported", "image-1")]


@pytest.mark.parametrize("answered", ["before the promise", "after it"])
def test_a_status_asked_before_the_promise_may_be_unknown(story: Story, answered: str) -> None:
    call = story.begin_add("m1", ["image-1"])
    asked = story.begin(uploads.ask("ask", "m1"), "B")
    for number in (asked, call) if answered == "before the promise" else (call, asked):
        story.end(number, value=story.answer("unknown") if number == asked else None)
    story.deliver("m1", "image-1")
    assert story.found() == []


@pytest.mark.parametrize(
    ("earlier", "later"), [("completed", "pending"), ("completed", "failed"), ("failed", "pending")]
)
def test_a_status_that_goes_back_is_misreported(promised: Story, earlier: str, later: str) -> None:
    promised.struck = 1
    promised.upload()
    promised.ask(earlier, actor="A")
    promised.ask(later)
    assert promised.found() == [("misreported", "image-1")]


@pytest.mark.parametrize(("earlier", "later"), [("pending", "failed"), ("failed", "completed"), ("pending", "pending")])
def test_a_status_may_go_forward(promised: Story, earlier: str, later: str) -> None:
    promised.struck = 1
    promised.upload()
    promised.ask(earlier, actor="A")
    promised.ask(later)
    assert promised.found() == []


def test_failed_needs_a_reason(promised: Story) -> None:
    promised.upload()
    promised.ask("failed")
    assert promised.found() == [("misreported", "image-1")]
    promised.upload(action=FAIL, failed=True)
    assert promised.found() == []


def test_two_status_questions_at_once_may_be_answered_in_any_order(promised: Story) -> None:
    promised.upload()
    first, second = (promised.begin(uploads.ask(f"ask-{pod}", "m1"), pod) for pod in "AB")
    promised.end(first, value=promised.answer("completed"))
    promised.end(second, value=promised.answer("pending"))
    assert promised.found() == []


def test_each_image_has_a_status_of_its_own(promised: Story) -> None:
    promised.upload("image-1")
    promised.ask("completed", place=0)
    promised.ask("pending", place=1)
    assert promised.found() == []


def test_completed_before_the_upload_ended_is_misreported(promised: Story) -> None:
    promised.ask("completed")
    promised.upload()
    assert promised.found() == [("misreported", "image-1")]


def test_completed_for_an_upload_that_failed_is_misreported(promised: Story) -> None:
    promised.upload(action=FAIL, failed=True)
    promised.ask("completed")
    assert promised.found() == [("misreported", "image-1")]


def test_completed_by_the_upload_of_another_image_is_misreported(promised: Story) -> None:
    promised.upload("image-2")
    promised.ask("completed")
    assert promised.found() == [("misreported", "image-1")]


def test_an_upload_whose_reply_was_lost_may_be_completed(promised: Story) -> None:
    promised.upload(action=DROP_REPLY, failed=True)
    promised.ask("completed")
    assert promised.found() == []


def test_completed_while_the_status_is_being_asked_is_right(promised: Story) -> None:
    asked = promised.begin(uploads.ask("ask", "m1"), "B")
    promised.upload()
    promised.end(asked, value=promised.answer("completed"))
    assert promised.found() == []


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "done"},
        {"status": None},
        {"status": ["completed"]},
        {},
        None,
        "completed ",
        {"status": "completed"},
        {"status": "completed", "result": None},
        {"status": "completed", "result": {"uri": URI + "image-2"}},
        {"status": "completed", "result": {"uri": "http://elsewhere/image-1"}},
    ],
    ids=str,
)
def test_a_status_outside_the_contract_is_misreported(promised: Story, answer: Any) -> None:
    promised.upload("image-1")
    promised.upload("image-2")
    promised.ask(answer)
    assert promised.found() == [("misreported", "image-1")]


def test_a_status_question_without_an_answer_proves_nothing(promised: Story) -> None:
    promised.end(promised.begin(uploads.ask("ask", "m1"), "B"), "info")
    promised.begin(uploads.ask("ask-2", "m1"), "C")
    assert promised.found() == []


# --- stuck ---


def test_a_message_still_queued_at_the_end_is_stuck_with_its_image(story: Story) -> None:
    story.add("m1", "image-1")
    story.keep("queue", ['{"text": "text of m1"}'])
    assert story.found() == [("stuck", "m1"), ("stuck", "image-1")]


def test_a_queued_text_that_begins_alike_does_not_hold_a_message(story: Story) -> None:
    story.add("m1")
    story.add("m10", how="info")
    story.keep("queue", ['{"text": "text of m10"}'])
    assert ("lost", "m1") in story.found()


@pytest.mark.parametrize(("waited_s", "found"), [(60.0, []), (60.5, [("stuck", "m2")])])
def test_a_queue_that_stands_still_for_longer_than_a_lease_is_stuck(
    story: Story, waited_s: float, found: list[tuple[str, str]]
) -> None:
    story.add("m1")
    story.add("m2")
    story.deliver("m1")
    story.now_s = RESTED_S + waited_s
    story.deliver("m2")
    assert story.found() == found


def test_a_long_queue_that_moves_all_the_time_is_not_stuck(story: Story) -> None:
    for number in range(1, 6):
        story.add(f"m{number}")
    for number in range(1, 6):
        story.now_s = RESTED_S + 50 * number
        story.deliver(f"m{number}")
    assert story.found() == []


def test_deliveries_of_another_user_do_not_move_a_queue(story: Story) -> None:
    story.add("m1")
    story.add("m2", user="bob")
    story.now_s = RESTED_S + 50
    story.deliver("m2", user="bob")
    story.now_s = RESTED_S + 100
    story.deliver("m1")
    assert story.found() == [("stuck", "m1")]


def test_a_copy_of_what_was_delivered_is_not_stuck(story: Story) -> None:
    story.add()
    story.deliver("m1")
    story.keep("copy", "text of m1", left_s=1.0)
    assert story.found() == []


def test_a_call_that_can_never_return_is_stuck(story: Story) -> None:
    story.waits = {"m1": "a lock that B.absorb holds"}
    (finding,) = story.judged().findings
    assert (finding.kind, finding.subject) == ("stuck", "m1")
    assert "a lock that B.absorb holds" in finding.sentence


# --- leaked ---


@pytest.mark.parametrize("left_s", [None, 60.5, 86_400.0])
def test_a_key_that_stays_for_good_or_for_long_has_leaked(story: Story, left_s: float | None) -> None:
    story.add()
    story.deliver("m1")
    story.keep("upload_status:1", left_s=left_s)
    assert story.found() == [("leaked", "upload_status:1")]


def test_a_key_that_will_be_gone_within_a_lease_has_not_leaked(story: Story) -> None:
    story.keep("upload_status:1", left_s=60.0)
    assert story.found() == []


def test_what_a_scenario_says_may_stay_has_not_leaked(story: Story) -> None:
    story.keeps = ("seen:*",)
    story.keep("seen:m1", left_s=86_400.0)
    story.keep("unseen:m1")
    assert story.found() == [("leaked", "unseen:m1")]


def test_in_a_plain_workload_only_a_key_without_a_time_to_live_leaks(story: Story) -> None:
    story.keep("record", left_s=86_400.0)
    story.keep("for-ever")
    scenario = Scenario("own", {}, workload=Workload())
    assert [finding.subject for finding in judge(scenario, story.run()).findings] == ["for-ever"]


def test_while_messages_wait_their_keys_are_in_use(story: Story) -> None:
    story.add()
    story.keep("queue", ["text of m1"])
    story.keep("upload_status:1")
    assert story.found() == [("stuck", "m1")]


# --- together ---


def test_the_worst_comes_first(story: Story) -> None:
    story.add("m1", "image-1")
    story.add("m2")
    story.ask("unknown")
    story.deliver("m2")
    story.deliver("m2")
    story.keep("upload_status:1")
    judgement = story.judged()
    assert judgement.kinds == ("lost", "duplicated", "misreported", "leaked")
    assert judgement.words == "lost, duplicated, misreported, leaked"
    assert [finding.kind for finding in judgement.findings] == ["lost", "lost", "duplicated", "misreported", "leaked"]
    assert all("\n" not in finding.sentence and finding.subject in finding.sentence for finding in judgement.findings)


def test_findings_of_one_kind_stay_in_their_order() -> None:
    given = [Finding(kind, subject, "") for kind, subject in (("leaked", "b"), ("lost", "z"), ("leaked", "a"))]
    assert [finding.subject for finding in by_severity(given)] == ["z", "b", "a"]


def test_an_unknown_kind_of_finding_is_refused() -> None:
    with pytest.raises(TargetError, match="expected one of lost, duplicated, misreported, stuck, leaked, got 'late'"):
        Finding("late", "m1", "m1 is late")


def test_the_scenarios_own_checks_are_run_too(story: Story) -> None:
    def balance(run: Run) -> list[Finding]:
        return [Finding("lost", "money", f"{run.redis['a']} of 10")]

    story.keep("a", "9", left_s=1.0)
    scenario = Scenario("own", {}, checks=[balance])
    assert judge(scenario, story.run()).findings == (Finding("lost", "money", "9 of 10"),)


@pytest.mark.parametrize("kind", ["redis", "service"])
def test_steps_of_a_run_by_kind_and_name(story: Story, kind: str) -> None:
    story.upload()
    story.refuse_batch()
    for command in (("get", "a"), ("SET", "a", 1)):
        step = Step("A", "redis", command)
        story.history.append({"type": "step", "actor": "A", "step": step, "action": GO, "reply": None})
    run = story.run()
    assert [place for place, _ in run.steps(kind)] == {"service": [0, 1], "redis": [2, 3]}[kind]
    name, places = {"service": ("memory", [1]), "redis": ("GET", [2])}[kind]
    assert [place for place, _ in run.steps(kind, name)] == places


def test_calls_that_overlap_are_not_ordered() -> None:
    def call(began: int, ended: int | None) -> CallRecord:
        return CallRecord("c", "A.reader", "method", (), began, ended)

    assert call(0, 1).pod == "A"
    assert call(0, 1).before(call(2, 3))
    assert not call(0, 2).before(call(1, 3))
    assert not call(0, None).before(call(5, 6))


def test_left_keys_are_read_once(story: Story) -> None:
    asked = []
    run = replace(story.run(), _left=lambda: asked.append(1) or [Left("a", "1", None)])
    assert run.redis == {"a": "1"}
    assert [one.key for one in run.left] == ["a"]
    assert asked == [1]
