"""Whether a user's scenario is well-formed: what is wrong is reported with its place in the scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from podrace.simulator.errors import UsageError

if TYPE_CHECKING:
    from podrace.simulator.scenarios.model import Call, Scenario


def check_shape(scenario: Scenario) -> None:
    """Raise UsageError where a part of the scenario is of another kind than expected, or names what is not there."""
    from podrace.simulator.scenarios.faults import Fault
    from podrace.simulator.scenarios.model import Call, Workload

    if not _is_name(scenario.name):
        raise UsageError(f"scenario {scenario.name!r}: its name: expected a text")
    expect = _Expectation(f"scenario {scenario.name}")
    expect.that(isinstance(scenario.lines, Mapping), "lines", 'a dict such as {"A": [Call(…)]}', scenario.lines)
    for actor, calls in scenario.lines.items():
        expect.that(_is_name(actor), "lines", 'pods named by texts such as "A"', actor)
        expect.each(calls, lambda one: isinstance(one, Call), f"lines, {actor}", "a list of podrace.Call")
    expect.that(isinstance(scenario.workload, Workload), "workload", "a podrace.Workload", scenario.workload)
    expect.each(scenario.faults, lambda one: isinstance(one, Fault), "faults", "a list of faults such as Kill()")
    expect.each(scenario.checks, callable, "checks", "a list of functions")
    expect.each(scenario.keeps, lambda one: isinstance(one, str), "keeps", "a list of patterns of keys")
    expect.each(scenario.retries, lambda one: isinstance(one, int) and one >= 0, "retries", "whole numbers from 0")
    expect.that(len(scenario.retries) > 0, "retries", "at least one number", scenario.retries)
    expect.that(isinstance(scenario.options, Mapping), "options", "a dict", scenario.options)
    calls = [call for line in scenario.lines.values() for call in line]
    _check_calls(scenario.name, calls)
    if any(call.follows for call in calls):
        _check_order(scenario)


def _check_calls(scenario: str, calls: Sequence[Call]) -> None:
    names = [call.name for call in calls]
    for call in calls:
        if not _is_name(call.name):
            raise UsageError(f"scenario {scenario}: the name of a call: expected a text, got {call.name!r}")
        if names.count(call.name) > 1:
            raise UsageError(f"scenario {scenario}: two calls are named {call.name!r}; expected each name once")
        expect = _Expectation(f"scenario {scenario}, call {call.name}")
        expect.that(_is_name(call.method), "method", "the name of a method", call.method)
        expect.each(call.args, lambda _: True, "args", "a tuple")
        expect.each(call.after, lambda one: isinstance(one, str), "after", "a tuple of names of calls")
        unknown = [name for name in call.follows if name not in names]
        if unknown:
            raise UsageError(f"scenario {scenario}, call {call.name}: there is no call {unknown[0]!r}")


def _check_order(scenario: Scenario) -> None:
    """Raise UsageError where calls wait for each other, so that none of them can ever begin."""
    waits_for = {call.name: set(call.follows) for calls in scenario.lines.values() for call in calls}
    for calls in scenario.lines.values():
        for before, call in pairwise(calls):
            waits_for[call.name].add(before.name)
    try:
        TopologicalSorter(waits_for).prepare()
    except CycleError as error:
        circle = ", ".join(map(repr, error.args[1]))
        raise UsageError(f"scenario {scenario.name}: calls wait for each other: {circle}") from None


class _Expectation:
    def __init__(self, place: str) -> None:
        self._place = place

    def that(self, holds: bool, part: str, expected: str, got: object) -> None:
        if not holds:
            shown = repr(got) if isinstance(got, str | int | float | type) else type(got).__name__
            raise UsageError(f"{self._place}: {part}: expected {expected}, got {shown}")

    def each(self, items: Any, fits: Any, part: str, expected: str) -> None:
        """A text is a sequence too, but never one of the items that are meant here."""
        is_fit = type(items) in (tuple, list)  # asking Sequence takes longer than all else here, in each pod's modules
        is_fit = is_fit or (isinstance(items, Sequence) and not isinstance(items, str))
        self.that(is_fit, part, expected, items)
        for item in items:
            if not fits(item):
                self.that(False, part, expected, item)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
