"""Which keys a Redis command reads and writes: what decides whether two steps commute.

The server itself says it: COMMAND tells for each command whether it writes and where its keys stand
(https://valkey.io/commands/command/). Scripts name their keys in the call (KEYS); one that may touch others
touches everything. What cannot be told is taken to touch everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import sha1
from typing import Any, NamedTuple

from podrace.simulator.history.events import plain
from podrace.simulator.world import scripts
from podrace.simulator.world.led import BLOCKING
from podrace.simulator.world.steps import TRANSACTION

EVERYTHING = "*"
"""Stands for every key there is or could be."""

CHANNELS = " published messages"
THE_TIME = " the time"
"""What time it is: written when time passes, read by what asks for it, waits until then, or gives a key its life."""

_SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"})
_KEYLESS = frozenset({"PING", "ECHO", "TIME", "INFO", "UNWATCH", "DISCARD", "HELLO", "AUTH", "COMMAND", "LASTSAVE"})
_PUBLISHED = frozenset({"PUBLISH", "SPUBLISH", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE"})

ASKS_LIFE = frozenset({"TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"})
TELLS_TIME = ASKS_LIFE | {
    *("SETEX", "PSETEX", "GETEX", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "RESTORE", "TIME"),
}
"""Commands that may give a key a life, or whose reply may depend on what time it is; SET and those of streams aside."""
_LIVES_OF_SET = frozenset({"EX", "PX", "EXAT", "PXAT"})

MOST_KNOWN = 10_000
"""Commands whose footprint is remembered: the same ones come again in every schedule."""


class Footprint(NamedTuple):
    """What a step reads and writes; two steps commute where neither writes what the other touches."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def touched(self) -> Iterable[str]:
        """Every name once, what is read first."""
        return dict.fromkeys((*self.reads, *self.writes))


NOTHING = Footprint()
ALL_OF_IT = Footprint(writes=(EVERYTHING,))


