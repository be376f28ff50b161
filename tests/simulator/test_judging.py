"""The judge of free-running fleets: it finds the same in shares as all at once, and uses little memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from podrace.simulator.app import judging
from podrace.simulator.app.judging import Judged, Recorded, judged
from podrace.simulator.app.over_time import over_time
from podrace.simulator.app.smallest import events_that_show
from podrace.simulator.judge.run import Left
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS
from podrace.simulator.scenarios.uploads import Memory

USERS = 20
WORKLOAD = FREE_UPLOADS.prepare_clients(Path())
SCENARIO = Scenario("run", {}, workload=WORKLOAD)


class Story:
    """A run without faults: messages of some users, each with an image whose status is asked for once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self.memory = Memory(lambda: 0.0)
        self.store = SimpleNamespace(marks={}, failed=[])
        self.left: list[Left] = []
        self._file = self.path.open("wb")
        self._numbers = count()
        self._times_ms = count(0, 100)

    def messages(self, many: int) -> None:
        for number in range(many):
            self.message(number % USERS, number // USERS)

    def message(self, user: int, turn: int, *, told: str = "completed", sent: int = 1, to: int | None = None) -> None:
        """One message: its image's status is `told`, it is delivered `sent` times, to its own or another user."""
        name, image = f"m{user + 1}-{turn + 1}", f"image-{user + 1}-{turn + 1}"
        whose, uri, text = f"user-{user + 1}", f"http://files/{image}", f"text of {name}"
        self.store.marks[uri] = image
        placeholder = {"upload_uuid": f"{user:08}-{turn:08}", "filename": f"{image}.png", "pending": True}
        self.call(name, "add_message", [whose, text, [{"name": image}], name], [placeholder])
        self.step("gemini", "upload", None, f"upload {image}")
        asked = [{"call": name, "index": 0}]
        self.call(f"ask-{name}-0", "upload_status", asked, {"status": "completed", "result": {"uri": uri}})
        if told != "completed":
            self.call(f"ask-{name}-1", "upload_status", asked, {"status": told, "result": None})
        self.call(f"absorb-{name}", "absorb", [whose], None)
        parts = [{"type": "text", "text": text}, {"type": "google_cloud_file_uri", "google_cloud_file_uri": uri}]
        for turn in range(sent):
            receiver = whose if to is None else f"user-{to + 1}"
            self.step("memory", "send", receiver, f"send to {receiver}: {text!r}")
            self.memory.send(receiver, parts, f"batch-{name}-{turn}")

    def call(self, name: str, method: str, args: list[Any], result: Any) -> None:
        number = next(self._numbers)
        self._write({"type": "invoke", "actor": "A", "call": number, "name": name, "method": method, "args": args})
        self._write({"type": "ok", "actor": "A", "call": number, "result": result})

    def step(self, service: str, method: str, of: str | None, says: str) -> None:
        event = {"type": "step", "actor": "A", "kind": "service", "service": service, "method": method, "of": of}
        self._write(event | {"says": says, "action": "go", "failed": False, "reply": "nil"})

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event | {"t_ms": next(self._times_ms)}).encode() + b"\n")

    def fault(self, actor: str, fault: str, stage: str) -> None:
        self._write({"type": "fault", "actor": actor, "fault": fault, "stage": stage, "what": f"{fault} {stage}"})

    def rest(self) -> None:
        self._write({"type": "rest", "stage": "begins"})

    def recorded(self) -> Recorded:
        self._file.close()
        services = {"memory": self.memory, "gemini": SimpleNamespace(store=self.store)}
        return Recorded(path=self.path, workload=WORKLOAD, services=services, left=lambda: self.left)

    def judged(self) -> Judged:
        return judged(self.recorded(), SCENARIO)

    def shown(self) -> list[str]:
        """The few events that show the first finding, in words."""
        found = self.judged()
        events = events_that_show(self.recorded(), SCENARIO, found.findings[0], found.objects)
        return [event["says"] for event in events]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def in_shares_and_whole(story: Story, monkeypatch: pytest.MonkeyPatch) -> tuple[Judged, Judged]:
    whole = story.judged()
    monkeypatch.setattr(judging, "SHARE_BYTES", 2000)
    return story.judged(), whole


