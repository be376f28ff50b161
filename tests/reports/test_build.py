"""Reports from folders and files: what is in them, what is skipped and named, what is escaped, how long they get."""

from __future__ import annotations

import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from podrace.reports.build import FORMATS, build
from podrace.reports.matrix import LEGEND
from podrace.reports.results import KINDS, read_results
from podrace.simulator.app.cli import main

Write = Callable[..., Path]
CELL = '{"version": 1, "cells": [{"target": "x", "scenario": "y", "verdict": "holds", "expected": "holds", '
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('&')</script>\x00\u202e\ud800"


class Page(HTMLParser):
    """Counts elements, and remembers ids, links and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(attribute))]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Page]:
    monkeypatch.chdir(tmp_path)

    def make(*paths: Path) -> Page:
        build(paths, out=Path("report.html"))
        return Page(Path("report.html"))

    return make


def test_the_page_says_the_verdict_first_and_how_to_repeat_it(page: Callable[..., Page], write_run: Write) -> None:
    text = page(write_run()).text
    assert "shared paused-pod: lost, as expected" in text
    assert "Not in this report" not in text
    for said in ("podrace matrix --budget 5", "seed", "valkey 9.1.2, embedded", "podrace replay"):
        assert said in text


def test_cells_link_to_their_counterexamples_and_the_unexpected_ones_are_marked(
    page: Callable[..., Page], write_run: Write, cell: Callable[..., Any]
) -> None:
    cells = [cell("local"), cell("shared", expected="holds"), cell("durable", verdict="holds")]
    found = page(write_run(cells=cells))
    links = [link[1:] for link in found.values("href")]
    ids = found.values("id")
    assert {"local-paused-pod", "shared-paused-pod"} <= set(links) <= set(ids)
    assert len(ids) == len(set(ids))
    assert "1 new violation: shared paused-pod (lost); 2 of 3 cells as expected (1 known" in found.text
    tags = [one for one in found.elements if one[1].get("class") in ("tag", "tag severe said")]
    assert len(tags) == 2, "in the matrix, and at its diagram"
    assert links.index("shared-paused-pod") > links.index("local-paused-pod"), "the matrix is in its own order"
    assert ids.index("shared-paused-pod") < ids.index("local-paused-pod"), "new races come before known ones"
    assert "image-1 of paused-pod was lost: B read <pending>." in found.text


def test_the_page_needs_nothing_from_elsewhere(
    page: Callable[..., Page], write_run: Write, write_load: Write, write_benchmark: Write
) -> None:
    found = page(write_run(), write_load(), write_benchmark())
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\(|@import|\bon\w+=", found.source)
    assert not [link for link in found.values("href") if not link.startswith("#")]
    for said in ("prefers-color-scheme", "@media print"):
        assert said in found.source


def test_any_mix_of_runs_loads_and_benchmarks_is_one_report(
    page: Callable[..., Page], write_run: Write, write_load: Write, write_benchmark: Write
) -> None:
    found = page(
        write_run(),
        write_load(),
        write_load("load-2", rate=400),
        write_benchmark("old.json", shift=0.1),
        write_benchmark(),
    )
    curves = [value for value in found.values("data-curve") if value in ("corrected", "uncorrected")]
    assert len(curves) == 2 * 3 * 2
    assert found.text.count("Rate against p99") == 2, "title and heading"
    assert found.values("class").count("ratio c0") == 3
    assert found.values("class").count("was") == 3
    assert found.text.count("about 1 ms an operation") == 1
    assert "Some CPU, 4 cores, Linux" in found.text


def test_a_folder_of_run_folders_is_read_whole(page: Callable[..., Page], write_run: Write, tmp_path: Path) -> None:
    write_run("runs/one")
    write_run("runs/two")
    assert "all 2 cells as expected" in page(tmp_path / "runs").text


def test_a_counterexample_by_itself_is_drawn(page: Callable[..., Page], write_run: Write) -> None:
    found = page(write_run() / "counterexample-0.podrace.json")
    assert "image-1 of paused-pod was lost" in found.text
    assert "svg" in {tag for tag, _ in found.elements}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"version": 1, "cells": [', "Expecting value"),
        ('{"cells": [], "version": 99}', "expected version 1"),
        ('{"a": 1}', "is none of the kinds"),
        ("[]", "expected a JSON object"),
        ("", "Expecting value"),
        ("\udcff", "codec can't decode"),
        ('{"version": 1, "cells": 3}', "damaged"),
        ('{"version": 1, "cells": [3, {"target": "x"}]}', "cell 2: damaged"),
        ('{"operations": [{"name": "x", "raw": {"curve": [[1]]}}]}', "operation 1: damaged"),
        ('{"benchmarks": [{"extra_info": {"ratio": "fast"}, "name": "x"}]}', "ratio 1: damaged"),
        ("[" * 100_000, "damaged"),
        (CELL + '"row": 1e400}]}', "cell 1: damaged"),
        (CELL + '"elapsed_s": NaN}]}', "cell 1: damaged"),
        ('{"operations": [{"name": "x", "raw": {"curve": [[50, 1e400]]}}]}', "operation 1: damaged"),
        ('{"operations": [{"name": "x", "rate_per_s": 1' + "0" * 400 + "}]}", "operation 1: damaged"),
        ('{"benchmarks": [{"extra_info": {"ratio": NaN}, "name": "x"}]}', "ratio 1: damaged"),
        ('{"benchmarks": [], "claims": [3]}', "claim 1: damaged"),
    ],
)
def test_a_damaged_or_foreign_file_is_named_and_the_others_are_shown(
    tmp_path: Path, page: Callable[..., Page], write_run: Write, content: str, reason: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    text = page(path, write_run()).text
    assert "Not in this report" in text
    assert str(path) in text
    assert reason in text
    assert "shared paused-pod: lost, as expected" in text


def test_the_undamaged_half_of_a_history_is_shown(page: Callable[..., Page], write_run: Write) -> None:
    folder = write_run()
    path = folder / "counterexample-0.history.jsonl"
    foreign = ['{"type": ["step"]}', '{"type": "ok", "call": []}', "7"]
    path.write_text("\n".join([*foreign, path.read_text()[:-200] + '{"type": "st']))
    text = page(folder).text
    assert "damaged line 1, 2, 3, " in text
    assert "add_message(alice, text, [i1], m1)" in text


def test_missing_files_and_unfinished_runs_are_named(
    page: Callable[..., Page], write_run: Write, tmp_path: Path
) -> None:
    unfinished = write_run("unfinished")
    (unfinished / "result.json").unlink()
    lonely = write_run("lonely")
    (lonely / "counterexample-0.podrace.json").unlink()
    text = page(unfinished, lonely, tmp_path / "nowhere").text
    assert "its run did not finish" in text
    assert "there is no such file or folder" in text
    assert "the counterexample of shared paused-pod cannot be read" in text


def test_an_empty_report_is_never_a_pass(page: Callable[..., Page], tmp_path: Path) -> None:
    assert "Nothing could be read, so nothing is known" in page(tmp_path / "nowhere").text


@pytest.mark.parametrize("form", list(FORMATS))
def test_what_users_wrote_is_escaped(tmp_path: Path, write_run: Write, cell: Callable[..., Any], form: str) -> None:
    actor = "A" + HOSTILE
    said = {"says": HOSTILE, "redis": f"SET {HOSTILE} redis://user:hunter2@host", "what": HOSTILE, "reply": HOSTILE}
    events = [
        {"type": "invoke", "actor": actor, "call": 1, "name": HOSTILE, "args": [HOSTILE], "says": HOSTILE},
        {"type": "step", "actor": actor, "kind": "redis", "deciding": True, **said},
        {"type": "step", "actor": actor, "kind": "service", "service": HOSTILE, "says": HOSTILE},
    ]
    one = cell(HOSTILE, HOSTILE, words=HOSTILE, note=HOSTILE, expected="holds")
    folder = write_run("a&b <script>", cells=[one], events=events, command=[HOSTILE], server={"kind": HOSTILE})
    out = tmp_path / "out"
    build([folder, tmp_path / "<script>gone"], out=out, format=form)
    for path in sorted(out.iterdir()) if out.is_dir() else [out]:
        text = path.read_text(encoding="utf-8")
        assert "<script" not in re.sub(r"`[^`]*`", "", text), "Markdown shows what is code as it is"
        assert "\x00" not in text
        assert "hunter2" not in text
        assert "\u202e" not in text
        if form in ("svg", "junit"):
            ET.fromstring(text)


def test_junit_has_a_case_a_cell_and_never_passes_what_is_unknown(
    tmp_path: Path, write_run: Write, cell: Callable[..., Any]
) -> None:
    cells = [
        cell("local"),
        cell("shared", expected="holds"),
        cell("durable", verdict="inconclusive", expected="holds", note="the budget was spent"),
        cell("own", verdict="holds"),
        cell("own", "clock-skew", verdict="not-applicable", expected="holds", note="no clock was read"),
    ]
    build([write_run(cells=cells), tmp_path / "gone"], out=tmp_path / "junit.xml", format="junit")
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert root.tag == "testsuites"
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6",
        "failures": "1",
        "errors": "1",
        "skipped": "2",
    }
    for suite in root:
        assert suite.tag == "testsuite"
        assert int(suite.get("tests", 0)) == len(suite.findall("testcase"))
        for case in suite:
            assert case.get("name")
            assert case.get("classname")
            assert float(case.get("time", "nan")) >= 0
            assert {child.tag for child in case} <= {"failure", "error", "skipped", "system-out", "properties"}
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == "violated (lost), expected holds"
    assert "B read <pending>" in (failure.text or "")
    assert next(one.get("message") for one in root.iter("skipped")) == "no clock was read"
    assert [(one.get("name"), one.get("value")) for one in root.iter("property")] == [("known-violation", "lost")]
    (known,) = (one for one in root.iter("testcase") if one.find("properties") is not None)
    assert known.get("classname") == "podrace.local"
    assert (known.findtext("system-out") or "").startswith("known violation: lost\nimage-1 of paused-pod was lost")


def test_markdown_has_the_matrix_and_fits_a_summary(tmp_path: Path, write_run: Write, cell: Callable[..., Any]) -> None:
    cells = [cell("a|b", f"scenario-{number}", verdict="holds", note="n" * 300) for number in range(20_000)]
    build([write_run(cells=cells)], out=tmp_path / "report.md", format="markdown")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| # | failure mode | a\\|b |" in text
    assert len(text.encode()) < 1_000_000


def test_a_page_stays_under_1_mb_and_says_what_is_left_out(
    page: Callable[..., Page], write_run: Write, cell: Callable[..., Any]
) -> None:
    step = {"type": "step", "kind": "redis", "says": "SET", "what": "é&" * 200, "reply": "OK"}
    events = [step | {"actor": "ABCDEF"[n % 6], "redis": f"SET {'é&' * 150}{n} v → OK"} for n in range(200)]
    cells = [cell("shared", f"scenario-{number}") for number in range(60)]
    found = page(write_run(cells=cells, events=events))
    assert len(found.source.encode()) < 1_000_000
    assert "the page would be too long" in found.text
    assert {link[1:] for link in found.values("href")} <= set(found.values("id"))


def test_a_run_of_100_000_events_is_reported_in_five_seconds(page: Callable[..., Page], write_run: Write) -> None:
    event = {"type": "step", "actor": "A", "kind": "redis", "says": "GET", "redis": "GET upload_status:x → nil"}
    folder = write_run(events=[event] * 100_000)
    began_s = time.process_time()  # of the processor, however busy the machine is
    assert "99,922 more" in page(folder).text
    assert time.process_time() - began_s < 5


def test_svgs_alone_are_one_file_a_picture(
    tmp_path: Path, write_run: Write, write_load: Write, write_benchmark: Write
) -> None:
    build([write_run(), write_load(), write_benchmark()], out=tmp_path / "svgs", format="svg")
    names = sorted(path.name for path in (tmp_path / "svgs").iterdir())
    loads = ["load-1-1.svg", "load-1-2.svg", "load-1-3.svg"]
    assert names == [*loads, "matrix.svg", "rate-against-p99.svg", "ratios-1.svg", "shared-paused-pod.svg"]
    for path in (tmp_path / "svgs").iterdir():
        svg = ET.parse(path).getroot()
        assert svg.get("role") == "img"
        labels = {one.get("id"): one.text for one in svg if one.tag in (SVG + "title", SVG + "desc")}
        assert all(labels.get(name) for name in svg.get("aria-labelledby", "").split())
        assert len(labels) == 2


def test_the_pictures_of_the_readme_are_there_and_say_what_they_show() -> None:
    root = Path(build.__code__.co_filename).parents[2]
    shown = re.findall(r"!\[(.+?)\]\((\S+\.svg)\)", (root / "README.md").read_text(encoding="utf-8"))
    assert len(shown) == 2
    for _, path in shown:
        assert ET.parse(root / path).getroot().findtext(SVG + "title")


@pytest.mark.parametrize(
    ("paths", "out", "code", "says"),
    [
        (["run"], "report.html", 0, "shared paused-pod: lost, as expected\nreport: report.html"),
        (["run", "gone"], "report.html", 3, "shared paused-pod: lost, as expected\nreport: report.html"),
        (["gone"], "report.html", 3, "Nothing could be read"),
        (["run"], "run/result.json/report.html", 2, "expected a place that can be written"),
    ],
)
def test_the_command_says_the_verdict_and_what_is_left_out(
    tmp_path: Path,
    write_run: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    paths: list[str],
    out: str,
    code: int,
    says: str,
) -> None:
    write_run("run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["report", *paths, "--out", out])
    told = capsys.readouterr()
    assert ended.value.code == code
    assert says in told.out + told.err
    assert ("left out: gone: there is no such file or folder" in told.err) is ("gone" in paths)


def test_a_file_of_ratios_is_a_baseline(tmp_path: Path, page: Callable[..., Page], write_benchmark: Write) -> None:
    path = tmp_path / "podrace.reference.json"
    path.write_text(
        json.dumps({"ratios": {"shared get": 1.01, "shared push": {"ratio": 1.2, "low": 1.1, "high": 1.3}}})
    )
    assert page(path, write_benchmark()).values("class").count("was") == 1


def test_every_kind_is_told_by_what_it_has() -> None:
    assert len({kind.has for kind in KINDS}) == len(KINDS)
    assert [kind.name for kind in KINDS] == ["run", "load", "over time", "benchmark", "ratios", "counterexample"]


def test_an_exceeded_limit_and_a_refuted_claim_are_in_the_verdict(
    tmp_path: Path, page: Callable[..., Page], write_load: Write
) -> None:
    figure = {"claim": "get beside bare redis-py: at most 1.15", "measured": "1.31", "verdict": "does not hold"}
    figure["holds"] = False
    extra = {"figures": [figure | {"must": True}, figure | {"claim": "set", "must": False}]}
    claims = [{"claim": "no effect", "measured": "-20 %", "verdict": "does not hold", "holds": False}]
    path = tmp_path / "claims.json"
    path.write_text(json.dumps({"benchmarks": [{"name": "x", "extra_info": extra}], "claims": claims}))
    folder = write_load(breaches=["absorb: p99 900 µs > 5 µs"])
    text = page(folder, path).text
    assert (
        "1 limit of a load test exceeded: absorb: p99 900 µs > 5 µs; 3 of 3 claims do not hold: get beside bare" in text
    )
    assert "locust --rate 20" in text
    build([folder, path], out=tmp_path / "junit.xml", format="junit")
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert (root.get("failures"), root.get("skipped")) == ("2", "2"), "what need not hold is told, and fails nothing"


def test_every_word_of_the_matrix_and_every_row_is_explained(
    tmp_path: Path, page: Callable[..., Page], write_run: Write, cell: Callable[..., Any]
) -> None:
    folder = write_run(cells=[cell(what="a pod stands still"), cell("own", verdict="not-applicable", expected="holds")])
    build([folder], out=tmp_path / "report.md", format="markdown")
    for text in (page(folder).text, (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert "a pod stands still" in text
        assert "all 2 cells as expected (1 known to be violated, 1 not applicable)" in text
        for word in ("lost", "duplicated", "misreported", "stuck", "leaked", "ok", "–", "inconclusive", "new"):
            assert LEGEND[word] in text.replace("\\", "")


def test_what_is_not_applicable_is_no_pass_where_a_violation_was_expected(
    page: Callable[..., Page], write_run: Write, cell: Callable[..., Any]
) -> None:
    found = page(write_run(cells=[cell(verdict="not-applicable", expected="violated")]))
    assert "1 cell not as expected: shared paused-pod (–)" in found.text
    assert "0 of 0 hold" in found.text


def test_markdown_says_new_races_first_then_known_ones_then_each_limit_at_its_own_run(
    tmp_path: Path, write_run: Write, write_load: Write, cell: Callable[..., Any]
) -> None:
    run = write_run(cells=[cell("local"), cell("shared", expected="holds")])
    loads = [write_load("load-5"), write_load("load-20", breaches=["absorb: p99 9 ms > 5 ms"])]
    build([*loads, run], out=tmp_path / "report.md", format="markdown")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    said = (
        "## Not as expected",
        "**shared paused-pod**",
        "<summary>Known",
        "**local paused-pod**",
        "load-5\n",
        "load-20\n",
    )
    places = [text.index(one) for one in (*said, "limit exceeded: absorb: p99 9 ms")]
    assert places == sorted(places)


def test_a_limit_stands_at_its_own_run_in_the_page(page: Callable[..., Page], write_load: Write) -> None:
    text = page(write_load("load-5"), write_load("load-20", breaches=["absorb: too slow"])).text
    after = text[text.rindex("Limit exceeded: absorb: too slow") :]
    assert "load-5" in text[: -len(after)]
    assert "load-20" in text[: -len(after)].rsplit("load-5", 1)[1]


def test_a_percentile_is_shown_only_where_a_sample_lies_beyond_it(
    tmp_path: Path, page: Callable[..., Page], write_load: Write
) -> None:
    many, few, none = write_load("many"), write_load("few", count=100), write_load("none", count=1)
    cells = re.findall('<td class="n">(.*?)</td>', page(many, few, none).source)
    assert [cells.count(value) for value in ("300 µs", "2 ms", "9 ms", "12 ms")] == [6, 6, 3, 9], "p90, p99, p99.9, max"
    build([few], out=tmp_path / "few.md", format="markdown")
    assert (tmp_path / "few.md").read_text(encoding="utf-8").count("too few") == 3
    build([none], out=tmp_path / "svgs", format="svg")
    assert [path.name for path in (tmp_path / "svgs").iterdir()] == ["rate-against-p99.svg"], "of the search alone"


def test_open_and_closed_loops_are_curves_of_their_own(page: Callable[..., Page], write_load: Write) -> None:
    curves = page(write_load(), write_load("faster", rate=400), write_load("closed", rate=900, paced=False)).values
    found = curves("data-curve")
    assert [found.count(name) for name in ("absorb", "absorb, closed loop")] == [1, 1]
    assert found.count("closed loop") == 3, "nothing was due at a time: there is nothing to correct"


def test_targets_are_curves_of_their_own(page: Callable[..., Page], write_load: Write) -> None:
    found = page(write_load(), write_load("other", target="local")).values("data-curve")
    assert [found.count(name) for name in ("shared: absorb", "local: absorb", "absorb")] == [1, 1, 0]


def test_what_a_colour_says_can_be_read_on_its_ground_in_both_schemes() -> None:
    for scheme in (Path(build.__code__.co_filename).parent / "svg.css").read_text().split("@media screen"):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        light = {name: _luminance(value) for name, value in colours.items()}
        for name in ("blue", "vermilion", "green", "amber"):
            for ground in ("paper", f"{name}-tint"):
                low, high = sorted((light[name], light[ground]))
                assert (high + 0.05) / (low + 0.05) >= 4.5, f"{name} on {ground}"


def _luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_search_for_the_highest_rate_is_a_curve(page: Callable[..., Page], write_load: Write) -> None:
    """Only the windows count in which the server was the limit, not the generator."""
    folder = write_load()
    assert "all, searched" in page(folder).values("data-curve")
    (run,) = read_results([folder]).runs
    assert run.rates == [(19.5, 900.0), (39.0, 1800.0), (78.0, 3600.0)]


def test_what_the_generator_says_of_itself_stands_at_its_run(tmp_path: Path, write_load: Write) -> None:
    for form in ("html", "markdown"):
        build([write_load(form)], out=tmp_path / "report", format=form)
        assert "generator: woke up late by p50 9" in (tmp_path / "report").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("form", "begins"), [("html", "<!doctype html>"), ("markdown", "# podrace"), ("junit", "<?xml")]
)
def test_a_dash_prints_the_report_and_nothing_else(
    write_run: Write, capsys: pytest.CaptureFixture[str], form: str, begins: str
) -> None:
    folder = write_run("run")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(folder), "--format", form, "--out", "-"])
    told = capsys.readouterr()
    assert ended.value.code == 0
    assert told.out.startswith(begins)
    assert "as expected" in told.err
    assert not Path("-").exists()


@pytest.mark.parametrize("form", ["html", "markdown", "junit", "svg"])
def test_a_report_replaces_an_earlier_one(tmp_path: Path, write_run: Write, form: str) -> None:
    folder, out = write_run("run"), tmp_path / "out"
    build([folder], out=out, format=form)
    build([folder], out=out, format=form)
    files = [out] if out.is_file() else list(out.iterdir())
    files[0].write_text("notes", encoding="utf-8")
    with pytest.raises(FileExistsError):
        build([folder], out=out, format=form)
    assert files[0].read_text(encoding="utf-8") == "notes"


def test_a_free_fleets_run_is_drawn_over_time_with_its_faults_shaded(page: Callable[..., Page], tmp_path: Path) -> None:
    spans = [
        {"at_s": second + 0.5, "rate_per_s": 100.0 - second, "lost": second, "p50_us": 900.0, "p99_us": 5000.0}
        for second in range(10)
    ]
    faults = [{"name": "pause", "place": "<A>", "from_s": 2.0, "until_s": 4.5}]
    told = {
        "over_time": {"target": "local", "bin_s": 1.0, "bins": [*spans, {"at_s": 10.5, "rate_per_s": 0, "lost": 9}]}
    }
    told["over_time"]["faults"] = faults
    (tmp_path / "over-time.json").write_text(json.dumps(told))

    made = page(tmp_path / "over-time.json")

    shades = [attributes for name, attributes in made.elements if attributes.get("class") == "shade"]
    assert len(shades) == 2  # one in each picture
    assert all(float(str(one["width"])) > 100 for one in shades)
    assert {"calls a second", "lost so far", "p50", "p99"} <= set(made.values("data-curve"))
    assert "pause: <A>" in made.text
    assert "9 lost" in made.text


def test_a_damaged_run_over_time_is_named(page: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "over-time.json").write_text('{"over_time": {"target": "x", "bins": [{"at_s": "NaN"}], "faults": []}}')
    assert "over-time.json" in page(tmp_path / "over-time.json").text
