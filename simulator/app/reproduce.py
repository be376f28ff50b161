"""The bug and its fix from end to end: real processes, a real server, the real google-genai client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from podrace.simulator.app.names import PARTS
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
from podrace.simulator.servers.files_api import FilesApi
from podrace.simulator.servers.probe import Probe
from podrace.simulator.target import load_object
from podrace.simulator.world.steps import Step

POLL_S = 0.003
UPLOAD_WITHIN_S = 60.0


@dataclass(frozen=True)
class Reproduced:
    """What one target did with the workload: its history, the judgement of it, and how long the run took."""

    events: Sequence[Event]
    judgement: Judgement
    elapsed_s: float


@dataclass
class Reproduction:
    """One target's run over one workload: `images[i]` goes to pod `i mod pods`; the next pods in turn absorb.

    `folder` is for its ledger; `progress` hears of uploads done. Images are uploaded as they are, so that the Files
    API knows each by its content.
    """

    target: str
    images: Sequence[Path]
    server: Server
    files: FilesApi
    folder: Path
    pods: int = 2
    seed: int = 7
    progress: Callable[[int], None] = lambda steps: None
    _events: list[Event] = field(default_factory=list, init=False)
    _epoch_s: float = field(default_factory=time.monotonic, init=False)
    _placeholders: dict[int, Any] = field(default_factory=dict, init=False)

    def note(self, event: Event) -> None:
        """Take note of an event, as the driver's journal."""
        self._events.append({"t_ms": round((time.monotonic() - self._epoch_s) * 1000, 3)} | event)

    def flush(self) -> None:
        """Nothing is buffered."""

    def run(self) -> Reproduced:
        """Run every upload through the fleet and judge the history. Raises HarnessError where a pod dies."""
        ledger_path = self.folder / f"ledger-{self.target.rsplit(':', 1)[-1]}.sqlite"
        spec = PodSpec(
            name="",
            target=self.target,
            redis_url=self.server.url,
            prefix=self.server.prefix,
            services=PARTS,
            settings={
                "gemini": {"api_key": "local", "base_url": self.files.url},
                "memory": {"path": str(ledger_path)},
            },
            seed=self.seed,
            epoch_s=self._epoch_s,
            options={"absorb_limit": 1, "compress": False},
        )
        specs = [replace(spec, name=pod_name(index)) for index in range(self.pods)]
        ledger = load_object(PARTS["memory"], noun="memory agent")(ledger_path)
        client = connect(self.server.url)
        probe = Probe(client, own=False)
        try:
            with Driver(specs, self, choose=min, on_event=self._arrived, patience_s=ANSWER_WITHIN_S) as driver:
                self._drive(driver, client, probe)
            events = _without_polls(self._events)
            judgement = self._judge(events, ledger)
        finally:
            ledger.close()
            delete_prefix(client, self.server.prefix)
            probe.close()
        events.sort(key=lambda event: event["t_ms"])
        return Reproduced(events, judgement, time.monotonic() - self._epoch_s)

    def _judge(self, events: Sequence[Event], ledger: Any) -> Judgement:
        """What became of the messages, by the checks of the workload."""
        services = {"gemini": self.files, "memory": Ledger(batches := ledger.batches(), [0.0] * len(batches))}
        run = Run(events, _calls_of(events), services, 0, math.inf, {}, lambda: ())
        return Judgement(by_severity(list(check_deliveries(run))), UPLOADS.counted(run))

    def _arrived(self, event: Event) -> None:
        step = Step(*event["step"])
        sentence = {"says": UPLOADS.says(*step.args)} if step.kind == "service" else {}
        self._events.append(event | sentence | {"step": step})

    def _drive(self, driver: Driver, client: redis.Redis, probe: Probe) -> None:
        """In rounds of one message a pod: no upload waits behind another, so that only the bug is seen."""
        total = len(self.images)
        for start in range(0, total, self.pods):
            indices = range(start, min(start + self.pods, total))
            for act, moment in ((self._add, "accepted"), (self._await_upload, "uploaded"), (self._absorb, "absorbed")):
                driver.play(map(act, indices))
                if start == 0:
                    self._snapshot(client, probe, moment)
            self.progress(len(indices))

    def accepting(self, index: int) -> str:
        return pod_name(index % self.pods)

    def absorbing(self, index: int) -> str:
        """Each pod absorbs from each, itself included: in every round one message is absorbed where it was accepted."""
        return pod_name((2 * index + 1 + index // self.pods) % self.pods)

    def _add(self, index: int) -> Client:
        pod, image = self.accepting(index), self.images[index]
        user, text, message = f"user-{index + 1}", f"message {index + 1}", f"m{index + 1}"
        args, told = (user, text, [image], message), (user, text, [Image(image.stem)], message)
        result = _answered((yield Asked(message, "add_message", args, told, pod)))
        if result.type == "ok" and result.value:
            self._placeholders[index] = result.value[0]

    def _await_upload(self, index: int) -> Client:
        """Ask the accepting pod until its upload is over."""
        if index not in self._placeholders:
            return
        pod, deadline_s = self.accepting(index), time.monotonic() + UPLOAD_WITHIN_S
        args, told = (self._placeholders[index],), (Ref(f"m{index + 1}", 0),)
        while True:
            result = _answered((yield Asked(f"status-{index + 1}", "upload_status", args, told, pod)))
            if result.type != "ok" or result.value["status"] != "pending":
                return
            if time.monotonic() > deadline_s:
                image = self.images[index].stem
                raise HarnessError(f"pod {pod}: expected the upload of {image} within {UPLOAD_WITHIN_S:g} s")
            yield POLL_S

    def _absorb(self, index: int) -> Client:
        pod, args = self.absorbing(index), (f"user-{index + 1}",)
        _answered((yield Asked(f"absorb-{index + 1}", "absorb", args, args, pod)))

    def _snapshot(self, client: redis.Redis, probe: Probe, moment: str) -> None:
        """What Redis holds now: every key of the run with its value in a few words."""
        keys = sorted(map(plain, client.scan_iter(match=f"{self.server.prefix}*", count=1000)))
        told = [shorten(plain(value), 2000) for value in probe.values(keys)]
        names = [key.removeprefix(self.server.prefix) for key in keys]
        self.note({"type": "snapshot", "moment": moment, "keys": dict(zip(names, told, strict=True))})


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
