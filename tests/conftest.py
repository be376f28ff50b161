"""What tests share: the embedded server, virtual time, a Gemini in memory, images.

No test sleeps: under VirtualRuntime time goes by only where a test says so, and where real threads
must be waited for, it is an event or a join that is waited for.

PODRACE_TEST_SERVER names another server program (Redis, an older Valkey) that is started instead of the embedded one.
"""

from __future__ import annotations

import heapq
import os
import random
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from greenlet import getcurrent, greenlet
from PIL import Image

from podrace.reference.memory import MemoryLedger
from podrace.reference.runtime import ThreadRuntime
from podrace.simulator.servers import embedded as embedded_server
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.target import PodEnv

sys.path.append(str(Path(__file__).parent / "starting"))  # for warm
if other_server := os.environ.get("PODRACE_TEST_SERVER"):
    embedded_server.server_binary = lambda: Path(other_server)
    # Only Valkey knows `hash-seed`.
    embedded_server._SERVER = "sed -i /^hash-seed/d valkey.conf; " + embedded_server._SERVER

START_S = 1_736_899_200.25
"""The virtual clock's first reading: a fraction that a float holds exactly."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker of pytest-xdist begin with some of the long tests: who begins one last, is waited for.

    With `--dist worksteal` a worker gets one part of the list, all of them about as long.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 0)
    if not workers:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    parts = []
    for number in range(workers):
        first = long[number::workers]
        size = (len(items) - sum(map(len, parts))) // (workers - number) - len(first)
        parts.append(first + others[:size])
        del others[:size]
    items[:] = [item for part in parts for item in part] + others


class VirtualRuntime:
    """A pod's runtime on a virtual clock; actors are greenlets, so that every run is the same.

    `sleep` and `run`, called by the test itself, let the spawned actors work; nothing runs in between.
    What an actor raises, those two raise.
    """

    def __init__(self, start_s: float = START_S) -> None:
        self._now_s = start_s
        self._hub = getcurrent()
        self._serial = 0
        self._due: list[tuple[float, int, greenlet]] = []
        self.spawned: list[str] = []

    def now(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """In an actor: let the others go on for so long. In the test: let the actors run for so long."""
        if getcurrent() is self._hub:
            self._run_until(self._now_s + seconds)
        else:
            self._schedule(getcurrent(), seconds)
            self._hub.switch()

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        self.spawned.append(name)
        self._schedule(greenlet(function, self._hub), 0)

    def lock(self) -> VirtualLock:
        return VirtualLock(self)

    def run(self) -> None:
        """Let the actors run until none has anything left to do."""
        while self._due:
            self._run_until(self._due[0][0])

    def _schedule(self, actor: greenlet, delay_s: float) -> None:
        self._serial += 1
        heapq.heappush(self._due, (self._now_s + delay_s, self._serial, actor))

    def _run_until(self, end_s: float) -> None:
        while self._due and self._due[0][0] <= end_s:
            self._now_s, _, actor = heapq.heappop(self._due)
            actor.switch()
        self._now_s = end_s


class VirtualLock:
    """A re-entrant mutex between a VirtualRuntime's actors; who waits for it, gets it in turn."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self._runtime = runtime
        self._owner: greenlet | None = None
        self._depth = 0
        self._waiting: deque[greenlet] = deque()

    def __enter__(self) -> None:
        while self._owner not in (None, getcurrent()):
            assert getcurrent() is not self._runtime._hub, "the test itself would wait for an actor's lock"
            self._waiting.append(getcurrent())
            self._runtime._hub.switch()
        self._owner = getcurrent()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if self._waiting:
                self._runtime._schedule(self._waiting.popleft(), 0)


class JoinedRuntime(ThreadRuntime):
    """The real runtime, but every sleeper wakes and every thread ends when the test does."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def sleep(self, seconds: float) -> None:
        self._over.wait(seconds)

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} does not end"


@dataclass(frozen=True)
class File:
    """What is used of google-genai's File."""

    uri: str
    name: str
    create_time: datetime | str | None


