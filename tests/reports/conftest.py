"""Run folders, load tests and benchmark files, written by hand, small and whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Event = dict[str, Any]
UPLOAD = "48e672c2-5489-4812-9915-1471058a1932"
CURVE = [[0, 50], [50, 100], [90, 300], [99, 2000], [99.9, 9000], [100, 12000]]


def step(actor: str, what: str, reply: str = "OK", *, kind: str = "redis", action: str = "go", **more: Any) -> Event:
    """A step in the words that a history file has for it."""
    lost = {"drop-request": " ✗ request lost", "drop-reply": " ✗ reply lost"}.get(action, "")
    says, redis = what + lost, ""
    if kind == "redis":
        says = what.split()[0] + lost
        redis = what + (" (never arrived)" if action == "drop-request" else "" if lost else f" → {reply}")
    marks = "lost" if lost else "" if action == "go" else "fault"
    event = {"type": "step", "actor": actor, "kind": kind, "what": what, "action": action, "reply": reply}
    return event | {"says": says, "redis": redis, "marks": marks} | more


def told(kind: str, actor: str, says: str, **more: Any) -> Event:
    return {"type": kind, "actor": actor, "says": says, "redis": "", "marks": "", **more}


@pytest.fixture
def history() -> list[Event]:
    """Two pods and a worker: 4 commands to Redis (one reply lost, one request lost), one call of each of two
    services; time passes while others are under way, A is killed."""
    events = [
        told(
            "invoke", "A", "add_message(alice, text, [i1], m1)", call=1, name="m1", args=["alice", "text", ["i1"], "m1"]
        ),
        step("A", f"SET upload_status:{UPLOAD} <pending> EX 3600"),
        step("A", "RPUSH temp_messages:alice <m1>", "ConnectionError", action="drop-reply"),
        told("ok", "A", "→ [48e6…]", call=1, result=[{"upload_uuid": UPLOAD}]),
        step("A.upload-1", "upload image-1.png", kind="service", service="gemini"),
        told("invoke", "B", "absorb(alice)", call=2, name="absorb-b", args=["alice"]),
        step("B", f"GET upload_status:{UPLOAD}", "<pending>", deciding=True),
        told("time", "", "time passes, while others are under way: 60 s", passes_s=60, gone=[], fault=True),
        told("fault", "A", "✗ killed", marks="kill"),
        step("B", "DEL lock:alice", "ConnectionError", action="drop-request"),
        step("B", "memory.send(alice, 'text')", "nil", kind="service"),
        told("rest", "", "the run comes to rest", stage="begins"),
        told("fail", "B", "→ refused: JSONDecodeError", call=2, error="JSONDecodeError"),
    ]
    return [{"n": number, **event} for number, event in enumerate(events)]


@pytest.fixture
def cell() -> Callable[..., dict[str, Any]]:
    def make(target: str = "shared", scenario: str = "paused-pod", verdict: str = "violated", **more: Any) -> Any:
        base = {"target": target, "scenario": scenario, "fleet": "inline", "verdict": verdict, "expected": verdict}
        return (
            base
            | {
                "counts": {"lost": 1},
                "words": {"holds": "ok", "not-applicable": "–"}.get(verdict, "lost"),
                "elapsed_s": 0.1,
            }
            | more
        )

    return make


@pytest.fixture
def write_run(tmp_path: Path, history: list[Event], cell: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """Writes a run folder; every violated cell gets its counterexample and its history."""

    def write(
        name: str = "run",
        *,
        cells: list[dict[str, Any]] | None = None,
        events: list[Event] | None = None,
        **more: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        cells = [cell()] if cells is None else cells
        for number, one in enumerate(cells):
            if one["verdict"] != "violated":
                continue
            stem = f"counterexample-{number}"
            one["counterexample"] = f"runs/elsewhere/{stem}.podrace.json"
            sentence = f"image-1 of {one['scenario']} was lost: B read <pending>."
            saved = {"version": 1, "decisions": [], "sentence": sentence, "target": one["target"], "seed": 7}
            saved |= {"scenario": one["scenario"], "verdict": "violated", "words": "lost"}
            (folder / f"{stem}.podrace.json").write_text(json.dumps(saved))
            lines = "".join(json.dumps(event) + "\n" for event in (events or history))
            (folder / f"{stem}.history.jsonl").write_text(lines)
        server = {"kind": "valkey", "version": "9.1.2", "embedded": True}
        document = {"version": 1, "command": ["matrix", "--budget", "5"], "seed": 7, "server": server, "cells": cells}
        (folder / "result.json").write_text(json.dumps(document | more))
        return folder

    return write


@pytest.fixture
def write_load(tmp_path: Path) -> Callable[..., Path]:
    def write(
        name: str = "load",
        *,
        rate: float = 100.0,
        breaches: list[str] | None = None,
        count: int = 1000,
        paced: bool = True,
        target: str = "shared",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        raw = [[p, v // 2 + 1] for p, v in CURVE]
        operations = [
            {
                "name": operation,
                "errors": {"TimeoutError": 2},
                "count": count,
                "rate_per_s": rate,
                "raw": {"curve": raw},
                "corrected": {"curve": CURVE},
            }
            for operation in ("SET status", "GET status", "absorb")
        ]
        document = {"version": 1, "unit": "us", "duration_s": 10, "paced": paced, "operations": operations}
        steps: list[dict[str, Any]] = [{"rate": n, "tasks_per_s": 19.5 * n, "p99_us": 900 * n} for n in (1, 2, 4)]
        steps += [{"rate": 8, "tasks_per_s": 150.0, "p99_us": 10**6, "generator": "the generator is the limit"}]
        cells = [{"target": target, "scenario": "load-store", "verdict": "holds", "expected": "holds"}]
        result = {"version": 1, "command": ["locust", "--rate", "20"], "seed": 7, "cells": cells}
        result |= {"search": {"rate": 4, "steps": steps}, "generator": {"says": ["generator: woke up late by p50 9"]}}
        (folder / "result.json").write_text(json.dumps(result | {"slo": {"breaches": breaches or []}}))
        (folder / "latency.json").write_text(json.dumps(document))
        return folder

    return write


@pytest.fixture
def write_benchmark(tmp_path: Path) -> Callable[..., Path]:
    """pytest-benchmark's file; `shift` moves every ratio."""

    def write(name: str = "benchmark.json", *, shift: float = 0.0) -> Path:
        found = []
        for operation, ratio in (("get", 1.02), ("set pending", 1.1), ("list 1,000", 1.3)):
            ratio += shift
            extra = {"target": "shared", "operation": operation, "floor": "bare redis-py", "ratio": ratio}
            extra |= {"ratio_low": ratio - 0.02, "ratio_high": ratio + 0.03, "p50_us": 80, "p99_us": 130}
            extra |= {"limit": 1.4}
            found.append({"name": f"test_{operation}", "group": None, "stats": {}, "extra_info": extra})
        claims = [{"claim": "about 1 ms an operation", "measured": "0.1 ms", "verdict": "holds", "holds": True}]
        machine = {"cpu": {"brand_raw": "Some CPU", "count": 4}, "system": "Linux", "python_version": "3.12.1"}
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"machine_info": machine, "benchmarks": found, "claims": claims}))
        return path

    return write