def told(one: Judged) -> list[tuple[str, str]]:
    return sorted((finding.kind, finding.subject) for finding in one.findings)


def test_judging_in_shares_finds_the_same_as_judging_all_at_once(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.messages(100)
    story.message(3, 90, sent=0)
    story.message(7, 91, sent=2)
    story.message(9, 92, told="pending")
    story.left.append(Left("forgotten", "1", None))
    shares, whole = in_shares_and_whole(story, monkeypatch)

    assert told(whole) == [
        ("duplicated", "m8-92"),
        ("leaked", "forgotten"),
        ("lost", "image-4-91"),
        ("lost", "m4-91"),
        ("misreported", "image-10-93"),
    ]
    assert told(shares) == told(whole)
    assert shares.counts == whole.counts
    assert {one.key: one.verdict for one in shares.objects} == {one.key: one.verdict for one in whole.objects}
    assert [one.key for one in whole.objects if one.verdict == "violated"] == ["image-10-93"]


def test_a_message_delivered_to_another_user_is_found_in_shares_too(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.messages(100)
    story.message(3, 90, to=5)
    shares, whole = in_shares_and_whole(story, monkeypatch)
    assert ("misreported", "m4-91") in told(whole)
    assert told(shares) == told(whole)


def test_judging_and_drawing_take_less_than_300_bytes_an_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the 700 bytes of the fleet's driver, that is less than 1 KB."""
    monkeypatch.setattr(judging, "SHARE_BYTES", 1 << 18)
    peaks, sizes = [], (1000, 3000)
    for messages in sizes:
        (tmp_path / str(messages)).mkdir()
        story = Story(tmp_path / str(messages))
        story.messages(messages)
        gc.collect()
        tracemalloc.start()
        try:
            recorded = story.recorded()
            found = judged(recorded, SCENARIO)
            assert found.findings == ()
            over_time(recorded, found.findings, "shared", 1.0)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 300 * 3 * (sizes[1] - sizes[0])


def test_a_lost_message_is_shown_only_by_its_call_and_the_faults_meanwhile(story: Story) -> None:
    story.fault("A", "pause", "strikes")
    story.fault("A", "pause", "is over")
    story.messages(30)
    story.fault("A", "kill", "strikes")
    story.fault("B", "pause", "strikes")
    story.fault("server", "server-full", "strikes")
    story.message(3, 90, sent=0)
    story.fault("A", "kill", "is over")
    story.fault("server", "server-full", "is over")
    story.fault("B", "pause", "is over")
    story.messages(30)
    story.rest()
    killed, full, asked, answered, uploaded, *rest = story.shown()
    assert (killed, full) == ("✗ killed", "✗ server: server-full strikes")
    assert asked == "add_message(user-4, text of m4-91, [image-4-91], m4-91)"
    assert answered.startswith("→ [")
    assert uploaded == "upload image-4-91"
    assert rest[:2] == ["✗ started again", "✗ server: server-full is over"]
    assert rest[2].startswith("the calls are over")
    assert len(rest) == 3


def test_a_status_that_went_backwards_is_shown_by_the_answers(story: Story) -> None:
    story.messages(30)
    story.message(9, 92, told="pending")
    added, _, uploaded, asked, completed, again, pending, sent = story.shown()
    assert (added[:11], uploaded, sent[:15]) == ("add_message", "upload image-10-93", "send to user-10")
    assert (asked, again) == ("upload_status(what m10-93 returned[0])",) * 2
    assert "completed" in completed
    assert "pending" in pending


def test_a_duplicated_message_is_shown_with_both_batches(story: Story) -> None:
    story.messages(30)
    story.message(7, 91, sent=2)
    sends = [one for one in story.shown() if one.startswith("send")]
    assert sends == ["send to user-8: 'text of m8-92'"] * 2


def test_a_key_that_is_left_is_shown_by_the_call_that_returned_its_name(story: Story) -> None:
    story.messages(30)
    story.left.append(Left("upload_status:00000007-00000000", "1", None))
    first, last = story.shown()
    assert first == "add_message(user-8, text of m8-1, [image-8-1], m8-1)"
    assert "0007" in last
