"""How fast histories are judged: beside reading the same lines with the standard library's json alone."""

from __future__ import annotations

import json
import random
from typing import Any

from measuring import Timed, beside, check_ratio

from podrace.simulator.judge.linear import MODELS, check
from podrace.simulator.judge.operations import read_operations

MODEL = MODELS["cas-register"]
LIMIT = 1.5
"""Reading and judging take at most so many times as long as json.loads: some 3 s for 1,000,000 events."""
HARD_LIMIT = 1.5
"""The same for short histories full of operations of which nobody knows whether they were done."""


def lines_of(keys: int, operations: int, *, open_share: float) -> list[bytes]:
    """What five clients of each key saw: each operation happens between its begin and its end, some are left open."""
    rng, lines = random.Random(7), []
    for key in range(keys):
        value: Any = None
        idle, under_way, begun, fresh = list(range(5)), [], 0, 5
        while begun < operations or under_way:
            if begun < operations and idle and (not under_way or rng.random() < 0.5):
                f = rng.choice(["read", "write", "cas"])
                given: Any = None if f == "read" else rng.randrange(5)
                given = [given, rng.randrange(5)] if f == "cas" else given
                event = {"process": f"{key}-{idle.pop()}", "f": f, "key": key, "value": given}
                begun += 1
                under_way.append(event)
                lines.append(event | {"type": "invoke"})
                continue
            event = under_way.pop(rng.randrange(len(under_way)))
            process = int(event["process"].partition("-")[2])
            f, given, done = event["f"], event["value"], True
            if rng.random() < open_share:
                happens = rng.random() < 0.5
                lines.append(event | {"type": "info"})
                process, fresh = fresh, fresh + 1
            else:
                happens = f != "cas" or value == given[0]
                told = event | {"type": "ok" if happens else "fail"}
                lines.append(told | {"value": value} if f == "read" else told)
            done = happens and (f != "cas" or value == given[0])
            if done and f != "read":
                value = given[1] if f == "cas" else given
            idle.append(process)
    return [json.dumps(event).encode() for event in lines]


def measured(benchmark: Any, lines: list[bytes], operation: str, limit: float) -> None:
    def judge(_: int) -> None:
        assert all(one.verdict == "holds" for one in check(read_operations(lines, MODEL, source="lines"), MODEL))

    floor = Timed(lambda _: [json.loads(line) for line in lines])
    operation = f"{operation}, {len(lines)} events"
    found = beside(benchmark, judge, {"json.loads": floor}, target="judge", operation=operation, rounds=10, calls=4)
    if found:
        check_ratio(benchmark, "json.loads", found["json.loads"], limit)


def test_many_events(benchmark: Any) -> None:
    measured(benchmark, lines_of(50, 1000, open_share=0.0), "read and judge", LIMIT)


def test_hard_histories(benchmark: Any) -> None:
    measured(benchmark, lines_of(200, 80, open_share=0.2), "200 histories of 80 operations", HARD_LIMIT)
