"""A free fleet's run over time, from its history: rate, latency, what was lost, and when faults were about."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from podrace.simulator.app.judging import Recorded
from podrace.simulator.judge.findings import Finding

FILE = "over-time.json"
BINS = 60
LEAST_BIN_S = 0.1


def over_time(recorded: Recorded, findings: Sequence[Finding], target: str, busy_s: float) -> dict[str, Any]:
    """What reports draw of a run. A call counts where it ended; a loss where what is lost was handed in."""
    lost = {one.subject for one in findings if one.kind == "lost"}
    began: dict[int, float] = {}
    ended_s, took_s = array("d"), array("d")
    given_s: dict[str, float] = {}
    faults: list[dict[str, Any]] = []
    about: dict[tuple[str, str], dict[str, Any]] = {}
    for _, event in recorded.events():
        at_s, event_type = event["t_ms"] / 1000, event["type"]
        if event_type == "rest":
            break
        if event_type == "invoke":
            began[event["call"]] = at_s
            for name in lost.intersection(_names(event)):
                given_s.setdefault(name, at_s)
        elif event_type in ("ok", "fail", "info"):
            ended_s.append(at_s)
            took_s.append(at_s - began.pop(event["call"]))
        elif event_type == "fault":
            name, place = event["fault"], event["actor"]
            if event["stage"] == "strikes":
                about[name, place] = {"name": name, "place": place, "from_s": at_s, "until_s": 0.0}
                faults.append(about[name, place])
            elif (name, place) in about:
                about.pop((name, place))["until_s"] = at_s
    last_s = max([busy_s, *ended_s[-1:]])
    width_s = max(LEAST_BIN_S, last_s / BINS)
    lost_s = sorted(given_s[one.subject] for one in findings if one.kind == "lost" and one.subject in given_s)
    bins = _binned(zip(ended_s, took_s, strict=True), lost_s, width_s, last_s)
    for fault in faults:
        fault["until_s"] = fault["until_s"] or round(last_s, 3)
    return {"over_time": {"target": target, "bin_s": round(width_s, 3), "bins": bins, "faults": faults}}


def _names(event: Mapping[str, Any]) -> list[str]:
    """The names that a finding may have as its subject: the call's, and those of its images."""
    images = [one["name"] for arg in event["args"] if isinstance(arg, list) for one in arg if "name" in one]
    return [event["name"], *images]


def _binned(
    ended: Iterable[tuple[float, float]], lost_s: Sequence[float], width_s: float, last_s: float
) -> list[dict[str, float]]:
    latencies = [array("d") for _ in range(int(last_s / width_s) + 1)]
    for at_s, took_s in ended:
        latencies[min(int(at_s / width_s), len(latencies) - 1)].append(took_s * 1e6)
    found = []
    for number, unsorted in enumerate(latencies):
        of_bin = sorted(unsorted)
        one = {"at_s": (number + 0.5) * width_s, "rate_per_s": len(of_bin) / width_s}
        one["lost"] = bisect_right(lost_s, (number + 1) * width_s)
        if of_bin:
            one |= {"p50_us": of_bin[len(of_bin) // 2], "p99_us": of_bin[int(len(of_bin) * 0.99)]}
        found.append({name: round(value, 3) for name, value in one.items()})
    return found
