"""The bug and its fix from end to end: real processes, a real server, the real google-genai client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.errors import HarnessError
from podrace.simulator.fleets.processes import Fleet, PodSpec
from podrace.simulator.history.events import Event, plain, shorten
from podrace.simulator.history.outcome import Result
from podrace.simulator.judge.checks import Judgement, judge
from podrace.simulator.servers.connection import Server, connect, delete_prefix
from podrace.simulator.target import load_object

if TYPE_CHECKING:
    import redis

    from podrace.simulator.servers.files_api import FilesApi

POLL_S = 0.003
UPLOAD_WITHIN_S = 60.0


@dataclass(frozen=True)
class Workload:
    """`images[i]` goes to pod `i mod pods`; the load balancer's next pods in turn absorb."""

    images: Sequence[Path]
    pods: int
    seed: int

    def accepting(self, index: int) -> int:
        return index % self.pods

    def absorbing(self, index: int) -> int:
        """Each pod absorbs from each, itself included: in every round one message stays where it was accepted."""
        return (2 * index + 1 + index // self.pods) % self.pods


def pod_name(index: int) -> str:
    """A, B, … Z, then AA, AB, …"""
    name = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


@dataclass(frozen=True)
class Reproduced:
    """What one target did with the workload: its history, the judgement of it, and how long the run took."""

    events: Sequence[Event]
    judgement: Judgement
    elapsed_s: float


@dataclass
class Reproduction:
    """One target's run over one workload. `folder` is for its ledger; `progress` hears of uploads done."""

    target: str
    workload: Workload
    server: Server
    files: FilesApi
    parts: Mapping[str, str]
    folder: Path
    progress: Callable[[int], None]
    _events: list[Event] = field(default_factory=list, init=False)
    _calls: int = field(default=0, init=False)
    _epoch_s: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> Reproduced:
        """Run every upload through the fleet and judge the history. Raises HarnessError where a pod dies."""
        ledger_path = self.folder / f"ledger-{self.target.rsplit(':', 1)[-1]}.sqlite"
        spec = PodSpec(
            name="",
            target=self.target,
            redis_url=self.server.url,
            prefix=self.server.prefix,
            files_url=self.files.url,
            ledger_path=str(ledger_path),
            seed=self.workload.seed,
            epoch_s=self._epoch_s,
            options={"absorb_limit": 1},
            memory=self.parts["memory"],
            gemini=self.parts["gemini"],
        )
        specs = [replace(spec, name=pod_name(index)) for index in range(self.workload.pods)]
        ledger = load_object(self.parts["memory"], what="memory agent")(ledger_path)
        client = connect(self.server.url)
        try:
            with Fleet(specs, on_event=self._events.append) as fleet:
                self._drive(fleet, client)
                held = self._keys(client)
            marks = {record.uri: record.mark for record in self.files.files().values() if record.mark}
            batches = [(user, parts) for _, user, parts in ledger.batches()]
            self._record({"type": "final", "ledger": batches, "images": marks, "keys": sorted(held)})
        finally:
            ledger.close()
            delete_prefix(client, self.server.prefix)
            client.close()
        self._events.sort(key=lambda event: event["t_ms"])
        return Reproduced(self._events, judge(self._events), time.monotonic() - self._epoch_s)

    def _drive(self, fleet: Fleet, client: redis.Redis) -> None:
        """In rounds of one message a pod: no upload waits behind another, so that only the bug is seen."""
        total = len(self.workload.images)
        for start in range(0, total, self.workload.pods):
            indices = range(start, min(start + self.workload.pods, total))
            added = self._add(fleet, indices)
            if start == 0:
                self._snapshot(client, "accepted")
            self._await_uploads(fleet, added)
            if start == 0:
                self._snapshot(client, "uploaded")
            self._absorb(fleet, indices)
            if start == 0:
                self._snapshot(client, "absorbed")
            self.progress(len(indices))

    def _add(self, fleet: Fleet, indices: range) -> dict[int, Any]:
        calls = []
        for index in indices:
            pod, image = pod_name(self.workload.accepting(index)), self.workload.images[index]
            names = {"message": f"m{index + 1}", "user": f"user-{index + 1}", "text": f"message {index + 1}"}
            ours = self._invoke("add", pod, images=[image.stem], **names)
            args = (names["user"], names["text"], [image], names["message"])
            calls.append((index, pod, ours, fleet.submit(pod, "add_message", *args)))
        placeholders = {}
        for index, pod, ours, call in calls:
            result = fleet.wait(pod, call)
            self._ended(ours, result)
            if result.type == "ok" and result.value:
                placeholders[index] = result.value[0]
        return placeholders

    def _await_uploads(self, fleet: Fleet, added: Mapping[int, Any]) -> None:
        """Ask each accepting pod until its upload is over; only the answer that ends it is a client's call."""
        deadline_s = time.monotonic() + UPLOAD_WITHIN_S
        for index, placeholder in added.items():
            pod, image = pod_name(self.workload.accepting(index)), self.workload.images[index].stem
            result = Result("ok", {"status": "pending"})
            while result.type == "ok" and result.value["status"] == "pending":
                if time.monotonic() > deadline_s:
                    raise HarnessError(f"pod {pod}: expected the upload of {image} within {UPLOAD_WITHIN_S:g} s")
                time.sleep(POLL_S)
                result = fleet.call(pod, "upload_status", placeholder)
            self._ended(self._invoke("status", pod, image=image), result)

    def _absorb(self, fleet: Fleet, indices: range) -> None:
        calls = []
        for index in indices:
            pod, user = pod_name(self.workload.absorbing(index)), f"user-{index + 1}"
            ours = self._invoke("absorb", pod, user=user)
            calls.append((pod, ours, fleet.submit(pod, "absorb", user)))
        for pod, ours, call in calls:
            self._ended(ours, fleet.wait(pod, call))

    def _snapshot(self, client: redis.Redis, moment: str) -> None:
        """What Redis holds now: every key of the run with its value in a few words."""
        held = {}
        for name, key in self._keys(client).items():
            kind = plain(client.type(key))
            value = client.lrange(key, 0, -1) if kind == "list" else client.get(key) if kind == "string" else kind
            held[name] = shorten(plain(value), 2000)
        self._record({"type": "snapshot", "moment": moment, "redis": held})

    def _keys(self, client: redis.Redis) -> dict[str, bytes]:
        keys = client.scan_iter(match=f"{self.server.prefix}*", count=1000)
        return {plain(key).removeprefix(self.server.prefix): key for key in keys}

    def _invoke(self, operation: str, pod: str, **arguments: Any) -> int:
        self._calls += 1
        self._record({"type": "invoke", "actor": pod, "call": self._calls, "op": operation, **arguments})
        return self._calls

    def _ended(self, call: int, result: Result) -> None:
        event: Event = {"type": result.type, "call": call}
        self._record(event | ({"result": result.value} if result.type == "ok" else {"error": result.error}))

    def _record(self, event: Event) -> None:
        t_ms = round((time.monotonic() - self._epoch_s) * 1000, 3)
        self._events.append({"t_ms": t_ms} | event)
