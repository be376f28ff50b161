"""What a pod must not send to a server that somebody else runs."""

from __future__ import annotations

from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import plain
from podrace.simulator.world.footprints import EVERYTHING, CommandTable, words_of
from podrace.simulator.world.steps import TRANSACTION

_FOR_ALL = frozenset(
    """
    ACL CONFIG DEBUG FAILOVER FCALL FLUSHALL FLUSHDB FUNCTION MIGRATE MODULE MONITOR MOVE PSYNC REPLICAOF SAVE
    BGSAVE BGREWRITEAOF SELECT SHUTDOWN SLAVEOF SWAPDB SYNC
    """.split()  # noqa: SIM905 - one line a word is no list to read
)
_FORGETS_SCRIPTS = frozenset({("SCRIPT", "FLUSH"), ("SCRIPT", "KILL")})


class Guard:
    """Raises TargetError for a command that could touch what is not under the run's prefix, before it is sent."""

    def __init__(self, table: CommandTable, prefix: str) -> None:
        self._table = table
        self._prefix = prefix

    def __call__(self, command: tuple[Any, ...]) -> None:
        for one in command[1:] if command[0] == TRANSACTION else (command,):
            name, second = [*(plain(word).upper() for word in words_of(one)[:2]), ""][:2]
            if (name in _FOR_ALL and (name, second) != ("CONFIG", "GET")) or (name, second) in _FORGETS_SCRIPTS:
                raise self._refusal(name, "concerns the whole server")
            for key in self._table.footprint(one).writes:
                if key == EVERYTHING and name not in ("EXEC", "MULTI"):
                    raise self._refusal(name, "may write keys that it does not name")
                if not key.startswith((self._prefix, " ", EVERYTHING)):
                    raise self._refusal(name, f"writes the key {key[:80]!r}")

    def _refusal(self, name: str, why: str) -> TargetError:
        return TargetError(
            f"the target sends {name}, which {why}: on a server that podrace has not started it may write only keys "
            f"that begin with env.prefix ({self._prefix}); nothing was sent; leave --redis-url out to try it"
        )
