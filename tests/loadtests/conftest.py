"""Load tests run in processes of their own: importing locust would patch this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"  # for what is imported here: the pure parts
ROOT = Path(__file__).parent.parent.parent


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def free_port() -> Callable[[], str]:
    return _free_port


@pytest.fixture
def locust(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `locust -f loadtests/locustfile.py …` with its output piped; ends at the end of the test what still runs.

    Then no process and no temporary file may be left of any.
    """
    started: list[subprocess.Popen[str]] = []
    temporary = tmp_path_factory.mktemp("t")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOCUST", "COV"))}

    def start(*arguments: str, locustfile: str = str(ROOT / "loadtests/locustfile.py")) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", locustfile, *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)
    left = {process: " ".join(process.cmdline()) for process in psutil.process_iter() if is_below(temporary, process)}
    for each in left:
        each.kill()
    assert left == {}
    if not any(process.returncode == -signal.SIGKILL for process in started):  # that one can remove nothing
        assert list(temporary.iterdir()) == []


def is_below(folder: Path, process: psutil.Process) -> bool:
    """Whether it keeps its temporary files there, or runs there, as a server does."""
    try:
        return process.environ().get("TMPDIR") == str(folder) or process.cwd().startswith(f"{folder}/")
    except psutil.Error:
        return False
