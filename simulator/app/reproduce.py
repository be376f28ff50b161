"""The bug and its fix from end to end: real processes, a real server, the real google-genai client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.errors import HarnessError
from podrace.simulator.fleets.driver import NO_ANSWER, Driver
from podrace.simulator.fleets.free import Asked, Client, pod_name
from podrace.simulator.fleets.processes import ANSWER_WITHIN_S, PodSpec
from podrace.simulator.history.events import Event, plain, shorten
from podrace.simulator.history.outcome import Result
from podrace.simulator.judge.findings import Judgement, by_severity
from podrace.simulator.judge.run import CallRecord, Run
from podrace.simulator.scenarios.model import Ref
from podrace.simulator.scenarios.upload_checks import Image, check_deliveries
from podrace.simulator.scenarios.uploads import UPLOADS, Ledger
from podrace.simulator.servers.connection import Server, connect, delete_prefix
from podrace.simulator.target import load_object
from podrace.simulator.world.steps import Step

if TYPE_CHECKING:
    import redis

    from podrace.simulator.servers.files_api import FilesApi


POLL_S = 0.003
UPLOAD_WITHIN_S = 60.0


@dataclass(frozen=True)
class Rounds:
    """`images[i]` goes to pod `i mod pods`; the load balancer's next pods in turn absorb."""

    images: Sequence[Path]
    pods: int
    seed: int

    def accepting(self, index: int) -> int:
        return index % self.pods

    def absorbing(self, index: int) -> int:
        """Each pod absorbs from each, itself included: in every round one message is absorbed where it was accepted."""
        return (2 * index + 1 + index // self.pods) % self.pods


class _Kept:
    """A history that is kept in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.epoch_s = time.monotonic()

    def note(self, event: Event) -> None:
        self.events.append({"t_ms": round((time.monotonic() - self.epoch_s) * 1000, 3)} | event)

    def flush(self) -> None:
        """Nothing is buffered."""


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
    rounds: Rounds
    server: Server
    files: FilesApi
    parts: Mapping[str, str]
    folder: Path
    progress: Callable[[int], None]
    _kept: _Kept = field(default_factory=_Kept, init=False)
    _placeholders: dict[int, Any] = field(default_factory=dict, init=False)

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
            seed=self.rounds.seed,
            epoch_s=self._kept.epoch_s,
            options={"absorb_limit": 1},
        )
        specs = [replace(spec, name=pod_name(index)) for index in range(self.rounds.pods)]
        ledger = load_object(self.parts["memory"], noun="memory agent")(ledger_path)
        client = connect(self.server.url)
        try:
            with Driver(specs, self._kept, choose=min, on_event=self._arrived, patience_s=ANSWER_WITHIN_S) as driver:
                self._drive(driver, client)
            events = _without_polls(self._kept.events)
            judgement = self._judge(events, ledger)
        finally:
            ledger.close()
            delete_prefix(client, self.server.prefix)
            client.close()
        events.sort(key=lambda event: event["t_ms"])
        return Reproduced(events, judgement, time.monotonic() - self._kept.epoch_s)

    def _judge(self, events: Sequence[Event], ledger: Any) -> Judgement:
        """What became of the messages, by the checks of the workload."""
        services = {"gemini": self.files, "memory": Ledger(batches := ledger.batches(), [0.0] * len(batches))}
        run = Run(events, _calls_of(events), services, 0, math.inf, {}, lambda: ())
        return Judgement(by_severity(list(check_deliveries(run))), UPLOADS.counted(run))

    def _arrived(self, event: Event) -> None:
        step = Step(*event["step"])
        sentence = {"says": UPLOADS.says(*step.args)} if step.kind == "service" else {}
        self._kept.events.append(event | sentence | {"step": step})

    def _drive(self, driver: Driver, client: redis.Redis) -> None:
        """In rounds of one message a pod: no upload waits behind another, so that only the bug is seen."""
        total = len(self.rounds.images)
        for start in range(0, total, self.rounds.pods):
            indices = range(start, min(start + self.rounds.pods, total))
            for act, moment in ((self._add, "accepted"), (self._await_upload, "uploaded"), (self._absorb, "absorbed")):
                driver.play(map(act, indices))
                if start == 0:
                    self._snapshot(client, moment)
            self.progress(len(indices))

    def _add(self, index: int) -> Client:
        pod, image = pod_name(self.rounds.accepting(index)), self.rounds.images[index]
        user, text, message = f"user-{index + 1}", f"message {index + 1}", f"m{index + 1}"
        args, told = (user, text, [image], message), (user, text, [Image(image.stem)], message)
        result = _answered((yield Asked(message, "add_message", args, told, pod)))
        if result.type == "ok" and result.value:
            self._placeholders[index] = result.value[0]

    def _await_upload(self, index: int) -> Client:
        """Ask the accepting pod until its upload is over."""
        if index not in self._placeholders:
            return
        pod, deadline_s = pod_name(self.rounds.accepting(index)), time.monotonic() + UPLOAD_WITHIN_S
        args, told = (self._placeholders[index],), (Ref(f"m{index + 1}", 0),)
        while True:
            result = _answered((yield Asked(f"status-{index + 1}", "upload_status", args, told, pod)))
            if result.type != "ok" or result.value["status"] != "pending":
                return
            if time.monotonic() > deadline_s:
                image = self.rounds.images[index].stem
                raise HarnessError(f"pod {pod}: expected the upload of {image} within {UPLOAD_WITHIN_S:g} s")
            yield POLL_S

    def _absorb(self, index: int) -> Client:
        pod, args = pod_name(self.rounds.absorbing(index)), (f"user-{index + 1}",)
        _answered((yield Asked(f"absorb-{index + 1}", "absorb", args, args, pod)))

    def _snapshot(self, client: redis.Redis, moment: str) -> None:
        """What Redis holds now: every key of the run with its value in a few words."""
        values = {}
        for name, key in self._keys(client).items():
            form = plain(client.type(key))
            value = client.lrange(key, 0, -1) if form == "list" else client.get(key) if form == "string" else form
            values[name] = shorten(plain(value), 2000)
        self._kept.note({"type": "snapshot", "moment": moment, "keys": values})

    def _keys(self, client: redis.Redis) -> dict[str, bytes]:
        keys = client.scan_iter(match=f"{self.server.prefix}*", count=1000)
        return {plain(key).removeprefix(self.server.prefix): key for key in keys}


def _answered(result: Result) -> Result:
    """How a call ended. Raises HarnessError where the pod never answered, which no fault explains here."""
    if result.error and result.error.startswith(NO_ANSWER):
        raise HarnessError(f"a pod: expected {result.error.removeprefix('no ')}, none came")
    return result


def _without_polls(events: Sequence[Event]) -> list[Event]:
    """The events without the status calls that only said `pending`, except the last of each upload."""
    methods = {event["call"]: event["method"] for event in events if event["type"] == "invoke"}
    polls = {
        event["call"]
        for event in events
        if event["type"] == "ok"
        and methods[event["call"]] == "upload_status"
        and event["result"]["status"] == "pending"
    }
    return [event for event in events if event.get("call") not in polls]


def _calls_of(events: Sequence[Event]) -> list[CallRecord]:
    calls: dict[int, CallRecord] = {}
    for place, event in enumerate(events):
        if event["type"] == "invoke":
            calls[event["call"]] = CallRecord(event["name"], event["actor"], event["method"], event["args"], place)
        elif "call" in event:
            ended = {"type": event["type"], "value": event.get("result"), "error": event.get("error") or ""}
            calls[event["call"]] = replace(calls[event["call"]], ended=place, **ended)
    return list(calls.values())
