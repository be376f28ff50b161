"""The command line itself: help, version, imports, and how errors are shown."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys

import pytest

from podrace.simulator.app.cli import cli, main
from podrace.simulator.errors import HarnessError, TargetError, UsageError
from podrace.simulator.interrupts import Interrupted

COMMANDS = sorted(cli.commands)
BARE = {key: value for key, value in os.environ.items() if not key.startswith("COV")} | {
    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)
}
"""Without coverage, which imports modules of its own and is slow."""
CLI = "from podrace.simulator.app.cli import main; main()"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=BARE, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(main([*command, option]))
    out, err = capsys.readouterr()
    assert (ended.value.code or 0, err) == (0, "")
    assert out.startswith(" ".join(["Usage: podrace", *command]))


def test_the_help_names_every_command_and_exit_code() -> None:
    done = run(CLI, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert {"reproduce", "explore", "replay", "matrix"} <= set(COMMANDS)
    assert all(name in done.stdout for name in COMMANDS)
    assert all(f"{code} " in done.stdout for code in range(5))
    assert "..." not in done.stdout.partition("Commands:")[2]  # no summary is cut


def test_the_options_of_reproduce() -> None:
    told = run(CLI, "reproduce", "--help").stdout
    for option in ("--pods", "--uploads", "--images", "--redis-url", "--seed", "--json", "--run-dir"):
        assert option in told


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        expected = version("podrace")
    except PackageNotFoundError:
        pytest.skip("podrace is not installed here, only on the path")
    with pytest.raises(SystemExit):
        sys.exit(main(["--version"]))
    assert expected in capsys.readouterr().out


def test_importing_the_command_line_imports_nothing_slow() -> None:
    slow = (
        "redis",
        "google",
        "google.genai",
        "PIL",
        "rich",
        "multiprocess",
        "podrace.simulator.fleets",
        "podrace.reference",
    )
    done = run(f"import podrace.simulator.app.cli, sys; print([name for name in {slow} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow  # it measures time: not for a loaded machine
def test_help_answers_at_once() -> None:
    """Under 150 ms more than `python -c pass`: the median over pairs run one after the other.

    It waits for nothing, so on a busy machine its CPU time shows what it would take on a quiet one.
    """

    def took_s(code: str, *arguments: str) -> tuple[float, float]:
        before = os.times()
        assert run(code, *arguments).returncode == 0
        after = os.times()
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        return after.elapsed - before.elapsed, cpu_s

    took_s(CLI, "--help")  # compiles
    pairs = [(took_s(CLI, "--help"), took_s("pass")) for _ in range(9)]
    wall_s, cpu_s = (statistics.median(help_s[which] - pass_s[which] for help_s, pass_s in pairs) for which in (0, 1))
    assert min(wall_s, cpu_s) < 0.150, f"{wall_s:.3f} s, of it {cpu_s:.3f} s on a CPU"


@pytest.mark.parametrize(
    "arguments",
    [
        ("reproduce", "--pods", "0"),
        ("reproduce", "--pods", "-1"),
        ("reproduce", "--pods", "two"),
        ("reproduce", "--uploads", "0"),
        ("reproduce", "--seed", "-1"),
        ("reproduce", "--nope"),
        ("reproduce", "extra"),
        ("explore",),
        ("nope",),
    ],
)
def test_wrong_usage_is_one_clear_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("podrace: ")
    assert err.count("\n") == 1
    command = ["podrace", *arguments[:1]] if arguments[0] in COMMANDS else ["podrace"]
    assert err.endswith(f" Try {' '.join(command)} --help.\n")


def noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (noted(UsageError("wrong"), "and left over"), 2, "podrace: wrong; and left over\n"),
        (UsageError("wrong"), 2, "podrace: wrong\n"),
        (TargetError("cannot be judged"), 3, "podrace: cannot be judged\n"),
        (HarnessError("broke"), 4, "podrace: broke\n"),
        (Interrupted(signal.SIGINT), 130, "podrace: interrupted\n"),
        (Interrupted(signal.SIGTERM), 143, "podrace: terminated\n"),
    ],
)
def test_an_error_becomes_one_line_and_the_exit_code_of_whose_fault_it_was(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli.commands["scenarios"], "callback", fail)
    with pytest.raises(SystemExit) as ended:
        main(["scenarios"])
    assert ended.value.code == code
    assert capsys.readouterr().err.lstrip("\n") == line


def test_a_closed_pipe_is_no_error() -> None:
    """`podrace scenarios | true`"""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read(); " + CLI, "scenarios"],
        env=BARE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
