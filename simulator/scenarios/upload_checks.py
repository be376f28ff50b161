"""What the uploads workload promises, as checks over one finished run.

The promise under test: once `add_message` has returned, the message and each of its images arrive once and in
order for their user, or arrive named as missing, with a reason. Named as missing is what arrives as a part
`{"type": "missing_image", "filename", "reason"}` with its message, or `{"type": "missing_message", "message_id",
"reason"}` in its place; a name counts only where a fault or a refusal could be the reason.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podrace.simulator.judge.findings import Finding
from podrace.simulator.judge.run import CallRecord, Run
from podrace.simulator.scenarios.model import Ref
from podrace.simulator.world.steps import DROP_REPLY

LEASE_S = 60.0
"""A queue that stands still for longer than this, longer than any lease, is stuck."""
_RANK = {"pending": 0, "failed": 1, "completed": 2}


@dataclass(frozen=True)
class Image:
    """Stands among the arguments for the path of a small picture that the harness makes."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class _Message:
    """One message id with all calls that handed it in, and what became of it."""

    name: str
    user: Any
    text: str
    images: list[str]
    calls: list[CallRecord]
    places: list[tuple[int, int]] = field(default_factory=list)
    """The batches in which it was delivered to its own user, and its places in them."""
    carried: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Images that arrived with it."""
    named: set[str] = field(default_factory=set)
    """Images that were named as missing with it, with a reason."""
    named_itself: bool = False
    accepted: bool = False

    @property
    def refused(self) -> bool:
        return not self.accepted and all(call.type == "fail" for call in self.calls)

    @property
    def began(self) -> int:
        return min(call.began for call in self.calls)

    @property
    def promised_at(self) -> int:
        return min(call.ended or 0 for call in self.calls if call.type == "ok")


@dataclass
class Facts:
    messages: list[_Message]
    found: list[Finding] = field(default_factory=list)
    """What is wrong with the batches themselves."""
    excuse: bool = False
    """Whether a fault struck at all."""
    refusals: set[str] = field(default_factory=set)
    """Images of which Gemini refused an upload, and users whose batch the memory agent refused, as `user …`."""


def check(run: Run) -> Iterator[Finding]:
    """All that the workload promises, over one finished run."""
    yield from check_deliveries(run)
    yield from _status_findings(run, facts_of(run))


def check_deliveries(run: Run) -> Iterator[Finding]:
    """What became of messages and images."""
    facts = facts_of(run)
    yield from facts.found
    for message in facts.messages:
        yield from _message_findings(message, facts, run)
        yield from _image_findings(message, facts, run)
    yield from _order_findings(facts)


def facts_of(run: Run) -> Facts:
    if "uploads" not in run.notes:
        run.notes["uploads"] = _gather(run)
    facts: Facts = run.notes["uploads"]
    return facts


def _gather(run: Run) -> Facts:
    by_id: dict[tuple[str, str], _Message] = {}
    for call in run.calls:
        if call.method == "add_message":
            user, text, _, message_id = call.args
            key = (repr(user), str(message_id))
            message = by_id.setdefault(key, _Message(str(message_id), user, text, _names(call, run), []))
            message.calls.append(call)
            message.accepted |= call.type == "ok"
    facts = Facts(list(by_id.values()), excuse=run.struck > 0)
    facts.refusals |= {str(record.mark) for record in run.services["gemini"].store.failed}
    for _, event in run.steps("service"):
        service, method, args, _ = event["step"].args
        if event["failed"] and not str(event["reply"]).startswith(("TypeError", "AttributeError")):
            if service == "gemini" and method == "upload":
                facts.refusals.add(event["says"].removeprefix("upload "))
            elif service == "memory" and args:
                facts.refusals.add(f"user {args[0]!r}")
    _deliver(facts, by_id, run)
    return facts


def _names(call: CallRecord, run: Run) -> list[str]:
    """The names of a call's images, those handed in again by what their first call called them."""
    names = []
    for image in call.args[2]:
        if isinstance(image, Image):
            names.append(image.name)
        else:
            first = next((one for one in run.calls if one.name == image.call), None)
            known = _names(first, run) if first is not None else []
            names.append(known[image.index] if image.index is not None and len(known) > image.index else "unknown")
    return names


