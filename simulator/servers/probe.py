"""The harness's own eyes and hands on the server: looks at the run's keys, lets them expire, clears them.

One connection is held and spoken to directly, several commands a round trip: this runs in every schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from podrace.simulator.history.events import plain
from podrace.simulator.world.footprints import CommandTable

if TYPE_CHECKING:
    import redis


class Probe:
    """Acts on keys by their full names. Implements what faults may ask (faults.Keys)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection: Any = client.connection_pool.get_connection()

    def close(self) -> None:
        self._client.connection_pool.release(self._connection)
        self._client.close()

    def table(self) -> CommandTable:
        """The server's table of commands."""
        return CommandTable(self._ask(("COMMAND",))[0], self._keys_of)

    def _keys_of(self, command: tuple[Any, ...]) -> Any:
        from redis.exceptions import DataError, ResponseError

        try:
            return self._ask(("COMMAND", "GETKEYSANDFLAGS", *command))[0]
        except (DataError, ResponseError):  # no keys, wrong arguments, or a server older than 7.0
            return None

    def under(self, prefix: str) -> list[str]:
        """All keys with this prefix, in order."""
        pattern = "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in prefix) + "*"
        return sorted(plain(key) for key in self._ask(("KEYS", pattern))[0])

    def expires_ms(self, key: str) -> int | None:
        """How long a key has to live; None for one that is not there or never expires."""
        left_ms = int(self._ask(("PTTL", key))[0])
        return left_ms if left_ms >= 0 else None

    def is_json(self, key: str) -> bool:
        """Whether a key holds a string that is a JSON object."""
        (kind,) = self._ask(("TYPE", key))
        return plain(kind) == "string" and plain(self._ask(("GET", key))[0]).startswith("{")

    def corrupt(self, key: str) -> None:
        """Cut a string's value in half; its time to live stays."""
        value = plain(self._ask(("GET", key))[0])
        self._ask(("SET", key, value[: len(value) // 2], "KEEPTTL"))

    def forget_scripts(self) -> None:
        """Empty the server's cache of scripts: it would tell a run what was run before."""
        self._ask(("SCRIPT", "FLUSH"))

    def delete(self, *keys: str) -> None:
        if keys:
            self._ask(("DEL", *keys))

    def lapse(self, keys: Sequence[str], passes_ms: float) -> list[str]:
        """Let time pass for the keys: those with less than `passes_ms` to live expire. Returns them."""
        left_ms = self._ask(*(("PTTL", key) for key in keys))
        gone = [key for key, ms in zip(keys, left_ms, strict=True) if 0 <= int(ms) <= passes_ms]
        self.delete(*gone)
        return gone

    def left(self, keys: Sequence[str], *, longer_than_ms: float) -> list[str]:
        """Those of the keys that are there and will be for longer than that."""
        left_ms = self._ask(*(("PTTL", key) for key in keys))
        return [key for key, ms in zip(keys, left_ms, strict=True) if int(ms) == -1 or int(ms) > longer_than_ms]

    def values(self, keys: Sequence[str]) -> list[str]:
        """What strings, lists, sets, hashes, sorted sets and streams hold, as text."""
        reads = {
            "string": ("GET",),
            "list": ("LRANGE", 0, -1),
            "set": ("SMEMBERS",),
            "hash": ("HGETALL",),
            "zset": ("ZRANGE", 0, -1),
            "stream": ("XRANGE", "-", "+"),
        }
        found = []
        for key in keys:
            command = reads.get(plain(self._ask(("TYPE", key))[0]))
            if command:
                found.append(plain(self._ask((command[0], key, *command[1:]))[0]))
        return found

    def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        if not commands:
            return []
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands))
        return [connection.read_response() for _ in commands]
