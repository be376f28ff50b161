"""The README's example of a service of one's own does what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import podrace
from podrace import explore

README = Path(podrace.__file__).parents[1] / "README.md"
ONCE = "if redis.call('HGET', KEYS[1], ARGV[1]) then return 0 end\n"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def wallet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example as a file that can be imported."""
    (example,) = [block for block in python_blocks() if "class Wallet" in block]
    path = tmp_path / "wallet.py"
    path.write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("wallet", None)


def test_the_example_holds(wallet: Path) -> None:
    cell = explore("wallet:pod", "wallet:TRANSFER")
    assert (cell.verdict, cell.note) == ("holds", "")
    assert cell.schedules["complete"]


def test_the_example_without_its_safeguard_pays_twice(wallet: Path, tmp_path: Path) -> None:
    example = wallet.read_text(encoding="utf-8")
    assert ONCE in example
    wallet.write_text(example.replace(ONCE, ""), encoding="utf-8")
    cell = explore("wallet:pod", "wallet:TRANSFER", folder=tmp_path)
    assert (cell.verdict, cell.words) == ("violated", "duplicated")
    assert cell.counterexample is not None
    assert podrace.replay(cell.counterexample).judgement.words == "duplicated"


def test_the_example_is_short(wallet: Path) -> None:
    assert len(wallet.read_text(encoding="utf-8").splitlines()) <= 55


@pytest.fixture
def race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The unchanged service, its scenario and its test, each in its file."""
    for block in python_blocks():
        name, _, text = block.partition("\n")
        if name.startswith("# "):
            (tmp_path / name.removeprefix("# ")).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("race", "jobs"):
        sys.modules.pop(name, None)


def test_plain_code_loses_a_job_as_the_page_shows_it(race: Path) -> None:
    cell = explore("race:pod", "race:TWO_WORKERS", folder=race)
    assert (cell.verdict, cell.words, cell.sentence) == (
        "violated",
        "lost, duplicated",
        "j2 was accepted, and never done.",
    )
    timeline = (race / "race.pod-race.TWO_WORKERS.txt").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```text\n(   6  work.*?)      …", README.read_text(encoding="utf-8"), re.DOTALL)
    assert shown in timeline
    assert podrace.replay(str(cell.counterexample)).sentence == cell.sentence


def test_plain_code_holds_once_it_is_mended_as_the_page_says(race: Path) -> None:
    jobs = race / "jobs.py"
    text = jobs.read_text(encoding="utf-8")
    mended = text.replace('            self.redis.lpop("jobs")\n', "").replace('lindex("jobs", 0)', 'lpop("jobs")')
    assert "            self.redis.hincrby" in mended
    assert 'job = self.redis.lpop("jobs")' in README.read_text(encoding="utf-8")
    jobs.write_text(mended, encoding="utf-8")
    cell = explore("race:pod", "race:TWO_WORKERS")
    assert (cell.verdict, cell.note, cell.schedules["complete"]) == ("holds", "", True)


def test_the_pages_test_fails_with_the_timeline(race: Path) -> None:
    installed = any(one.name == "podrace" for one in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "podrace.simulator.app.pytest_plugin"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "test_race.py"],
        cwd=race,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "j2 was accepted, and never done." in ended.stdout
    assert "again: podrace replay " in ended.stdout


def test_the_page_of_plain_code_is_short() -> None:
    (page,) = re.findall(r"## Your own code, as it is\n(.*?)\n## ", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(page.splitlines()) <= 125
