"""The report as Markdown, for a CI job's summary, and as JUnit XML with a test case for each cell."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from itertools import accumulate

from podrace.reports.matrix import LEGEND, MatrixRow, by_importance, rows, targets, tone, verdict
from podrace.reports.records import NOT_APPLICABLE, Cell, Report, Run
from podrace.reports.safety import presentable

MOST_BYTES = 900_000
"""A job's summary on GitHub holds 1 MiB."""
MOST_SAID = 60
MARKS = {"severe": "❌", "bad": "⚠️", "fine": "✅", "none": "", "unknown": "❔"}


def markdown(report: Report) -> str:
    """The verdict, the matrix, what was found and how to repeat it; cut with "n more" before it is too long."""
    seen, line = verdict(report)
    lines = ["# podrace", "", f"{MARKS[seen]} **{_md(line)}**", ""]
    found = sorted(report.cells, key=by_importance)
    lines += _found("Not as expected", [cell for cell in found if not cell.is_expected])
    lines += _matrix(report)
    lines += _found("Known violations", [cell for cell in found if cell.is_expected], folded=True)
    lines += [line for part in (_load, _benchmarks, _runs, _skipped) for line in part(report)]
    sizes = accumulate(len(line.encode("utf-8", "backslashreplace")) + 1 for line in lines)
    fit = sum(size <= MOST_BYTES for size in sizes)
    more = [] if fit == len(lines) else ["", f"{len(lines) - fit:,} more lines"]
    return presentable("\n".join([*lines[:fit], *more]) + "\n")


def _md(text: object) -> str:
    """Text that Markdown shows as it is, in one line of at most 400 characters."""
    line = " ".join(str(text).split())
    line = line if len(line) <= 400 else line[:399] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!@])", r"\\\1", line)


def _code(text: str) -> str:
    """Text as code: in a table too, whatever it holds."""
    line = " ".join(text.split()).replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence}{' ' if len(fence) > 1 else ''}{line}{' ' if len(fence) > 1 else ''}{fence}"


