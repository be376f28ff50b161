"""How the harness looks at the run's keys on the server, ends them and clears them.

One connection is held and spoken to directly, several commands a round trip: this runs in every schedule. Commands
whose replies are known may be owed: they are sent, and their replies compared, before anything else is asked.
Keys are named as `footprints.key_text` has them, so that any bytes can be a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from podrace.simulator.errors import AnotherWayError
from podrace.simulator.servers import wire

if TYPE_CHECKING:
    import redis

_READS = {
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
    b"set": ("SMEMBERS",),
    b"hash": ("HGETALL",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


def key_bytes(key: str) -> bytes:
    """The bytes of a key that `footprints.key_text` has made text."""
    return key.encode("utf-8", "surrogateescape")


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return [_text(item) for item in value] if isinstance(value, list) else value


def _in_one_order(kind: bytes, value: Any) -> Any:
    if kind == b"hash":
        return dict(sorted(zip(value[::2], value[1::2], strict=True)))
    return sorted(value) if kind == b"set" else value


def _place(number: str) -> tuple[int, ...]:
    """Where an entry of a stream stands, by its id."""
    return tuple(map(int, number.split("-")))


class Probe:
    """Acts on keys by their full names. `own`: the server is ours, so all of it may be cleared."""

    def __init__(self, client: redis.Redis, *, own: bool) -> None:
        self._client = client
        self.own = own
        self._owed: list[tuple[tuple[Any, ...], Any]] = []
        self._connection: Any = client.connection_pool.get_connection()
        if own:
            # In import mode the server leaves keys alone whose time to live is over: the harness ends them.
            self.ask(("CONFIG", "SET", "import-mode", "yes"), ("CLIENT", "IMPORT-SOURCE", "ON"))

    def close(self) -> None:
        if self.own:
            self.ask(("CONFIG", "SET", "import-mode", "no"), ("CLIENT", "IMPORT-SOURCE", "OFF"))
        self._client.connection_pool.release(self._connection)
        self._client.close()

    def reconnect(self) -> None:
        """Use a new connection from now on: the server has been restarted."""
        self._connection.disconnect()

    def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies to commands, in one round trip. Raises what redis-py raises for an error among them."""
        owed, self._owed = self._owed, []
        if not commands and not owed:
            return []
        connection = self._connection
        sent = [*(command for command, _ in owed), *commands]
        if self.own and connection._sock is not None:
            connection._sock.sendall(b"".join([wire.packed(connection, command) for command in sent]))
            replies = [wire.read(connection) for _ in sent]
        else:
            connection.send_packed_command(connection.pack_commands(sent))
            replies = [connection.read_response() for _ in sent]
        for (command, expected), reply in zip(owed, replies, strict=False):
            if reply != expected:
                raise AnotherWayError(
                    f"the target is not deterministic: in the same schedule {command[0]} was answered once "
                    f"{str(expected)[:80]}, once {str(reply)[:80]}; no verdict can be given"
                )
        return replies[len(owed) :]

    def owe(self, command: tuple[Any, ...], reply: Any) -> None:
        """Send a command, to which the server has given this reply before, no later than anything else is asked.

        What is asked then raises AnotherWayError where its reply is another now.
        """
        self._owed.append((command, reply))

    def pay(self) -> None:
        """Send what is owed: something else than this probe is about to send commands."""
        if self._owed:
            self.ask()

    def command_rows(self) -> Any:
        """The server's table of commands."""
        return self.ask(("COMMAND",))[0]

    def keys_of(self, command: tuple[Any, ...]) -> Any:
        """The keys of a command and their flags, as the server tells them; None where it cannot."""
        from redis.exceptions import DataError, ResponseError

        try:
            return self.ask(("COMMAND", "GETKEYSANDFLAGS", *command))[0]
        except (DataError, ResponseError):  # no keys, wrong arguments, or a server older than 7.0
            return None

    def connections(self) -> int:
        """How many connections the server has ever accepted."""
        fields = _text(self.ask(("INFO", "stats"))[0])
        return int(fields.partition("total_connections_received:")[2].split()[0])

    def settle(self) -> None:
        """Return once all that other connections have sent before has been done, and its effects have been sent."""
        self.ask(("PING",))
        self.ask(("PING",))

    def under(self, prefix: str) -> list[str]:
        """All keys with this prefix, in order."""
        pattern = "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in prefix) + "*"
        return sorted(_text(key) for key in self.ask(("KEYS", key_bytes(pattern)))[0])

    def ends(self, keys: Sequence[str]) -> tuple[list[int], int]:
        """When keys end by the server's clock, and how late that is now, in milliseconds since the epoch.

        -1 stands for a key that lives for ever, -2 for one that is not there.
        """
        *ends_ms, (seconds, us) = self.ask(*(("PEXPIRETIME", key_bytes(key)) for key in keys), ("TIME",))
        return [int(one) for one in ends_ms], int(seconds) * 1000 + int(us) // 1000

    def let_live(self, lives: Sequence[tuple[str, int]]) -> list[int]:
        """Set how many milliseconds keys have to live. Returns when they end by the server's clock."""
        names = [key_bytes(key) for key, _ in lives]
        replies = self.ask(
            *(("PEXPIRE", name, ms) for name, (_, ms) in zip(names, lives, strict=True)),
            *(("PEXPIRETIME", name) for name in names),
        )
        return [int(ends_ms) for ends_ms in replies[len(names) :]]

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self.ask(("DEL", *map(key_bytes, keys)))

    def clear(self, keys: Sequence[str], *, scripts: bool) -> None:
        """Leave the server as every run should find it: our own empty, on another these keys gone."""
        self._owed.clear()
        if not self.own:
            self.delete(keys)
        elif scripts:
            self.ask(("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"))
        else:
            self.owe(("FLUSHALL",), b"OK")

    def exists(self, key: str) -> bool:
        return bool(self.ask(("EXISTS", key_bytes(key)))[0])

    def values(self, keys: Sequence[str]) -> list[Any]:
        """What keys hold: text, a list, a sorted list for a set, a dict for a hash; None for nothing."""
        kinds = [kind.encode() if isinstance(kind, str) else kind
                 for kind in self.ask(*(("TYPE", key_bytes(key)) for key in keys))]  # fmt: skip
        reads = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind in _READS]
        replies = self.ask(*((_READS[kind][0], key_bytes(key), *_READS[kind][1:]) for key, kind in reads))
        found = {key: _in_one_order(kind, _text(reply)) for (key, kind), reply in zip(reads, replies, strict=True)}
        return [found.get(key) for key in keys]

    def damage(self, key: str, *, only_ask: bool = False) -> bool:
        """Cut in half what a key holds: a string, the first item, or the longest field of a hash. Its life stays.

        Returns whether something is there to be damaged: an empty text is not, nor every stream.
        """
        name = key_bytes(key)
        kind = self.ask(("TYPE", name))[0]
        (value,) = self.values([key])
        if kind == b"stream":
            return self._damage_stream(name, value, only_ask=only_ask)
        held = max(value, key=lambda part: (len(value[part]), part)) if isinstance(value, dict) else value
        first = value[held] if isinstance(value, dict) else value[0] if isinstance(value, list) and value else value
        if not isinstance(first, str) or not first:
            return False
        half, whole = key_bytes(first[: len(first) // 2]), key_bytes(first)
        commands: dict[Any, list[tuple[Any, ...]]] = {
            b"string": [("SET", name, half, "KEEPTTL")],
            b"list": [("LSET", name, 0, half)],
            b"hash": [("HSET", name, key_bytes(held) if isinstance(held, str) else b"", half)],
            b"set": [("SADD", name, half), ("SREM", name, whole)],
        }
        if kind == b"zset":
            commands[kind] = [("ZADD", name, value[1], half), ("ZREM", name, whole)]
        if not only_ask and kind in commands:
            self.ask(*commands[kind])
        return kind in commands

    def _damage_stream(self, name: bytes, entries: list[Any], *, only_ask: bool) -> bool:
        """Cut in half the first value of the first entry; ids, groups and what they have pending stay as they are.

        A stream takes its old ids again only where none that was deleted lies behind its first entry.
        """
        if not entries or not entries[0][1][1]:
            return False
        (facts,) = self.ask(("XINFO", "STREAM", name))
        said = dict(zip(facts[::2], facts[1::2], strict=True))
        deleted = said[b"max-deleted-entry-id"]
        if _place(_text(deleted)) >= _place(entries[0][0]):
            return False
        if not only_ask:
            number, (field, value, *rest) = entries[0]
            halved = [(number, [field, value[: len(value) // 2], *rest]), *entries[1:]]
            self.ask(
                ("XTRIM", name, "MAXLEN", 0),
                ("XSETID", name, deleted),
                *(("XADD", name, one, *map(key_bytes, fields)) for one, fields in halved),
                ("XSETID", name, said[b"last-generated-id"], "ENTRIESADDED", said[b"entries-added"],
                 "MAXDELETEDID", deleted),
            )  # fmt: skip
        return True