def _deliver(facts: Facts, by_id: Mapping[tuple[str, str], _Message], run: Run) -> None:
    by_text: dict[str, list[_Message]] = {}
    for message in facts.messages:
        by_text.setdefault(message.text, []).append(message)
    uris = run.services["gemini"].store.marks
    unusable = run.services["memory"].unusable
    for place, (_, user, parts) in enumerate(run.services["memory"].batches()):
        current: _Message | None = None
        for number, part in enumerate(parts):
            kind = part.get("type")
            if kind == "google_cloud_file_uri":
                uri = str(part.get("google_cloud_file_uri"))
                if (place, uri) not in unusable:
                    _carry(facts, current, uris.get(uri), user)
            elif kind == "missing_image":
                _name(facts, current, str(part.get("image") or part.get("filename")), part.get("reason"), user)
            elif kind == "missing_message":
                named = by_id.get((repr(user), str(part.get("message_id"))))
                if named is not None and part.get("reason"):
                    named.named_itself = True
                current = None
            elif str(part.get("text")) in by_text:
                current = _meant(by_text[str(part["text"])], user)
                if current.user == user:
                    current.places.append((place, number))
                else:
                    text = f"message {current.name} was delivered as if user {user!r} had sent it"
                    facts.found.append(Finding("misreported", current.name, text))
                    current = None


def _meant(messages: Sequence[_Message], user: Any) -> _Message:
    """Which of several messages with one text a delivery shows: one of the user's, first one that has not come yet."""
    if len(messages) == 1:
        return messages[0]
    return min(messages, key=lambda message: (message.user != user, bool(message.places)))


def _carry(facts: Facts, message: _Message | None, image: str | None, user: Any) -> None:
    if image is None:
        facts.found.append(Finding("misreported", str(user), "a batch carries an image that was never uploaded"))
    elif message is None or image not in message.images:
        where = f"with message {message.name}" if message else f"to user {user!r} without its message"
        facts.found.append(Finding("misreported", image, f"{image} was delivered {where}, to which it does not belong"))
    else:
        message.carried[image] += 1


def _name(facts: Facts, message: _Message | None, filename: str, reason: Any, user: Any) -> None:
    """Take note of an image that is named as missing. Our names have no suffix, a file's has."""
    last = filename.rsplit("/", 1)[-1]
    if message is not None:
        for name in (last, last.rpartition(".")[0]):
            if name in message.images and reason:
                message.named.add(name)
                return
    where = f"with message {message.name}" if message else f"to user {user!r} without its message"
    why = "" if reason else ", without a reason"
    facts.found.append(Finding("misreported", last, f"{last} is named as missing {where}{why}"))


def undelivered(facts: Facts) -> list[_Message]:
    """Messages that were accepted and are still to come."""
    return [one for one in facts.messages if one.accepted and not one.places and not one.named_itself]


def _is_held(message: _Message, run: Run) -> bool:
    """Whether its text stands somewhere in what is left in Redis, as a whole and not as the beginning of another."""
    forms = {message.text, json.dumps(message.text)[1:-1]}
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(form)}(?![\w-])" for form in sorted(forms)))
    return any(pattern.search(str(one.value)) for one in run.left)


def _message_findings(message: _Message, facts: Facts, run: Run) -> Iterator[Finding]:
    name = message.name
    if len(message.places) > 1:
        yield Finding("duplicated", name, f"message {name} was delivered {len(message.places)} times, expected once")
    if message.refused and message.places:
        yield Finding("misreported", name, f"message {name} was refused, and delivered all the same")
    if message.named_itself and message.places:
        yield Finding("misreported", name, f"message {name} was delivered, and named as missing all the same")
    if not message.accepted:
        return
    if message.places:
        if _stood_still(message, run):
            yield Finding("stuck", name, f"message {name} stood in its queue for longer than a lease")
    elif message.named_itself:
        if not facts.excuse and f"user {message.user!r}" not in facts.refusals:
            yield Finding("lost", name, f"message {name} is named as missing, though nothing went wrong")
    elif _is_held(message, run):
        yield Finding("stuck", name, f"message {name} stands in its queue, and nothing will deliver it")
    else:
        yield Finding("lost", name, f"message {name} was accepted and is nowhere: never delivered, not queued")


def _stood_still(message: _Message, run: Run) -> bool:
    """Whether, once the run came to rest, its user's queue stood still for longer than a lease before it came."""
    memory = run.services["memory"]
    if memory.times_s[message.places[0][0]] < run.rested_s:
        return False
    last_s = run.rested_s
    for place, (_, user, _) in enumerate(memory.batches()[: message.places[0][0] + 1]):
        if user == message.user and memory.times_s[place] >= run.rested_s:
            if place == message.places[0][0]:
                return bool(memory.times_s[place] - last_s > LEASE_S)
            last_s = memory.times_s[place]
    return False


