"""Drives a free fleet: clients, calls, services and what is due later, in one thread that waits for no pod."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple

from podrace.simulator.fleets.free import Asked, Client, FreeFleet, Notes
from podrace.simulator.fleets.pipes import as_error_sent
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.events import Event, shorten
from podrace.simulator.history.outcome import Result
from podrace.simulator.world.services import as_shown
from podrace.simulator.world.steps import plain_reply

PATIENCE_S = 2.0
"""How long a client waits for an answer; then it cannot know."""
NO_ANSWER = "no answer within"
NO_POD_S = 0.05
"""How long a client that found no pod waits before it looks again."""
GRACE_S = 0.3
"""How long a pod that is replaced may go on with what it is doing."""
START_AGAIN_S = 0.3
MOST_STARTS = 30


@dataclass(frozen=True, slots=True)
class Spoilt:
    """What goes wrong with one call of a service: it is late, fails with an error, before or after it was done.

    `late_s=inf`: it is neither done nor answered until the fault is over, and then its connection breaks.
    """

    error: Exception | None = None
    is_done: bool = False
    late_s: float = 0.0


NOT_SPOILT = Spoilt()


class Open(NamedTuple):
    """A call that has not ended, since when by the monotonic clock."""

    client: Client
    asked: Asked
    pod: str
    since_s: float


class Driver:
    """Clients, pods, services and what is due later, in one thread. Use it as a context manager.

    `choose` says on which of the pods a call is made. `services`: (pod, service) to the object that serves it, of
    services that are called over the pipe; `says` puts a call of one into words, `spoil` says what befalls it.
    `takes_s`: how long a service takes, by its name.
    """

    def __init__(
        self,
        specs: Sequence[PodSpec],
        journal: Notes,
        *,
        choose: Callable[[Sequence[str]], str],
        services: Callable[[str, str], Any] = lambda pod, service: None,
        says: Callable[..., str] = lambda service, method, args, named: f"{service}.{method}",
        on_event: Callable[[Event], None] = lambda event: None,
        takes_s: Mapping[str, float] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.fleet = FreeFleet(specs, on_message=self._heard)
        self.journal = journal
        self.spoil: Callable[[str, str], Spoilt | None] = lambda service, method: None
        self.ended: Counter[tuple[str, str]] = Counter()
        """How many calls have ended, by method and how."""
        self.ready = [spec.name for spec in specs]
        """Pods that can be called, those that are stopped included: nobody can tell."""
        self.first: dict[tuple[str, str], Asked] = {}
        """By method and first argument, where that is a text, the first call."""
        self.open: dict[int, Open] = {}
        """Calls whose end is waited for."""
        self.unanswered: dict[int, Open] = {}
        """Calls that their clients have given up, and that pods which are alive have not answered so far."""
        self._choose = choose
        self._services = services
        self._says = says
        self._on_event = on_event
        self._takes_s = takes_s or {}
        self._patience_s = patience_s
        self._numbers = count()
        self._turns = count()
        self._patience: deque[tuple[float, int]] = deque()
        self._to_send: list[tuple[Any, ...]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._starts: Counter[str] = Counter()
        self._hanging: list[Callable[[], None]] = []
        self._clients: set[Client] = set()

    def __enter__(self) -> Driver:
        self.fleet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close()
        self.journal.flush()

    def at(self, due_s: float, action: Callable[[], None]) -> None:
        """Do something at a time of the monotonic clock."""
        heapq.heappush(self._due, (due_s, next(self._turns), action))

    def play(self, clients: Iterable[Client], *, until_s: float = float("inf")) -> None:
        """Let clients begin, and go on until all have come to an end, or to that time of the monotonic clock."""
        for client in clients:
            self._clients.add(client)
            self._advance(client, None)
        while self._clients and time.monotonic() < until_s:
            self.turn(until_s)
        self.journal.flush()

    def turn(self, until_s: float = float("inf")) -> None:
        """Send what is to be sent, hear what has come, do what is due; wait for that a second at most."""
        self.journal.flush()
        sending, self._to_send = self._to_send, []
        for call in sending:
            self.fleet.begin_call(*call)
        now_s = time.monotonic()
        due_s = min(until_s, now_s + 1.0, *(one[0][0] for one in (self._due, self._patience) if one))
        self.fleet.pump(due_s - now_s)
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            heapq.heappop(self._due)[2]()
        while self._patience and self._patience[0][0] <= now_s:
            number = self._patience.popleft()[1]
            if number in self.open:
                self.unanswered[number] = self.open[number]
                self._end(number, Result("info", error=f"{NO_ANSWER} {self._patience_s:g} s"))

    def kill(self, pod: str) -> None:
        """Kill a pod. Its calls stay without an end; its clients notice, and cannot know."""
        self.fleet.kill(pod)
        if pod in self.ready:
            self.ready.remove(pod)
        self._to_send = [one for one in self._to_send if one[0] != pod]
        self.unanswered = {number: one for number, one in self.unanswered.items() if one.pod != pod}
        for number, one in list(self.open.items()):
            if one.pod == pod:
                del self.open[number]
                self._advance(one.client, Result("info", error=f"pod {pod} was killed"))

    def start_again(self, pod: str) -> None:
        """Start a killed pod again under its name, unless somebody has done so."""
        if not self.fleet.incarnation(pod):
            self.fleet.begin_again(pod)

    def replace(self, pod: str, target: str) -> None:
        """Let a pod end its calls, for a while, and start one of another target under its name."""
        if pod in self.ready:
            self.ready.remove(pod)
        self.journal.note({"type": "fault", "actor": pod, "fault": "deploy", "stage": "strikes", "what": f"→ {target}"})

        def start() -> None:
            spec = self.fleet.spec(pod)
            if self.fleet.incarnation(pod):
                self.kill(pod)
            self.fleet.add(replace(spec, target=target, incarnation=spec.incarnation + 1))
            self.journal.note(
                {"type": "fault", "actor": pod, "fault": "deploy", "stage": "is over", "what": "deployed"}
            )

        self.at(time.monotonic() + GRACE_S, start)

    def release(self) -> None:
        """Break the connection of every call of a service that hangs."""
        hanging, self._hanging = self._hanging, []
        for end in hanging:
            end()

    def dismiss(self) -> None:
        """Let no client go on. What they have asked for ends as it may."""
        self._clients.clear()

    def _advance(self, client: Client, result: Result | None) -> None:
        if client not in self._clients:
            return
        try:
            wanted = next(client) if result is None else client.send(result)
        except StopIteration:
            self._clients.discard(client)
            return
        self._begin(client, wanted)

    def _begin(self, client: Client, wanted: Asked | float) -> None:
        if not isinstance(wanted, Asked):
            self.at(time.monotonic() + wanted, lambda: self._advance(client, Result("ok")))
            return
        if wanted.pod not in self.ready and (wanted.pod or not self.ready):
            self.at(time.monotonic() + NO_POD_S, lambda: self._begin(client, wanted))
            return
        pod, number, method = wanted.pod or self._choose(self.ready), next(self._numbers), wanted.method
        now_s = time.monotonic()
        if wanted.told and isinstance(wanted.told[0], str):
            self.first.setdefault((method, wanted.told[0]), wanted)
        event = {"type": "invoke", "actor": pod, "call": number, "name": wanted.name, "method": method}
        event["args"] = wanted.told
        self.journal.note(event)
        self.open[number] = Open(client, wanted, pod, now_s)
        self._patience.append((now_s + self._patience_s, number))
        self._to_send.append((pod, number, method, wanted.args))

    def _end(self, number: int, result: Result) -> None:
        one = self.open.pop(number, None)
        if one is None:
            return  # its client has given up long ago
        event: Event = {"type": result.type, "actor": one.pod, "call": number}
        if result.type == "ok":
            event["result"] = result.value
        else:
            event["error"] = result.error
        self.journal.note(event)
        self.ended[one.asked.method, result.type] += 1
        self._advance(one.client, result)

    def _heard(self, pod: str, kind: str, *rest: Any) -> None:
        if kind == "result":
            number, *how = rest
            self.unanswered.pop(number, None)
            self._end(number, Result(*how))
        elif kind == "service":
            self._serve(pod, *rest)
        elif kind == "event":
            self._on_event(rest[0])
        elif kind == "ready":
            if pod not in self.ready:
                self.ready.append(pod)
            self._starts[pod] = 0
        elif kind == "broken":
            self._broke(pod, rest[0])
        elif kind == "died":
            self.journal.note({"type": "died", "actor": rest[0], "error": shorten(rest[1])})

    def _broke(self, pod: str, error: Exception) -> None:
        """A pod that cannot be made, while faults are about, is started again a little later, as Kubernetes does."""
        if pod in self.ready or self._starts[pod] >= MOST_STARTS:
            raise error
        self._starts[pod] += 1
        self.journal.note({"type": "died", "actor": pod, "error": shorten(str(error))})
        self.fleet.kill(pod)
        self.at(time.monotonic() + START_AGAIN_S, lambda: self.start_again(pod))

    def _serve(
        self, pod: str, number: int, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        """Call a service for a pod, and answer it."""
        spoilt = self.spoil(service, method) or NOT_SPOILT
        shown = tuple(map(as_shown, args)), {name: as_shown(value) for name, value in named.items()}
        says, action, error, value = self._says(service, method, *shown), "go", spoilt.error, None
        if spoilt.late_s == float("inf"):
            error = ConnectionError(f"{service} closed the connection")
        elif error is None or spoilt.is_done:
            try:
                value = getattr(self._services(pod, service), method)(*args, **named)
            except Exception as raised:
                error = raised
            else:
                action = "go" if error is None else "drop-reply"
        self.journal.note(
            {
                "type": "step",
                "actor": pod,
                "kind": "service",
                "service": service,
                "method": method,
                "of": args[0] if args and isinstance(args[0], str) else None,
                "says": says,
                "action": action,
                "failed": error is not None,
                "reply": shorten(plain_reply(value if error is None else error), 120),
            }
        )
        incarnation = self.fleet.incarnation(pod)

        def reply() -> None:
            if self.fleet.incarnation(pod) == incarnation:
                self.fleet.answer(pod, number, error is None, value if error is None else as_error_sent(error))

        late_s = spoilt.late_s + self._takes_s.get(service, 0.0)
        if late_s == float("inf"):
            self._hanging.append(reply)
        elif late_s:
            self.at(time.monotonic() + late_s, reply)
        else:
            reply()
