"""The workload of the image uploads: what a pod is asked, how a run is brought to rest, and what is checked.

The promise under test: once `add_message` has returned, the message and each of its images arrive once and in
order for their user, or arrive named as missing, with a reason. Named as missing is what arrives as a part
`{"type": "missing_image", "filename", "reason"}` with its message, or `{"type": "missing_message", "message_id",
"reason"}` in its place; a name counts only where a fault or a refusal could be the reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.judge.findings import Finding
from podrace.simulator.judge.run import CallRecord, Run
from podrace.simulator.scenarios.faults import FailService
from podrace.simulator.scenarios.model import Call, Ref, Scenario, Workload
from podrace.simulator.world.services import Content
from podrace.simulator.world.steps import DROP_REPLY

if TYPE_CHECKING:
    from podrace.simulator.servers.files_api.store import FileStore

ALICE = "alice"
LIFE_S = 48 * 3600.0
"""How long Gemini keeps a file."""
POISON = "poison"
"""A text that holds this word makes the memory agent refuse the batch, every time."""
LEASE_S = 60.0
"""A queue that stands still for longer than this, longer than any lease, is stuck."""

_RANK = {"pending": 0, "failed": 1, "completed": 2}


@dataclass(frozen=True)
class Image:
    """Stands among the arguments for the path of a small picture that the harness makes."""

    name: str

    def __str__(self) -> str:
        return self.name


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
            for uri in (str(part.get("google_cloud_file_uri")) for part in parts):
                if not self.is_usable(uri, pod):
                    self.unusable.add((len(self._batches), uri))
            self._batches.append((batch_id, user_id, [dict(part) for part in parts]))
            self.times_s.append(self._now())

    def batches(self) -> list[tuple[str, Any, list[dict[str, Any]]]]:
        """All that was recorded, in order: (batch id, user id, parts)."""
        return list(self._batches)


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
    fails: frozenset[str] = frozenset()
    """Images that Gemini takes, and fails to make usable."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """By pod, the API key that it uses where it is not the others'."""

    def prepare(self, scenario: Scenario, folder: Path) -> Workload:
        files, identify = _write_images(scenario, folder)
        if self.keys or any(isinstance(fault, FailService) for fault in scenario.faults):
            import google.genai.errors  # noqa: F401 - takes a second, which no schedule should have to spend
        return replace(self, files=files, identify=identify, checks=(check,))

    def services(self, now: Callable[[], float], given: Mapping[str, Any]) -> Mapping[str, Any]:
        from podrace.simulator.servers.files_api import InProcessFiles

        gemini = given.get("gemini") or InProcessFiles(now=now, identify=self.identify, processing_s=self.processing_s)
        gemini.store.fails = self.fails
        memory = Memory(now)
        memory.is_usable = lambda uri, pod: self._is_usable(gemini.store, uri, pod)
        return {"gemini": gemini, "memory": memory}

    def _is_usable(self, store: FileStore, uri: str, pod: str) -> bool:
        """Whether a file is there, ready, and may be read with the pod's key."""
        from podrace.simulator.servers.files_api.store import owner_of

        if uri not in store.marks:
            return True  # a finding of its own
        record = store.find(uri.partition("/v1beta/")[2])
        key = self.keys.get(pod)
        wanted = owner_of(key) if key else record.owner if record and not self._has_key(record.owner) else ""
        return record is not None and record.state.name == "ACTIVE" and record.owner == wanted

    def _has_key(self, owner: str) -> bool:
        from podrace.simulator.servers.files_api.store import owner_of

        return owner in {owner_of(key) for key in self.keys.values()}

    def service_for(self, pod: str, service: str, inner: Any) -> Any:
        if service == "memory":
            return _MemoryOf(inner, pod)
        return inner.with_key(self.keys[pod]) if pod in self.keys else inner

    def moments(self, services: Mapping[str, Any]) -> Iterable[float]:
        """When files become usable, and when their lives are over."""
        for record in services["gemini"].files().values():
            created_s = record.create_time.timestamp()
            yield created_s + LIFE_S
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

    def is_judgeable(self, run: Run) -> bool:
        adding = [call for call in run.calls if call.method == "add_message"]
        return any(call.type == "ok" for call in adding) if adding else super().is_judgeable(run)

    def is_done(self, run: Run) -> bool:
        return not _undelivered(_read(run))

    def counted(self, run: Run) -> Mapping[str, int]:
        facts = _read(run)
        accepted = [message for message in facts.messages if message.accepted]
        images = {image for message in accepted for image in message.images}
        there = {image for message in accepted for image in message.images if message.carried[image]}
        return {
            "accepted": len(accepted) + len(images),
            "delivered": sum(bool(message.places) for message in accepted) + len(there),
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
        return Path(file).read_bytes()
    except (OSError, TypeError):
        return b""


def _digest(content: bytes) -> str:
    return f"a file of {len(content)} bytes, {hashlib.sha256(content).hexdigest()[:8]}"


def _write_images(scenario: Scenario, folder: Path) -> tuple[dict[str, Path], Callable[[bytes], str | None]]:
    """A tiny PNG of one colour for each image that the scenario names: their paths, and what knows them again."""
    from PIL import Image as Picture

    files, contents, colours = {}, {}, {}
    names = [
        image.name
        for calls in scenario.lines.values()
        for call in calls
        if call.method == "add_message"
        for image in call.args[2]
        if isinstance(image, Image)
    ]
    for number, name in enumerate(dict.fromkeys(names), 1):
        path = folder / f"{name}.png"
        colours[name] = (number * 40 % 256, number * 80 % 256, 90)
        Picture.new("RGB", (4, 4), colours[name]).save(path)
        files[name] = path
        contents[path.read_bytes()] = name

    def identify(content: bytes) -> str | None:
        known = contents.get(content)
        if known is not None or not content:
            return known
        try:  # the target may have compressed it: the colour stays, nearly
            with Picture.open(io.BytesIO(content)) as picture:
                colour: Any = picture.convert("RGB").getpixel((1, 1))
        except OSError:
            return None
        near = [name for name in colours if all(abs(a - b) < 16 for a, b in zip(colours[name], colour, strict=True))]
        return near[0] if near else None

    return files, identify


def describe_parts(parts: Iterable[Mapping[str, Any]]) -> str:
    """The parts of a memory message in a few words."""
    words = []
    for part in parts:
        if part.get("type") == "google_cloud_file_uri":
            words.append("image " + str(part["google_cloud_file_uri"]).rsplit("/", 1)[-1])
        elif part.get("type") in ("missing_image", "missing_message"):
            words.append(f"missing {part.get('filename') or part.get('message_id')} ({part.get('reason')})")
        else:
            words.append(repr(part.get("text")))
    return ", ".join(words)


# --- checks ---


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
class _Facts:
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
    yield from _status_findings(run)


def check_deliveries(run: Run) -> Iterator[Finding]:
    """What became of messages and images."""
    facts = _read(run)
    yield from facts.found
    for message in facts.messages:
        yield from _message_findings(message, facts, run)
        yield from _image_findings(message, facts, run)
    yield from _order_findings(facts)


def _read(run: Run) -> _Facts:
    if "uploads" not in run.notes:
        run.notes["uploads"] = _facts_of(run)
    facts: _Facts = run.notes["uploads"]
    return facts


def _facts_of(run: Run) -> _Facts:
    by_id: dict[tuple[str, str], _Message] = {}
    for call in run.calls:
        if call.method == "add_message":
            user, text, _, message_id = call.args
            key = (repr(user), str(message_id))
            message = by_id.setdefault(key, _Message(str(message_id), user, text, _names(call, run), []))
            message.calls.append(call)
            message.accepted |= call.type == "ok"
    facts = _Facts(list(by_id.values()), excuse=run.struck > 0)
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


def _deliver(facts: _Facts, by_id: Mapping[tuple[str, str], _Message], run: Run) -> None:
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
    """Of messages with one text the one that a delivery is of: the user's own, one that has not come yet first."""
    if len(messages) == 1:
        return messages[0]
    return min(messages, key=lambda message: (message.user != user, bool(message.places)))


def _carry(facts: _Facts, message: _Message | None, image: str | None, user: Any) -> None:
    if image is None:
        facts.found.append(Finding("misreported", str(user), "a batch carries an image that was never uploaded"))
    elif message is None or image not in message.images:
        where = f"with message {message.name}" if message else f"to user {user!r} without its message"
        facts.found.append(Finding("misreported", image, f"{image} was delivered {where}, to which it does not belong"))
    else:
        message.carried[image] += 1


def _name(facts: _Facts, message: _Message | None, filename: str, reason: Any, user: Any) -> None:
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


def _undelivered(facts: _Facts) -> list[_Message]:
    """Messages that were accepted and are still to come."""
    return [one for one in facts.messages if one.accepted and not one.places and not one.named_itself]


def _is_held(message: _Message, run: Run) -> bool:
    """Whether its text stands somewhere in what is left in Redis, as a whole and not as the beginning of another."""
    forms = {message.text, json.dumps(message.text)[1:-1]}
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(form)}(?![\w-])" for form in sorted(forms)))
    return any(pattern.search(str(one.value)) for one in run.left)


def _message_findings(message: _Message, facts: _Facts, run: Run) -> Iterator[Finding]:
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


def _image_findings(message: _Message, facts: _Facts, run: Run) -> Iterator[Finding]:
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


def _order_findings(facts: _Facts) -> Iterator[Finding]:
    """Messages of one user arrive in the order in which they were accepted."""
    by_user: dict[str, list[_Message]] = {}
    for message in facts.messages:
        if message.accepted and message.places:
            by_user.setdefault(repr(message.user), []).append(message)
    for came in by_user.values():
        came.sort(key=lambda message: message.places)
        latest = 0  # when that of the messages so far was handed in which was so last
        for number, message in enumerate(came):
            promised_at = message.promised_at
            for other in came[:number] if promised_at < latest else ():
                if promised_at < other.began:
                    text = f"message {other.name} was delivered before {message.name}, which was accepted before it"
                    yield Finding("misreported", other.name, text)
            latest = max(latest, message.began)


def _status_findings(run: Run) -> Iterator[Finding]:
    """What is said of an upload is compared with what was done, and with what was said before."""
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
