"""bench-compare: two files of ratios, and whether the second is slower."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podrace.reports.compare import as_text, compare, reference_ratios


def entry(operation: str, ratio: float, *, spread: float = 0.02, blocks: int = 60, **more: Any) -> dict[str, Any]:
    """One benchmark, its blocks scattered around the ratio."""
    rng = random.Random(f"{operation} {ratio}")
    values = sorted(ratio * rng.gauss(1, spread) for _ in range(blocks))
    values = [value * ratio / values[blocks // 2] for value in values]
    extra = {"target": "shared", "operation": operation, "floor": "redis-py", "ratio": ratio}
    extra["blocks"] = [[value] for value in values]
    return {"name": operation, "extra_info": extra | {"ratio_low": ratio * 0.98, "ratio_high": ratio * 1.02} | more}


def damaged(operation: str, ratio: Any) -> dict[str, Any]:
    return {"name": operation, "extra_info": {"target": "shared", "operation": operation, "ratio": ratio}}


def with_blocks(operation: str, blocks: list[float]) -> dict[str, Any]:
    found = damaged(operation, blocks[len(blocks) // 2])
    found["extra_info"]["blocks"] = [[value] for value in blocks]
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def one(name: str, *entries: dict[str, Any]) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"benchmarks": list(entries)}), encoding="utf-8")
        return path

    return one


def test_a_file_beside_itself_has_not_changed(write: Callable[..., Path]) -> None:
    path = write("a", entry("set", 1.1), entry("get", 1.05))
    found = compare(path, path)
    assert found.passed
    assert [change.factor for change in found.changes] == [1.0, 1.0]
    assert all(change.low < 1 < change.high for change in found.changes)
    assert as_text(found).endswith("2 compared, none past the limit")


def test_what_has_become_slower_is_past_the_limit(write: Callable[..., Path]) -> None:
    found = compare(write("a", entry("set", 1.1), entry("get", 1.0)), write("b", entry("set", 1.6), entry("get", 1.0)))
    assert not found.passed
    assert [change.after.operation for change in found.changes if change.past] == ["set"]
    assert "past 1.1" in as_text(found).splitlines()[0]


def test_an_interval_that_reaches_the_limit_is_not_past_it(write: Callable[..., Path]) -> None:
    before, after = (
        write("a", entry("set", 1.0)),
        write("b", with_blocks("set", [1.0, 1.05, 1.1, 1.12, 1.15, 1.2, 1.3])),
    )
    (change,) = compare(before, after).changes
    assert change.factor > change.limit
    assert not change.past


def test_a_lower_ratio_passes(write: Callable[..., Path]) -> None:
    assert compare(write("a", entry("set", 2.0)), write("b", entry("set", 1.0))).passed


def test_the_caller_sets_the_limit(write: Callable[..., Path]) -> None:
    before, after = write("a", entry("set", 1.0)), write("b", entry("set", 1.08))
    assert compare(before, after).passed
    assert not compare(before, after, limit=1.04).passed


def test_a_growth_of_more_than_a_tenth_fails_where_the_interval_allows_to_say_so(write: Callable[..., Path]) -> None:
    before = write("a", entry("set", 1.0))
    assert not compare(before, write("b", entry("set", 1.15))).passed
    assert compare(before, write("c", entry("set", 1.15, spread=0.4))).passed


def test_what_differs_from_process_to_process_is_in_the_interval(write: Callable[..., Path]) -> None:
    """If each process has a narrow interval, and they disagree, a change of 15 % between two runs means nothing."""
    before, after = damaged("set", 1.0), damaged("set", 1.15)
    before["extra_info"]["blocks"] = [[0.9] * 30, [1.0] * 30, [1.1] * 30]
    after["extra_info"]["blocks"] = [[1.0] * 30, [1.15] * 30, [1.25] * 30]
    (change,) = compare(write("a", before), write("b", after)).changes
    assert not change.past
    assert change.high - change.low > 0.2


def test_a_ratio_past_its_own_limit_fails_whatever_it_was(write: Callable[..., Path]) -> None:
    path = write("a", entry("set", 1.4, limit=1.15))
    found = compare(path, path)
    assert not found.passed
    assert "past 1.15" in as_text(found)


def test_the_same_seed_gives_the_same_interval(write: Callable[..., Path]) -> None:
    before, after = write("a", entry("set", 1.0)), write("b", entry("set", 1.1))
    assert compare(before, after) == compare(before, after)
    assert compare(before, after).changes[0].low != compare(before, after, seed=8).changes[0].low


def test_the_interval_covers_the_true_change(write: Callable[..., Path]) -> None:
    """95 % of the intervals between two runs of the same code contain 1."""
    covered = 0
    for number in range(30):
        rng = random.Random(number)
        runs = []
        for name in "ab":
            blocks = sorted(rng.gauss(1.1, 0.1) for _ in range(81))
            runs.append(write(name, with_blocks("set", blocks)))
        (change,) = compare(*runs).changes
        covered += change.low <= 1 <= change.high
    assert covered >= 26


def test_the_committed_form_compares_with_a_run(write: Callable[..., Path], tmp_path: Path) -> None:
    run = write("run", entry("set", 1.1), entry("list 1000", 1.6))
    committed = tmp_path / "reference-ratios.json"
    committed.write_text(json.dumps(reference_ratios(run)), encoding="utf-8")
    found = compare(committed, run)
    assert found.passed
    assert {change.after.operation for change in found.changes} == {"set", "list 1000"}
    assert all(change.low < 1 < change.high for change in found.changes)
    assert json.loads(committed.read_text()) == reference_ratios(committed)


def test_the_committed_form_says_on_what_and_when(write: Callable[..., Path]) -> None:
    run = write("run", entry("set", 1.1, p50_us=60.04, p99_us=90.0, p99_9_us=400.0, versions="redis 8, orjson 3"))
    document = json.loads(run.read_text())
    document["machine_info"] = {"python_version": "3.13.1", "cpu": {"brand_raw": "A CPU", "count": 2}}
    document["datetime"] = "2026-11-25T10:00:00+00:00"
    run.write_text(json.dumps(document), encoding="utf-8")
    found = reference_ratios(run)
    assert (found["machine"], found["date"]) == ("A CPU, 2 cores", "2026-11-25")
    assert found["versions"] == "Python 3.13.1, redis 8, orjson 3"
    assert found["ratios"]["shared set"]["p50_us"] == 60.0
    assert found["ratios"]["shared set"]["p99_9_us"] == 400.0


def test_what_only_one_file_has_is_named(write: Callable[..., Path]) -> None:
    found = compare(write("a", entry("set", 1), entry("old", 1)), write("b", entry("set", 1), entry("new", 1)))
    assert (found.only_before, found.only_after) == (["shared old"], ["shared new"])
    assert "missing: shared old" in as_text(found)
    assert as_text(found).endswith("1 missing")
    assert not found.passed
    assert compare(write("a", entry("set", 1)), write("b", entry("set", 1), entry("new", 1))).passed


def test_damaged_entries_are_named_and_left_out(write: Callable[..., Path]) -> None:
    good = write("a", entry("set", 1.0), entry("get", 1.0))
    bad = write("b", entry("set", 1.0), damaged("get", "fast"), damaged("push", -1))
    found = compare(good, bad)
    assert [change.after.operation for change in found.changes] == ["set"]
    assert len(found.damaged) == 2
    assert not found.passed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "found none"),
        ('{"benchmarks": [{"name": "x", "extra_info": {}}]}', "found none"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_by_name(
    write: Callable[..., Path], tmp_path: Path, content: str, says: str
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"wrong.json: .*{says}"):
        compare(write("a", entry("set", 1.0)), wrong)


def test_a_missing_file_and_files_with_nothing_in_common_are_refused(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("a", entry("set", 1.0))
    with pytest.raises(ValueError, match="no such file"):
        compare(path, tmp_path / "none.json")
    with pytest.raises(ValueError, match="there is none"):
        compare(path, write("b", entry("get", 1.0)))