def argv_of(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """The command with its name in upper case, split where redis-py sends two words in one."""
    names = _split_name(plain(command[0]))
    return command if names == command[:1] else (*names, *command[1:])


def names_of(command: tuple[Any, ...]) -> set[str]:
    """The names of a command, or of the commands of a transaction, in upper case."""
    commands = command[1:] if command[0] == TRANSACTION else (command,)
    return {_split_name(plain(one[0]))[0] for one in commands}


@lru_cache(maxsize=1000)
def _split_name(name: str) -> tuple[str, ...]:
    return tuple(name.upper().split()) or ("",)


def key_text(key: Any) -> str:
    """A key as text from which its bytes can be had again, so that no two keys share a name."""
    return key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else plain(key)


def sha_of(script: Any) -> str:
    """The name by which the server knows a script."""
    return sha1(script if isinstance(script, bytes) else plain(script).encode()).hexdigest()


def _script(sha: str) -> str:
    """The name under which a script in the server's cache stands in a footprint: no key has a space first."""
    return f" script {sha}"


class CommandTable:
    """The server's own table of commands. `rows` is the reply to COMMAND.

    `keys_of` asks the server for the keys of a command where their places do not tell (COMMAND
    GETKEYSANDFLAGS): pairs of a key and its flags, or None where the server cannot tell either.
    """

    def __init__(self, rows: Any, keys_of: Callable[[tuple[Any, ...]], Any] = lambda command: None) -> None:
        self._keys_of = keys_of
        self._known: dict[tuple[Any, ...], Footprint] = {}
        self._rows: dict[str, tuple[bool, int, int, int, bool]] = {}
        self.texts: dict[str, str] = {}
        """By SHA-1, the scripts that the target has sent: the texts of what EVALSHA names."""
        self.unclear: set[str] = set()
        """SHA-1s of scripts that may touch keys that they do not declare."""
        for row in rows.values() if isinstance(rows, dict) else rows:
            name, _, flags, first, last, step = row[:6]
            said = {plain(flag) for flag in flags}
            if said & {"write", "readonly"}:
                place = int(first), int(last), int(step)
                self._rows[plain(name).upper()] = ("write" in said, *place, "movablekeys" in said)

    def is_on_keys(self, name: str) -> bool:
        """Whether a command reads or writes keys in fixed places, and neither blocks nor is about streams."""
        row = self._rows.get(name)
        return row is not None and row[1] > 0 and not row[4] and name not in BLOCKING and not name.startswith("X")

    def know(self, texts: Mapping[str, str], unclear: Iterable[str]) -> None:
        """Know of these scripts, and of no others."""
        if texts.keys() != self.texts.keys():
            self.texts = dict(texts)
            self._known.clear()  # SCRIPT LOAD makes its text known where its footprint is asked for first
        self.unclear = set(unclear)

    def footprint(self, command: tuple[Any, ...]) -> Footprint:
        """The keys of one command, or of all commands of a transaction."""
        try:
            known = self._known.get(command)
        except TypeError:  # an argument that redis-py will refuse
            return self._footprint(command)
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._footprint(command)
            if (
                command[0] != TRANSACTION and plain(command[0]).upper() not in _SCRIPTS
            ):  # what is known of those changes
                self._known[command] = known
        return known

    def script_of(self, argv: tuple[Any, ...]) -> str | None:
        """The text of the script that a command runs; None for another command, or a script nobody has seen."""
        if argv[0] in ("EVAL", "EVAL_RO"):
            return plain(argv[1])
        return self.texts.get(plain(argv[1]).lower()) if argv[0] in ("EVALSHA", "EVALSHA_RO") else None

    def _footprint(self, command: tuple[Any, ...]) -> Footprint:
        if command[0] == TRANSACTION:
            parts = [self.footprint(part) for part in command[1:] if plain(part[0]).upper() not in ("MULTI", "EXEC")]
            return Footprint(
                tuple(dict.fromkeys(key for part in parts for key in part.reads)),
                tuple(dict.fromkeys(key for part in parts for key in part.writes)),
            )
        argv = argv_of(command)
        touches = self._of_one(argv[0], argv)
        if EVERYTHING in touches.writes or not self._tells_time(argv):
            return touches
        return Footprint((*touches.reads, THE_TIME), touches.writes)

    def _tells_time(self, argv: tuple[Any, ...]) -> bool:
        """Whether what a command does may depend on what time it is, the ends of its keys' lives aside."""
        name = argv[0]
        if name not in _SCRIPTS:
            gives = name == "SET" and not _LIVES_OF_SET.isdisjoint(plain(word).upper() for word in argv[3:])
            return gives or name in TELLS_TIME or name.startswith("X")
        text = self.script_of(argv)
        sends = scripts.commands(text) if text is not None and scripts.is_clean(text) else ("TIME",)
        return any(one == "SET" or one in TELLS_TIME or one.startswith("X") for one in sends)

    def _of_one(self, name: str, argv: tuple[Any, ...]) -> Footprint:
        if name in _SCRIPTS:
            return self._of_script(name, argv)
        if name in ("FCALL", "FCALL_RO", "FUNCTION", "EXEC", "MULTI", "SELECT", "SWAPDB", "MOVE"):
            return ALL_OF_IT
        if name == "SCRIPT":
            return self._of_script_command(argv)
        if name in _PUBLISHED or name in ("PUBSUB", "SUNSUBSCRIBE"):
            return Footprint(writes=(CHANNELS,))
        if name in _KEYLESS or name == "CLIENT":
            return NOTHING
        if name == "CONFIG" and len(argv) > 1 and plain(argv[1]).upper() == "GET":
            return Footprint(reads=(" configuration",))  # other subcommands touch everything, and so this
        if name == "WATCH":
            return Footprint(reads=tuple(key_text(key) for key in argv[1:]))
        row = self._rows.get(name)
        if row is None:  # a command with subcommands, perhaps
            return self._asked(argv, writes=True)
        writes, first, last, step, movable = row
        if movable:
            return self._asked(argv, writes)
        if first == 0:
            return ALL_OF_IT if writes else Footprint(reads=(EVERYTHING,))
        end = len(argv) + last + 1 if last < 0 else last + 1
        keys = tuple(key_text(key) for key in argv[first:end:step])
        return Footprint(writes=keys) if writes else Footprint(reads=keys)

    def _of_script_command(self, argv: tuple[Any, ...]) -> Footprint:
        subcommand = plain(argv[1]).upper()
        if subcommand == "LOAD":
            text = plain(argv[2])
            sha = sha_of(argv[2])
            self.texts[sha] = text
            return Footprint(writes=(_script(sha),))
        if subcommand == "EXISTS":
            return Footprint(reads=tuple(_script(plain(sha).lower()) for sha in argv[2:]))
        return ALL_OF_IT

    def _of_script(self, name: str, argv: tuple[Any, ...]) -> Footprint:
        """EVALSHA finds what EVAL and SCRIPT LOAD have left; a script that is not clean touches everything."""
        by_name = name.startswith("EVALSHA")
        sha = plain(argv[1]).lower() if by_name else sha_of(argv[1])
        if not by_name:
            self.texts[sha] = plain(argv[1])
        text = self.texts.get(sha)
        if text is not None and not scripts.is_clean(text):
            self.unclear.add(sha)
            return ALL_OF_IT
        keys = tuple(key_text(key) for key in argv[3 : 3 + int(plain(argv[2]))])
        reads, writes = (keys, ()) if name.endswith("_RO") else ((), keys)
        if text is not None and scripts.publishes(text):
            writes = (*writes, CHANNELS)
        script = _script(sha)
        return Footprint((*reads, script), writes) if by_name else Footprint(reads, (*writes, script))

    def _asked(self, argv: tuple[Any, ...], writes: bool) -> Footprint:
        """What the server says of a command whose keys stand in no fixed place."""
        found = self._keys_of(argv)
        if found is None:
            return ALL_OF_IT if writes else Footprint(reads=(EVERYTHING,))
        keys = [(key_text(key), {plain(flag) for flag in flags}) for key, flags in found]
        if writes and argv[0].startswith("X") and all("RO" in flags for _, flags in keys):
            # XREADGROUP changes what its group has seen
            return Footprint(writes=tuple(key for key, _ in keys))
        read = tuple(key for key, flags in keys if "RO" in flags)
        if argv[0].startswith("SORT") and any(plain(arg).upper() in ("BY", "GET") for arg in argv[2:]):
            read = (*read, EVERYTHING)  # keys of a pattern
        return Footprint(read, tuple(key for key, flags in keys if "RO" not in flags))
