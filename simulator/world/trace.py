"""The fingerprint of what has happened, up to the order of steps that commute (Mazurkiewicz traces).

Every event is hashed with the events that it depends on: the last one of its actor, the last one that may have
touched its pod's memory, and the last conflicting accesses of what it touches. The sum of these hashes is the same
for any two orders that differ only in steps that commute, and so is the state that they lead to. Hashes do not
depend on the process: one seed gives one search.

When time passes, that depends on all before it that has read the clock, and on what has touched the keys whose lives
end then; what reads the clock later depends on it. Whether a pod reads it after a step shows only once the step was
taken: then one more event stands for that. The end of a call counts as such: a check may ask how long a call took.

The begin of a call and the end of another are ordered where a check looks at real time; two begins, or two
ends, are not: real time orders an end and a later begin, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

from podrace.simulator.world.footprints import EVERYTHING, THE_TIME, Footprint
from podrace.simulator.world.steps import Step, pod_of

MASK = (1 << 61) - 1


@lru_cache(maxsize=100_000)
def of_text(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()) & MASK


def _mix(one: int, other: int) -> int:
    """A number in which every bit depends on both (as in splitmix64, Steele, Lea and Flood, OOPSLA 2014)."""
    value = (one * 0x9E3779B97F4A7C15 + other) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) & MASK


def _end_of(event: int, name: str, begins: int) -> int:
    """What the end of a call adds to a state, where the event of that hash ends it."""
    return _mix(_mix(event, begins), of_text(f"end of {name}"))


ACTOR = "actor"
"""The scope of an event that its pod has not heard of yet: it depends on its own actor's events alone."""
POD = "pod"
"""The scope of one that may touch the pod's memory."""
ALL_OF_POD = "all of the pod"
"""The scope of one that concerns every actor of the pod: it dies."""

READS_CLOCK: Final = "reads the clock"
Ended = tuple[tuple[str, bool], ...] | Literal["reads the clock"]
"""The calls that an event ends: their names, and whether a check looks at when. READS_CLOCK where the pod reads the
clock after it: what it ends is then known by the hash of that (see `reading`)."""
Ends = dict[int, Ended]


class Before(NamedTuple):
    """What the state after a next event depends on, besides that event."""

    value: int
    """The state."""
    begins: int
    clock: int
    """The event that let time pass last."""


def reading(event: int, clock: int) -> int:
    """The hash of the event that a pod reads the clock after an event."""
    return _mix(_mix(event, clock), of_text(READS_CLOCK))


def state_after(before: Before, event: int, begins: bool, ends: Ends) -> int | None:
    """The state that an event leads to, the ends of calls that it brings included; None where unknown."""
    value, begun = before.value + event, before.begins
    if begins:
        begun = (begun + event) & MASK
    ended = ends.get(event)
    if ended == READS_CLOCK:
        event = reading(event, before.clock)
        value += event
        ended = ends.get(event)
    if ended is None or isinstance(ended, str):
        return None
    return (value + sum(_end_of(event, name, begun if timed else 1) for name, timed in ended)) & MASK


class Trace:
    """`value` names the state that the events so far have led to."""

    __slots__ = (
        "_actors",
        "_all_reads",
        "_all_writes",
        "_begins",
        "_clock",
        "_ends",
        "_ends_by_name",
        "_last",
        "_pods",
        "_reads",
        "_writes",
        "value",
    )

    def __init__(self) -> None:
        self.value = 0
        self._actors: dict[str, int] = {}
        self._pods: dict[str, int] = {}
        """By pod, the last event that may have touched its memory."""
        self._writes: dict[str, int] = {}
        self._reads: dict[str, int] = {}
        self._all_reads = 0
        self._all_writes = 0
        self._last = 0
        """The last event that concerned everything."""
        self._begins = 0
        self._clock = 0
        """The event that let time pass last."""
        self._ends = 0
        self._ends_by_name: dict[str, int] = {}

    def event(
        self,
        actor: str,
        action: str,
        footprint: Footprint,
        *,
        scope: str = POD,
        begins: bool = False,
        after: Sequence[str] = (),
    ) -> int:
        """The hash that this event would have if it came next.

        `begins`: it is the begin of something of which a check asks whether an end came before. `after`: the calls
        whose ends it has waited for.
        """
        pod = pod_of(actor)
        memory = self._pods.get(pod, self._last)
        depends = self._actors.get(actor, memory)
        if scope == ALL_OF_POD:
            depends = sum(event for one, event in self._actors.items() if pod_of(one) == pod) & MASK
        if scope != ACTOR:
            depends = _mix(depends, memory)
        writes, reads, last = self._writes, self._reads, self._last
        for key in footprint.reads:
            depends = _mix(depends, self._all_writes if key == EVERYTHING else writes.get(key, last))
        for key in footprint.writes:
            if key == EVERYTHING:
                depends = _mix(depends, self.value)
            else:
                depends = _mix(depends, (writes.get(key, last) + 3 * reads.get(key, 0) + 5 * self._all_reads) & MASK)
        if begins:
            depends = _mix(depends, self._ends)
        for name in after:
            depends = _mix(depends, self._ends_by_name.get(name, 0))
        return _mix(depends, of_text(f"{actor} {action}" if scope == POD else f"{actor} {action} {scope}"))

    def add(self, event: int, actor: str, footprint: Footprint, *, scope: str = POD, begins: bool = False) -> None:
        """Let the event of that hash be the next one."""
        self.value = (self.value + event) & MASK
        if scope == ALL_OF_POD:
            self._actors = {one: last for one, last in self._actors.items() if pod_of(one) != pod_of(actor)}
        else:
            self._actors[actor] = event
        if scope != ACTOR:
            self._pods[pod_of(actor)] = event
        if begins:
            self._begins = (self._begins + event) & MASK
        for key in footprint.reads:
            if key == EVERYTHING:
                self._all_reads = (self._all_reads + event) & MASK
            else:
                self._reads[key] = (self._reads.get(key, 0) + event) & MASK
        for key in footprint.writes:
            if key == EVERYTHING:
                # Everything after it depends on it: as if every key had been written by it alone.
                self._writes.clear()
                self._reads.clear()
                self._pods.clear()
                self._actors.clear()
                self._last = event
                self._all_reads = 0
            else:
                self._writes[key] = event
                self._reads[key] = 0
            self._all_writes = (self._all_writes + event) & MASK

    def starts(self, steps: Iterable[Step], pod: str, event: int) -> None:
        """Let the event of that hash be what those actors of the pod that are new have come from."""
        for actor, _, _ in steps:
            if pod_of(actor) == pod:
                self._actors.setdefault(actor, event)

    def before(self) -> Before:
        return Before(self.value, self._begins, self._clock)

    def passes(self, event: int) -> None:
        """Let time have passed by the event of that hash, the last one."""
        self._clock = event

    def reads_clock(self, event: int, actor: str, *, scope: str) -> int:
        """Let a pod read the clock after the event of that hash, the last one. Returns the hash of that."""
        read = reading(event, self._clock)
        self.value = (self.value + read) & MASK
        self._reads[THE_TIME] = (self._reads.get(THE_TIME, 0) + read) & MASK
        if actor in self._actors:
            self._actors[actor] = read
        if scope != ACTOR:
            self._pods[pod_of(actor)] = read
        return read

    def end(self, event: int, name: str, *, timed: bool) -> None:
        """Let a call end with the event of that hash."""
        ended = _end_of(event, name, self._begins if timed else 1)
        self.value = (self.value + ended) & MASK
        self._ends_by_name[name] = ended
        if timed:
            self._ends = (self._ends + ended) & MASK
