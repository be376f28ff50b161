"""Linearizability of histories of single objects: Wing and Gong's search with Lowe's memory, key by key.

A history is linearizable where every operation can be thought of as happening at one instant between its begin and
its end. An operation of which nobody knows whether it was done stays open: it may happen at any later time, or
never. Keys are judged apart, which is enough (Herlihy and Wing 1990, locality).

The search goes through a key's events in order. An operation has to have happened when it ends; only then, just in
time, it is decided which of those under way happened before it. What failed is remembered as (place in the history,
value, operations under way that happened): a search that comes there again turns round (Lowe 2017, "Testing for
linearizability"). Three things make that small: a read happens as soon as it can; of equal open operations the
earliest happens first; what failed with some open operations used fails with more of them used too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple

from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, VIOLATED

STATES_A_KEY = 1_000_000
"""How many states of one key are looked at before its verdict is `inconclusive`."""
STATES_A_TURN = 2_000
_ATTEMPT_STATES = 5_000
"""For each attempt to show a violation with fewer operations."""
_MOST_AGAIN = 10_000
"""If there are no more operations than this, it is tried again with all of them in sight."""


class Operation(NamedTuple):
    """One operation on one object: `read`, `write`, or `cas` with the value (expected, new).

    The value of a read is what it returned. `began` and `ended` are its places in real time, on any one scale;
    `ended` is None for an open one: it may have happened at any time since it began, or never.
    """

    process: Any
    f: str
    value: Any
    began: int
    ended: int | None = None


class _Illegal:
    """Stands for no value: no object can have it."""


ILLEGAL: Final = _Illegal()
Step = Callable[[Any, str, Any], Any]
"""(value of the object, f, value of the operation): the value afterwards, or ILLEGAL where that cannot be."""


@dataclass(frozen=True)
class Model:
    """What an object is: its value at first, how operations change it, and the operations that it has."""

    name: str
    initial: Hashable
    step: Step
    operations: frozenset[str]
    values: frozenset[Any] | None = None
    """All values that an operation may have; None: any."""


def _register(value: Any, f: str, given: Any) -> Any:
    if f == "read":
        return value if given == value else ILLEGAL
    if f == "write":
        return given
    return given[1] if given[0] == value else ILLEGAL


_RANK = {"unknown": -1, "pending": 0, "failed": 1, "completed": 2}


def _status(value: Any, f: str, given: Any) -> Any:
    """A status only moves up: what is written lower than it stands has no effect."""
    if f == "read":
        return value if given == value else ILLEGAL
    return given if _RANK[given] > _RANK[value] else value


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model("register", None, _register, frozenset({"read", "write"})),
        Model("cas-register", None, _register, frozenset({"read", "write", "cas"})),
        Model("upload-status", "unknown", _status, frozenset({"read", "write"}), frozenset(_RANK)),
    )
}


@dataclass(frozen=True)
class KeyVerdict:
    """What is known of one object. `shows`: on a violation the operations that show it, so few that none can go.

    These cannot be put in any order, even if each of the others may have happened in its time, or not. `states` were
    looked at.
    """

    key: Hashable
    verdict: str
    operations: int
    states: int
    shows: tuple[Operation, ...] = ()


def check(
    histories: Mapping[Hashable, Sequence[Operation]], model: Model, *, states_a_key: int = STATES_A_KEY
) -> list[KeyVerdict]:
    """The verdict of each key. Keys are searched in turns, so that one hard key hides nothing of the others."""
    verdicts: dict[Hashable, KeyVerdict] = {}
    waiting: dict[Hashable, _Search] = {}
    for key, operations in histories.items():
        search = _Search(operations, model)
        search.advance(min(STATES_A_TURN, states_a_key))
        if search.verdict == INCONCLUSIVE and search.states < states_a_key:
            waiting[key] = search
        else:
            verdicts[key] = _verdict(key, operations, model, search)
    turn = STATES_A_TURN
    while waiting:
        turn *= 2
        for key, search in list(waiting.items()):
            search.advance(min(turn, states_a_key - search.states))
            if search.verdict != INCONCLUSIVE or search.states >= states_a_key:
                verdicts[key] = _verdict(key, histories[key], model, waiting.pop(key))
    return [verdicts[key] for key in histories]


def overall(verdicts: Iterable[KeyVerdict]) -> str:
    """`violated` where any key is, else `inconclusive` where any is, else `holds`."""
    found = {one.verdict for one in verdicts}
    return next((verdict for verdict in (VIOLATED, INCONCLUSIVE) if verdict in found), HOLDS)


def _verdict(key: Hashable, operations: Sequence[Operation], model: Model, search: _Search) -> KeyVerdict:
    shows = _fewest(search.until_violated(), model) if search.verdict == VIOLATED else ()
    return KeyVerdict(key, search.verdict, len(operations), search.states, shows)


@dataclass
class _Compiled:
    """The events of one key in order. An event is twice an operation's number, plus one where it is its end."""

    events: list[int]
    bits: list[int]
    """By operation, its bit in a mask while it is under way; an open one's is in a mask of its own, for good."""
    others: dict[int, tuple[tuple[int, ...], int]]
    """By place of an end where anything else is under way: the operations, reads left out; how many open ones."""
    reads: dict[int, tuple[int, ...]]
    """By place of an end, the reads under way."""
    opens: list[int]
    earlier: list[int]
    """By open operation, the bit of the one before it that is equal to it, or 0."""


