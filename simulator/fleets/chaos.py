"""What befalls a free-running fleet: one small class a fault, with its effect, how it heals and how long it lasts.

All are drawn from one seed onto one timeline. A fault strikes one pod, the server, or a service, and until it has
healed no other strikes there, so that each can be told from what came of it. To add one, add it to FAULTS.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from podrace.simulator.errors import UsageError
from podrace.simulator.fleets.driver import Driver, Spoilt
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.proxy import Conditions, Proxy

LEASE_S = 1.0
"""How long pods are asked to hold leases in such a run: short, so that pauses outlast many of them."""
EVERY_S = 0.4
"""How often a fault is drawn, on average."""
FIRST_S = 0.2
SKEW_S = 300.0
SPOILT_SHARE = 0.7
"""The share of calls that fail while a service is failing: some get through, as in production."""


@dataclass
class World:
    """What faults act on. `server`, its `replica` and `proxy` are None where nobody may break them."""

    driver: Driver
    server: EmbeddedServer | None = None
    proxy: Proxy | None = None
    replica: EmbeddedServer | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    struck: dict[str, Strike] = field(default_factory=dict)
    """By place, the fault that is active there."""

    def break_network(self, pod: str, conditions: Conditions) -> None:
        assert self.proxy is not None
        self.proxy.set(pod, conditions)

    def later(self, place: str, seconds: float, action: Callable[[], None]) -> None:
        """The second half of a fault, unless that has been healed before."""
        strike = self.struck[place]

        def act() -> None:
            if self.struck.get(place) is strike:
                action()

        self.driver.at(time.monotonic() + seconds, act)

    @property
    def own_server(self) -> EmbeddedServer:
        assert self.server is not None
        return self.server


@dataclass(frozen=True)
class Strike:
    """One fault on the timeline, in seconds since the run began. `place` is a pod, `server` or a service."""

    at_s: float
    until_s: float
    fault: Fault
    place: str

    @property
    def name(self) -> str:
        return next(name for name, one in FAULTS.items() if one is self.fault)


class Fault:
    """No fault, and the base of all: what goes wrong without any is not the faults' doing.

    `on`: what it strikes: `pod`, `network` (of a pod), `server` or `gemini`. `lasts_s`: how long, from and to.
    """

    on: ClassVar[str] = "pod"
    lasts_s: ClassVar[tuple[float, float]] = (0.1, 0.5)

    def strike(self, world: World, place: str) -> None:
        pass

    def heal(self, world: World, place: str) -> None:
        pass


class Kill(Fault):
    """SIGKILL; the pod is started again under its name."""

    lasts_s = (0.1, 1.5)

    def strike(self, world: World, place: str) -> None:
        world.driver.kill(place)

    def heal(self, world: World, place: str) -> None:
        world.driver.start_again(place)


class Pause(Fault):
    """SIGSTOP past every lease, then SIGCONT: the pod goes on as if nothing had happened."""

    lasts_s = (1.5 * LEASE_S, 3 * LEASE_S)

    def strike(self, world: World, place: str) -> None:
        world.driver.fleet.pause(place)

    def heal(self, world: World, place: str) -> None:
        if world.driver.fleet.incarnation(place):
            world.driver.fleet.resume(place)


class Skew(Fault):
    """The pod's clock is wrong by minutes."""

    lasts_s = (1.0, 3.0)

    def strike(self, world: World, place: str) -> None:
        world.driver.fleet.send(place, "skew", world.rng.choice((-SKEW_S, SKEW_S)))

    def heal(self, world: World, place: str) -> None:
        if world.driver.fleet.incarnation(place):
            world.driver.fleet.send(place, "skew", 0.0)


class Network(Fault):
    """Something befalls the connections between one pod and its server. Base of the faults that follow."""

    on = "network"
    lasts_s = (0.5, 2.5)
    conditions: ClassVar[tuple[Conditions, ...]] = (Conditions(),)
    """One of them is drawn."""

    def strike(self, world: World, place: str) -> None:
        world.break_network(place, world.rng.choice(self.conditions))

    def heal(self, world: World, place: str) -> None:
        world.break_network(place, Conditions())


