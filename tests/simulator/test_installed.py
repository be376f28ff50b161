"""The installed wheel is one package, and ignores the user's modules with the names of our sub-packages."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OWN = ("simulator.py", "reports.py", "loadtests.py", "reference/__init__.py", "reference/targets.py")


def with_modules_of_ones_own(folder: Path) -> Path:
    for name in OWN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('the module of the user was imported')\n")
    return folder


def test_modules_of_the_users_with_the_names_of_our_rooms_are_left_alone(podrace: Any) -> None:
    """`python -m` puts the current folder first on the path, so an import by a bare name would find them."""
    with_modules_of_ones_own(podrace.folder)
    ended = podrace.script(
        f"""set -e
        {sys.executable} -m podrace reproduce
        {sys.executable} -m podrace matrix --targets local,shared --scenarios foreign-pod --run-dir m
        {sys.executable} -m podrace report m
        {sys.executable} -m podrace replay m/local-foreign-pod.podrace.json"""
    )
    assert ended.code == 0, ended.err
    assert "LOST  1 of 1 images" in ended.out
    assert "all 2 cells as expected" in ended.out
    assert ended.err == ""


def test_importing_podrace_costs_next_to_nothing() -> None:
    """Less CPU time than 30 ms where Python itself takes 10: three times as much as `pass` on any machine.

    The median over pairs, each run one after the other, so that a busy machine slows both alike.
    """
    bare = {key: value for key, value in os.environ.items() if not key.startswith("COV")} | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)
    }

    def cpu_s(code: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], env=bare, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    cpu_s("import podrace")  # compiles it
    pairs = [(sum(cpu_s("import podrace") for _ in range(3)), sum(cpu_s("pass") for _ in range(3))) for _ in range(7)]
    assert statistics.median(ours - python for ours, python in pairs) < 3 * statistics.median(two for _, two in pairs)


def test_importing_podrace_loads_nothing_until_it_is_asked_for() -> None:
    code = """
import podrace, sys
assert [name for name in sys.modules if name.startswith("podrace")] == ["podrace"]
assert not {"redis", "click", "rich", "pydantic", "google", "greenlet", "asyncio"} & set(sys.modules)
assert podrace.Call.__name__ == "Call"
"""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    bare = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    subprocess.run([sys.executable, "-c", code], env=bare | {"PYTHONPATH": paths}, check=True)


@pytest.mark.slow  # it makes an environment and installs into it, from the package index
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    def run(*command: str, cwd: Path = tmp_path, codes: tuple[int, ...] = (0,)) -> str:
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode in codes, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(ROOT))
    (wheel,) = (tmp_path / "dist").iterdir()
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"podrace", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}
    run(sys.executable, "-m", "venv", "env")
    python, podrace, locust = (str(tmp_path / "env" / "bin" / name) for name in ("python", "podrace", "locust"))
    constraints = str(ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[load]")
    user = with_modules_of_ones_own(tmp_path / "user")
    assert "LOST  1 of 1 images" in run(podrace, "reproduce", cwd=user)
    names = "foreign-pod,crash-after-send"
    run(python, "-m", "podrace", "matrix", "--scenarios", names, "--run-dir", "m", cwd=user)
    run(podrace, "replay", "m/shared-crash-after-send.podrace.json", cwd=user)
    assert "all 6 cells as expected" in run(podrace, "report", "m", cwd=user)
    run(podrace, "init", cwd=user)
    assert "holds: ok" in run(podrace, "explore", "--target", "wallet:pod", "--scenario", "wallet:TRANSFER", cwd=user)
    found = run(python, "-c", "import podrace.loadtests as it; print(it.__path__[0])", cwd=user).strip()
    load = (locust, "-f", f"{found}/locustfile.py", "--headless", "--only-summary", "--users", "5", "--run-time", "5s")
    assert "run: runs/" in run(*load, cwd=user, codes=(0, 1))  # 1 if a busy machine exceeds a latency limit
