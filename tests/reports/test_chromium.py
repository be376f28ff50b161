"""The page in a real browser, at 1280 and 400 px, light and dark: nothing overflows, no text lies on another.

Screenshots stay in pytest's folder of the test, or in the folder that PODRACE_SCREENSHOTS names.
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

from reports.build import build

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium: apt-get install chromium")

MEASURE = """<script>addEventListener("load", () => setTimeout(() => {
  const found = {wide: [], overlaps: [], texts: 0, width: innerWidth, target: null, outside: []};
  const target = location.hash && document.getElementById(location.hash.slice(1));
  found.target = target ? target.getBoundingClientRect().height : null;
  document.querySelectorAll("details").forEach(one => one.open = true);
  found.page = document.documentElement.scrollWidth;
  for (const one of document.querySelectorAll("main *")) {
    if (one.closest(".wide") && !one.matches(".wide")) continue;
    if (one.getBoundingClientRect().right > innerWidth + 0.5) found.wide.push(one.outerHTML.slice(0, 120));
  }
  for (const svg of document.querySelectorAll("svg")) {
    const edge = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].filter(one => one.textContent.trim())
      .map(one => [one.getBoundingClientRect(), one.textContent]);
    found.texts += boxes.length;
    boxes.forEach(([a, said], i) => {
      if (a.right > edge.right + 1 || a.left < edge.left - 1 || a.bottom > edge.bottom + 1) found.outside.push(said);
      for (const [b, other] of boxes.slice(i + 1))
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
          found.overlaps.push([said, other]);
    });
  }
  const result = document.createElement("pre");
  result.id = "measured"; result.textContent = JSON.stringify(found); document.body.append(result);
  if (parent !== window) parent.postMessage(result.textContent, "*");
}, 0));</script>"""
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><style>body { margin: 0 }
iframe { border: 0; width: %dpx; height: 4000px }</style><iframe src="%s"></iframe>
<script>addEventListener("message", event => {
  const result = document.createElement("pre");
  result.id = "measured"; result.textContent = event.data; document.body.append(result); })</script>"""
"""A window of a browser without a screen is never narrower than 500 px: a frame is."""


def browse(tmp_path: Path, url: str, *options: str) -> str:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def measured(tmp_path: Path, page: Path, *, width: int, anchor: str = "") -> dict[str, Any]:
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    frame = tmp_path / f"frame-{width}.html"
    frame.write_text(FRAME % (width, copy.name + anchor), encoding="utf-8")
    dom = browse(tmp_path, frame.as_uri(), f"--window-size={max(width, 600)},4000", "--dump-dom")
    found = re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


def shoot(tmp_path: Path, page: Path, name: str, *, width: int, dark: bool = False) -> Path:
    folder = Path(os.environ.get("PODRACE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    frame = tmp_path / "shot.html"
    frame.write_text(FRAME % (width, page.name), encoding="utf-8")
    dark_option = ["--blink-settings=preferredColorScheme=0"] if dark else []
    picture = folder / f"{name}.png"
    size = f"--window-size={width},4000"
    browse(tmp_path, frame.as_uri(), size, f"--screenshot={picture}", *dark_option)
    return picture


@pytest.fixture
def full_page(
    tmp_path: Path,
    write_run: Callable[..., Path],
    write_load: Callable[..., Path],
    write_benchmark: Callable[..., Path],
    cell: Callable[..., dict[str, Any]],
    history: list[dict[str, Any]],
) -> Path:
    """One of everything, with names that are too long and pods that are too many."""
    cells = [cell("local"), cell("shared", expected="holds"), cell("durable", verdict="holds")]
    cells += [
        cell("shared", "a-scenario-with-a-name-that-goes-on-" * 4),
        cell("my.module:factory" * 3, "foreign-pod"),
    ]
    pods = [
        {"type": "step", "actor": f"pod-{n % 14}.worker-{n % 5}-of-a-long-name", "kind": "redis"}
        | {"what": "SET " + "W" * 200, "reply": "W" * 90, "t_ms": 1e5 * n}
        for n in range(40)
    ]
    folder = write_run(cells=cells)
    crowd = write_run("crowd", cells=[cell("shared", "crowd")], events=pods)
    page = tmp_path / "report.html"
    paths = [folder, crowd, write_load(), write_load("faster", rate=900), tmp_path / ("gone" * 60)]
    build([*paths, write_benchmark("baseline.json"), write_benchmark(shift=0.05)], out=page)
    return page


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_overflows_and_no_text_lies_on_another(tmp_path: Path, full_page: Path, width: int) -> None:
    found = measured(tmp_path, full_page, width=width)
    assert found["width"] == width
    assert found["page"] <= width
    assert found["wide"] == []
    assert found["outside"] == []
    assert found["overlaps"] == []
    assert found["texts"] > 100


def test_a_link_opens_what_it_links_to(tmp_path: Path, full_page: Path) -> None:
    assert measured(tmp_path, full_page, width=1280, anchor="#local-paused-pod")["target"] > 200


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_screenshots_are_kept(tmp_path: Path, full_page: Path, width: int, dark: bool) -> None:
    from PIL import Image

    name = f"report-{width}-{'dark' if dark else 'light'}"
    with Image.open(shoot(tmp_path, full_page, name, width=width, dark=dark)) as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
        assert isinstance(corner, tuple)
        assert (sum(corner) < 200) is dark
        colors = picture.convert("RGB").getcolors(1 << 20)
        assert colors is not None
        assert len(colors) > 50, "something is drawn"