class Cut(Network):
    """Connections break, before or after the server has applied a command."""

    conditions = (Conditions(cut_requests=0.2), Conditions(cut_replies=0.2))


class Latency(Network):
    """Requests come late, by no certain time, or replies do."""

    conditions = (Conditions(late_requests_s=0.02, jitter_s=0.05), Conditions(late_replies_s=0.3))


class Partition(Network):
    """Nothing passes between the pod and its server, in both directions or in one."""

    conditions = (
        Conditions(holds_requests=True, holds_replies=True),
        Conditions(holds_requests=True),
        Conditions(holds_replies=True),
    )


class KillServer(Fault):
    """SIGKILL of the server, which starts again with what its configuration has kept."""

    on = "server"
    lasts_s = (0.1, 0.8)

    def strike(self, world: World, place: str) -> None:
        world.own_server.kill()

    def heal(self, world: World, place: str) -> None:
        world.own_server.start()


class CrashMachine(Fault):
    """The server's machine crashes: what was appended in the last second, and not synced, is lost."""

    on = "server"
    lasts_s = (1.2, 1.8)

    def strike(self, world: World, place: str) -> None:
        server, synced = world.own_server, world.own_server.appended_bytes()
        always = server.config.get("appendfsync") == "always"

        def crash() -> None:
            server.kill()
            if not always:
                server.lose_last(synced)

        world.later(place, 1.0, crash)

    def heal(self, world: World, place: str) -> None:
        world.own_server.restart()


class Promote(Fault):
    """A replica that lags is promoted: it hears nothing more for a while, then the primary is gone, and it is used."""

    on = "server"
    lasts_s = (0.6, 1.2)
    lags_s = 0.4

    def strike(self, world: World, place: str) -> None:
        old, new = world.own_server, world.replica
        assert new is not None
        new.follow(None)

        def promote() -> None:
            old.kill()
            new.listen()
            assert world.proxy is not None
            world.proxy.lead_to(new.socket_path)
            world.server, world.replica = new, old

        world.later(place, self.lags_s, promote)

    def heal(self, world: World, place: str) -> None:
        assert world.replica is not None
        if not world.replica.is_running:  # else it was healed before it was promoted
            world.replica.start()
        world.replica.follow(world.own_server)


class FillServer(Fault):
    """The server has no memory left: it refuses every write."""

    on = "server"
    lasts_s = (0.3, 1.5)

    def strike(self, world: World, place: str) -> None:
        world.own_server.fill()

    def heal(self, world: World, place: str) -> None:
        world.own_server.unfill()


class Evict(Fault):
    """The server lacks memory under an `allkeys` policy: it drops keys without a word."""

    on = "server"
    lasts_s = (0.3, 1.5)

    def strike(self, world: World, place: str) -> None:
        world.own_server.evict()

    def heal(self, world: World, place: str) -> None:
        world.own_server.unfill()


class DropSubscribers(Fault):
    """Every connection on which somebody listens is broken."""

    on = "server"
    lasts_s = (0.05, 0.1)

    def strike(self, world: World, place: str) -> None:
        world.own_server.drop_subscribers()


class FailGemini(Fault):
    """The Files API answers 429, 500 or 503, loses its reply, is slow, or hangs until its connections break."""

    on = "gemini"
    lasts_s = (0.3, 2.0)

    def strike(self, world: World, place: str) -> None:
        from podrace.simulator.servers.files_api.inprocess import unavailable

        how = world.rng.choice(("429", "500", "503", "reply lost", "slow", "hangs"))

        def spoil(service: str, method: str) -> Spoilt | None:
            if service != place or world.rng.random() > SPOILT_SHARE:
                return None
            if how == "slow":
                return Spoilt(late_s=world.rng.uniform(0.2, 2.0))
            if how == "hangs":
                return Spoilt(late_s=float("inf"))
            if how == "reply lost":
                return Spoilt(ConnectionError("the connection broke"), is_done=True)
            return Spoilt(unavailable(int(how)))

        world.driver.spoil = spoil

    def heal(self, world: World, place: str) -> None:
        world.driver.spoil = lambda service, method: None
        world.driver.release()


