"""Load tests run in processes of their own: importing locust would patch this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from warm import Warm

os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"  # for what is imported here: the pure parts
ROOT = Path(__file__).parent.parent.parent


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def free_port() -> Callable[[], str]:
    return _free_port


@pytest.fixture(scope="session")
def warm_locust() -> Iterator[Warm]:
    """Forks processes that run `locust`: it, gevent and google-genai take more than a second to import."""
    with Warm("locust", "locust.main:main", ["locust.main", "google.genai", "redis"]) as started:
        yield started


@pytest.fixture
def locust(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, warm_locust: Warm
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `locust -f loadtests/locustfile.py …` with its output piped; ends at the end of the test what still runs.

    Then no process and no temporary file may be left of any.
    """
    started: list[subprocess.Popen[str]] = []
    temporary = tmp_path_factory.mktemp("t")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOCUST", "COV"))}

    def start(*arguments: str, locustfile: str = str(ROOT / "loadtests/locustfile.py")) -> subprocess.Popen[str]:
        env = environment | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "TMPDIR": str(temporary)}
        process = warm_locust.start(["-f", locustfile, *arguments], cwd=str(tmp_path), env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)
    sessions = {process.pid for process in started}
    left = {
        process: " ".join(process.cmdline())
        for process in psutil.process_iter()
        if is_below(temporary, sessions, process)
    }
    for each in left:
        each.kill()
    assert left == {}
    if not any(process.returncode == -signal.SIGKILL for process in started):  # that one can remove nothing
        assert list(temporary.iterdir()) == []


def is_below(folder: Path, sessions: set[int], process: psutil.Process) -> bool:
    """Whether it keeps its temporary files there, runs there, as a server does, or is of one of these sessions."""
    try:
        if process.environ().get("TMPDIR") == str(folder) or process.cwd().startswith(f"{folder}/"):
            return True
        return os.getsid(process.pid) in sessions
    except (psutil.Error, ProcessLookupError):
        return False
