"""Has branches of a search played by helpers, ahead of their turn.

The branches of one cost come in the order in which they were found, so those to come are known. Each helper plays a
few of them at a time, on a lab of its own. It is told which states the search has reached, so that it can stop at one
of them. It gets the branches that the search will reach after it has played them; the search plays those before.

A branch that seems to lead to a state which another before it leads to waits for its turn: most likely it need not
be played.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from podrace.simulator.errors import AnotherWayError
from podrace.simulator.search.frontier import Branch, Cost, Course, Frontier, Key, until_it_leaves
from podrace.simulator.search.record import Record
from podrace.simulator.world.footprints import CommandTable

BEGINS_AFTER_S = 0.1
"""A search that ends sooner than this needs no helpers: starting one takes longer."""
BRANCHES = 4
"""A helper plays this many branches at a time, so that few are played in vain, and few messages are sent."""
BATCHES = 2
"""A helper is given this many of them ahead, so that it need not wait for the next."""
LEAST_LEAD, MOST_LEAD, SHORTER, LONGER = 1, 50, 0.998, 1.2
"""How far ahead of the search a helper plays: further if the search had to wait for it, otherwise slowly less, so that
it waits for one record in a hundred at most."""
PATIENCE_S = 0.5
"""The search waits no longer than this for a helper's record; then it plays the branch itself."""
MOST_LOOKED_AT = 500


@dataclass(frozen=True)
class Batch:
    """What a helper is to do."""

    search: int
    """Names the frontier."""
    retries: int
    branches: Sequence[tuple[Cost, Branch]]
    reached: Sequence[tuple[Key, Cost]]
    """The states that were reached since the batch before."""
    scripts: Mapping[str, str]
    unclear: frozenset[str]
    """What is known of the target's scripts (see CommandTable)."""


@dataclass(frozen=True)
class Answer:
    """What a helper has done: the branches' records, None for one that could not be made."""

    records: Sequence[Record | None]
    """Their courses begin where their branches leave the courses that they come from."""
    is_led: bool = True
    """Whether nothing was noticed that the harness cannot lead."""


NOTHING = Batch(search=0, retries=0, branches=(), reached=(), scripts={}, unclear=frozenset())
"""What a helper gets first: it is done once the helper is there."""

Submit = Callable[["Batch | None"], "Future[Answer]"]
"""Sends a batch to one helper; None lets it put away what it has opened for this search."""
Helpers = Callable[[], Sequence[Submit]]
"""Starts the helpers."""


@dataclass
class _Helper:
    submit: Submit
    pending: list[Future[Answer]]
    """What it has before it."""
    search: int = NOTHING.search
    told: int = 0
    """How many of the reached states it knows."""


@dataclass(frozen=True)
class _Given:
    """A branch that a helper has, and the place of its record in the answer."""

    branch: Branch
    future: Future[Answer]
    number: int