FAULTS: Mapping[str, Fault] = {
    "noop": Fault(),
    "kill": Kill(),
    "pause": Pause(),
    "skew": Skew(),
    "restart-server": KillServer(),
    "crash-machine": CrashMachine(),
    "failover": Promote(),
    "server-full": FillServer(),
    "evict": Evict(),
    "drop-subscribers": DropSubscribers(),
    "cut": Cut(),
    "latency": Latency(),
    "partition": Partition(),
    "gemini": FailGemini(),
}
SURVIVABLE = tuple(name for name in FAULTS if name not in ("evict", "crash-machine", "failover"))
"""`all`: what a service can survive on a server that keeps what it has acknowledged."""


def named(names: Sequence[str]) -> dict[str, Fault]:
    """The faults of those names, or of `all` or `none` alone. Raises UsageError for one that there is not."""
    groups: dict[str, Sequence[str]] = {"all": SURVIVABLE, "none": ()}
    wanted = groups[names[0]] if len(names) == 1 and names[0] in groups else names
    for name in wanted:
        if name in groups:
            raise UsageError(f"fault {name!r}: expected it alone, or some of {', '.join(FAULTS)}")
        if name not in FAULTS:
            raise UsageError(f"fault {name!r}: there is none; expected all, none, or some of {', '.join(FAULTS)}")
    return {name: FAULTS[name] for name in wanted}


def draw(faults: Sequence[Fault], pods: Sequence[str], *, seed: int, duration_s: float) -> list[Strike]:
    """The timeline that the seed says: each fault once a round, in an order of the round's own."""
    rng = random.Random(f"{seed} timeline")
    strikes: list[Strike] = []
    free_at: dict[str, float] = {}
    deck: list[Fault] = []
    at_s = FIRST_S
    while faults and at_s < duration_s:
        if not deck:
            deck = rng.sample(faults, len(faults))
        for fault in deck:
            places = pods if fault.on in ("pod", "network") else (fault.on,)
            if places := [place for place in places if free_at.get(place, 0.0) <= at_s]:
                deck.remove(fault)
                place, until_s = rng.choice(places), at_s + rng.uniform(*fault.lasts_s)
                free_at[place] = until_s + 0.1
                strikes.append(Strike(round(at_s, 3), round(until_s, 3), fault, place))
                break
        at_s += rng.expovariate(1 / EVERY_S)
    return strikes


class Chaos:
    """The timeline at work."""

    def __init__(self, world: World, strikes: Sequence[Strike]) -> None:
        self._world = world
        self._strikes = strikes
        self.active = world.struck
        self.struck_by_name: Counter[str] = Counter()

    @property
    def struck(self) -> int:
        """How many faults have struck that are any."""
        return sum(count for name, count in self.struck_by_name.items() if name != "noop")

    def unleash(self, began_s: float) -> None:
        """Have every strike happen when it is due."""
        for strike in self._strikes:
            self._world.driver.at(began_s + strike.at_s, lambda strike=strike: self._strike(strike))  # type: ignore[misc]
            self._world.driver.at(began_s + strike.until_s, lambda strike=strike: self._heal(strike))  # type: ignore[misc]

    def heal_all(self) -> None:
        """End every fault, and let none strike any more."""
        self._strikes = ()
        for strike in list(self.active.values()):
            self._heal(strike)

    def _strike(self, strike: Strike) -> None:
        is_there = strike.fault.on != "pod" or self._world.driver.fleet.incarnation(strike.place)
        if strike in self._strikes and is_there:
            self.active[strike.place] = strike
            self.struck_by_name[strike.name] += 1
            self._note(strike, "strikes")
            strike.fault.strike(self._world, strike.place)

    def _heal(self, strike: Strike) -> None:
        if self.active.get(strike.place) is strike:
            del self.active[strike.place]
            strike.fault.heal(self._world, strike.place)
            self._note(strike, "is over")

    def _note(self, strike: Strike, stage: str) -> None:
        name = strike.name
        self._world.driver.journal.note(
            {"type": "fault", "actor": strike.place, "fault": name, "stage": stage, "what": f"{name} {stage}"}
        )