def _table(heads: tuple[str, ...], body: Iterable[tuple[object, ...]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return [*lines, *("| " + " | ".join(str(item) for item in row) + " |" for row in body), ""]


def _matrix(report: Report) -> list[str]:
    if not report.modes:
        return []

    def cell_text(cells: tuple[Cell, ...]) -> str:
        return "<br>".join(
            f"{MARKS[tone(one)]} {_md(one.words)}".strip() + (f" **{one.tag}**" if one.tag else "") for one in cells
        )

    def named(row: MatrixRow) -> str:
        return _md(row.scenario) + (f"<br><sub>{_md(row.what)}</sub>" if row.what else "")

    body = ((row.number or "", named(row), *map(cell_text, row.cells)) for row in rows(report.modes))
    legend = [f"- **{_md(word)}**: {_md(meaning)}" for word, meaning in LEGEND.items()]
    return [
        *("## Failure modes", "", *_table(("#", "failure mode", *map(_md, targets(report.modes))), body)),
        *("<details><summary>What the words mean</summary>", "", *legend, "", "</details>", ""),
    ]


def _found(title: str, cells: Sequence[Cell], *, folded: bool = False) -> list[str]:
    found = [cell for cell in cells if cell.sentence or not cell.is_expected]
    if not found:
        return []
    lines = [f"<details><summary>{title}</summary>", ""] if folded else [f"## {title}", ""]
    for cell in found[:MOST_SAID]:
        detail = cell.sentence or cell.note or f"expected {cell.expected}"
        again = f" {_code(cell.again)}" if cell.again else ""
        lines.append(f"- **{_md(cell.target)} {_md(cell.scenario)}**: {_md(cell.words)}. {_md(detail)}{again}")
    if len(found) > MOST_SAID:
        lines.append(f"- {len(found) - MOST_SAID} more")
    return [*lines, "", *(("</details>", "") if folded else ())]


def _load(report: Report) -> list[str]:
    lines = []
    for run in report.runs:
        if run.operations or run.breaches:
            broken = [f"- ❌ limit exceeded: {_md(line)}" for line in run.breaches]
            lines += [f"## Load: {_md(run.path)}", "", *broken, *([""] if broken else [])]
        if run.operations:
            kept = [f"{MARKS[tone(one)]} {_md(f'{one.target} {one.scenario}: {one.words}')}  " for one in run.cells]
            body = []
            for one in run.operations:
                p99_us = f"{value:,.0f}" if (value := one.at_us(99)) else "too few"
                p99_9_us = f"{value:,.0f}" if (value := one.at_us(99.9)) else "too few"
                body.append((_md(one.name), f"{one.count:,}", f"{one.rate_per_s:,.0f}", p99_us, p99_9_us, one.failed))
            p99 = "p99 µs, closed loop" if run.is_closed else "p99 µs, corrected"
            generator = [f"{_md(line)}  " for line in run.generator]
            lines += [
                *kept,
                *generator,
                "",
                *_table(("operation", "count", "per second", p99, "p99.9", "failed"), body),
            ]
    return lines


def _benchmarks(report: Report) -> list[str]:
    lines = []
    for found in report.measured:
        lines += [f"## Benchmarks: {_md(found.name)}", ""]
        body = []
        for one in found.ratios:
            ratio = f"{one.ratio:.2f}" + (f" ({one.low:.2f}–{one.high:.2f})" if one.low and one.high else "")
            limit = "" if one.limit is None else f"{one.limit:g}" + (" **past**" if one.past else "")
            body.append((_md(one.target), _md(one.operation), ratio, limit))
        lines += _table(("target", "operation", "ratio to floor", "limit"), body)
        if found.claims:
            claims = ((_md(one.claim), _md(one.measured), _md(one.verdict)) for one in found.claims)
            lines += _table(("claim", "measured", "verdict"), claims)
    return lines


def _runs(report: Report) -> list[str]:
    if not report.runs:
        return []
    body = []
    for run in report.runs:
        where = ", ".join(filter(None, (run.machine, run.versions)))
        body.append((_code(run.command or run.path), _md(run.seed), _md(run.server), _md(where)))
    return ["## How to repeat it", "", *_table(("command", "seed", "server", "machine and versions"), body)]


def _skipped(report: Report) -> list[str]:
    if not report.skipped:
        return []
    return ["## Not in this report", "", *(f"- {_code(one.path)}: {_md(one.reason)}" for one in report.skipped), ""]


def junit(report: Report) -> str:
    """JUnit XML: a suite a run, a case a cell.

    Failed: not as expected. Error: inconclusive. Skipped: does not apply. A known violation passes, and says so.
    """
    root = ET.Element("testsuites", name="podrace")
    for run in report.runs:
        _suite(root, run.path, [_case(cell) for cell in run.cells] + _other_cases(run, report))
    cases = [_other("files", one.path, "skipped", one.reason) for one in report.skipped]
    _suite(root, "files that could not be read", cases)
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, 0)) for suite in root)))
    for element in root.iter():
        element.text = presentable(element.text) if element.text else None
        element.attrib.update({key: presentable(value) for key, value in element.attrib.items()})
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, name: str, cases: list[ET.Element]) -> None:
    if not cases:
        return
    counted = {
        kind: sum(case.find(tag) is not None for case in cases)
        for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    time_s = sum(float(case.get("time", 0)) for case in cases)
    suite = ET.SubElement(root, "testsuite", name=name, tests=str(len(cases)), time=f"{time_s:.3f}")
    suite.attrib.update({kind: str(count) for kind, count in counted.items()})
    suite.extend(cases)


def _case(cell: Cell) -> ET.Element:
    fleet = f" ({cell.fleet})" if cell.fleet else ""
    case = ET.Element("testcase", classname=f"podrace.{cell.target}", name=cell.scenario + fleet)
    case.set("time", f"{cell.elapsed_s:.3f}")
    detail = "\n".join(text for text in (cell.sentence, cell.note, cell.again) if text)
    if not cell.is_expected:
        outcome = "error" if cell.verdict == "inconclusive" else "failure"
        message = f"{cell.verdict} ({cell.words}), expected {cell.expected}"
        ET.SubElement(case, outcome, message=message, type=cell.verdict).text = detail
    elif cell.verdict == NOT_APPLICABLE:
        ET.SubElement(case, "skipped", message=cell.note or "does not apply: its fault found nothing to strike")
    elif cell.verdict == "inconclusive":
        ET.SubElement(case, "skipped", message=cell.note or "inconclusive, as expected")
    elif cell.verdict == "violated":
        properties = ET.SubElement(case, "properties")
        ET.SubElement(properties, "property", name="known-violation", value=cell.words)
        ET.SubElement(case, "system-out").text = f"known violation: {cell.words}\n{detail}".rstrip()
    elif detail:
        ET.SubElement(case, "system-out").text = detail
    return case


def _other_cases(run: Run, report: Report) -> list[ET.Element]:
    """Test cases for what is not a cell: exceeded limits, claims, ratios with a limit."""
    cases = [_other("load", line, "failure", line) for line in run.breaches]
    found = next((one for one in report.measured if one is run.benchmarks), None)
    for claim in found.claims if found else ():
        outcome = "" if claim.holds else "failure" if claim.must else "skipped"
        cases.append(_other("claims", claim.claim, outcome, f"measured {claim.measured}: {claim.verdict}"))
    for one in found.ratios if found else ():
        if one.limit is not None:
            message = f"ratio {one.ratio:.2f} is past the limit {one.limit:g}"
            cases.append(_other(f"benchmark.{one.target}", one.operation, "failure" if one.past else "", message))
    return cases


def _other(group: str, name: str, outcome: str, message: str) -> ET.Element:
    case = ET.Element("testcase", classname=f"podrace.{group}", name=name, time="0")
    if outcome:
        ET.SubElement(case, outcome, message=message)
    return case
