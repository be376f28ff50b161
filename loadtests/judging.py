"""What became of every message and image of one process: recorded as it happens, judged by the simulator's checks.

A `Journal` records; `_judged` makes a history of what it recorded, in the form of simulator/history/events.py, and
asks the simulator's checks. A message is judged as soon as nothing more is expected of it, and forgotten but for one
byte, by which a second delivery of it is known: a run of hours needs no more memory than one of minutes.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from podrace.simulator.judge.findings import Finding
from podrace.simulator.judge.run import OPEN, CallRecord, Left, Run
from podrace.simulator.scenarios.model import Ref
from podrace.simulator.scenarios.upload_checks import Image, check
from podrace.simulator.scenarios.uploads import UPLOADS, OlderFenceError
from podrace.simulator.world.steps import Step

MOMENTS = 10_000
AT_ONCE = 64
"""Messages judged together: they share what a judgement costs by itself."""
PATIENCE_S = 5.0
"""If a message took longer, a pod may have given up the upload although it was this process that was slow."""
BATCHES_KNOWN = 1000
"""By user, as many ids are kept: a batch is sent again until its pod, or the next, has acknowledged it."""
GONE_UNDELIVERED, GONE_REFUSED, GONE_DELIVERED = 1, 2, 3

Parts = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Message:
    """One message and the one image that it may carry. Moments count what happened in this process; 0 is never."""

    scenario: str
    user_id: str
    number: int
    image: bool
    begun: int
    begun_s: float = field(default_factory=time.monotonic)
    answered: int = 0
    ended: str = ""
    """How the pod answered: `ok`, `fail` (definitely not taken) or `info` (nobody can know)."""
    over: bool = False
    """Whether its user has nothing more to do with it."""
    refused: bool = False
    """Whether the Files API has not taken its image, which may then be named as missing."""
    reads: tuple[Mapping[str, Any], ...] = ()
    uris: tuple[str, ...] = ()
    deliveries: tuple[tuple[int, str, Parts], ...] = ()


class Journal:
    """All that this process handed in and saw delivered. `counts` and `sentences` by scenario, as judged so far."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.sentences: dict[str, str] = {}
        self._open: dict[int, Message] = {}
        self._gone = bytearray()
        self._images: dict[str, str] = {}
        self._last_begun: dict[str, int] = {}
        self._moment = 0
        self._batches: dict[str, dict[str, None]] = defaultdict(dict)
        self._fences: dict[str, int] = {}
        self.failed = False
        """Whether an operation has failed: that may excuse other findings."""

    def begin(self, scenario: str, user_id: str, *, image: bool) -> int:
        """The number of a new message that is about to be handed in, as `text_of(number)`."""
        number = len(self._gone)
        self._gone.append(0)
        self._moment += 1
        self._open[number] = Message(scenario, user_id, number, image, self._moment)
        return number

    def end(self, number: int, ended: str) -> None:
        """How the pod has answered. From `ok` on, message and image are promised."""
        self._moment += 1
        message = self._open[number]
        message.ended, message.answered = ended, self._moment

    def read(self, number: int, answer: Mapping[str, Any]) -> None:
        """What a pod has told of the upload of the message's image."""
        message = self._open[number]
        if message.reads[-1:] != (answer,):  # the same answer again tells the checks nothing new
            message.reads += (answer,)

    def close(self, number: int) -> None:
        """The user has nothing more to do with this message."""
        self._open[number].over = True

    def uploaded(self, uri: str, number: int) -> None:
        """The Files API has stored the image of message `number` under this URI."""
        if number in self._open:
            self._images[uri] = image_name(number)
            self._open[number].uris += (uri,)

    def refused(self, number: int) -> None:
        """The Files API has not taken the image of this message."""
        if number in self._open:
            self._open[number].refused = True

    def send(self, user_id: str, parts: Parts, batch_id: str | None = None, fence: int | None = None) -> None:
        """The memory agent of all pods: what arrives here has been delivered. An image belongs to the text before.

        A batch that it has already has no second effect. OlderFenceError as the agent's.
        """
        if fence is not None:
            if fence < self._fences.get(user_id, fence):
                raise OlderFenceError(fence, self._fences[user_id])
            self._fences[user_id] = fence
        if batch_id is not None:
            known = self._batches[user_id]
            if batch_id in known:
                return
            known[batch_id] = None
            if len(known) > BATCHES_KNOWN:
                del known[next(iter(known))]
        began = 0
        for end in range(1, len(parts) + 1):
            if end == len(parts) or parts[end].get("type") == "text":
                self._deliver(user_id, parts[began:end])
                began = end

    def verified(self, scenario: str, wrong: str) -> None:
        """Count an answer that was compared with the only right one; `wrong` says how it differs, if it does."""
        counts = self.counts[scenario]
        counts["accepted"] += 1
        counts["misreported" if wrong else "delivered"] += 1
        if wrong:
            self.sentences.setdefault(scenario, wrong)

    def waiting(self) -> list[str]:
        """The users with a message that was accepted and has not been delivered."""
        open_messages = (m for m in self._open.values() if m.ended == "ok" and not m.deliveries)
        return list(dict.fromkeys(message.user_id for message in open_messages))

    def settle(self) -> None:
        """Judge every message that nothing more is expected of."""
        over = [m for m in self._open.values() if m.over and (m.deliveries or m.ended != "ok")]
        self._judge(over, held=frozenset())

    def finish(self, held: Iterable[str]) -> None:
        """After the last absorption judge all; `held` are the texts of what still stands in a queue."""
        self._judge(self._open.values(), held=frozenset(held))

    def _deliver(self, user_id: str, parts: Parts) -> None:
        found = TEXT.fullmatch(str(parts[0].get("text")))
        if found is None or int(found[2]) >= len(self._gone):
            return  # nothing that was handed in: the message that it may have been is lost
        scenario, number = found[1], int(found[2])
        self._moment += 1
        message, delivery = self._open.get(number), (self._moment, user_id, parts)
        if message is not None:
            message.deliveries += (delivery,)
        elif self._gone[number] != GONE_UNDELIVERED:  # refused, or delivered before
            delivery = (self._moment, user_id, parts[:1])  # its image has been judged with it
            before = [delivery] * (self._gone[number] - GONE_REFUSED)
            ended = "ok" if before else "fail"
            again = Message(scenario, user_id, number, False, 0, 0.0, 1, ended, True, deliveries=(*before, delivery))
            self._note(scenario, _judged([again], {}, frozenset(), False)[1])

    def _judge(self, messages: Iterable[Message], held: Set[str]) -> None:
        by_scenario: dict[str, list[Message]] = {}
        for message in messages:
            by_scenario.setdefault(message.scenario, []).append(message)
        for scenario, found in by_scenario.items():
            found.sort(key=lambda message: message.deliveries[0][0] if message.deliveries else 0)
            for first in range(0, len(found), AT_ONCE):
                chunk = found[first : first + AT_ONCE]
                counts, findings = _judged(chunk, self._images, held, self.failed)
                self.counts[scenario].update(counts)
                self._note(scenario, [*findings, *_out_of_order(chunk, self._last_begun)])
                for message in chunk:
                    self._forget(message)

    def _note(self, scenario: str, findings: Iterable[Finding]) -> None:
        """Count each subject of findings once: the checks compare messages in pairs, and one late one has many."""
        told: set[tuple[str, str]] = set()
        for finding in findings:
            self.counts[scenario][finding.kind] += (finding.kind, finding.subject) not in told
            told.add((finding.kind, finding.subject))
            self.sentences.setdefault(scenario, finding.sentence)

    def _forget(self, message: Message) -> None:
        undelivered = GONE_REFUSED if message.ended == "fail" else GONE_UNDELIVERED
        self._gone[message.number] = GONE_DELIVERED if message.deliveries else undelivered
        del self._open[message.number]
        for uri in message.uris:
            self._images.pop(uri, None)