def _compile(operations: Sequence[Operation], optional: Container[int]) -> _Compiled:
    size = len(operations)
    expected = _expected(operations)
    marks = []
    for number, one in enumerate(operations):
        if one.ended is not None:
            marks.append((one.ended * 2 + 1) * size + number)
        elif one.f == "read" or _leads_to(one.f, one.value) not in expected:
            continue  # nobody could tell whether it happened
        marks.append(one.began * 2 * size + number)
    marks.sort()
    made = _Compiled([], [0] * size, {}, {}, [], [])
    free: list[int] = []
    fresh = map((1).__lshift__, count())
    last_equal: dict[tuple[str, Any], int] = {}
    under_way: dict[int, None] = {}
    reading: dict[int, None] = {}
    for place, mark in enumerate(marks):
        is_end, number = mark // size & 1, mark % size
        one = operations[number]
        made.events.append(number * 2 + is_end)
        if one.ended is None:
            bit, operation = 1 << len(made.opens), (one.f, one.value)
            made.opens.append(number)
            made.earlier.append(last_equal.get(operation, 0))
            made.bits[number] = last_equal[operation] = bit
        elif not is_end:
            made.bits[number] = free.pop() if free else next(fresh)
            (reading if one.f == "read" else under_way)[number] = None
        else:
            (reading if one.f == "read" else under_way).pop(number)
            free.append(made.bits[number])
            if under_way or made.opens or number in optional:
                made.others[place] = (tuple(under_way), len(made.opens))
            if reading:
                made.reads[place] = tuple(reading)
    return made


def _expected(operations: Iterable[Operation]) -> set[Any]:
    """The values that an operation needs to find. To lead to another value than these helps no order."""
    return {one.value if one.f == "read" else one.value[0] for one in operations if one.f != "write"}


def _leads_to(f: str, value: Any) -> Any:
    return value[1] if f == "cas" else value


