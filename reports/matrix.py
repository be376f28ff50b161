"""The matrix of failure modes by targets, and the verdict in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reports.records import Cell, Report

SEVERE = ("lost", "duplicated")


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
    """How a cell is coloured: severe, bad, fine, none (does not apply) or unknown."""
    if cell.verdict == "inconclusive":
        return "unknown"
    if cell.verdict == "violated":
        return "severe" if any(word in cell.words for word in SEVERE) else "bad"
    return "none" if cell.words in ("–", "-") else "fine"


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def verdict(report: Report) -> tuple[str, str]:
    """(tone, one line): what came of all of it."""
    cells = report.cells
    ratios = [ratio for found in report.measured for ratio in found.ratios]
    unknown = [cell for cell in cells if cell.verdict == "inconclusive" and not cell.is_expected]
    wrong = [cell for cell in cells if not cell.is_expected and cell not in unknown]
    past = [ratio for ratio in ratios if ratio.past]
    broken = [line for run in report.runs for line in run.breaches]
    false = [claim for found in report.measured for claim in found.claims if not claim.holds]
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
    if false:
        words.append(f"{_some(len(false), 'claim')} refuted: {false[0].claim}")
    if cells and not wrong and not unknown:
        words.append(_all_expected(cells))
    if ratios and not past:
        words.append(f"{_some(len(ratios), 'benchmark ratio')}, none past its limit")
    operations = sum(len(run.operations) for run in report.runs)
    if operations:
        words.append(f"{_some(operations, 'operation')} under load")
    if not words:
        return "unknown", "Nothing could be read, so nothing is known"
    kind = "severe" if wrong or past or broken or false else "unknown" if unknown else "fine"
    return kind, "; ".join(words)


def _all_expected(cells: Sequence[Cell]) -> str:
    if len(cells) == 1:
        return f"{cells[0].target} {cells[0].scenario}: {cells[0].words}, as expected"
    counts = {word: sum(cell.verdict == word for cell in cells) for word in ("violated", "holds", "inconclusive")}
    said = ", ".join(f"{count} {word.replace('holds', 'hold')}" for word, count in counts.items() if count)
    return f"all {len(cells)} cells as expected: {said}"
