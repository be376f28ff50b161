"""The steps of the workflow and of the README's recipe for GitLab, run as their runners run them: by bash, in order.

What is kept from a run must be where they look for it. Only installing, `.ci/run` (which is this suite) and what the
marketplace's actions do are left out; the matrix has one row, the benchmarks those of `set`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROWS = "--scenarios foreign-pod"
NOT_HERE = ("apt-get", ".ci/run", "make nightly", "make soak", "pip install")
CHECKED_OUT = (
    *("podrace", "reference", "simulator", "loadtests", "reports", "tests"),
    *("Makefile", "pyproject.toml", "constraints.txt", "README.md"),
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder as a runner has it once everything is installed: its `.venv/bin` holds this environment's commands."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in CHECKED_OUT:
        (folder / name).symlink_to(ROOT / name)
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, started in (("python", ""), ("podrace", " -m podrace")):
        (commands / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{started} "$@"\n')
        (commands / name).chmod(0o755)
    for name in (".installed", ".installed-dev", ".installed-peers"):
        (folder / ".venv" / name).touch()
    return folder


def run(step: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One step, by the shell that GitHub takes; it fails the test unless it ends well."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    paths = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment |= {"PATH": paths, "PYTHONPATH": str(ROOT), "CI": "true"}
    command = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step)
    ended = subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, (step, ended.stdout, ended.stderr)
    return ended


def run_job(name: str, folder: Path, **environment: str) -> tuple[str, list[str]]:
    """Run the steps of a job. Returns its summary, and what it uploads."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    steps: list[dict[str, Any]] = jobs[name]["steps"]
    summary = folder.parent / "summary.md"
    summary.touch()
    for step in steps:
        if "run" in step and not any(word in step["run"] for word in NOT_HERE):
            command = step["run"].replace("podrace matrix ", f"podrace matrix {ROWS} ")
            run(command, folder, GITHUB_STEP_SUMMARY=str(summary), GITHUB_WORKSPACE=str(folder), **environment)
    uploads = [step["with"]["path"].split() for step in steps if "upload-artifact" in step.get("uses", "")]
    return summary.read_text(encoding="utf-8"), [path for paths in uploads for path in paths]


def is_junit(path: Path, cells: int) -> bool:
    root = ElementTree.parse(path).getroot()
    return root.tag == "testsuites" and len(list(root.iter("testcase"))) >= cells


def test_the_job_of_the_matrix_leaves_what_it_uploads(checkout: Path) -> None:
    summary, uploads = run_job("matrix", checkout)
    assert set(uploads) == {"runs", "report.html", "report.xml"}
    assert all((checkout / path).exists() for path in uploads)
    assert summary.startswith("# podrace\n")
    assert "foreign-pod" in summary
    assert "lost" in (checkout / "report.html").read_text(encoding="utf-8")
    assert is_junit(checkout / "report.xml", cells=3)
    found = {path.name for path in (checkout / "runs").iterdir()}
    assert "matrix" in found
    assert any(name.endswith("-reproduce") for name in found)
    assert (checkout / "runs" / "matrix" / "result.json").is_file()


@pytest.mark.slow  # it is about a minute of benchmarks
def test_the_job_of_the_benchmarks_tells_its_figures_and_fails_nothing(checkout: Path) -> None:
    summary, uploads = run_job("bench", checkout, PYTEST_ADDOPTS="-k 'test_set' -p no:cacheprovider")
    assert uploads == []
    assert summary.startswith("# podrace\n")
    assert "set" in summary
    assert [path.name for path in checkout.glob("runs/*-bench/*")] == ["benchmark.json"]


def test_the_recipe_for_gitlab_leaves_its_artifacts(checkout: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(races:.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    job = yaml.safe_load(block)["races"]
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copytree(checkout / ".venv", folder / ".venv")
    run("podrace init", folder)
    run("podrace matrix --targets wallet:pod --scenarios wallet:TRANSFER --expect races.json --accept", folder)
    for step in (*job["script"], *job["after_script"]):
        if not any(word in step for word in NOT_HERE):
            run(step, folder)
    assert all((folder / path).exists() for path in job["artifacts"]["paths"])
    assert is_junit(folder / job["artifacts"]["reports"]["junit"], cells=1)