class FakeFiles:
    """Gemini's files service in memory. `upload_s` is how long an upload takes, `error` what it then raises."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self._runtime = runtime
        self.upload_s: float = 1.0
        self.error: BaseException | None = None
        self.started: list[Path] = []
        self.contents: list[bytes] = []
        self.active = 0
        self.active_max = 0

    def upload(self, *, file: Any) -> File:
        self.started.append(Path(file))
        self.contents.append(Path(file).read_bytes() if Path(file).exists() else b"")
        number = len(self.started)
        self.active += 1
        self.active_max = max(self.active, self.active_max)
        self._runtime.sleep(self.upload_s)
        self.active -= 1
        if self.error is not None:
            raise self.error
        return File(
            f"https://files.test/{number}", f"files/{number}", datetime(2025, 1, 1, 0, 0, number % 60, tzinfo=UTC)
        )


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """One embedded server for the whole session; whoever wants to hurt a server starts another."""
    with EmbeddedServer() as embedded:
        yield embedded


class TcpServer(EmbeddedServer):
    """A server as somebody else runs it: on a loopback port too, the same after a restart."""

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.config['port']}"

    def start(self) -> None:
        super().start()
        with self._client() as client:
            while "port" not in self.config:
                port = free_port()
                with suppress(redis.ResponseError):  # somebody else has taken it meanwhile
                    client.config_set("port", port)
                    self.config["port"] = str(port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def tcp_server() -> type[TcpServer]:
    """Makes servers with a TCP port, `tcp_url`."""
    return TcpServer


@pytest.fixture
def open_client(server: EmbeddedServer) -> Iterator[Callable[..., redis.Redis]]:
    """Makes clients of the embedded server, one a pod; the server is emptied after the test."""
    clients: list[redis.Redis] = []

    def open_one(**settings: Any) -> redis.Redis:
        clients.append(connect(server.url, **settings))
        return clients[-1]

    yield open_one
    open_one().flushall()
    for client in clients:
        client.close()


@pytest.fixture
def redis_client(open_client: Callable[..., redis.Redis]) -> redis.Redis:
    return open_client()


@pytest.fixture
def runtime() -> VirtualRuntime:
    return VirtualRuntime()


@pytest.fixture
def thread_runtime() -> Iterator[JoinedRuntime]:
    runtime = JoinedRuntime()
    yield runtime
    runtime.join()


@pytest.fixture
def files(runtime: VirtualRuntime) -> FakeFiles:
    return FakeFiles(runtime)


@pytest.fixture
def make_file() -> type[File]:
    """Makes file objects as google-genai answers them."""
    return File


@pytest.fixture
def ledger(tmp_path: Path, runtime: VirtualRuntime) -> Iterator[MemoryLedger]:
    recorded = MemoryLedger(tmp_path / "memory.sqlite", runtime.now)
    yield recorded
    recorded.close()


@pytest.fixture
def make_env(
    open_client: Callable[..., redis.Redis], runtime: VirtualRuntime, files: FakeFiles, ledger: MemoryLedger
) -> Callable[..., PodEnv]:
    """Makes the environment of one pod: a connection of its own; clock, Gemini and memory are all pods'."""

    def make(name: str = "A", *, options: dict[str, Any] | None = None, **replaced: Any) -> PodEnv:
        parts: dict[str, Any] = {
            "redis": open_client(),
            "prefix": "mirix:",
            "runtime": runtime,
            "rng": random.Random(name),
            "options": {"absorb_limit": 1, "compress": False, **(options or {})},
        }
        services = {"gemini": files, "memory": ledger}
        services |= {key: replaced.pop(key) for key in list(replaced) if key in services}
        return PodEnv(name=name, services=services, **(parts | replaced))

    return make


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """Makes an image file; its suffix says which kind."""

    def make(name: str = "image.png", *, size: tuple[int, int] = (64, 36), mode: str = "RGB", color: Any = 120) -> Path:
        path = tmp_path / name
        Image.new(mode, size, color).save(path)
        return path

    return make


@pytest.fixture
def png(make_image: Callable[..., Path]) -> Path:
    return make_image("image.png")


@pytest.fixture
def jpeg(make_image: Callable[..., Path]) -> Path:
    return make_image("photo.jpg")


@pytest.fixture
def corrupt_png(tmp_path: Path) -> Path:
    path = tmp_path / "corrupt.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing that is PNG")
    return path
