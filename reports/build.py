"""Paths in, one report out: `build(paths, out=…, format="html")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from reports import charts, matrix, text
from reports.drawing import draw, svg_css
from reports.records import Cell, Report
from reports.results import read_results
from reports.timeline import timeline

MOST_BYTES = 950_000
"""A page stays under 1 MB: pictures that would make it longer are left out, and it says so."""
FEW_PICTURES = 4
"""So many counterexamples stand open; more are closed until somebody opens them."""


MOST_CURVES = 24
"""Operations of one load test that are drawn."""


@dataclass(frozen=True)
class Shown:
    """A cell with its picture, or without where the page is full."""

    cell: Cell
    svg: Markup | None


def build(paths: Sequence[Path], *, out: Path, format: str = "html") -> Report:  # noqa: A002 - as the option is called
    """Read what the paths hold and write the report to `out`: a file; for `svg` a folder. Returns what was read."""
    report = read_results(paths)
    matrix.name_anchors(report.cells)
    FORMATS[format](report, out)
    return report


def write_html(report: Report, out: Path) -> None:
    _write(out, page(report))


def write_markdown(report: Report, out: Path) -> None:
    _write(out, text.markdown(report))


def write_junit(report: Report, out: Path) -> None:
    _write(out, text.junit(report))


def write_svg(report: Report, out: Path) -> None:
    """Each picture as a file of its own, named by what it shows."""
    for cell in _pictured(report):
        _write(out / f"{cell.anchor}.svg", _timeline(cell, alone=True))
    charts_alone = [pair for _, pairs in _load_charts(report, alone=True) for pair in pairs]
    for stem, svg in charts_alone + _ratio_charts(report, alone=True):
        _write(out / f"{stem}.svg", svg)


FORMATS: dict[str, Callable[[Report, Path], None]] = {
    "html": write_html,
    "markdown": write_markdown,
    "junit": write_junit,
    "svg": write_svg,
}
"""Every form of a report."""


def page(report: Report) -> str:
    """The whole report as one HTML page that needs nothing else."""
    tone, line = matrix.verdict(report)
    found = sorted((cell for cell in report.cells if cell.anchor), key=_by_importance)
    load, ratios = _load_charts(report), _ratio_charts(report)
    left = (
        MOST_BYTES
        - _size(*(svg for _, pairs in [*load, ("", ratios)] for _, svg in pairs))
        - 600 * len(report.cells)
        - 40_000
    )
    shown = []
    for cell in found:
        svg = _timeline(cell) if cell.history else None
        if svg is not None and _size(svg) > left:
            svg = None
        left -= _size(svg or "") + 1500
        if left < 0:
            break
        shown.append(Shown(cell, svg))
    for cell in found[len(shown) :]:
        cell.anchor = ""
    return str(
        draw(
            "page.html.j2",
            css=svg_css(),
            report=report,
            tone=tone,
            facts=_facts(report),
            verdict=line,
            targets=matrix.targets(report.cells),
            rows=matrix.rows(report.cells),
            tone_of=matrix.tone,
            shown=shown,
            more=len(found) - len(shown),
            all_open=len(shown) <= FEW_PICTURES,
            breaches=[line for run in report.runs for line in run.breaches],
            load=[(heading, [svg for _, svg in pairs]) for heading, pairs in load],
            ratios=[svg for _, svg in ratios],
            claims=[claim for one in report.measured for claim in one.claims],
        )
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """What the page's head says of the runs: every seed and server that there was."""
    found = []
    for name, values in (("seed", [run.seed for run in report.runs]), ("", [run.server for run in report.runs])):
        known = list(dict.fromkeys(value for value in values if value))
        if known:
            found.append((name, ", ".join(known[:3])))
    return found


def _pictured(report: Report) -> list[Cell]:
    return [cell for cell in report.cells if cell.anchor and cell.history]


def _by_importance(cell: Cell) -> tuple[bool, bool]:
    return cell.is_expected, cell.verdict == "holds"


def _timeline(cell: Cell, *, alone: bool = False) -> Markup:
    title = f"{cell.target}: {cell.scenario}"
    said = cell.sentence or f"{cell.verdict}: {cell.words}"
    return timeline(cell.history, title=title, sentence=said, name=f"picture-{cell.anchor}", alone=alone)


def _load_charts(report: Report, *, alone: bool = False) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """By heading: each load test's percentile curves by operation; all rates against p99."""
    loads = [run for run in report.runs if run.operations]
    found = []
    for number, run in enumerate(loads, 1):
        drawn = []
        for position, operation in enumerate(run.operations[:MOST_CURVES], 1):
            if any(operation.curves.values()):
                name = f"load-{number}-{position}"
                drawn.append((name, charts.percentiles(operation, name=name, alone=alone)))
        more = len(run.operations) - MOST_CURVES
        found.append((run.path + (f", {more} operations more" if more > 0 else ""), drawn))
    if loads:
        name = "rate-against-p99"
        svg = charts.rate_against_p99(loads, name=name, alone=alone)
        found.append(("", [(name, svg)]))
    return found


def _ratio_charts(report: Report, *, alone: bool = False) -> list[tuple[str, Markup]]:
    before = report.baseline.ratios if report.baseline else []
    return [
        (f"ratios-{number}", charts.ratios(one.ratios, before, name=f"ratios-{number}", alone=alone))
        for number, one in enumerate(report.measured, 1)
        if one.ratios
    ]


def _size(*parts: str) -> int:
    return sum(len(part.encode("utf-8", "backslashreplace")) for part in parts)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
