"""A forked command is seen as one of its own interpreter would be, so that what it leaves behind is noticed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

Podrace = Any


@pytest.mark.parametrize("fresh", [False, True])
def test_its_server_and_its_temporary_files_are_found(
    podrace: Podrace, until: Callable[..., bool], fresh: bool
) -> None:
    process = podrace.start("reproduce", "--uploads", "1000", measured=False, fresh=fresh)
    assert until(lambda: podrace.processes()["server"], timeout_s=30.0)
    assert process.pid in {one.pid for one in podrace.processes()["other"]}
    assert until(lambda: list(podrace.temporary.rglob("redis.sock")))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert podrace.left() == []
