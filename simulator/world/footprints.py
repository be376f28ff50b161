"""Which keys a Redis command reads and writes: what decides whether two steps commute.

The server itself says it: COMMAND tells for each command whether it writes and where its keys stand
(https://valkey.io/commands/command/). Scripts name their keys in the call (KEYS). What cannot be told
is taken to touch everything.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any, NamedTuple

from podrace.simulator.history.events import plain

EVERYTHING = "*"
"""Stands for every key there is or could be."""

_SCRIPTS = frozenset({"EVAL", "EVALSHA", "FCALL"})
_READING_SCRIPTS = frozenset({"EVAL_RO", "EVALSHA_RO", "FCALL_RO"})
_KEYLESS = frozenset({"PING", "ECHO", "TIME", "SCRIPT", "MULTI", "EXEC", "DISCARD", "UNWATCH", "INFO", "CLIENT"})


class Footprint(NamedTuple):
    """What a step reads and writes; two steps commute where neither writes what the other touches."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


NOTHING = Footprint()


def in_memory(pod: str, touches: Footprint, *, changes: bool) -> Footprint:
    """The footprint with the pod's own memory in it, which every step reads, and some change (see heap)."""
    memory = f"pod {pod}"
    if changes:
        return Footprint(touches.reads, (*touches.writes, memory))
    return Footprint((*touches.reads, memory), touches.writes)


ALL_OF_IT = Footprint(writes=(EVERYTHING,))
"""Of a pause: any key may expire in it, and every pod's clock runs on."""

MASK = (1 << 61) - 1

MOST_KNOWN = 10_000
"""Commands whose footprint is remembered: the same ones come again in every schedule."""


class CommandTable:
    """The server's own table of commands. `rows` is the reply to COMMAND.

    `keys_of` asks the server for the keys of a command where their places do not tell (COMMAND
    GETKEYSANDFLAGS): pairs of a key and its flags, or None where the server cannot tell either.
    """

    def __init__(self, rows: Any, keys_of: Callable[[tuple[Any, ...]], Any] = lambda command: None) -> None:
        self._keys_of = keys_of
        self._movable: set[str] = set()
        self._known: dict[tuple[Any, ...], Footprint] = {}
        self._rows: dict[str, tuple[bool, int, int, int]] = {}
        values = rows.values() if isinstance(rows, dict) else rows
        for row in values:
            name, _, flags, first, last, step = row[:6]
            writes = any(plain(flag) == "write" for flag in flags)
            reads = any(plain(flag) == "readonly" for flag in flags)
            if any(plain(flag) == "movablekeys" for flag in flags):
                self._movable.add(plain(name).upper())
            if writes or reads:
                self._rows[plain(name).upper()] = (writes, int(first), int(last), int(step))

    def footprint(self, command: tuple[Any, ...]) -> Footprint:
        """The keys of one command, or of all commands of a `BATCH`."""
        try:
            known = self._known.get(command)
        except TypeError:  # an argument that redis-py will refuse
            return self._footprint(command)
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[command] = self._footprint(command)
        return known

    def _footprint(self, command: tuple[Any, ...]) -> Footprint:
        name = plain(command[0]).upper()
        if name == "BATCH":
            parts = [self.footprint(part) for part in command[1:]]
            return Footprint(
                tuple(key for part in parts for key in part.reads),
                tuple(key for part in parts for key in part.writes),
            )
        if name in _SCRIPTS or name in _READING_SCRIPTS:
            keys = tuple(plain(key) for key in command[3 : 3 + int(command[2])])
            cached = (f"script {plain(command[1])}",) if name.startswith("EVALSHA") else ()
            return Footprint(reads=(*cached, *keys)) if name in _READING_SCRIPTS else Footprint(cached, keys)
        if name == "SCRIPT LOAD":
            return Footprint(writes=(f"script {sha1(plain(command[1]).encode()).hexdigest()}",))
        if name in _KEYLESS or name.split(" ")[0] in _KEYLESS:
            return NOTHING
        if name == "WATCH":
            return Footprint(reads=tuple(plain(key) for key in command[1:]))
        words = name.split()  # redis-py sends some commands as two words in one
        row = self._rows.get(words[0])
        if row is None:  # a command with subcommands, perhaps
            return self._asked((*words, *command[1:]), writes=True)
        writes, first, last, step = row
        if words[0] in self._movable:
            return self._asked(command, writes)
        if first == 0:
            return Footprint(writes=(EVERYTHING,)) if writes else Footprint(reads=(EVERYTHING,))
        end = len(command) if last < 0 else last + 1
        end = len(command) + last + 1 if last < 0 else end
        keys = tuple(plain(key) for key in command[first:end:step])
        return Footprint(writes=keys) if writes else Footprint(reads=keys)

    def _asked(self, command: tuple[Any, ...], writes: bool) -> Footprint:
        """What the server says of a command whose keys stand in no fixed place."""
        found = self._keys_of(command)
        if found is None:
            return Footprint(writes=(EVERYTHING,)) if writes else Footprint(reads=(EVERYTHING,))
        keys = [(plain(key), {plain(flag) for flag in flags}) for key, flags in found]
        read = tuple(key for key, flags in keys if "RO" in flags)
        if any(plain(arg).upper() in ("BY", "GET") for arg in command[2:]):  # SORT by keys of a pattern
            read = (*read, EVERYTHING)
        return Footprint(read, tuple(key for key, flags in keys if "RO" not in flags))


