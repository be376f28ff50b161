"""The bug and its fix from end to end: real processes, a real server, the real google-genai client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.errors import HarnessError
from podrace.simulator.fleets.processes import Fleet, PodSpec
from podrace.simulator.history.events import Event, plain, shorten
from podrace.simulator.history.outcome import Result
from podrace.simulator.judge.findings import Judgement, by_severity
from podrace.simulator.judge.run import CallRecord, Run
from podrace.simulator.scenarios.model import Ref
from podrace.simulator.scenarios.uploads import UPLOADS, Image, check_deliveries
from podrace.simulator.servers.connection import Server, connect, delete_prefix
from podrace.simulator.target import load_object
from podrace.simulator.world.steps import Step

if TYPE_CHECKING:
    import redis

    from podrace.simulator.servers.files_api import FilesApi


@dataclass(frozen=True)
class _Ledger:
    """What the ledger has recorded, as the checks read it."""

    recorded: Sequence[tuple[str, Any, list[dict[str, Any]]]]
    unusable: frozenset[tuple[int, str]] = frozenset()

    def batches(self) -> list[tuple[str, Any, list[dict[str, Any]]]]:
        return list(self.recorded)

    @property
    def times_s(self) -> list[float]:
        return [0.0] * len(self.recorded)


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
    _calls: list[CallRecord] = field(default_factory=list, init=False)
    _epoch_s: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> Reproduced:
        """Run every upload through the fleet and judge the history. Raises HarnessError where a pod dies."""
        ledger_path = self.folder / f"ledger-{self.target.rsplit(':', 1)[-1]}.sqlite"
        spec = PodSpec(
            name="",
            target=self.target,
            redis_url=self.server.url,
            prefix=self.server.prefix,
            services={name: self.parts[name] for name in ("gemini", "memory")},
            settings={
                "gemini": {"api_key": "local", "base_url": self.files.url},
                "memory": {"path": str(ledger_path)},
            },
            seed=self.workload.seed,
            epoch_s=self._epoch_s,
            options={"absorb_limit": 1},
        )
        specs = [replace(spec, name=pod_name(index)) for index in range(self.workload.pods)]
        ledger = load_object(self.parts["memory"], what="memory agent")(ledger_path)
        client = connect(self.server.url)
        try:
            with Fleet(specs, on_event=self._arrived) as fleet:
                self._drive(fleet, client)
            judgement = self._judge(ledger)
        finally:
            ledger.close()
            delete_prefix(client, self.server.prefix)
            client.close()
        self._events.sort(key=lambda event: event["t_ms"])
        return Reproduced(self._events, judgement, time.monotonic() - self._epoch_s)

    def _judge(self, ledger: Any) -> Judgement:
        """What became of the messages, by the checks of the workload."""
        services = {"gemini": self.files, "memory": _Ledger(ledger.batches())}
        run = Run(self._events, self._calls, services, 0, math.inf, {}, lambda: ())
        return Judgement(by_severity(list(check_deliveries(run))), UPLOADS.counted(run))

    def _arrived(self, event: Event) -> None:
        step = Step(*event["step"])
        told = {"says": UPLOADS.says(*step.args)} if step.kind == "service" else {}
        self._events.append(event | told | {"step": step})

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
            given = (names["user"], names["text"], [Image(image.stem)], names["message"])
            ours = self._invoke(names["message"], pod, "add_message", given)
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
            name = f"status-{index + 1}"
            self._ended(self._invoke(name, pod, "upload_status", (Ref(f"m{index + 1}", 0),)), result)

    def _absorb(self, fleet: Fleet, indices: range) -> None:
        calls = []
        for index in indices:
            pod, user = pod_name(self.workload.absorbing(index)), f"user-{index + 1}"
            ours = self._invoke(f"absorb-{index + 1}", pod, "absorb", (user,))
            calls.append((pod, ours, fleet.submit(pod, "absorb", user)))
        for pod, ours, call in calls:
            self._ended(ours, fleet.wait(pod, call))

    def _snapshot(self, client: redis.Redis, moment: str) -> None:
        """What Redis holds now: every key of the run with its value in a few words."""
        values = {}
        for name, key in self._keys(client).items():
            kind = plain(client.type(key))
            value = client.lrange(key, 0, -1) if kind == "list" else client.get(key) if kind == "string" else kind
            values[name] = shorten(plain(value), 2000)
        self._record({"type": "snapshot", "moment": moment, "keys": values})

    def _keys(self, client: redis.Redis) -> dict[str, bytes]:
        keys = client.scan_iter(match=f"{self.server.prefix}*", count=1000)
        return {plain(key).removeprefix(self.server.prefix): key for key in keys}

    def _invoke(self, name: str, pod: str, method: str, args: tuple[Any, ...]) -> int:
        number = len(self._calls)
        self._calls.append(CallRecord(name, pod, method, args, began=len(self._events)))
        self._record({"type": "invoke", "actor": pod, "call": number, "name": name, "method": method, "args": args})
        return number

    def _ended(self, call: int, result: Result) -> None:
        record = self._calls[call]
        ended = {"ended": len(self._events), "type": result.type, "value": result.value, "error": result.error or ""}
        self._calls[call] = replace(record, **ended)
        event: Event = {"type": result.type, "actor": record.actor, "call": call}
        self._record(event | ({"result": result.value} if result.type == "ok" else {"error": result.error}))

    def _record(self, event: Event) -> None:
        t_ms = round((time.monotonic() - self._epoch_s) * 1000, 3)
        self._events.append({"t_ms": t_ms} | event)
