"""The page in a real browser, at 1280 and 400 px, light and dark: nothing overflows, no text lies on another.

At 400 px the texts of steps stand beneath the arrows and stay on the page; nobody has to scroll to the side.

One start of the browser sees them all, as frames side by side: a window without a screen is never narrower
than 500 px, a frame is, and it takes the colour scheme that it is given. Screenshots stay in pytest's folder
of the test, or in the folder that PODRACE_SCREENSHOTS names.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from podrace.reports.build import build

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium: apt-get install chromium")

WIDTHS, SCHEMES, HEIGHT = (1280, 400), ("light", "dark"), 4000
ANCHOR = "#shared-timeout"
MEASURE = """<script>addEventListener("load", () => setTimeout(() => {
  const found = {name: window.name, wide: [], overlaps: [], texts: 0, outside: []};
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target) found.target = target.getBoundingClientRect().height;
  document.querySelectorAll("details").forEach(one => one.open = true);
  found.page = document.documentElement.scrollWidth;
  for (const one of document.querySelectorAll("main *")) {
    if (one.closest(".wide:not(.beneath)") && !one.matches(".wide")) continue;
    if (one.getBoundingClientRect().right > innerWidth + 0.5) found.wide.push(one.outerHTML.slice(0, 120));
  }
  const scopes = [...document.querySelectorAll("svg")].map(svg => [svg, [...svg.querySelectorAll("text")]]);
  scopes.push([document.querySelector("main"), [...document.querySelectorAll(".cell, .mode, th, td.n")]]);
  for (const [scope, all] of scopes) {
    const edge = scope.getBoundingClientRect();
    const boxes = all.filter(one => one.textContent.trim() && !one.querySelector(".cell"))
      .map(one => [one.getBoundingClientRect(), one.textContent]);
    found.texts += boxes.length;
    boxes.forEach(([a, said], i) => {
      if (scope.matches("svg") && (a.right > edge.right + 1 || a.left < edge.left - 1 || a.bottom > edge.bottom + 1))
        found.outside.push(said);
      for (const [b, other] of boxes.slice(i + 1))
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
          found.overlaps.push([said, other]);
    });
  }
  document.querySelectorAll(".matrix .cell").forEach(one => {
    if (one.scrollWidth > one.clientWidth + 1) found.outside.push(one.textContent); });
  parent.postMessage(JSON.stringify(found), "*");
}, 0));</script>"""
FRAMES = """<!doctype html><meta name="color-scheme" content="light">
<style>body { margin: 0; display: flex; background: #888 } iframe { border: 0; height: %dpx; flex: none }</style>%s
<script>addEventListener("message", event => {
  const result = document.createElement("pre");
  result.className = "measured"; result.textContent = event.data; document.body.append(result); })</script>"""


def browse(folder: Path, frames: dict[str, tuple[str, int, str]]) -> dict[str, dict[str, Any]]:
    """One start for all frames, which are (address, width, scheme) by name; `frames.png` is their picture."""
    tags = "".join(
        f'<iframe name="{name}" src="{html.escape(url)}" style="width: {width}px; color-scheme: {scheme}"></iframe>'
        for name, (url, width, scheme) in frames.items()
    )
    (folder / "frames.html").write_text(FRAMES % (HEIGHT, tags), encoding="utf-8")
    window = f"--window-size={sum(width for _, width, _ in frames.values())},{HEIGHT}"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", window]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    command += [f"--screenshot={folder / 'frames.png'}", (folder / "frames.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    measured = [json.loads(html.unescape(one)) for one in re.findall(r'<pre class="measured">(.*?)</pre>', dom, re.S)]
    return {one["name"]: one for one in measured}


@pytest.fixture
def full_page(
    tmp_path: Path,
    write_run: Callable[..., Path],
    write_load: Callable[..., Path],
    write_benchmark: Callable[..., Path],
    cell: Callable[..., dict[str, Any]],
) -> Path:
    """One of everything, with names that are too long, pods that are too many and a third target."""
    cells = [cell("local"), cell("shared", expected="holds"), cell("durable", verdict="holds")]
    cells += [cell(target, "same", words="misreported, duplicated") for target in ("local", "shared", "durable")]
    cells += [
        cell("shared", "a-scenario-with-a-name-that-goes-on-" * 4),
        cell("shared", "timeout"),
    ]
    pods = [
        {"type": "step", "actor": f"pod-{n % 14}.worker-{n % 5}-of-a-long-name", "kind": "redis"}
        | {"says": "SET", "redis": "SET " + "W" * 200, "what": "SET", "reply": "W" * 90, "t_ms": 1e5 * n}
        for n in range(40)
    ]
    folder = write_run(cells=cells)
    crowd = write_run("crowd", cells=[cell("shared", "crowd")], events=pods)
    page = tmp_path / "report.html"
    paths = [folder, crowd, write_load(), write_load("faster", rate=900), tmp_path / ("gone" * 60)]
    build([*paths, write_benchmark("baseline.json"), write_benchmark(shift=0.05)], out=page)
    return page


def test_nothing_overflows_no_text_lies_on_another_and_a_link_opens_what_it_links_to(
    tmp_path: Path, full_page: Path
) -> None:
    text = full_page.read_text(encoding="utf-8")
    (tmp_path / "copy.html").write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    frames = {f"report-{width}-{scheme}": ("copy.html", width, scheme) for scheme in SCHEMES for width in WIDTHS} | {
        "linked": ("copy.html" + ANCHOR, 1280, "light")
    }
    found = browse(tmp_path, frames)
    assert set(found) == set(frames)
    for name, (_, width, _) in frames.items():
        problems = {key: found[name][key] for key in ("wide", "outside", "overlaps") if found[name][key]}
        assert problems == {}, name
        assert found[name]["page"] <= width, name
        assert found[name]["texts"] > 100, name
    assert found["linked"]["target"] > 200
    keep_screenshots(tmp_path, frames)


def keep_screenshots(folder: Path, frames: dict[str, tuple[str, int, str]]) -> None:
    """Cut the picture of all frames; each is drawn, and in its scheme."""
    kept = Path(os.environ.get("PODRACE_SCREENSHOTS") or folder)
    kept.mkdir(parents=True, exist_ok=True)
    left = 0
    with Image.open(folder / "frames.png") as picture:
        for name, (_, width, scheme) in frames.items():
            frame = picture.convert("RGB").crop((left, 0, left + width, HEIGHT))
            left += width
            frame.save(kept / f"{name}.png")
            corner = frame.getpixel((2, 2))
            assert isinstance(corner, tuple)
            assert (sum(corner) < 200) is (scheme == "dark"), name
            colors = frame.getcolors(1 << 20)
            assert colors is not None
            assert len(colors) > 50, f"{name}: something is drawn"