class Trace:
    """The fingerprint of what has happened up to the order of steps that commute.

    Every event is hashed with the events that it depends on: its actor's last one and the last
    conflicting accesses of what it touches, its pod's memory included. Their sum is the
    same for any two orders that differ only in steps that commute (Mazurkiewicz traces), and so is
    the state they lead to.
    """

    __slots__ = ("_actors", "_all_reads", "_all_writes", "_reads", "_writes", "value")

    def __init__(self) -> None:
        self.value = 0
        self._actors: dict[str, int] = {}
        self._writes: dict[str, int] = {}
        self._reads: dict[str, int] = {}
        self._all_reads = 0
        self._all_writes = 0

    def event(self, actor: str, action: str, footprint: Footprint) -> int:
        """The hash that this event would have if it came next."""
        depends = self._actors.get(actor, 0)
        writes, reads = self._writes, self._reads
        for key in footprint.reads:
            depends = depends * 31 + (self._all_writes if key == EVERYTHING else writes.get(key, 0))
        for key in footprint.writes:
            if key == EVERYTHING:
                depends = depends * 31 + self.value
            else:
                depends = depends * 37 + writes.get(key, 0) + 3 * reads.get(key, 0) + 5 * self._all_reads
        # Of a text, not of a tuple: sums of tuples' hashes meet where two events exchange an action.
        return hash(f"{actor} {action} {depends & MASK}")

    def add(self, actor: str, action: str, footprint: Footprint) -> None:
        """Let this event be the next one."""
        event = self.event(actor, action, footprint)
        self.value = (self.value + event) & MASK
        self._actors[actor] = event
        for key in footprint.reads:
            if key == EVERYTHING:
                self._all_reads = (self._all_reads + event) & MASK
            else:
                self._reads[key] = (self._reads.get(key, 0) + event) & MASK
        for key in footprint.writes:
            if key == EVERYTHING:
                # Everything after it depends on it: as if every key had been written by it alone.
                self._writes, self._actors = _Everywhere(event), _Everywhere(event)
                self._reads.clear()
                self._all_reads = 0
            else:
                self._writes[key] = event
                self._reads[key] = 0
            self._all_writes = (self._all_writes + event) & MASK


class _Everywhere(dict[str, int]):
    """Last events after one that concerned every key, or every actor, those never named before included."""

    def __init__(self, event: int) -> None:
        super().__init__()
        self._event = event

    def get(self, key: str, default: int = 0) -> int:  # type: ignore[override]
        return super().get(key, self._event)
