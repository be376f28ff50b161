"""The uploads workload for free-running fleets: users who send messages, ask for statuses and have them absorbed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from podrace.simulator.fleets.free import Asked, Client
from podrace.simulator.history.events import Event
from podrace.simulator.judge.linear import Operation
from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.model import Ref, Workload
from podrace.simulator.scenarios.upload_checks import Image, check
from podrace.simulator.scenarios.uploads import Ledger, Uploads, absorb, add, ask, number_of, picture

IMAGES_SHARE = 0.25
"""The part of the messages that have an image."""
ATTEMPTS = 8
"""A client hands a message in up to this many times while nobody can say whether it was accepted."""
_CALL, _TEXT, _PICTURE = (re.compile(f"{begin}([0-9]+)-") for begin in ("(?:ask-)?m", "text of m", "upload image-"))
TURN_BITS = 24
"""A picture shows its user's number and its message's."""


@dataclass(frozen=True, kw_only=True)
class FreeUploads(Uploads):
    """The users of a free fleet. `folder` is for their pictures."""

    folder: Path = field(default_factory=Path)
    images_share: float = IMAGES_SHARE
    removes_files: bool = False
    """Whether a picture's file is gone as soon as its message is accepted."""

    def prepare_clients(self, folder: Path) -> Workload:
        return replace(self, folder=folder, identify=identify, checks=(check,))

    def argument(self, value: Any) -> Any:
        """The path of a picture; a picture that is asked for is there from then on."""
        if not isinstance(value, Image):
            return super().argument(value)
        path = self.folder / f"{value.name}.png"
        if not path.exists():
            path.write_bytes(picture(numbered(value.name)))
        return path

    def argument_told(self, told: Any) -> Any:
        if type(told) is str:
            return told
        if isinstance(told, list):
            return [self.argument_told(one) for one in told]
        if isinstance(told, dict) and told.keys() == {"name"}:
            return Image(told["name"])
        return Ref(**told) if isinstance(told, dict) and told.keys() == {"call", "index"} else told

    def client(self, number: int, messages: int, pause_s: float, rng: random.Random) -> Client:
        """One user: hands message after message in, asks for statuses on other pods, has some pod absorb."""
        user = f"user-{number + 1}"
        for turn in range(messages):
            name = f"m{number + 1}-{turn + 1}"
            images = [f"image-{number + 1}-{turn + 1}"] if rng.random() < self.images_share else []
            wanted = add(name, images, user=user)
            for attempt in range(ATTEMPTS):
                result = yield self.asked(wanted if attempt == 0 else replace(wanted, name=f"{name}-again-{attempt}"))
                if result.type != "info":
                    break
                yield rng.uniform(0.05, 0.3)
            if self.removes_files:
                for image in images:
                    self.argument(Image(image)).unlink()
            if result.type == "ok" and images:
                for asking in range(2):
                    question = ask(f"ask-{name}-{asking}", wanted.name if attempt == 0 else f"{name}-again-{attempt}")
                    yield Asked(question.name, question.method, (result.value[0],), question.args)
                    yield rng.uniform(0, pause_s)
            if rng.random() < 0.4:
                yield self.asked(absorb(f"absorb-{name}", user))
            if pause_s:
                yield rng.uniform(0, 2 * pause_s)

    def owner(self, event: Event) -> str:
        """The user. The names of calls, pictures and texts say whose they are."""
        if event["type"] == "invoke":
            first = event["args"][0] if event["args"] else None
            return f"user-{_number(_CALL, event['name'])}" if isinstance(first, dict) else str(first)
        if event["service"] == "memory":
            return str(event["of"])
        return f"user-{_number(_PICTURE, event['says'])}"

    def shared_out(
        self, services: Mapping[str, Any], share_of: Callable[[str], int], count: int
    ) -> Sequence[Mapping[str, Any]] | None:
        """What each share's users have in memory. None where one has a text of another's: that takes both to tell."""
        memory = services["memory"]
        shares = [Ledger([], []) for _ in range(count)]
        unusable: dict[int, list[str]] = {}
        for place, uri in memory.unusable:
            unusable.setdefault(place, []).append(uri)
        for place, (batch, at_s) in enumerate(zip(memory.batches(), memory.times_s, strict=True)):
            _, user, parts = batch
            texts = [part["text"] for part in parts if part.get("type") == "text"]
            if any(f"user-{_number(_TEXT, text)}" != user for text in texts):
                return None
            share = shares[share_of(str(user))]
            share.unusable.update((len(share.recorded), uri) for uri in unusable.get(place, ()))
            share.recorded.append(batch)
            share.times_s.append(at_s)
        return [{**services, "memory": share} for share in shares]

    def objects(self, run: Run) -> Mapping[Hashable, Sequence[Operation]]:
        """The statuses of uploads as clients saw them, by image: see judge.linear, model upload-status.

        That a client was promised an upload writes `pending`; when Gemini has taken it, `completed` may be written at
        any time, and `failed` from the promise on.
        """
        images = {call.name: call.args[2] for call in run.calls if call.method == "add_message" and call.args[2]}
        found: dict[Hashable, list[Operation]] = {}
        for call in run.calls:
            if call.method == "add_message" and call.type != "fail":
                for image in call.args[2]:
                    ops = found.setdefault(image.name, [])
                    ops.append(
                        Operation(call.name, "write", "pending", call.began, call.ended if call.type == "ok" else None)
                    )
                    ops.append(Operation("a timeout", "write", "failed", call.began))
            elif call.method == "upload_status" and call.type == "ok":
                ref = call.args[0]
                status = call.value.get("status") if isinstance(call.value, dict) else None
                if status in ("unknown", "pending", "failed", "completed") and ref.call in images:
                    image = images[ref.call][ref.index]
                    found.setdefault(image.name, []).append(Operation(call.pod, "read", status, call.began, call.ended))
        for place, event in run.steps("service", "gemini"):
            image_name = str(event["says"]).removeprefix("upload ")
            if image_name in found and (not event["failed"] or event["action"] == "drop-reply"):
                found[image_name].append(Operation("Gemini", "write", "completed", place))
        return found


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return int(found[1]) if found else 0


def numbered(name: str) -> int:
    """The number that the picture of that name shows."""
    user, turn = map(int, name.split("-")[1:])
    return user << TURN_BITS | turn


def identify(content: bytes) -> str | None:
    """The name of the picture that a file shows, compressed or not; None for any other."""
    user, turn = divmod(number_of(content), 1 << TURN_BITS)
    return f"image-{user}-{turn}" if user else None


FREE_UPLOADS = FreeUploads()