class Ahead:
    """The helpers of one exploration. `is_quiet`: no pod has printed anything yet."""

    def __init__(
        self,
        start: Helpers,
        table: CommandTable,
        is_quiet: Callable[[], bool],
        *,
        begins_after_s: float = BEGINS_AFTER_S,
    ) -> None:
        self._start = start
        self._table = table
        self._is_quiet = is_quiet
        self._begins_s = time.monotonic() + begins_after_s
        self._helpers: list[_Helper] | None = None
        self._search = 0
        self._pause = 0
        """How many branches are to be taken before there may be enough for a helper again."""
        self._given: dict[int, _Given] = {}
        self._lead: float = BRANCHES
        """How many branches the search keeps for itself before those that an idle helper gets."""
        self.helped = 0
        """How many records have come from helpers."""

    @property
    def has_begun(self) -> bool:
        return self._helpers is not None

    def begin(self, frontier: Frontier, retries: int) -> None:
        """Help with this frontier from now on."""
        self._search += 1
        self._frontier, self._retries = frontier, retries
        self._given.clear()

    def record(self, branch: Branch) -> Record | None:
        """What a helper has recorded of this branch, whose turn it is; None where none has.

        Raises AnotherWayError where a helper's lab has noticed what cannot be led: only our own can say what.
        """
        if self._helpers is None:
            if time.monotonic() < self._begins_s:
                return None
            self._helpers = [_Helper(submit, [submit(NOTHING)]) for submit in self._start()]
        given = self._given.pop(id(branch), None)
        self._pause = max(0, self._pause - 1)
        self._helpers = [helper for helper in self._helpers if self._goes_on(helper)]
        return self._answer(given) if given is not None else None

    def is_fit(self, record: Record) -> bool:
        """Whether a record was made with what is known now, and shows nothing that was not seen yet."""
        return record.scripts == self._table.texts.keys() and not (record.prints and self._is_quiet())

    def _goes_on(self, helper: _Helper) -> bool:
        """Give a helper more to do. Returns False for one that has died: what it was given, the search plays itself."""
        for future in [one for one in helper.pending if one.done()]:
            if future.cancelled() or future.exception() is not None:
                return False
            if not future.result().is_led:
                raise AnotherWayError("a helper's lab has noticed what cannot be led")
            helper.pending.remove(future)
        if helper.pending and helper.search == NOTHING.search:
            return True  # it is still coming
        while len(helper.pending) < BATCHES and not self._pause:
            branches = self._choose(round(self._lead) * (len(helper.pending) + 1))
            if not branches:
                self._pause = BRANCHES
            elif not self._give(helper, branches):
                return False
        return True

    def _choose(self, before: int) -> list[tuple[Cost, Branch]]:
        """The next branches for a helper, behind so many that are left to us."""
        chosen: list[tuple[Cost, Branch]] = []
        expected = set()
        frontier = self._frontier
        for cost, branch in islice(frontier.next_ones(), MOST_LOOKED_AT):
            key = frontier.leads_to(branch)
            if key is not None:
                if key in expected or frontier.is_known(branch):
                    continue
                expected.add(key)
            if id(branch) in self._given:
                continue
            before -= 1
            if before < 0:
                chosen.append((cost, branch))
                if len(chosen) == BRANCHES:
                    break
        return chosen

    def _give(self, helper: _Helper, branches: Sequence[tuple[Cost, Branch]]) -> bool:
        """Send a helper what it is to play. Returns whether it is still there."""
        noted = self._frontier.visited.noted
        if helper.search != self._search:
            helper.search, helper.told = self._search, 0
        table = self._table
        sent = [(cost, branch._replace(course=_without_known(branch))) for cost, branch in branches]
        batch = Batch(
            self._search, self._retries, sent, noted[helper.told :], dict(table.texts), frozenset(table.unclear)
        )
        helper.told = len(noted)
        try:
            future = helper.submit(batch)
        except RuntimeError:  # of a broken pool; concurrent.futures has no narrower one in common
            return False
        helper.pending.append(future)
        for number, (_, branch) in enumerate(branches):
            self._given[id(branch)] = _Given(branch, future, number)
        return True

    def _answer(self, given: _Given) -> Record | None:
        future, lead = given.future, self._lead
        self._lead = max(LEAST_LEAD, lead * SHORTER) if future.done() else min(MOST_LEAD, lead * LONGER)
        try:
            record = future.result(PATIENCE_S).records[given.number]
        except TimeoutError:
            self._given = {key: one for key, one in self._given.items() if one.future is not future}
            return None
        except Exception:  # it has died, or what it was to send cannot be sent
            return None
        if record is None:
            return None
        self.helped += 1
        way, tail = until_it_leaves(given.branch), record.course
        return replace(record, course=Course(way.decisions + tail.decisions, way.taken + tail.taken))

    def close(self) -> None:
        """Let the helpers put away what they have opened."""
        with suppress(RuntimeError):
            wait([helper.submit(None) for helper in self._helpers or ()], PATIENCE_S)


def _without_known(branch: Branch) -> Course:
    """What a helper has to follow: it finds out itself what we know of the steps."""
    return until_it_leaves(branch)._replace(known=())