class _Search:
    """The search through one key's history, which can be interrupted and gone on with.

    Operations whose numbers are `optional` may happen or not. `starts`: the values that the object may have at first.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        model: Model,
        *,
        optional: Container[int] = (),
        starts: Iterable[Any] | None = None,
    ) -> None:
        self._operations = operations
        self._model = model
        self._optional = optional
        self._compiled = _compile(operations, optional)
        self._stack: list[tuple[int, Any, int, int, bool]] = [
            (0, value, 0, 0, False) for value in ((model.initial,) if starts is None else starts)
        ]
        """States to go on from: place, value, operations under way that happened, open ones that happened, and
        whether the operation that ends there is known not to happen next."""
        self._failed: dict[tuple[int, Any, int], list[int]] = {}
        self._farthest = 0
        self.states = 0
        self.verdict = INCONCLUSIVE

    def advance(self, states: int) -> None:
        """Look at so many states more, about; `verdict` stays `inconclusive` where that is not enough."""
        limit = self.states + states
        while self._stack and self.states < limit:
            place, value, mask, opened, turned = self._stack.pop()
            self.states += 1
            if turned:
                self._branch(place, value, mask, opened)
            elif self._walk(place, value, mask, opened):
                self.verdict = HOLDS
                return
        if not self._stack:
            self.verdict = VIOLATED

    def until_violated(self) -> list[Operation]:
        """The operations up to the first end that cannot be: what had not ended there is open."""
        last = self._operations[self._compiled.events[self._farthest] // 2].ended
        assert last is not None
        return [
            one if one.ended is not None and one.ended <= last else one._replace(ended=None)
            for one in self._operations
            if one.began <= last
        ]

    def _walk(self, start: int, value: Any, mask: int, opened: int) -> bool:
        """Go on while each operation happens when it ends. Returns whether that leads to the end of the history."""
        operations, step = self._operations, self._model.step
        compiled = self._compiled
        events, bits, others, reads = compiled.events, compiled.bits, compiled.others, compiled.reads
        failed = self._failed
        for place in range(start, len(events)):
            number, is_end = divmod(events[place], 2)
            one = operations[number]
            bit = bits[number]
            if not is_end:
                if one.f == "read" and step(value, "read", one.value) is not ILLEGAL:
                    mask |= bit
                continue
            if mask & bit:
                mask ^= bit
                continue
            if place in others:
                if failed and any(known & ~opened == 0 for known in failed.get((place, value, mask), ())):
                    return False
                self._stack.append((place, value, mask, opened, True))
            elif place > self._farthest:
                self._farthest = place
            after = step(value, one.f, one.value)
            if after is ILLEGAL:
                return False
            if after != value:
                value = after
                if place in reads:
                    mask = self._with_reads(place, value, mask)
        return True

    def _with_reads(self, place: int, value: Any, mask: int) -> int:
        """The mask with every read under way that returned this value."""
        bits = self._compiled.bits
        for number in self._compiled.reads.get(place, ()):
            if self._model.step(value, "read", self._operations[number].value) is not ILLEGAL:
                mask |= bits[number]
        return mask

    def _branch(self, place: int, value: Any, mask: int, opened: int) -> None:
        """Let one of the others under way happen before the operation that ends here: put each such state by."""
        if place > self._farthest:
            self._farthest = place
        failed = self._failed.setdefault((place, value, mask), [])
        if any(known & ~opened == 0 for known in failed):
            return
        failed.append(opened)
        compiled, operations, step = self._compiled, self._operations, self._model.step
        others, opens = compiled.others[place]
        push = self._stack.append
        if compiled.events[place] // 2 in self._optional:
            push((place + 1, value, mask, opened, False))
        for position in range(opens - 1, -1, -1):
            bit, earlier = 1 << position, compiled.earlier[position]
            if opened & bit or (earlier and not opened & earlier):
                continue
            one = operations[compiled.opens[position]]
            after = step(value, one.f, one.value)
            if after is not ILLEGAL and after != value:
                push((place, after, self._with_reads(place, after, mask), opened | bit, False))
        for number in reversed(others):
            bit = compiled.bits[number]
            if not mask & bit:
                one = operations[number]
                after = step(value, one.f, one.value)
                if after is not ILLEGAL:
                    push((place, after, self._with_reads(place, after, mask | bit), opened, False))


def _fewest(operations: Sequence[Operation], model: Model) -> tuple[Operation, ...]:
    """Of operations that are not linearizable, so few that none of them can be left out."""
    operations = sorted(operations, key=lambda one: one.began)
    size = 16
    while size < len(operations) and not _is_violated(operations, operations[-size:], operations[-size].began, model):
        size *= 4
    since = operations[-size].began if size < len(operations) else None
    kept = _reduced(operations, operations[-size:], since, model)
    if since is not None and len(operations) <= _MOST_AGAIN:
        kept = _reduced(operations, kept, None, model)  # that no value came from before takes all of them to see
    return tuple(kept)


def _reduced(
    operations: Sequence[Operation], kept: Sequence[Operation], since: int | None, model: Model
) -> Sequence[Operation]:
    """The kept ones without those that can go: halves first, then ever smaller parts."""
    size = max(1, len(kept) // 2)
    while True:
        start, is_less = 0, False
        while start < len(kept):
            fewer = [*kept[:start], *kept[start + size :]]
            if _is_violated(operations, fewer, since, model):
                kept, is_less = fewer, True
            else:
                start += size
        if size == 1 and not is_less:
            return kept
        size = max(1, size // 2)


def _helpful(others: Sequence[Operation], expected: set[Any]) -> list[Operation]:
    """Those that lead to an expected value, or to one that such an operation expects."""
    while True:
        chosen = [one for one in others if _leads_to(one.f, one.value) in expected]
        if (wider := expected | _expected(chosen)) == expected:
            return chosen
        expected = wider


def _is_violated(operations: Sequence[Operation], kept: Sequence[Operation], since: int | None, model: Model) -> bool:
    """Whether some operations have no order even where each of the others may have happened in its time, or not.

    Of what happened before `since` nothing is asked then: the object may have had any value.
    """
    chosen = set(kept)
    others = [
        one
        for one in operations
        if one not in chosen and one.f != "read" and (since is None or one.ended is None or one.ended >= since)
    ]
    together = [*kept, *_helpful(others, _expected(kept))]
    optional = range(len(kept), len(together))
    starts = None if since is None else model.values or (*_expected(together), object())
    search = _Search(together, model, optional=optional, starts=starts)
    search.advance(_ATTEMPT_STATES)
    return search.verdict == VIOLATED
