"""Known violations of targets: only new ones fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app import expected
from podrace.simulator.app.expected import Expected
from podrace.simulator.app.runs import Cell, exit_code
from podrace.simulator.errors import UsageError

KNOWN = Expected({"mine": {"foreign-pod": "lost, leaked"}})


def cell(words: str = "ok", *, verdict: str = "", target: str = "mine", scenario: str = "foreign-pod") -> Cell:
    by_words = {"ok": "holds", "–": "not-applicable", "inconclusive": "inconclusive"}
    return Cell(target, scenario, "inline", verdict or by_words.get(words, "violated"), "violated", {}, words=words)


@pytest.mark.parametrize("words", ["lost, leaked", "lost", "leaked"])
def test_a_known_violation_or_a_part_of_it_is_expected(words: str) -> None:
    applied = KNOWN.applied(cell(words))
    assert (applied.expected, applied.known, exit_code([applied])) == ("violated", True, 0)


@pytest.mark.parametrize("words", ["lost, duplicated", "duplicated", "lost, misreported, leaked"])
def test_a_new_violation_fails(words: str) -> None:
    applied = KNOWN.applied(cell(words))
    assert (applied.expected, applied.known, exit_code([applied])) == ("holds", False, 1)


@pytest.mark.parametrize(
    "other", [cell("lost", target="another"), cell("lost", scenario="late-completion")], ids=["target", "scenario"]
)
def test_a_known_violation_of_one_cell_does_not_excuse_another(other: Cell) -> None:
    assert exit_code([KNOWN.applied(other)]) == 1


def test_without_a_known_violation_holds_is_expected_whatever_the_catalogue_says() -> None:
    applied = Expected({}).applied(cell("ok"))
    assert (applied.expected, exit_code([applied])) == ("holds", 0)
    assert exit_code([Expected({}).applied(cell("lost"))]) == 1


@pytest.mark.parametrize("words", ["ok", "–"])
def test_a_violation_that_has_gone_is_reported_and_fails_nothing(words: str) -> None:
    applied = KNOWN.applied(cell(words))
    assert exit_code([applied]) == 0
    assert "known to be violated (lost, leaked), and no longer" in applied.note


@pytest.mark.parametrize("known", [KNOWN, Expected({})])
def test_an_inconclusive_cell_is_never_a_pass(known: Expected) -> None:
    assert exit_code([known.applied(cell("inconclusive"))]) == 3


def test_an_accepted_violation_is_expected_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    cells = [cell("lost"), cell("ok", scenario="two-users"), cell("duplicated", target="another")]
    expected.save(path, cells)
    known = expected.load(path)
    assert known.violated == {"another": {"foreign-pod": "duplicated"}, "mine": {"foreign-pod": "lost"}}
    assert exit_code([known.applied(one) for one in cells]) == 0


def test_accepting_keeps_what_the_file_says_of_other_cells(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    expected.save(path, [cell("lost"), cell("lost", scenario="two-users"), cell("lost", scenario="late-completion")])
    expected.save(path, [cell("ok"), cell("inconclusive", scenario="two-users"), cell("stuck", target="another")])
    assert expected.load(path).violated == {
        "another": {"foreign-pod": "stuck"},
        "mine": {"late-completion": "lost", "two-users": "lost"},
    }


def test_the_file_is_the_same_in_whatever_order_the_cells_came(tmp_path: Path) -> None:
    cells = [cell("lost"), cell("lost", target="another"), cell("lost", scenario="two-users")]
    for name, given in (("a", cells), ("b", cells[::-1])):
        expected.save(tmp_path / name, given)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "violated": {}}',
        '{"version": 1, "violated": []}',
        '{"version": 1, "violated": {"mine": []}}',
        '{"version": 1, "violated": {"mine": {"foreign-pod": 1}}}',
        '{"version": 1, "violated": {"mine": {"foreign-pod": "broken"}}}',
        '{"version": 1, "violated": {"mine": {"foreign-pod": ""}}}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, document: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(document, encoding="utf-8")
    with pytest.raises(UsageError, match="expect") as caught:
        expected.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known\.json: expected a file that --accept has written, found none"):
        expected.load(tmp_path / "known.json")


def test_a_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text("notes of mine", encoding="utf-8")
    with pytest.raises(UsageError):
        expected.save(path, [cell("lost")])
    assert path.read_text(encoding="utf-8") == "notes of mine"


def test_the_form_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    expected.save(path, [cell("lost, leaked")])
    written: Any = json.loads(path.read_text(encoding="utf-8"))
    assert written == {"version": 1, "violated": {"mine": {"foreign-pod": "lost, leaked"}}}
