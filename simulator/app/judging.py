"""The judge of a free fleet's run: it reads the history from its file, in shares of a few users each.

So the memory that it takes depends on the size of a share, and hardly on how long the run was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import orjson

from podrace.simulator.history.events import Event
from podrace.simulator.judge import linear
from podrace.simulator.judge.findings import VIOLATED, Finding, by_severity
from podrace.simulator.judge.run import CallRecord, Left, Run
from podrace.simulator.scenarios.model import Scenario, Workload
from podrace.simulator.world.steps import Step

SHARE_BYTES = 1 << 20
"""Of history that is judged at once, about."""
MOST_SHARES = 64
"""Each is an open file."""
_SERVED, _TOLD = ("actor", "service", "method", "of"), ("says", "failed", "action", "reply")
_STEP = itemgetter(*_SERVED, *_TOLD)


@dataclass(frozen=True)
class FiledRun(Run):
    """A finished run whose history is in a file. `served`: the steps of services, with their places in it."""

    served: Sequence[tuple[Any, ...]] = ()

    def steps(self, kind: str, name: str = "") -> Iterable[tuple[int, Event]]:
        for place, actor, service, method, of, *told in self.served:
            if kind == "service" and name in ("", service):
                step = Step(actor, "service", (service, method, (of,), {}))
                yield place, {"type": "step", "step": step, **dict(zip(_TOLD, told, strict=True))}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run that is over: its history in a file, what the services hold, and what is left on the server.

    `waits`: for each call that can never return, who waits for what. `work`: where the run's temporary files are.
    `promises_from`: by pod, where in the history it begins to promise anything; what it answered before nobody may
    rely on.
    """

    path: Path
    workload: Workload
    services: Mapping[str, Any]
    left: Callable[[], Sequence[Left]]
    struck: int = 0
    rested_s: float = 0.0
    waits: Mapping[str, str] = field(default_factory=dict)
    work: Path = field(default_factory=Path)
    promises_from: Mapping[str, float] = field(default_factory=dict)

    def events(self) -> Iterator[tuple[int, Event]]:
        """The history, each event with the number of its line."""
        with self.path.open("rb") as lines:
            yield from enumerate(map(orjson.loads, lines))

    def runs(self) -> Iterator[FiledRun]:
        """The run as checks see it, in shares of some owners each. A place is the number of a line."""
        count = min(MOST_SHARES, 1 + self.path.stat().st_size // SHARE_BYTES)
        shares: dict[str, int] = {}

        def share_of(owner: str) -> int:
            return shares.setdefault(owner, len(shares) % count)

        services = self.workload.shared_out(self.services, share_of, count) if count > 1 else None
        if services is None:
            yield self._run(self.events(), self.services)
            return
        with ExitStack() as stack:
            files = [stack.enter_context(TemporaryFile()) for _ in range(count)]
            self._share_out(files, share_of)
            for file, theirs in zip(files, services, strict=True):
                file.seek(0)
                yield self._run(((int(line[:12]), orjson.loads(line[12:])) for line in file), theirs)

    def _share_out(self, files: Sequence[IO[bytes]], share_of: Callable[[str], int]) -> None:
        """Write each line of the history into its share's file, after its number."""
        open_calls: dict[int, int] = {}
        with self.path.open("rb") as lines:
            for place, line in enumerate(lines):
                event = orjson.loads(line)
                if event["type"] in ("ok", "fail", "info"):
                    share = open_calls.pop(event["call"])
                elif event["type"] in ("invoke", "step"):
                    share = share_of(self.workload.owner(event))
                    if "call" in event:
                        open_calls[event["call"]] = share
                else:
                    continue
                files[share].write(b"%12d" % place + line)

    def _run(self, events: Iterable[tuple[int, Event]], services: Mapping[str, Any]) -> FiledRun:
        calls: dict[int, CallRecord] = {}
        steps: list[tuple[Any, ...]] = []
        texts: dict[str, str] = {}

        def once(value: Any) -> Any:
            """A text that is there once, however often the history says it."""
            return texts.setdefault(value, value) if type(value) is str else value

        for place, event in events:
            event_type = event["type"]
            if event_type == "invoke":
                args = tuple(self.workload.argument_told(once(one)) for one in event["args"])
                actor, method = once(event["actor"]), once(event["method"])
                calls[event["call"]] = CallRecord(once(event["name"]), actor, method, args, place)
            elif event_type in ("ok", "fail", "info"):
                one = calls[event["call"]]
                if event_type == "ok" and one.began < self.promises_from.get(one.actor, 0):
                    event_type, event = "info", {"call": event["call"]}
                ended = {"type": once(event_type), "value": event.get("result"), "error": event.get("error") or ""}
                calls[event["call"]] = CallRecord(one.name, one.actor, one.method, one.args, one.began, place, **ended)
            elif event_type == "step":
                steps.append((place, *map(once, _STEP(event))))
        known = [*calls.values()]
        return FiledRun((), known, services, self.struck, self.rested_s, {}, self.left, served=steps)


@dataclass(frozen=True)
class Judged:
    """What a run shows. `objects`: what users were told of each object, as the search for an order had it."""

    findings: tuple[Finding, ...]
    objects: Sequence[linear.KeyVerdict]
    counts: Mapping[str, int]
    is_judgeable: bool

    @property
    def kinds(self) -> Counter[str]:
        """How many findings there are of each kind, worst first."""
        return Counter(finding.kind for finding in self.findings)


def judged(recorded: Recorded, scenario: Scenario, before: Sequence[Finding] = ()) -> Judged:
    """Judge a run, share by share, then what is left of the whole. `before` is what was found in it already."""
    workload = recorded.workload
    found: list[Finding] = []
    objects: list[linear.KeyVerdict] = []
    counts: Counter[str] = Counter()
    is_judgeable = False
    for run in recorded.runs():
        theirs = scenario.checked(run)
        verdicts = linear.check(workload.objects(run), linear.MODELS["upload-status"])
        known = {finding.subject for finding in theirs if finding.kind == "misreported"}
        found += theirs
        found += [_without_order(one) for one in verdicts if one.verdict == VIOLATED and one.key not in known]
        objects += verdicts
        counts.update(workload.counted(run))
        is_judgeable |= workload.is_judgeable(run)
    of_nobody = Run((), (), recorded.services, recorded.struck, recorded.rested_s, recorded.waits, recorded.left)
    found += scenario.left_behind(of_nobody, [*before, *found])
    return Judged(by_severity(found), objects, counts, is_judgeable)


def since_replaced(recorded: Recorded, pods: Sequence[str]) -> Recorded:
    """The run of a fleet whose pods were replaced, in which only those that came later promise anything."""
    places: dict[str, float] = dict.fromkeys(pods, float("inf"))
    for place, event in recorded.events():
        if event["type"] == "fault" and (event["fault"], event["stage"]) == ("deploy", "is over"):
            places[event["actor"]] = place
    return replace(recorded, promises_from=places)


def _without_order(one: linear.KeyVerdict) -> Finding:
    order = ", ".join(
        f"{shown.process} {shown.f} {shown.value} ({shown.began}–{shown.ended or '…'})" for shown in one.shows
    )
    return Finding("misreported", str(one.key), f"what was told of {one.key} has no order: {order}")
