"""The connection to a run's server: clients, our own and foreign servers, URLs that cannot be used."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis

from podrace.simulator.errors import HarnessError, UsageError
from podrace.simulator.servers.connection import Server, connect, delete_prefix, open_server, redact
from podrace.simulator.servers.embedded import ServerInfo

PASSWORD = "hunter2/@#:?é"
ENCODED = quote(PASSWORD, safe="")
SECRETS = ("hunter2", PASSWORD, ENCODED)
Until = Callable[..., bool]
TcpServers = Callable[..., Any]


# --- connect ---------------------------------------------------------------------------------------


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A loopback port that handles each connection with `answer`."""
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


def test_connect_sends_nothing_but_the_command(until: Until) -> None:
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
def test_connect_retries_only_as_configured(retries: int, attempts: int) -> None:
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
    with open_server(None) as server, connect(server.url) as client:
        assert server.embedded is not None
        assert server.prefix == "mirix:"
        assert server.info == ServerInfo("valkey", client.info("server")["valkey_version"], embedded=True)
    assert not server.embedded.folder.exists()


@pytest.fixture(scope="module")
def foreign(tcp_server: TcpServers) -> Iterator[Any]:
    """A server as somebody else runs it: TCP, a password, users, and foreign data."""
    with tcp_server(config={"requirepass": f'"{PASSWORD}"'}) as server:
        with connect(server.tcp_url, password=PASSWORD) as client:
            client.execute_command("ACL", "SETUSER", "elsewhere", "on", ">hunter2", "~other:*", "+@all")
            client.execute_command("ACL", "SETUSER", "mute", "on", ">hunter2", "~*", "+@all", "-info")
            client.execute_command("ACL", "SETUSER", "blind", "on", ">hunter2", "~*", "+@all", "-scan")
            client.execute_command("ACL", "SETUSER", "meek", "on", ">hunter2", "~podrace:*", "+@all")
        yield server


@pytest.fixture
def foreign_url(foreign: Any) -> str:
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
        delete_prefix(client, other.prefix)
        assert (client.exists(f"{one.prefix}key"), client.exists(f"{other.prefix}key")) == (1, 0)


def test_a_user_with_access_to_our_prefix_alone_is_enough(foreign: Any) -> None:
    url = foreign.tcp_url.replace("redis://", "redis://meek:hunter2@")
    with open_server(url) as server, connect(url) as client:
        assert client.set(f"{server.prefix}key", "value")


def test_the_password_is_not_in_the_repr(foreign_url: str) -> None:
    with open_server(foreign_url) as server:
        assert isinstance(server, Server)
        assert not any(secret in repr(server) for secret in SECRETS)


@pytest.mark.parametrize("prefix", ["a*:", "a?:", "a[b]:", "a\\:", "a^-:"])
def test_wildcards_in_a_prefix_are_taken_literally(foreign_url: str, prefix: str) -> None:
    with connect(foreign_url) as client:
        client.flushall()
        client.mset({f"{prefix}1": "ours", f"{prefix}2": "ours", "ab:1": "theirs", "axx:1": "theirs"})
        delete_prefix(client, prefix)
        assert set(client.keys()) == {b"ab:1", b"axx:1"}
        delete_prefix(client, prefix)  # nothing left: no error


@pytest.mark.parametrize("body_raises", [False, True])
def test_keys_that_cannot_be_deleted_are_reported(tcp_server: TcpServers, body_raises: bool) -> None:
    with tcp_server() as dying:
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


# --- URLs that cannot be used ----------------------------------------------------------------------


def usage_error(url: str) -> str:
    """The error's one line; fails if it comes late or contains the password."""
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
        (f"redis+sentinel://:{ENCODED}@localhost:1/mymaster", "no Sentinel that answers"),
        (f"redis+sentinel://:{ENCODED}@localhost:1", "expected redis+sentinel://host:port,…/NAME"),
        (f"redis+cluster://:{ENCODED}@localhost:1", "no node of a Cluster answers"),
        (f"redis+cluster://:{ENCODED}@localhost", "expected host:port"),
        ("unix://", "another form"),
        ("redis://localhost:port", "another form"),
        ("redis://localhost:99999", "another form"),
        ("redis://[::1", "another form"),
        ("redis://localhost/first", "another form"),
        ("redis://:hunter2/x@localhost:6379", "another form"),
        ("redis://:hunter2", "another form"),
        (f"unix:///tmp/no-such-podrace.sock?password={ENCODED}", "No such file"),
        ("redis://localhost:1/0?colour=red", "query"),
        ("redis://localhost:1/0?socket_timeout=soon", "query"),
        ("redis://localhost:1/\n0", "refused"),
    ],
)
def test_a_malformed_url(url: str, came: str) -> None:
    assert came in usage_error(url)


