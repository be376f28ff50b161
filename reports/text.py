"""The report as Markdown, for a CI job's summary, and as JUnit XML, a test case a cell."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from podrace.reports.matrix import rows, targets, tone, verdict
from podrace.reports.records import Cell, Report, Run
from podrace.reports.words import presentable

MOST_BYTES = 900_000
"""A job's summary on GitHub holds 1 MiB."""
MOST_SAID = 60
MARKS = {"severe": "❌", "bad": "⚠️", "fine": "✅", "none": "", "unknown": "❔"}


def markdown(report: Report) -> str:
    """The verdict, the matrix, what was found and how to repeat it; cut with "n more" before it is too long."""
    how, line = verdict(report)
    lines = ["# podrace", "", f"{MARKS[how]} **{_md(line)}**", ""]
    for part in (
        _matrix(report),
        _found(report),
        _load(report),
        _benchmarks(report),
        _runs(report),
        _skipped(report),
    ):
        lines += part
    size, kept = 0, []
    for number, text in enumerate(lines):
        size += len(text.encode("utf-8", "backslashreplace")) + 1
        if size > MOST_BYTES:
            kept += ["", f"{len(lines) - number:,} more lines"]
            break
        kept.append(text)
    return presentable("\n".join(kept) + "\n")


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


def _table(heads: tuple[str, ...], body: Iterator[tuple[object, ...]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return [*lines, *("| " + " | ".join(str(item) for item in row) + " |" for row in body), ""]


def _matrix(report: Report) -> list[str]:
    if not report.modes:
        return []

    def said(cells: tuple[Cell, ...]) -> str:
        return "<br>".join(
            f"{MARKS[tone(one)]} {_md(one.words)}".strip() + ("" if one.is_expected else " **(unexpected)**")
            for one in cells
        )

    body = (
        (row.number if row.number is not None else "", _md(row.scenario), *map(said, row.cells))
        for row in rows(report.modes)
    )
    return ["## Failure modes", "", *_table(("#", "failure mode", *map(_md, targets(report.modes))), body)]


def _found(report: Report) -> list[str]:
    found = sorted((cell for cell in report.cells if cell.sentence), key=lambda cell: cell.is_expected)
    if not found:
        return []
    lines = ["<details><summary>What was found, and how to see it again</summary>", ""]
    for cell in found[:MOST_SAID]:
        again = f" {_code(cell.again)}" if cell.again else ""
        lines.append(f"- **{_md(cell.target)} {_md(cell.scenario)}**: {_md(cell.sentence)}{again}")
    if len(found) > MOST_SAID:
        lines.append(f"- {len(found) - MOST_SAID} more")
    return [*lines, "", "</details>", ""]


def _load(report: Report) -> list[str]:
    lines = []
    for run in report.runs:
        lines += [*(f"- ❌ limit exceeded: {_md(line)}" for line in run.breaches), ""] if run.breaches else []
        if run.operations:
            body = (
                (_md(one.name), f"{one.count:,}", f"{one.rate_per_s:,.0f}", f"{one.at_us(99) or 0:,.0f}", one.errors)
                for one in run.operations
            )
            lines += [f"## Load: {_md(run.path)}", ""]
            lines += [
                f"{MARKS[tone(one)]} {_md(f'{one.target} {one.scenario}: {one.words}')}  " for one in run.cells
            ] + [""]
            lines += _table(("operation", "count", "per second", "p99 µs, corrected", "failed"), body)
    return lines


def _benchmarks(report: Report) -> list[str]:
    lines = []
    for found in report.measured:
        lines += [f"## Benchmarks: {_md(found.name)}", ""]
        body = (
            (
                _md(one.target),
                _md(one.operation),
                f"{one.ratio:.2f}" + (f" ({one.low:.2f}–{one.high:.2f})" if one.low and one.high else ""),
                "" if one.limit is None else f"{one.limit:g}" + (" **past**" if one.past else ""),
            )
            for one in found.ratios
        )
        lines += _table(("target", "operation", "ratio to floor", "limit"), body)
        if found.claims:
            claims = ((_md(one.claim), _md(one.measured), _md(one.verdict)) for one in found.claims)
            lines += _table(("claim", "measured", "verdict"), claims)
    return lines


def _runs(report: Report) -> list[str]:
    if not report.runs:
        return []
    body = ((_code(run.command or run.path), _md(run.seed), _md(run.server), _md(_where(run))) for run in report.runs)
    return ["## How to repeat it", "", *_table(("command", "seed", "server", "machine and versions"), body)]


def _where(run: Run) -> str:
    return ", ".join(part for part in (run.machine, run.versions) if part)


def _skipped(report: Report) -> list[str]:
    if not report.skipped:
        return []
    return ["## Not in this report", "", *(f"- {_code(one.path)}: {_md(one.reason)}" for one in report.skipped), ""]


def junit(report: Report) -> str:
    """JUnit XML: a suite a run, a case a cell. Failed: not as expected. Error: inconclusive."""
    root = ET.Element("testsuites", name="podrace")
    for run in report.runs:
        _suite(root, run.path, [_case(cell) for cell in run.cells] + _other_cases(run, report))
    cases = []
    for skipped in report.skipped:
        case = ET.Element("testcase", classname="podrace.files", name=skipped.path, time="0")
        ET.SubElement(case, "skipped", message=skipped.reason)
        cases.append(case)
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
    message = f"{cell.verdict} ({cell.words}), expected {cell.expected}"
    if cell.is_expected:
        if cell.verdict == "inconclusive":
            ET.SubElement(case, "skipped", message=cell.note or "inconclusive, as expected")
        elif detail:
            ET.SubElement(case, "system-out").text = f"{cell.words}\n{detail}"
    else:
        kind = "error" if cell.verdict == "inconclusive" else "failure"
        ET.SubElement(case, kind, message=message, type=cell.verdict).text = detail
    return case


def _other_cases(run: Run, report: Report) -> list[ET.Element]:
    """Cases of what is no cell: exceeded limits, claims, ratios that have a limit."""
    cases = []
    for line in run.breaches:
        case = ET.Element("testcase", classname="podrace.load", name=line, time="0")
        ET.SubElement(case, "failure", message=line)
        cases.append(case)
    found = next((one for one in report.measured if one is run.benchmarks), None)
    for claim in found.claims if found else ():
        case = ET.Element("testcase", classname="podrace.claims", name=claim.claim, time="0")
        if not claim.holds:
            kind = "failure" if claim.must else "skipped"
            ET.SubElement(case, kind, message=f"measured {claim.measured}: {claim.verdict}")
        cases.append(case)
    for one in found.ratios if found else ():
        if one.limit is not None:
            case = ET.Element("testcase", classname=f"podrace.benchmark.{one.target}", name=one.operation, time="0")
            if one.past:
                ET.SubElement(case, "failure", message=f"ratio {one.ratio:.2f} is past the limit {one.limit:g}")
            cases.append(case)
    return cases
