"""The commands as a user types them, in processes of their own, over real parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podrace.simulator.app.names import TARGETS

Podrace = Any
SCENARIOS = (
    "foreign-pod",
    "timeout-overwrites-completion",
    "crash-between-status-and-push",
    "crash-after-send",
    "crash-before-send",
    "trim-applied-twice",
    "poison-message",
)


@pytest.fixture(scope="module")
def matrix(podrace_once: Podrace) -> tuple[Podrace, dict[str, Any]]:
    # without coverage: test_scenarios explores every cell too, and the tracer would make this several times slower
    names = ",".join(SCENARIOS)
    process = podrace_once.start("matrix", "--json", "--run-dir", "run", "--scenarios", names, measured=False)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (err, out[-2000:])
    return podrace_once, json.loads(out)


def test_every_cell_of_the_matrix_is_as_expected(matrix: tuple[Podrace, dict[str, Any]]) -> None:
    podrace, result = matrix
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
    table = (podrace.folder / "run" / "matrix.md").read_text()
    assert "crash-after-send" in table
    assert json.loads((podrace.folder / "run" / "result.json").read_text()) == result


def test_counterexamples_run_again_on_processes(matrix: tuple[Podrace, dict[str, Any]]) -> None:
    podrace, result = matrix
    wanted = {"timeout-overwrites-completion", "crash-after-send", "trim-applied-twice"}
    found = [cell for cell in result["cells"] if cell["target"] == "shared" and cell["scenario"] in wanted]
    assert len(found) == len(wanted)
    for cell in found:
        done = podrace("replay", cell["counterexample"], "--fleet", "processes", "--json")
        assert done.code == 0, (cell["scenario"], done.out, done.err)
        (again,) = json.loads(done.out)["cells"]
        assert (again["verdict"], again["words"]) == ("violated", cell["words"])


def test_replay_inline_draws_the_timeline(matrix: tuple[Podrace, dict[str, Any]]) -> None:
    podrace, _ = matrix
    path = "run/shared-timeout-overwrites-completion.podrace.json"
    done = podrace("replay", path, "--fleet", "inline")
    assert done.code == 0, done.err
    assert "▶" in done.out
    assert "image-1 of message m1 arrived 0 of 1 times" in done.out


def test_only_a_new_violation_fails(podrace: Podrace) -> None:
    arguments = ("explore", "--target", "podrace.reference.targets:local", "--expect", "known.json", "--scenario")
    done = podrace(*arguments, "foreign-pod", "--accept")
    assert done.code == 0, done.err
    assert podrace(*arguments, "foreign-pod").code == 0
    assert podrace(*arguments, "crash-after-send").code == 1


def test_explore_says_what_was_covered(podrace: Podrace) -> None:
    done = podrace("explore", "--target", "shared", "--scenario", "foreign-pod")
    assert done.code == 0, done.err
    assert "holds: ok" in done.out
    assert "all within the bounds" in done.out


def test_a_spent_budget_is_inconclusive_never_a_pass(podrace: Podrace) -> None:
    arguments = ("--scenario", "two-users", "--target", "shared", "--budget", "0.1")
    done = podrace("explore", *arguments, "--preemptions", "8", "--faults", "4")
    assert done.code == 3
    assert "inconclusive" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("explore", "--scenario", "foreign"), "foreign-pod"),
        (("explore", "--scenario", "foreign-pod", "--target", "nothing.here:made"), "nothing.here"),
        (("replay", "missing.podrace.json"), "missing.podrace.json"),
        (("matrix", "--targets", "eternal"), "eternal"),
    ],
)
def test_wrong_input_gets_one_clear_line_and_exit_2(arguments: tuple[str, ...], says: str, podrace: Podrace) -> None:
    (podrace.folder / "file").write_text("")
    done = podrace(*arguments)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert done.left == []
    assert sorted(path.name for path in podrace.folder.iterdir()) == ["file", "tmp"]
