"""How a free fleet comes to rest: every pod is asked again and again until nothing moves or is left to do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import count

from podrace.simulator.app.judging import Recorded
from podrace.simulator.errors import HarnessError
from podrace.simulator.fleets.driver import Driver
from podrace.simulator.fleets.free import Client
from podrace.simulator.fleets.processes import READY_WITHIN_S
from podrace.simulator.judge.run import CallRecord, Run
from podrace.simulator.scenarios.model import Call, Scenario

STILL_S = 61.0
"""At rest is a run in which nothing is left to do, or nothing moves for so long: longer than any lease."""
QUIET_S = 12.0
"""So long is enough where no key is left whose time to live ends within that: longer than any timer of a pod's."""
HURRIED_S = 3.0
"""In place of that where somebody has ended the run."""
ROUND_S, MOST_ROUND_S = 0.2, 4.0


def come_to_rest(
    driver: Driver, recorded: Recorded, scenario: Scenario, pods: Sequence[str], *, is_hurried: bool
) -> Mapping[str, str]:
    """Wait for the pods, then ask them. Returns the calls that no pod will ever answer, and why.

    `recorded` is the run so far. Raises HarnessError where a pod does not start any more.
    """
    until_s = time.monotonic() + READY_WITHIN_S
    while len(driver.ready) < len(pods):
        if time.monotonic() > until_s:
            raise HarnessError(f"pods: expected all to be ready again within {READY_WITHIN_S:g} s")
        driver.turn(time.monotonic() + ROUND_S)
    moved_s, progress, pause_s = time.monotonic(), None, ROUND_S
    still_s = HURRIED_S if is_hurried else STILL_S
    for number in count(1):
        driver.play(_round(driver, recorded, pods, number))
        if progress != (progress := recorded.workload.progress(recorded.services)):
            moved_s, pause_s = time.monotonic(), ROUND_S
            continue
        left = recorded.left()
        is_answered = not driver.unanswered
        is_clean = not any(map(scenario.is_leaked, left))  # else something may be under way still
        if is_answered and is_clean and all(map(recorded.workload.is_done, recorded.runs())):
            break
        is_short_lived = any(one.left_s is not None and one.left_s < STILL_S for one in left)
        now_s = time.monotonic()
        if now_s > moved_s + QUIET_S and is_answered and not is_short_lived:
            break
        if now_s > moved_s + still_s:
            return {} if is_hurried else _never_answered(driver, now_s - still_s)
        pause_until_s = time.monotonic() + pause_s
        while time.monotonic() < pause_until_s:
            driver.turn(pause_until_s)
        pause_s = min(2 * pause_s, MOST_ROUND_S)
    return {}


def _never_answered(driver: Driver, before_s: float) -> Mapping[str, str]:
    """Calls that pods which are alive have not answered since then, and why they wait; of equal ones the first."""
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    for one in driver.unanswered.values():
        if one.since_s < before_s:
            about = one.pod, one.asked.method, repr(one.asked.told)
            since_s = time.monotonic() - one.since_s
            why = f"pod {one.pod}, which is alive and has not answered for {since_s:.0f} s"
            found.setdefault(about, (one.asked.name, why))
    return dict(found.values())


def _round(driver: Driver, recorded: Recorded, pods: Sequence[str], number: int) -> list[Client]:
    """One client a pod, which asks one thing after the other."""
    calls = [CallRecord(one.name, "", one.method, one.told, 0) for one in driver.first.values()]
    known = Run((), calls, recorded.services, 0, 0.0, {}, lambda: ())
    by_pod: dict[str, list[Call]] = {}
    for place, (pod, call) in enumerate(recorded.workload.at_rest(pods, known), 1):
        by_pod.setdefault(pod, []).append(Call(f"rest-{number}-{place}", call.method, call.args))

    def client(pod: str, calls: Sequence[Call]) -> Client:
        for call in calls:
            yield recorded.workload.asked(call, pod)

    return [client(pod, calls) for pod, calls in by_pod.items()]
