"""The workload of the image uploads: what a pod is asked, and how a run is brought to rest.

The promise and its checks stand in upload_checks.py.
"""

from __future__ import annotations

import hashlib
import io
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.faults import FailService
from podrace.simulator.scenarios.model import Call, Ref, Scenario, Workload
from podrace.simulator.scenarios.upload_checks import LEASE_S, Image, check, facts_of, undelivered
from podrace.simulator.world.services import Content

if TYPE_CHECKING:
    from podrace.simulator.servers.files_api.store import FileStore

ALICE = "alice"
LIFE_S = 48 * 3600.0
"""How long Gemini keeps a file."""
URI = "google_cloud_file_uri"
POISON = "poison"
"""A text that holds this word makes the memory agent refuse the batch, every time."""
CODE_BYTES = 5
CELLS, ROWS, CELL_PX = 8, 6, 8
"""A picture is a mark: black and white cells, as large as JPEG's blocks, so that compression leaves them."""


def add(
    name: str,
    images: Sequence[str] = (),
    *,
    again: Sequence[tuple[str, int]] = (),
    user: Any = ALICE,
    text: str = "",
    message_id: str = "",
    insist: bool = False,
    after: tuple[str, ...] = (),
) -> Call:
    """A client hands a message in. `images` are new files; `again` are images of earlier calls: (call, place)."""
    given: list[Any] = [*map(Image, images), *(Ref(call, place) for call, place in again)]
    return Call(name, "add_message", (user, text or f"text of {name}", given, message_id or name), after, insist)


def absorb(name: str, user: Any = ALICE, *, after: tuple[str, ...] = ()) -> Call:
    """Some pod absorbs a user's messages."""
    return Call(name, "absorb", (user,), after)


def ask(name: str, call: str, place: int = 0, *, after: tuple[str, ...] = ()) -> Call:
    """A client asks for the status of an image that an earlier call handed in."""
    return Call(name, "upload_status", (Ref(call, place),), after or (call,))


class OlderFenceError(PermissionError):
    """Nothing was recorded: the user's batches have already come with a higher fence."""

    def __init__(self, fence: int, highest_fence: int) -> None:
        super().__init__(f"fence {fence} is older than {highest_fence}")
        self.highest_fence = highest_fence


