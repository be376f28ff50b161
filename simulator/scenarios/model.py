"""Calls, scenarios, and what a workload promises."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.judge.findings import HOLDS, NOT_APPLICABLE, VIOLATED, Finding
from podrace.simulator.judge.run import Check, Left, Run
from podrace.simulator.scenarios.shape import check_shape
from podrace.simulator.world.steps import pod_of

if TYPE_CHECKING:
    import random

    from podrace.simulator.fleets.free import Asked, Client
    from podrace.simulator.history.events import Event
    from podrace.simulator.judge.linear import Operation
    from podrace.simulator.scenarios.faults import Fault


@dataclass(frozen=True)
class Ref:
    """Stands among the arguments for what an earlier call returned, or for one item of it."""

    call: str
    index: int | str | None = None

    def __str__(self) -> str:
        return f"what {self.call} returned" + ("" if self.index is None else f"[{self.index}]")


@dataclass(frozen=True)
class Call:
    """A client calls a pod's method. `name` names it within the scenario; `after` names calls that end first.

    `insist`: the client calls again, a second later, while it cannot know whether the call was done.
    """

    name: str
    method: str
    args: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()
    insist: bool = False

    @cached_property
    def follows(self) -> tuple[str, ...]:
        """The calls that end before it begins: those named, and those whose results are among its arguments."""
        return (*self.after, *refs_in(self.args))


def refs_in(args: Iterable[Any]) -> Iterator[str]:
    """The calls whose results are among the arguments."""
    for arg in args:
        if isinstance(arg, Ref):
            yield arg.call
        elif isinstance(arg, list | tuple):
            yield from refs_in(arg)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a kind of service promises.

    - `checks`: a finished run in, findings out
    - `keeps`: patterns of keys that may stay in Redis when everything is at rest; `lingers_s`: how long other keys
      may stay that have a time to live, in seconds, None for as long as they live
    - `real_time`: methods, and services as `service:NAME`, whose order in real time the checks look at; None: all
    """

    name: str = "calls"
    checks: Sequence[Check] = ()
    keeps: Sequence[str] = ()
    lingers_s: float | None = None
    real_time: frozenset[str] | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    """By service, the function `module:name` that makes the error of one that is not available."""

    def services(self, now: Callable[[], float], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The services of one run, by name; `now` is the run's clock, `given` what `process_servers` has started."""
        return {}

    def service_for(self, pod: str, service: str, inner: Any) -> Any:
        """A service as one pod meets it."""
        return inner

    def moments(self, services: Mapping[str, Any]) -> Iterable[float]:
        """When something is due in the services, in seconds since the epoch."""
        return ()

    def is_timed(self, name: str) -> bool:
        return self.real_time is None or name in self.real_time

    def prepare(self, scenario: Scenario, folder: Path) -> Workload:
        """The workload for one scenario, whose files may be written into a folder."""
        return self

    def argument(self, value: Any) -> Any:
        """What a call's argument stands for."""
        return value

    # -- free-running fleets

    takes_s: Mapping[str, float] = field(default_factory=dict)
    """How long a service takes, by its name."""

    def prepare_clients(self, folder: Path) -> Workload:
        """The workload for clients of a free-running fleet, whose files may be written into a folder."""
        return self

    def client(self, number: int, messages: int, pause_s: float, rng: random.Random) -> Client:
        """One of the clients, from 0: what it asks, `messages` times, with pauses of about `pause_s`."""
        raise UsageError(
            f"workload {self.name}: it has no clients for a free-running fleet; expected a method `client`"
        )

    def asked(self, call: Call, pod: str | None = None) -> Asked:
        """A call as a client makes it, on any pod unless one is named."""
        from podrace.simulator.fleets.free import Asked

        args = tuple([[*map(self.argument, arg)] if type(arg) is list else self.argument(arg) for arg in call.args])
        return Asked(call.name, call.method, args, call.args, pod)

    def argument_told(self, told: Any) -> Any:
        """An argument as checks get it, from what the history says of it."""
        return told

    def objects(self, run: Run) -> Mapping[Hashable, Sequence[Operation]]:
        """By name, the operations on objects of model upload-status that have to be linearizable."""
        return {}

    def owner(self, event: Event) -> str:
        """Whose an event of the history is: owners have nothing in common, and are judged apart. See `shared_out`."""
        return ""

    def shared_out(
        self, services: Mapping[str, Any], share_of: Callable[[str], int], count: int
    ) -> Sequence[Mapping[str, Any]] | None:
        """The services as the owners of each of `count` shares have used them, so that a long run takes little memory.

        None where they have to be judged together, as those of a workload that does not say whose an event is.
        """
        return None

    def touches(self, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[str, ...]:
        """What a call of a service changes, by names of the workload's own: calls that share none commute."""
        return (service,)

    def at_rest(self, pods: Sequence[str], run: Run) -> Sequence[tuple[str, Call]]:
        """The calls of one round that brings a run to rest: pairs of a pod and a call."""
        return ()

    def progress(self, services: Mapping[str, Any]) -> Any:
        """A value that changes whenever the services have recorded more."""
        return None

    def delivered(self, services: Mapping[str, Any]) -> int:
        """How many calls have had their effect in the services, for those who watch a run."""
        return 0

    def is_judgeable(self, run: Run) -> bool:
        """Whether the run did anything that the checks can judge."""
        return any(call.type == "ok" for call in run.calls)

    def is_done(self, run: Run) -> bool:
        """Whether nothing that was promised is outstanding, so that no more time has to pass."""
        return True

    def counted(self, run: Run) -> Mapping[str, int]:
        """What a run has accepted and delivered."""
        return {}

    def says(self, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> str:
        """A call of a service in a few words, the same in every process."""
        shown = ", ".join([*map(str, args), *(f"{name}={value}" for name, value in named.items())])
        return f"{service}.{method}({shown})"

    def process_servers(self, now: Callable[[], float], stack: ExitStack) -> Mapping[str, Any]:
        """Servers, by service, for services to which a pod in a process speaks through a client of its own.

        All other services are called over the pods' pipes. What has to be closed goes onto the stack.
        """
        return {}

    def process_settings(self, pod: str, servers: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """For each of these services, what the client of a pod is made with."""
        return {}


@dataclass(frozen=True)
class Scenario:
    """Lines of calls, the faults that may strike, and a workload.

    `lines`: an actor (`A`, or `A.reader` for a second line in pod A) and its calls, made one after the other.
    `checks` and `keeps` add to the workload's. `retries`: how often the client itself sends a command again; each
    setting is explored. `row` is the failure mode's number, `what` says what it shows, `violates` and `spares` name
    the targets that are expected to violate it, and those that its fault cannot strike.
    """

    name: str
    lines: Mapping[str, Sequence[Call]]
    faults: Sequence[Fault] = ()
    workload: Workload = field(default_factory=Workload)
    checks: Sequence[Check] = ()
    keeps: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    retries: tuple[int, ...] = (0,)
    row: int = 0
    what: str = ""
    violates: frozenset[str] = frozenset()
    spares: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_shape(self)

    @cached_property
    def pods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pod_of(actor) for actor in self.lines))

    def expected(self, target: str) -> str:
        if target in self.violates:
            return VIOLATED
        return NOT_APPLICABLE if target in self.spares else HOLDS

    def findings(self, run: Run) -> list[Finding]:
        """What every check finds, then calls that can never return, then keys that are left."""
        found = self.checked(run)
        return [*found, *self.left_behind(run, found)]

    def checked(self, run: Run) -> list[Finding]:
        """What every check finds."""
        return [finding for check in (*self.workload.checks, *self.checks) for finding in self._found_by(check, run)]

    def left_behind(self, run: Run, known: Sequence[Finding]) -> list[Finding]:
        """Calls that can never return; and keys that are left, unless anything is stuck, which may still need them."""
        found = [
            Finding("stuck", name, f"{name} can never return: it waits for {why}") for name, why in run.waits.items()
        ]
        if not any(finding.kind == "stuck" for finding in (*known, *found)):
            found += [
                Finding("leaked", one.key, f"key {one.key} is left behind after everything has come to rest")
                for one in run.left
                if self.is_leaked(one)
            ]
        return found

    def _found_by(self, check: Check, run: Run) -> list[Finding]:
        name = getattr(check, "__name__", type(check).__name__)
        try:
            found: Any = check(run)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # the check was called, and raised it
            raise TargetError(f"scenario {self.name}: its check {name} cannot be called with a Run: {error}") from error
        if not isinstance(found, Iterable):
            raise TargetError(
                f"scenario {self.name}: its check {name} returned {type(found).__name__}; expected a list of Findings, "
                "or that it yields them"
            )
        those = list(found)
        other = [type(one).__name__ for one in those if not isinstance(one, Finding)]
        if other:
            raise TargetError(f"scenario {self.name}: its check {name} found {other[0]}; expected podrace.Finding")
        return those

    def is_leaked(self, one: Left) -> bool:
        """Whether a key that is left should not be."""
        if any(fnmatchcase(one.key, pattern) for pattern in (*self.workload.keeps, *self.keeps)):
            return False
        lingers_s = self.workload.lingers_s
        return one.left_s is None or (lingers_s is not None and one.left_s > lingers_s)
