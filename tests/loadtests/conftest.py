"""Load tests run in processes of their own: importing locust would patch this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"  # for what is imported here: the pure parts
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def locust(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `locust -f loadtests/locustfile.py …` with its output piped; what still runs at the end is ended.

    Nothing may be left of it then: no process of its session, no temporary file.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("LOCUST")}
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests/locustfile.py"), *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