class Memory:
    """The memory agent's ledger as a list; passes the same contract tests as the real one."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.is_usable: Callable[[str, str], bool] = lambda uri, pod: True
        """Whether the file of a URI can be read on behalf of a pod."""
        self.unusable: set[tuple[int, str]] = set()
        """Batches and URIs in them of files that could not be read when they came."""
        self._batches: list[tuple[str, Any, list[dict[str, Any]]]] = []
        self.times_s: list[float] = []
        """When each batch was recorded."""
        self.messages = 0
        """How many messages all batches have, or name as missing."""
        self._ids: set[tuple[str, str]] = set()
        self._fences: dict[str, int] = {}

    def send(
        self,
        user_id: str,
        parts: Sequence[Mapping[str, Any]],
        batch_id: str | None = None,
        fence: int | None = None,
        *,
        pod: str = "",
    ) -> None:
        """Record one batch; one that its user's memory has recorded already has no second effect.

        Raises ValueError for a batch that it cannot take, or that has a part whose `usable_until` is over (in seconds
        since the epoch), OlderFenceError for a fence older than the newest.
        """
        if any(POISON in str(part.get("text", "")) for part in parts):
            raise ValueError("the memory agent cannot take this batch")
        if fence is not None:
            if fence < self._fences.get(str(user_id), fence):
                raise OlderFenceError(fence, self._fences[str(user_id)])
            self._fences[str(user_id)] = fence
        batch_id = batch_id or f"batch-{len(self._batches) + 1}"
        if (str(user_id), batch_id) not in self._ids:
            if any(part.get("usable_until", self._now() + 1) <= self._now() for part in parts):
                raise ValueError("the memory agent cannot read a file of this batch any more")
            self._ids.add((str(user_id), batch_id))
            for uri in (str(part[URI]) for part in parts if URI in part):
                if not self.is_usable(uri, pod):
                    self.unusable.add((len(self._batches), uri))
            self._batches.append((batch_id, user_id, [dict(part) for part in parts]))
            self.messages += sum(part.get("type") in ("text", "missing_message") for part in parts)
            self.times_s.append(self._now())

    def batches(self) -> list[tuple[str, Any, list[dict[str, Any]]]]:
        """All that was recorded, in order: (batch id, user id, parts)."""
        return list(self._batches)


@dataclass(frozen=True)
class Ledger:
    """What a memory agent has recorded, or a part of it, as checks read it."""

    recorded: list[tuple[str, Any, list[dict[str, Any]]]]
    times_s: list[float]
    unusable: set[tuple[int, str]] = field(default_factory=set)

    def batches(self) -> list[tuple[str, Any, list[dict[str, Any]]]]:
        return self.recorded


@dataclass(frozen=True)
class _MemoryOf:
    """The memory agent as one pod meets it."""

    memory: Memory
    pod: str

    def send(self, *args: Any, **named: Any) -> None:
        self.memory.send(*args, **named, pod=self.pod)


@dataclass(frozen=True, kw_only=True)
class Uploads(Workload):
    """See the module. Once prepared, `files` are the pictures by name, and `identify` knows them by content."""

    name: str = "uploads"
    lingers_s: float | None = LEASE_S
    real_time: frozenset[str] | None = frozenset({"add_message", "upload_status", "service:gemini"})
    failures: Mapping[str, str] = field(
        default_factory=lambda: {"gemini": "podrace.simulator.servers.files_api.inprocess:unavailable"}
    )
    files: Mapping[str, Path] = field(default_factory=dict)
    identify: Callable[[bytes], str | None] = lambda content: None
    processing_s: float = 0.0
    """How long Gemini takes to make a file usable that it has taken."""
    life_s: float = LIFE_S
    fails: frozenset[str] = frozenset()
    """Images that Gemini accepts and then fails to make usable."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The API keys of pods that use another key than the other pods, by pod."""

    def prepare(self, scenario: Scenario, folder: Path) -> Workload:
        files, identify = _write_images(scenario, folder)
        if self.keys or any(isinstance(fault, FailService) for fault in scenario.faults):
            import google.genai.errors  # noqa: F401 - takes a second, which no schedule should have to spend
        return replace(self, files=files, identify=identify, checks=(check,))

    def services(self, now: Callable[[], float], given: Mapping[str, Any]) -> Mapping[str, Any]:
        from podrace.simulator.servers.files_api import InProcessFiles

        gemini = given.get("gemini") or InProcessFiles(now=now, identify=self.identify, processing_s=self.processing_s)
        gemini.store.fails, gemini.store.life = self.fails, timedelta(seconds=self.life_s)
        memory = Memory(now)
        memory.is_usable = lambda uri, pod: self._is_usable(gemini.store, uri, pod)
        return {"gemini": gemini, "memory": memory}

    def _is_usable(self, store: FileStore, uri: str, pod: str) -> bool:
        """Whether a file is there, ready, and may be read with the pod's key."""
        if uri not in store.marks:
            return True  # a finding of its own
        from podrace.simulator.servers.files_api.store import owner_of

        record = store.find(uri.partition("/v1beta/")[2])
        if record is None or record.state.name != "ACTIVE":
            return False
        owners = {name: owner_of(key) for name, key in self.keys.items()}
        return record.owner == owners[pod] if pod in owners else record.owner not in owners.values()

    def service_for(self, pod: str, service: str, inner: Any) -> Any:
        if service == "memory":
            return _MemoryOf(inner, pod)
        return inner.with_key(self.keys[pod]) if pod in self.keys else inner

    def moments(self, services: Mapping[str, Any]) -> Iterable[float]:
        """When files become usable, and when their lives are over."""
        for record in services["gemini"].files().values():
            created_s = record.create_time.timestamp()
            yield created_s + self.life_s
            if self.processing_s:
                yield created_s + self.processing_s

    def argument(self, value: Any) -> Any:
        return self.files[value.name] if isinstance(value, Image) else value

    def touches(self, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[str, ...]:
        """Batches of two users share nothing; uploads of two contents neither, but for what asks by name."""
        if service == "memory" and method == "send" and args:
            return (f"memory of {args[0]!r}",)
        if service == "gemini" and method == "upload":
            return (f"file {_digest(_content_of(named.get('file', args[0] if args else None)))}",)
        return (service,)

    def at_rest(self, pods: Sequence[str], run: Run) -> Sequence[tuple[str, Call]]:
        """Every pod absorbs for every user that was ever named."""
        users: list[Any] = []
        for call in run.calls:
            place = {"add_message": 0, "absorb": 0}.get(call.method)
            if place is not None and call.args and call.args[place] not in users:
                users.append(call.args[place])
        return [(pod, absorb("absorb", user)) for user in users for pod in pods]

    def progress(self, services: Mapping[str, Any]) -> Any:
        return len(services["memory"].batches())

    def delivered(self, services: Mapping[str, Any]) -> int:
        messages: int = services["memory"].messages
        return messages

    def is_judgeable(self, run: Run) -> bool:
        adding = [call for call in run.calls if call.method == "add_message"]
        return any(call.type == "ok" for call in adding) if adding else super().is_judgeable(run)

    def is_done(self, run: Run) -> bool:
        return not undelivered(facts_of(run))

    def counted(self, run: Run) -> Mapping[str, int]:
        facts = facts_of(run)
        accepted = [message for message in facts.messages if message.accepted]
        images = {image for message in accepted for image in message.images}
        shown = {image for message in accepted for image in message.images if message.carried[image]}
        return {
            "accepted": len(accepted) + len(images),
            "delivered": sum(bool(message.places) for message in accepted) + len(shown),
            "messages": len(accepted),
            "images": len(images),
        }

    def says(self, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> str:
        if service == "memory" and method == "send" and len(args) >= 2:
            return f"send to {args[0]}: {describe_parts(args[1])}"
        if service == "gemini" and method == "upload":
            content = _content_of(named.get("file", args[0] if args else None))
            return f"upload {self.identify(content) or _digest(content)}"  # names of temporary files differ
        return super().says(service, method, args, named)

    def process_servers(self, now: Callable[[], float], stack: ExitStack) -> Mapping[str, Any]:
        """A Files API of this run's own, which the real google-genai client speaks to."""
        from podrace.simulator.servers.files_api import FilesApi

        api = FilesApi(identify=self.identify, processing_s=self.processing_s, now=now)
        return {"gemini": stack.enter_context(api)}

    def process_settings(self, pod: str, servers: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        return {"gemini": {"api_key": self.keys.get(pod, "local"), "base_url": servers["gemini"].url}}


UPLOADS = Uploads()


def _content_of(file: Any) -> bytes:
    if isinstance(file, Content):
        return file.data
    try:
        with open(file, "rb", buffering=0) as opened:  # not by pathlib, which costs as much again in every schedule
            return opened.read()
    except (OSError, TypeError, ValueError):
        return b""


def _digest(content: bytes) -> str:
    return f"a file of {len(content)} bytes, {hashlib.sha256(content).hexdigest()[:8]}"


def _write_images(scenario: Scenario, folder: Path) -> tuple[dict[str, Path], Callable[[bytes], str | None]]:
    """A picture for each image of the scenario: their paths, and a function that recognises them."""
    names = dict.fromkeys(
        image.name
        for calls in scenario.lines.values()
        for call in calls
        if call.method == "add_message"
        for image in call.args[2]
        if isinstance(image, Image)
    )
    files = {name: folder / f"{name}.png" for name in names}
    for number, path in enumerate(files.values(), 1):
        path.write_bytes(picture(number))
    by_number = dict(enumerate(files, 1))
    return files, lru_cache(1000)(lambda content: by_number.get(number_of(content)))


def picture(number: int) -> bytes:
    """A small PNG that shows a number, compressed or not."""
    from PIL import Image as Picture

    code = _with_sum(number)
    cells = bytes(255 * (code >> place & 1) for place in range(CELLS * ROWS))
    made = Picture.frombytes("L", (CELLS, ROWS), cells)
    file = io.BytesIO()
    made.resize((CELLS * CELL_PX, ROWS * CELL_PX), Picture.Resampling.NEAREST).save(file, "PNG", compress_level=1)
    return file.getvalue()


def number_of(content: bytes) -> int:
    """The number that a picture shows; 0 for any other file."""
    from PIL import Image as Picture

    try:
        with Picture.open(io.BytesIO(content)) as found:
            cells = found.convert("L").resize((CELLS, ROWS), Picture.Resampling.BOX).tobytes()
    except (OSError, ValueError):
        return 0
    code = sum((brightness > 127) << place for place, brightness in enumerate(cells))
    return code >> 8 if code == _with_sum(code >> 8) else 0


def _with_sum(number: int) -> int:
    return number << 8 | zlib.crc32(number.to_bytes(CODE_BYTES, "big")) & 0xFF


def describe_parts(parts: Iterable[Mapping[str, Any]]) -> str:
    """The parts of a memory message in a few words."""
    shown = []
    for part in parts:
        if part.get("type") == "google_cloud_file_uri":
            shown.append("image " + str(part["google_cloud_file_uri"]).rsplit("/", 1)[-1])
        elif part.get("type") in ("missing_image", "missing_message"):
            shown.append(f"missing {part.get('filename') or part.get('message_id')} ({part.get('reason')})")
        else:
            shown.append(repr(part.get("text")))
    return ", ".join(shown)
