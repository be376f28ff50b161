"""Builds one report from paths: `build(paths, out=…, format="html")`."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
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
    drawn: list[tuple[str, str]] = [(cell.anchor, _timeline(cell, alone=True)) for cell in report.cells if cell.history]
    drawn += [pair for _, pairs in _load_charts(report, alone=True) for pair in pairs]
    drawn += [*_rate_chart(report, alone=True), *_ratio_charts(report, alone=True)]
    drawn += [pair for _, pairs in _over_time(report, alone=True) for pair in pairs]
    if report.modes:
        drawn.append(("matrix", matrix.picture(report.modes, name="matrix")))
    return {f"{stem}.svg": svg for stem, svg in drawn}


def page(report: Report) -> str:
    """The whole report as one HTML page that needs nothing else."""
    tone, line = matrix.verdict(report)
    found = sorted((cell for cell in report.cells if cell.anchor), key=matrix.by_importance)
    load, rates, ratios = _load_charts(report), _rate_chart(report), _ratio_charts(report)
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
        "loads": [(run, [svg for _, svg in pairs]) for run, pairs in load],
        "rates": [svg for _, svg in rates],
        "ratios": [svg for _, svg in ratios],
        "over_time": [(run, [svg for _, svg in pairs]) for run, pairs in _over_time(report)],
        "claims": [claim for one in report.measured for claim in one.claims],
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


def _load_charts(report: Report, *, alone: bool = False) -> list[tuple[Run, list[tuple[str, Markup]]]]:
    """Each load test's percentile curves by operation, as far as there are enough samples."""
    found = []
    for number, run in enumerate((run for run in report.runs if run.operations or run.breaches), 1):
        named = {f"load-{number}-{place}": one for place, one in enumerate(run.operations[:MOST_CURVES], 1)}
        drawn = {name: one for name, one in named.items() if one.points(one.corrected) or one.points(one.raw)}
        found.append((run, [(name, charts.percentiles(one, name=name, alone=alone)) for name, one in drawn.items()]))
    return found


def _over_time(report: Report, *, alone: bool = False) -> list[tuple[Run, list[tuple[str, Markup]]]]:
    """Each free fleet's run over time."""
    found = []
    for number, run in enumerate((run for run in report.runs if run.over_time), 1):
        assert run.over_time is not None
        svgs = charts.over_time(run.over_time, name=f"over-time-{number}", alone=alone)
        found.append((run, list(zip((f"over-time-{number}-rate", f"over-time-{number}-latency"), svgs, strict=True))))
    return found[:MOST_CURVES]


def _rate_chart(report: Report, *, alone: bool = False) -> list[tuple[str, Markup]]:
    loads = [run for run in report.runs if run.rates or any(one.at_us(99) for one in run.operations)]
    return [(RATES, charts.rate_against_p99(loads, name=RATES, alone=alone))] if loads else []


def _ratio_charts(report: Report, *, alone: bool = False) -> list[tuple[str, Markup]]:
    before = report.baseline.ratios if report.baseline else []
    return [
        (f"ratios-{number}", charts.ratios(one.ratios, before, name=f"ratios-{number}", alone=alone))
        for number, one in enumerate(report.measured, 1)
        if one.ratios
    ]


FORMATS: dict[str, Callable[[Report], str | dict[str, str]]] = {
    "html": page,
    "markdown": text.markdown,
    "junit": text.junit,
    "svg": pictures,
}
"""Every form of a report: one text, or the texts of several files."""