def _image_findings(message: _Message, facts: Facts, run: Run) -> Iterator[Finding]:
    if not message.accepted and not message.places:
        return
    for image in dict.fromkeys(message.images):
        came, due = message.carried[image], message.images.count(image)
        if came > due * max(1, len(message.places)):
            yield Finding("duplicated", image, f"{image} arrived {came} times with message {message.name}")
        if came or not message.accepted or message.named_itself:
            continue
        if image in message.named:
            if not facts.excuse and image not in facts.refusals:
                yield Finding("lost", image, f"{image} is named as missing, though nothing went wrong")
        elif not message.places and _is_held(message, run):
            yield Finding("stuck", image, f"{image} of message {message.name} waits with its message")
        else:
            yield Finding("lost", image, f"{image} of message {message.name} arrived 0 of 1 times, and nobody was told")


def _order_findings(facts: Facts) -> Iterator[Finding]:
    """Messages of one user arrive in the order in which they were accepted."""
    by_user: dict[str, list[_Message]] = {}
    for message in facts.messages:
        if message.accepted and message.places:
            by_user.setdefault(repr(message.user), []).append(message)
    for came in by_user.values():
        came.sort(key=lambda message: message.places)
        latest = 0  # when the latest of the messages so far was handed in
        for number, message in enumerate(came):
            promised_at = message.promised_at
            for other in came[:number] if promised_at < latest else ():
                if promised_at < other.began:
                    text = f"message {other.name} was delivered before {message.name}, which was accepted before it"
                    yield Finding("misreported", other.name, text)
            latest = max(latest, message.began)


def _status_findings(run: Run, facts: Facts) -> Iterator[Finding]:
    """What is said of an upload is compared with what was done, and with what was said before."""
    if not any(call.method == "upload_status" for call in run.calls):
        return
    uploads: dict[str, int] = {}
    for place, event in run.steps("service", "gemini"):
        if event["step"].args[1] == "upload" and (not event["failed"] or event["action"] == DROP_REPLY):
            uploads.setdefault(event["says"].removeprefix("upload "), place)
    uris = run.services["gemini"].store.marks
    accepting = {call.name: call for call in reversed(run.calls) if call.type == "ok"}
    told: dict[str, list[tuple[str, CallRecord]]] = {}
    for call in run.calls:
        if call.method != "upload_status" or call.type != "ok" or call.ended is None:
            continue
        image, promised_at = _asked_for(call, accepting, run)
        if image is None:
            continue
        wrong = _contract_of(call.value, image, uris)
        if wrong:
            yield Finding("misreported", image, f"{call.actor} was told {wrong} of {image}, which the contract has not")
            continue
        status = call.value["status"]
        if status == "unknown":
            if promised_at < call.began:
                text = f"{call.actor} was told that the upload of {image} is unknown: it was promised"
                yield Finding("misreported", image, text)
            continue
        if status == "completed" and uploads.get(image, call.ended + 1) > call.ended:
            yield Finding("misreported", image, f"{call.actor} was told that {image} is uploaded, before it was")
        if status == "failed" and not facts.excuse and image not in facts.refusals:
            text = f"{call.actor} was told that the upload of {image} has failed, though nothing went wrong"
            yield Finding("misreported", image, text)
        before = told.setdefault(image, [])
        for earlier, who in before:
            if who.before(call) and _RANK[status] < _RANK[earlier]:
                text = f"{call.actor} was told {status} of {image} after {who.actor} had been told {earlier}"
                yield Finding("misreported", image, text)
                break
        before.append((status, call))


def _contract_of(value: Any, image: str, uris: Mapping[str, str | None]) -> str:
    """Empty where an answer has the form of the contract, else what is wrong with it."""
    if not isinstance(value, dict) or value.get("status") not in (*_RANK, "unknown"):
        return repr(value)[:80]
    result = value.get("result")
    if value["status"] == "completed":
        uri = result.get("uri") if isinstance(result, dict) else None
        if uris.get(str(uri)) != image:
            return "completed with another file" if uri else "completed without a file"
    return ""


def _asked_for(call: CallRecord, accepting: Mapping[str, CallRecord], run: Run) -> tuple[str | None, int]:
    """The image that a status was asked of, and where in the history it was promised."""
    ref = call.args[0]
    if not isinstance(ref, Ref):
        return None, 0
    adding = accepting.get(ref.call)
    if adding is None or not isinstance(ref.index, int):
        return None, 0
    names = _names(adding, run)
    return (names[ref.index], adding.ended or 0) if ref.index < len(names) else (None, 0)
