"""The README's example of a service of one's own does what the README says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import podrace
from podrace import explore

README = Path(podrace.__file__).parents[1] / "README.md"
ONCE = "if redis.call('HGET', KEYS[1], ARGV[1]) then return 0 end\n"


@pytest.fixture
def wallet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example as a file that can be imported."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
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
