"""The commands as a user types them, in processes of their own, over real parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.names import TARGETS

SCENARIOS = (
    "foreign-pod",
    "timeout-overwrites-completion",
    "crash-between-status-and-push",
    "crash-after-send",
    "crash-before-send",
    "trim-applied-twice",
    "poison-message",
)


def podrace(*arguments: str, cwd: Path, measured: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from podrace.simulator.app.cli import main; main()", *arguments]
    env = {key: value for key, value in os.environ.items() if measured or not key.startswith("COV")}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("matrix")
    # without coverage: test_scenarios explores every cell too, and the tracer would make this several times slower
    names = ",".join(SCENARIOS)
    done = podrace("matrix", "--json", "--run-dir", "run", "--scenarios", names, cwd=folder, measured=False)
    assert done.returncode == 0, (done.stderr, done.stdout[-2000:])
    return folder, json.loads(done.stdout)


def test_every_cell_of_the_matrix_is_as_expected(matrix: tuple[Path, dict[str, Any]]) -> None:
    folder, result = matrix
    cells = {(cell["scenario"], cell["target"]): cell for cell in result["cells"]}
    assert all(cell["verdict"] == cell["expected"] for cell in cells.values())
    assert set(cells) == {(scenario, target) for scenario in SCENARIOS for target in TARGETS}
    words = {scenario: cells[scenario, "shared"]["words"] for scenario in SCENARIOS}
    assert words["foreign-pod"] == words["crash-before-send"] == "ok"
    assert "lost" in words["timeout-overwrites-completion"]
    assert "duplicated" in words["crash-after-send"]
    assert "stuck" in words["poison-message"]
    assert "leaked" in words["crash-between-status-and-push"]
    assert "lost" in cells["foreign-pod", "local"]["words"]
    table = (folder / "run" / "matrix.md").read_text()
    assert "crash-after-send" in table
    assert json.loads((folder / "run" / "result.json").read_text()) == result


def test_counterexamples_run_again_on_processes(matrix: tuple[Path, dict[str, Any]]) -> None:
    folder, result = matrix
    wanted = {"timeout-overwrites-completion", "crash-after-send", "trim-applied-twice"}
    found = [cell for cell in result["cells"] if cell["target"] == "shared" and cell["scenario"] in wanted]
    assert len(found) == len(wanted)
    for cell in found:
        done = podrace("replay", cell["counterexample"], "--fleet", "processes", "--json", cwd=folder)
        assert done.returncode == 0, (cell["scenario"], done.stdout, done.stderr)
        (again,) = json.loads(done.stdout)["cells"]
        assert (again["verdict"], again["words"]) == ("violated", cell["words"])


def test_replay_inline_draws_the_timeline(matrix: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = matrix
    path = "run/shared-timeout-overwrites-completion.podrace.json"
    done = podrace("replay", path, "--fleet", "inline", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "▶" in done.stdout
    assert "image-1 of message m1 arrived 0 of 1 times" in done.stdout


def test_only_a_new_violation_fails(tmp_path: Path) -> None:
    arguments = ("explore", "--target", "podrace.reference.targets:local", "--expect", "known.json", "--scenario")
    done = podrace(*arguments, "foreign-pod", "--accept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert podrace(*arguments, "foreign-pod", cwd=tmp_path).returncode == 0
    assert podrace(*arguments, "crash-after-send", cwd=tmp_path).returncode == 1


def test_explore_says_what_was_covered(tmp_path: Path) -> None:
    done = podrace("explore", "--target", "shared", "--scenario", "foreign-pod", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "holds: ok" in done.stdout
    assert "all within the bounds" in done.stdout


def test_a_spent_budget_is_inconclusive_never_a_pass(tmp_path: Path) -> None:
    arguments = ("--scenario", "two-users", "--target", "shared", "--budget", "0.1")
    done = podrace("explore", *arguments, "--preemptions", "8", "--faults", "4", cwd=tmp_path)
    assert done.returncode == 3
    assert "inconclusive" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("explore", "--scenario", "foreign"), "foreign-pod"),
        (("explore", "--scenario", "foreign-pod", "--target", "nothing.here:made"), "nothing.here"),
        (("replay", "missing.podrace.json"), "missing.podrace.json"),
        (("matrix", "--targets", "eternal"), "eternal"),
    ],
)
def test_wrong_input_gets_one_clear_line_and_exit_2(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = podrace(*arguments, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
