"""History in, judgement out: what was lost, duplicated, misreported, stuck or leaked. Pure functions.

The promise under test: once `add_message` has returned, the message and each of its images arrive
once, or the image arrives named as missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from podrace.simulator.history.events import Event

KINDS = ("lost", "duplicated", "misreported", "stuck", "leaked")
"""What a run can do wrong, worst first."""

HOLDS, VIOLATED, INCONCLUSIVE = "holds", "violated", "inconclusive"

_RANK = {"unknown": -1, "pending": 0, "failed": 1, "completed": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong. `subject` is a message, an image, a user or a key."""

    kind: str
    subject: str
    sentence: str


@dataclass(frozen=True)
class Judgement:
    """What one history shows. `accepted` and `delivered` count messages and images together, `images` those alone."""

    accepted: int
    images: int
    delivered: int
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        return VIOLATED if self.findings else HOLDS

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of what was found, worst first."""
        found = {finding.kind for finding in self.findings}
        return tuple(kind for kind in KINDS if kind in found)

    @property
    def counts(self) -> dict[str, int]:
        counted = Counter(finding.kind for finding in self.findings)
        return {"accepted": self.accepted, "delivered": self.delivered} | {kind: counted[kind] for kind in KINDS}


@dataclass
class _Message:
    user: Any
    text: str
    images: Sequence[str]
    accepted: bool = False
    refused: bool = False
    delivered: int = 0
    late: bool = False
    held: bool = False


def judge(events: Iterable[Event]) -> Judgement:
    """Judge a history that ends with a `final` event; without one nothing can be said of it."""
    facts = _read(events)
    findings = [
        *_message_findings(facts),
        *_image_findings(facts),
        *_status_findings(facts),
        *_key_findings(facts),
    ]
    accepted = [message for message in facts.messages.values() if message.accepted]
    images = {image for message in accepted for image in message.images}
    return Judgement(
        accepted=len(accepted) + len(images),
        images=len(images),
        delivered=sum(message.delivered > 0 for message in accepted)
        + sum(facts.images_delivered[image] > 0 for image in images),
        findings=tuple(sorted(findings, key=lambda finding: KINDS.index(finding.kind))),
    )


class _Facts:
    def __init__(self) -> None:
        self.messages: dict[str, _Message] = {}
        self.images_delivered: Counter[str] = Counter()
        self.images_named: set[str] = set()
        self.messages_named: set[str] = set()
        self.misdelivered: list[tuple[str, Any]] = []
        self.reads: list[tuple[str, str, int, int, str]] = []
        self.keys: Sequence[str] = ()


def _read(events: Iterable[Event]) -> _Facts:
    facts = _Facts()
    calls: dict[int, tuple[int, Event]] = {}
    promised_at: dict[str, int] = {}
    late_from = None
    final: Event | None = None
    for time, event in enumerate(events):
        kind = event["type"]
        if kind == "invoke":
            calls[event["call"]] = (time, event)
            if event["op"] == "add":
                facts.messages.setdefault(event["message"], _Message(event["user"], event["text"], event["images"]))
        elif kind in ("ok", "fail"):
            began, call = calls[event["call"]]
            if call["op"] == "add":
                message = facts.messages[call["message"]]
                message.accepted |= kind == "ok"
                message.refused |= kind == "fail"
                if kind == "ok":
                    promised_at.update(dict.fromkeys(call["images"], time))
            elif call["op"] == "status" and kind == "ok":
                known = promised_at.get(call["image"], time) < began
                read = (call["image"], event["result"]["status"], began, time, call["actor"])
                facts.reads.append(read if known or read[1] != "unknown" else (*read[:1], "pending", *read[2:]))
        elif kind == "drain" and event["stage"] == "ttl":
            late_from = event["batches"]
        elif kind == "final":
            final = event
    if final is None:
        raise ValueError("the history has no final event: its run did not finish")
    _deliver(facts, final, late_from)
    return facts


def _deliver(facts: _Facts, final: Event, late_from: int | None) -> None:
    by_text = {message.text: (name, message) for name, message in facts.messages.items()}
    for number, (user, parts) in enumerate(final["ledger"]):
        for part in parts:
            if part.get("type") == "google_cloud_file_uri":
                image = final["images"].get(part["google_cloud_file_uri"])
                if image:
                    facts.images_delivered[image] += 1
            elif part.get("type") == "missing_image":
                name = part.get("image") or str(part.get("filename")).rsplit("/", 1)[-1]
                facts.images_named.update((name, name.rpartition(".")[0]))  # a file's name has a suffix, ours none
            elif part.get("type") == "missing_message":
                facts.messages_named.add(str(part.get("message_id")))
            elif part.get("text") in by_text:
                name, message = by_text[part["text"]]
                message.late |= message.delivered == 0 and late_from is not None and number >= late_from
                message.delivered += 1
                if message.user != user:
                    facts.misdelivered.append((name, user))
    for message in facts.messages.values():
        message.held = message.text in final.get("held", ())
    facts.keys = final.get("keys", ())


def _message_findings(facts: _Facts) -> Iterable[Finding]:
    for name, message in facts.messages.items():
        if message.delivered > 1:
            yield Finding("duplicated", name, f"message {name} was delivered {message.delivered} times, expected once")
        if message.refused and not message.accepted and message.delivered:
            yield Finding("misreported", name, f"message {name} was refused, and delivered all the same")
        if not message.accepted:
            continue
        if message.late or (not message.delivered and message.held):
            yield Finding("stuck", name, f"message {name} stood in its queue for longer than a lease")
        elif not message.delivered and name not in facts.messages_named:
            yield Finding("lost", name, f"message {name} was accepted and is nowhere: never delivered, not queued")
    for name, user in facts.misdelivered:
        yield Finding("misreported", name, f"message {name} was delivered as if user {user!r} had sent it")


def _image_findings(facts: _Facts) -> Iterable[Finding]:
    carriers: dict[str, list[tuple[str, _Message]]] = {}
    for name, message in facts.messages.items():
        for image in message.images:
            carriers.setdefault(image, []).append((name, message))
    for image, carrying in carriers.items():
        delivered = facts.images_delivered[image]
        due = sum(message.accepted for _, message in carrying)
        waiting = any(not message.delivered and message.held for _, message in carrying)
        names = " and ".join(name for name, _ in carrying)
        if delivered < due and waiting:
            yield Finding("stuck", image, f"{image} of message {names} waits with its message")
        elif delivered < due and image not in facts.images_named:
            yield Finding(
                "lost",
                image,
                f"{image} of message {names} arrived {delivered} of {due} times, and nobody was told",
            )
        elif delivered > len(carrying):
            yield Finding("duplicated", image, f"{image} of message {names} arrived {delivered} times")


def _status_findings(facts: _Facts) -> Iterable[Finding]:
    """`unknown` for an upload that was promised is untrue; so is what goes back behind an earlier answer."""
    for position, (image, status, began, _, actor) in enumerate(facts.reads):
        if status == "unknown":
            yield Finding(
                "misreported",
                image,
                f"{actor} was told that the upload of {image} is unknown: it was promised",
            )
            continue
        for earlier_image, earlier, _, ended, who in facts.reads[:position]:
            if earlier_image == image and ended < began and _RANK[status] < _RANK[earlier]:
                yield Finding(
                    "misreported",
                    image,
                    f"{actor} was told {status} of {image} after {who} had been told {earlier}",
                )
                break


def _key_findings(facts: _Facts) -> Iterable[Finding]:
    """Keys outlive their use once every message that was accepted has left the queue."""
    if any(message.held and not message.delivered for message in facts.messages.values()):
        return
    for key in facts.keys:
        yield Finding("leaked", key, f"key {key} is left behind after everything was delivered")