def test_a_port_where_nobody_listens_is_refused() -> None:
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
def test_credentials_that_are_not_enough(foreign: Any, credentials: str, came: str) -> None:
    line = usage_error(foreign.tcp_url.replace("redis://", f"redis://{credentials}"))
    assert came in line
    assert "--redis-url" in line


def test_a_database_that_is_not_there(foreign_url: str) -> None:
    assert "DB index is out of range" in usage_error(f"{foreign_url}/99")


def test_tls_to_a_server_without_it(foreign_url: str) -> None:
    line = usage_error(foreign_url.replace("redis://", "rediss://"))
    assert "no answer in time to TLS, which rediss:// asks for (a port without TLS needs redis://)" in line


@pytest.fixture
def cluster_node(tcp_server: TcpServers, until: Until) -> Iterator[Any]:
    """A Cluster of one node."""
    # by default the bus is at the port + 10,000, which may be too high
    with socket.create_server(("127.0.0.1", 0)) as probe:
        config = {"cluster-enabled": "yes", "cluster-port": str(probe.getsockname()[1])}
    with tcp_server(config=config) as node, connect(node.tcp_url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
        assert until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER INFO"))
        yield node


def test_a_cluster_is_asked_for_its_node_of_the_runs_keys(cluster_node: Any) -> None:
    port = cluster_node.config["port"]
    with open_server(f"redis+cluster://127.0.0.1:{port}") as server, connect(server.url) as client:
        assert server.url == f"redis://127.0.0.1:{port}/0"
        assert client.mset({f"{server.prefix}a": 1, f"{server.prefix}{{b}}": 2}), "they have one slot"
    with connect(cluster_node.tcp_url) as client:
        assert client.keys("*") == []


def test_a_cluster_node_needs_the_url_of_a_cluster(cluster_node: Any) -> None:
    assert "in cluster mode (its URL is redis+cluster://host:port)" in usage_error(cluster_node.tcp_url)


def test_a_single_node_is_no_cluster(foreign_url: str) -> None:
    line = usage_error(foreign_url.replace("redis://", "redis+cluster://"))
    assert "no node of a Cluster answers" in line


def test_a_full_server_is_refused(tcp_server: TcpServers) -> None:
    with tcp_server() as server:
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
def test_redact_hides_every_password(url: str, redacted: str) -> None:
    assert redact(url) == redacted
    assert "hunter2" not in redact(url)


def test_a_redacted_url_names_the_same_place() -> None:
    url = f"redis://user:{ENCODED}@example.org:6380/2"
    parts = urlsplit(redact(url))
    assert (parts.hostname, parts.port, parts.path, parts.password) == ("example.org", 6380, "/2", "***")


def test_a_server_that_is_lost_during_a_run_is_one_clear_line() -> None:
    with pytest.raises(HarnessError, match=r"lost during the run: .+") as caught, open_server(None) as server:
        assert server.embedded is not None
        server.embedded.kill()
        with connect(server.url) as client:
            client.ping()
    assert "\n" not in str(caught.value)


def test_a_foreign_server_that_is_lost_is_reported_without_its_password(tcp_server: TcpServers) -> None:
    with tcp_server(config={"requirepass": "s3cret"}) as foreign:
        url = foreign.tcp_url.replace("redis://", "redis://:s3cret@")
        with pytest.raises(HarnessError, match="lost during the run") as caught, open_server(url) as server:
            foreign.kill()
            with connect(server.url) as client:
                client.ping()
    told = " ".join([str(caught.value), *caught.value.__notes__])
    assert "delete the keys podrace:" in told
    assert "s3cret" not in told
