"""The result form and the run's folder."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from podrace.simulator.app.runs import Cell, exit_code, result_document, run_folder, write_json
from podrace.simulator.errors import HarnessError, TargetError, UsageError
from podrace.simulator.servers.embedded import ServerInfo

COUNTS = {"accepted": 2, "delivered": 1, "lost": 1, "duplicated": 0, "misreported": 0, "stuck": 0, "leaked": 0}


def cell(verdict: str, expected: str = "holds") -> Cell:
    return Cell("shared", "foreign-pod", "processes", verdict, expected, COUNTS)


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ([cell("holds")], 0),
        ([cell("violated", "violated"), cell("holds")], 0),
        ([cell("violated")], 1),
        ([cell("holds", "violated")], 1),
        ([cell("inconclusive")], 3),
        ([cell("inconclusive", "violated"), cell("holds")], 3),
        ([cell("inconclusive"), cell("violated")], 1),
        ([cell("inconclusive", "inconclusive")], 0),
    ],
)
def test_the_exit_code_is_0_only_where_all_is_as_expected(cells: list[Cell], code: int) -> None:
    assert exit_code(cells) == code


def test_the_document_has_the_form_of_version_1(tmp_path: Path) -> None:
    server = ServerInfo("valkey", "9.1.2", embedded=True)
    document = result_document(["reproduce"], seed=7, run=Path("runs/x"), server=server, cells=[cell("violated")])
    write_json(tmp_path / "result.json", document)
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    read = json.loads(text)
    assert set(read) >= {"version", "command", "seed", "run", "server", "cells"}
    assert (read["version"], read["command"], read["seed"], read["run"]) == (1, ["reproduce"], 7, "runs/x")
    assert read["server"] == {"kind": "valkey", "version": "9.1.2", "embedded": True}
    assert read["cells"][0]["counts"] == COUNTS
    assert set(read["cells"][0]) >= {
        "target",
        "scenario",
        "fleet",
        "verdict",
        "expected",
        "counts",
        "schedules",
        "counterexample",
        "elapsed_s",
    }


def test_a_run_gets_the_folder_that_is_named(tmp_path: Path) -> None:
    with run_folder(tmp_path / "a" / "b", "explore") as folder:
        (folder / "result.json").touch()
    assert folder == tmp_path / "a" / "b"
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_each_run_gets_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with run_folder(None, "explore") as one, run_folder(None, "explore") as other:
        assert one != other
    assert {path.parent for path in (one, other)} == {Path("runs")}
    assert all(path.is_dir() and "explore" in path.name for path in (one, other))


@pytest.mark.parametrize("error", [UsageError("x"), HarnessError("x"), KeyboardInterrupt()])
def test_a_run_that_ends_in_an_error_leaves_no_empty_folder(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), run_folder(tmp_path / "a" / "b", "explore"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_run_has_written_stays(tmp_path: Path) -> None:
    def interrupted() -> None:
        with run_folder(tmp_path / "a" / "b", "explore") as folder:
            (folder / "history.jsonl").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a" / "b" / "history.jsonl").exists()


def test_an_error_leaves_a_folder_that_was_there_before(tmp_path: Path) -> None:
    with pytest.raises(UsageError), run_folder(tmp_path, "explore"):
        raise UsageError("x")
    assert tmp_path.is_dir()


@pytest.mark.parametrize("below", ["x", "x/y"])
def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="run folder") as caught, run_folder(tmp_path / "file" / below, "explore"):
        pytest.fail("it cannot be there")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_is_refused_as_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="run folder"), run_folder(tmp_path / "file", "explore"):
        pytest.fail("it cannot be there")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ResponseError("BUSY Valkey is busy running a script. You can only call SCRIPT KILL"),
            "the server is busy with",
        ),
        (OSError(errno.EBADF, "Bad file descriptor"), "a file descriptor of podrace was closed"),
    ],
)
def test_what_only_a_target_can_have_done_is_its_error(tmp_path: Path, error: Exception, says: str) -> None:
    with pytest.raises(TargetError, match=says) as ended, run_folder(tmp_path / "run", "run"):
        raise error
    assert ended.value.exit_code == 3
