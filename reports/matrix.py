"""The matrix of failure modes by targets, and the verdict in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from podrace.reports.drawing import draw, svg_css
from podrace.reports.records import Cell, Report
from podrace.reports.words import shorten

SEVERE = ("lost", "duplicated")
SIGNS = {"severe": "✗", "bad": "!", "fine": "✓", "none": "", "unknown": "?"}
"""Beside the colour, for who cannot tell the colours apart."""
LEFT_PX, COLUMN_PX, ROW_PX = 300, 168, 26


@dataclass(frozen=True)
class MatrixRow:
    """A failure mode: for each target the cells that were run, one of each outcome."""

    number: int | None
    scenario: str
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
        numbers = [cell.row for those in by_target.values() for cell in those if cell.row is not None]
        row = tuple(_outcomes(by_target.get(target, [])) for target in columns)
        found.append(MatrixRow(min(numbers) if numbers else None, scenario, row))
    return sorted(found, key=lambda row: (row.number is None, row.number or 0))


def _outcomes(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """One of each outcome, the first that has a picture; what nobody expected first."""
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
    return "none" if cell.words in ("–", "-") else "fine"


def held(cells: Sequence[Cell], target: str) -> str:
    """`5 of 20 hold`: of the target's failure modes, those that apply."""
    outcomes: dict[str, list[str]] = {}
    for cell in cells:
        if cell.target == target and tone(cell) != "none":
            outcomes.setdefault(cell.scenario, []).append(cell.verdict)
    return f"{sum(set(those) == {'holds'} for those in outcomes.values())} of {len(outcomes)} hold"


def picture(cells: Sequence[Cell], *, name: str) -> Markup:
    """The matrix as an SVG that stands alone: a row a failure mode, a column a target."""
    found, columns = rows(cells), targets(cells)
    width = LEFT_PX + COLUMN_PX * len(columns) + 16
    said = "; ".join(f"{target}: {held(cells, target)}" for target in columns)
    tiles = [
        (LEFT_PX + COLUMN_PX * column, 66 + ROW_PX * number, outcomes)
        for number, row in enumerate(found)
        for column, outcomes in enumerate(row.cells)
        if outcomes
    ]
    return draw(
        "matrix.svg.j2",
        id=name,
        title="Failure modes by target",
        desc=said,
        css=svg_css(),
        width=width,
        height=66 + ROW_PX * len(found) + 12,
        heads=[
            (LEFT_PX + COLUMN_PX * number, shorten(target, 24), held(cells, target))
            for number, target in enumerate(columns)
        ],
        names=[(66 + ROW_PX * number, row.number, shorten(row.scenario, 34)) for number, row in enumerate(found)],
        tiles=[
            (x, y, tone(outcomes[0]), shorten(" / ".join(one.words for one in outcomes), 20))
            for x, y, outcomes in tiles
        ],
        signs=SIGNS,
    )


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def verdict(report: Report) -> tuple[str, str]:
    """(tone, one line): what came of all of it."""
    cells = report.cells
    ratios = [ratio for found in report.measured for ratio in found.ratios]
    claims = [claim for found in report.measured for claim in found.claims]
    unknown = [cell for cell in cells if cell.verdict == "inconclusive" and not cell.is_expected]
    wrong = [cell for cell in cells if not cell.is_expected and cell not in unknown]
    past = [ratio for ratio in ratios if ratio.past]
    broken = [line for run in report.runs for line in run.breaches]
    false = sorted((claim for claim in claims if not claim.holds), key=lambda claim: not claim.must)
    words = []
    if wrong:
        named = ", ".join(f"{cell.target} {cell.scenario}" for cell in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        words.append(f"{len(wrong)} of {_some(len(cells), 'cell')} not as expected: {named}{more}")
    if unknown:
        words.append(f"{_some(len(unknown), 'cell')} inconclusive")
    if past:
        words.append(f"{len(past)} of {_some(len(ratios), 'ratio')} past the limit")
    if broken:
        words.append(f"{_some(len(broken), 'limit')} of a load test exceeded: {broken[0]}")
    if cells and not wrong and not unknown:
        words.append(_all_expected(cells))
    if false:
        words.append(f"{len(false)} of {_some(len(claims), 'claim')} do not hold: {false[0].claim}")
    if ratios and not past:
        words.append(f"{_some(len(ratios), 'benchmark ratio')}, none past its limit")
    operations = sum(len(run.operations) for run in report.runs)
    if operations:
        words.append(f"{_some(operations, 'operation')} under load")
    if not words:
        return "unknown", "Nothing could be read, so nothing is known"
    severe = wrong or past or broken or any(claim.must for claim in false)
    return "severe" if severe else "unknown" if unknown else "fine", "; ".join(words)


def _all_expected(cells: Sequence[Cell]) -> str:
    if len(cells) == 1:
        return f"{cells[0].target} {cells[0].scenario}: {cells[0].words}, as expected"
    counts = {word: sum(cell.verdict == word for cell in cells) for word in ("violated", "holds", "inconclusive")}
    said = ", ".join(f"{count} {word.replace('holds', 'hold')}" for word, count in counts.items() if count)
    return f"all {len(cells)} cells as expected ({said})"
