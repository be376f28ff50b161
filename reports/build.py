"""Builds one report from paths: `build(paths, out=…, format="html")`."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from podrace.reports import charts, matrix, text
from podrace.reports.drawing import draw
from podrace.reports.records import Cell, Report, Run
from podrace.reports.results import read_results
from podrace.reports.timeline import NARROW, WIDE, timeline

MOST_BYTES = 980_000
"""A page stays under 1 MB: pictures that would make it longer are left out, and it says so."""
FEW_PICTURES = 4
"""If there are no more counterexamples than this, all are shown open; otherwise only the first is."""
MOST_CURVES = 24
"""No more operations of one load test are drawn."""
MOST_ITEMS = 200
"""A table has no more rows than this, and a list no more items."""
RATES = "rate-against-p99"
PAGE_PARTS = ("loads", "rates", "ratios", "over_time")
MARKS = (b"<title>podrace: ", b"# podrace\n", b'<testsuites name="podrace"', b'class="podrace')
"""Every report contains one of these near its beginning."""
PARTS = (("Not as expected", False), ("As expected", True))


def build(paths: Sequence[Path], *, out: Path, format: str = "html") -> Report:  # noqa: A002 - as the option is called
    """Read what the paths hold and write the report to `out`: a file; for `svg` a folder. Returns what was read.

    Raises FileExistsError where that would replace a file that is no report of podrace.
    """
    report, made = read_and_draw(paths, format=format)
    files = {out: made} if isinstance(made, str) else {out / name: svg for name, svg in made.items()}
    for path in files:
        if path.is_file() and not _may_be_replaced(path):
            raise FileExistsError(errno.EEXIST, "it holds something else than a report of podrace", str(path))
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", opener=_open_at_once) as file:
            file.write(content)
    return report


def read_and_draw(paths: Sequence[Path], *, format: str) -> tuple[Report, str | dict[str, str]]:  # noqa: A002
    """What the paths hold, and the report on it: one text, or the texts of several files by their names."""
    report = read_results(paths)
    matrix.name_anchors(report.cells)
    return report, FORMATS[format](report)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file for writing; a pipe that nobody reads is an error, where one would wait for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is empty or a report of podrace. Other files are never overwritten."""
    with path.open("rb") as file:
        start = file.read(1000)
    return not start or any(mark in start for mark in MARKS)


def pictures(report: Report) -> dict[str, str]:
    """Each picture as a file of its own, named by what it shows."""
    drawn: dict[str, str] = {cell.anchor: _timeline(cell, alone=True) for cell in report.cells if cell.history}
    for _, _, svgs in _charts(report, alone=True):
        drawn |= svgs
    if report.modes:
        drawn["matrix"] = matrix.picture(report.modes, name="matrix")
    return {f"{stem}.svg": svg for stem, svg in drawn.items()}


def page(report: Report) -> str:
    """The whole report as one HTML page that needs nothing else."""
    tone, line = matrix.verdict(report)
    found = sorted((cell for cell in report.cells if cell.anchor), key=matrix.by_importance)
    parts: dict[str, list[tuple[Run | None, list[Markup]]]] = {name: [] for name in PAGE_PARTS}
    for name, run, made in _charts(report):
        parts[name].append((run, list(made.values())))
    shown = found[:MOST_ITEMS]
    for cell in found[MOST_ITEMS:]:
        cell.anchor = ""
    values: dict[str, Any] = {
        "report": report,
        "tone": tone,
        "common": _common(report),
        "verdict": line,
        "matrix": matrix,
        "microseconds": charts.microseconds,
        "found": {title: [cell for cell in shown if cell.is_expected is known] for title, known in PARTS},
        "first": shown[0] if shown else None,
        "left_out": len(found) - len(shown),
        "most": MOST_ITEMS,
        "few": len(shown) <= FEW_PICTURES,
        "claims": [claim for one in report.measured for claim in one.claims],
        **parts,
    }
    left = MOST_BYTES - len(draw("page.html.j2", **values, pictures={}).encode())
    drawn: dict[str, list[Markup]] = {}
    for cell in shown:
        svgs = [_timeline(cell), _timeline(cell, narrow=True)] if cell.history and left > 0 else []
        if svgs and (size := sum(len(svg.encode()) for svg in svgs) + 100) <= left:
            drawn[cell.anchor] = svgs
            left -= size
    return str(draw("page.html.j2", **values, pictures=drawn))


FACTS = ("seed", "server", "machine", "versions")


def _common(report: Report) -> dict[str, str]:
    """The facts that most runs share. They stand once in the page's head; a run repeats only what differs."""
    facts = {name: Counter(value for run in report.runs if (value := getattr(run, name))) for name in FACTS}
    return {name: values.most_common(1)[0][0] for name, values in facts.items() if values}


def _timeline(cell: Cell, *, alone: bool = False, narrow: bool = False) -> Markup:
    title = f"{cell.target}: {cell.scenario}" + ("" if cell.sentence else f", {cell.words}")
    name = f"picture-{cell.anchor}" + ("-narrow" if narrow else "")
    layout = NARROW if narrow else WIDE
    return timeline(cell.history, title=title, sentence=cell.sentence, name=name, alone=alone, layout=layout)


def _charts(report: Report, *, alone: bool = False) -> Iterator[tuple[str, Run | None, dict[str, Markup]]]:
    """The charts by their names, with the part of the page in which they stand, and their run where they have one."""
    for number, run in enumerate((run for run in report.runs if run.operations or run.breaches), 1):
        named = {f"load-{number}-{place}": one for place, one in enumerate(run.operations[:MOST_CURVES], 1)}
        drawn = {name: one for name, one in named.items() if one.points(one.corrected) or one.points(one.raw)}
        yield "loads", run, {name: charts.percentiles(one, name=name, alone=alone) for name, one in drawn.items()}
    searched = [run for run in report.runs if run.rates or any(one.at_us(99) for one in run.operations)]
    if searched:
        yield "rates", None, {RATES: charts.rate_against_p99(searched, name=RATES, alone=alone)}
    before = report.baseline.ratios if report.baseline else []
    for name, one in ((f"ratios-{number}", one) for number, one in enumerate(report.measured, 1) if one.ratios):
        yield "ratios", None, {name: charts.ratios(one.ratios, before, name=name, alone=alone)}
    for number, run in enumerate([run for run in report.runs if run.over_time][:MOST_CURVES], 1):
        assert run.over_time is not None
        yield "over_time", run, charts.over_time(run.over_time, name=f"over-time-{number}", alone=alone)


FORMATS: dict[str, Callable[[Report], str | dict[str, str]]] = {
    "html": page,
    "markdown": text.markdown,
    "junit": text.junit,
    "svg": pictures,
}
"""Every form of a report: one text, or the texts of several files."""
