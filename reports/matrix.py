"""The matrix of failure modes by targets, and the verdict in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from podrace.reports.drawing import draw
from podrace.reports.records import NOT_APPLICABLE, Cell, Report

SEVERE = ("lost", "duplicated")
SIGNS = {"severe": "✗", "bad": "!", "fine": "✓", "none": "", "unknown": "?"}
"""Signs beside the colours, for readers who cannot tell the colours apart."""
LEGEND = {
    "lost": "something was accepted, never had its effect, and nobody was told",
    "duplicated": "something had its effect more than once",
    "misreported": "a reader was told something untrue",
    "stuck": "a call or a queue does not go on, however long one waits",
    "leaked": "something stays behind that nothing will ever remove",
    "ok": "the property holds in every schedule within the bounds, or, of a whole fleet that ran free, in that run",
    "–": "does not apply: its fault found nothing to strike, or the target refuses such a server; this is no pass",
    "inconclusive": "nobody knows: a run did not finish, or the budget was spent; this is no pass",
    "new": "violated, and not known before; every other violation is known of its target",
    "unexpected": "not violated, though a violation was expected",
}
"""What each word of the matrix means, worst first."""


@dataclass(frozen=True)
class MatrixRow:
    """A failure mode: for each target the cells that were run, one of each outcome."""

    number: int | None
    scenario: str
    what: str
    cells: tuple[tuple[Cell, ...], ...]


def name_anchors(cells: Sequence[Cell]) -> None:
    """Give every cell with a picture a name that is unique in the page and safe in a file name."""
    used: set[str] = set()
    for cell in cells:
        if not cell.history and not cell.sentence:
            continue
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{cell.target}-{cell.scenario}")[:80].strip("-.") or "cell"
        name, number = stem, 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        cell.anchor = name


def targets(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.target for cell in cells))


def rows(cells: Sequence[Cell]) -> list[MatrixRow]:
    """One row a failure mode, by number, those without one last."""
    columns = targets(cells)
    places: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        places.setdefault(cell.scenario, {}).setdefault(cell.target, []).append(cell)
    found = []
    for scenario, by_target in places.items():
        numbers = [cell.row for column in by_target.values() for cell in column if cell.row is not None]
        row = tuple(_outcomes(by_target.get(target, [])) for target in columns)
        what = next((cell.what for column in by_target.values() for cell in column if cell.what), "")
        found.append(MatrixRow(min(numbers) if numbers else None, scenario, what, row))
    return sorted(found, key=lambda row: (row.number is None, row.number or 0))


def _outcomes(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """One cell of each outcome, preferably one with a picture; unexpected ones first."""
    found: dict[tuple[str, str, bool], Cell] = {}
    for cell in cells:
        key = (cell.words, cell.verdict, cell.is_expected)
        if key not in found or (cell.anchor and not found[key].anchor):
            found[key] = cell
    return tuple(sorted(found.values(), key=lambda cell: cell.is_expected))


def tone(cell: Cell) -> str:
    """How a cell is coloured and signed: severe, bad, fine, none (does not apply) or unknown."""
    if cell.verdict == "inconclusive":
        return "unknown"
    if cell.verdict == "violated":
        return "severe" if any(word in cell.words for word in SEVERE) else "bad"
    return "none" if cell.verdict == NOT_APPLICABLE else "fine"


def count_holding(cells: Sequence[Cell], target: str) -> str:
    """`5 of 20 hold`: of the target's failure modes, those that apply."""
    outcomes: dict[str, list[str]] = {}
    for cell in cells:
        if cell.target == target and tone(cell) != "none":
            outcomes.setdefault(cell.scenario, []).append(cell.verdict)
    return f"{sum(set(verdicts) == {'holds'} for verdicts in outcomes.values())} of {len(outcomes)} hold"


def picture(cells: Sequence[Cell], *, name: str) -> Markup:
    """The matrix as an SVG that stands alone: a row a failure mode, a column a target."""
    heads = [(target, count_holding(cells, target)) for target in targets(cells)]
    desc = "; ".join(f"{target}: {holding}" for target, holding in heads)
    return draw("matrix.svg.j2", id=name, desc=desc, heads=heads, rows=rows(cells), tone=tone, signs=SIGNS)


def by_importance(cell: Cell) -> tuple[bool, bool]:
    """A key to sort by: new races first, then what else was not expected, then known races."""
    return cell.is_expected, cell.verdict != "violated"


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def verdict(report: Report) -> tuple[str, str]:
    """(tone, one line): the summary of the report. Races first, new before known ones; then limits."""
    cells = report.cells
    ratios = [ratio for found in report.measured for ratio in found.ratios]
    claims = [claim for found in report.measured for claim in found.claims]
    new = [cell for cell in cells if cell.is_new]
    unknown = [cell for cell in cells if cell.verdict == "inconclusive" and not cell.is_expected]
    unexpected = [cell for cell in cells if not cell.is_expected and cell not in new and cell not in unknown]
    past = [ratio for ratio in ratios if ratio.past]
    broken = [line for run in report.runs for line in run.breaches]
    false = sorted((claim for claim in claims if not claim.holds), key=lambda claim: not claim.must)
    operations = sum(len(run.operations) for run in report.runs)
    summary = (
        (new, f"{_some(len(new), 'new violation')}: {_named(new)}"),
        (unexpected, f"{_some(len(unexpected), 'cell')} not as expected: {_named(unexpected)}"),
        (unknown, f"{_some(len(unknown), 'cell')} inconclusive"),
        (cells, _as_expected(cells)),
        (broken, f"{_some(len(broken), 'limit')} of a load test exceeded: {''.join(broken[:1])}"),
        (past, f"{len(past)} of {_some(len(ratios), 'ratio')} past the limit"),
        (
            false,
            f"{len(false)} of {_some(len(claims), 'claim')} do not hold: {''.join(one.claim for one in false[:1])}",
        ),
        (ratios and not past, f"{_some(len(ratios), 'benchmark ratio')}, none past its limit"),
        (operations, f"{_some(operations, 'operation')} under load"),
    )
    clauses = [text for found, text in summary if found and text]
    if not clauses:
        return "unknown", "Nothing could be read, so nothing is known"
    severe = new or unexpected or past or broken or any(claim.must for claim in false)
    return "severe" if severe else "unknown" if unknown else "fine", "; ".join(clauses)


def _named(cells: Sequence[Cell]) -> str:
    more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
    return ", ".join(f"{cell.target} {cell.scenario} ({cell.words})" for cell in cells[:3]) + more


def _as_expected(cells: Sequence[Cell]) -> str:
    """How many cells are as expected, and what they are."""
    expected = [cell for cell in cells if cell.is_expected]
    if len(cells) == 1:
        return f"{cells[0].target} {cells[0].scenario}: {cells[0].words}, as expected" if expected else ""
    names = {"violated": "known to be violated", "holds": "hold", NOT_APPLICABLE: "not applicable"}
    counts = Counter(names.get(cell.verdict, cell.verdict) for cell in expected)
    counted = ", ".join(f"{counts[word]} {word}" for word in [*names.values(), "inconclusive"] if counts[word])
    counted = re.sub(r"\b1 hold\b", "1 holds", counted)
    whole = f"all {len(cells)}" if len(expected) == len(cells) else f"{len(expected)} of {len(cells)}"
    return f"{whole} cells as expected" + (f" ({counted})" if counted else "")