TEXT = re.compile(r"(load-[a-z]+) message ([0-9]+)")


def text_of(scenario: str, number: int) -> str:
    """The text of a message: by it a delivery is known."""
    return f"{scenario} message {number}"


def image_name(number: int) -> str:
    """Of the image of a message; its file is called so."""
    return f"image-{number:010}"


def _judged(
    messages: Sequence[Message], images: Mapping[str, str], held: Set[str], failed: bool
) -> tuple[dict[str, int], list[Finding]]:
    """What the simulator's checks say of these messages: how many were accepted and delivered, and what is wrong."""
    run = _as_run(messages, images, held, failed)
    counted = UPLOADS.counted(run)
    return {name: counted[name] for name in ("accepted", "delivered")}, list(check(run))


def _as_run(messages: Sequence[Message], images: Mapping[str, str], held: Set[str], failed: bool) -> Run:
    """The messages as a finished run: uploads first, then what their users called, and what was delivered."""
    uploads = [(image_name(message.number), False) for message in messages for _ in message.uris]
    late_s = time.monotonic() - PATIENCE_S
    uploads += [(image_name(one.number), True) for one in messages if one.refused or one.begun_s < late_s]
    history = [
        {"type": "step", "step": Step("", "service", ("gemini", "upload", (), {})), "failed": refused, "action": "go",
         "reply": "", "says": f"upload {image}"}
        for image, refused in uploads
    ]  # fmt: skip
    calls: list[CallRecord] = []
    first = len(history)
    for message in messages:
        user, name = message.user_id, str(message.number)
        given = [Image(image_name(message.number))] if message.image else []
        began, ended = first + message.begun * MOMENTS, first + message.answered * MOMENTS
        args = (user, text_of(message.scenario, message.number), given, name)
        calls.append(CallRecord(name, user, "add_message", args, began, ended, message.ended or OPEN))
        for place, answer in enumerate(message.reads[: MOMENTS // 2 - 1]):
            asked, told = ended + 2 * place + 1, ended + 2 * place + 2
            calls.append(CallRecord("", user, "upload_status", (Ref(name, 0),), asked, told, "ok", answer))
    batches = sorted((delivery for message in messages for delivery in message.deliveries), key=lambda one: one[0])
    services = {
        "gemini": SimpleNamespace(store=SimpleNamespace(failed=(), marks=images)),
        "memory": SimpleNamespace(
            batches=lambda: [(0.0, user, parts) for _, user, parts in batches],
            times_s=[0.0] * len(batches),
            unusable=(),
        ),
    }

    def left() -> list[Left]:
        return [Left("held", text, None) for text in held & {call.args[1] for call in calls if call.name}]

    return Run(history, calls, services, int(failed), math.inf, {}, left)  # a load test never comes to rest


def _out_of_order(messages: Sequence[Message], last_begun: dict[str, int]) -> Iterator[Finding]:
    """Messages that came behind one, judged before them, that was handed in only after they had been accepted.

    `last_begun`: by user, when the newest of its delivered messages was handed in. The order of messages that are
    judged together is the checks' own business.
    """
    delivered = [message for message in messages if message.deliveries]
    for message in delivered:
        if message.ended == "ok" and message.answered < last_begun.get(message.user_id, 0):
            sentence = f"message {message.number} was delivered behind one that was sent after it had been accepted"
            yield Finding("misreported", str(message.number), sentence)
    for message in delivered:
        last_begun[message.user_id] = max(last_begun.get(message.user_id, 0), message.begun)
