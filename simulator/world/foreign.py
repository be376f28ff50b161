"""What a pod must not send: commands that change the server itself and, to a foreign server, what is not the run's."""

from __future__ import annotations

from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import plain
from podrace.simulator.world import scripts
from podrace.simulator.world.footprints import EVERYTHING, CommandTable, argv_of
from podrace.simulator.world.steps import TRANSACTION

_ONLY_TELL = {
    "ACL": frozenset({"CAT", "DRYRUN", "GENPASS", "GETUSER", "HELP", "LIST", "USERS", "WHOAMI"}),
    "CLIENT": frozenset({"GETNAME", "HELP", "ID", "INFO", "LIST", "NO-TOUCH", "SETINFO", "SETNAME"}),
    "CONFIG": frozenset({"GET", "HELP"}),
    "MODULE": frozenset({"HELP", "LIST"}),
}
"""Of commands that change the server itself, or others' connections, those that only tell."""
CHANGES_SERVER = frozenset(
    {
        *("BGREWRITEAOF", "BGSAVE", "DEBUG", "FAILOVER", "MIGRATE", "MONITOR", "PSYNC", "QUIT", "REPLICAOF", "SAVE"),
        *("SHUTDOWN", "SLAVEOF", "SYNC", *_ONLY_TELL),
    }
)
_FOR_ALL = frozenset({"ACL", "FCALL", "FLUSHALL", "FLUSHDB", "FUNCTION", "MODULE", "MOVE", "SELECT", "SWAPDB"})
"""What else concerns the whole of somebody else's server."""
_FORGETS_SCRIPTS = frozenset({("SCRIPT", "FLUSH"), ("SCRIPT", "KILL")})


def changes_server(argv: tuple[Any, ...], text: str | None = None) -> str:
    """The command, or that of its script's `text`, that changes the server itself, or others' connections; or empty."""
    name: str = argv[0]
    if name in _ONLY_TELL and len(argv) > 1:
        second = plain(argv[1]).upper()
        return "" if second in _ONLY_TELL[name] else f"{name} {second}"
    if name in CHANGES_SERVER:
        return name
    within: frozenset[str] = CHANGES_SERVER & scripts.commands(text) if text else frozenset()
    return min(within, default="")


class Guard:
    """Raises TargetError for a command that could touch what is not under the run's prefix, before it is sent."""

    def __init__(self, table: CommandTable, prefix: str) -> None:
        self._table = table
        self._prefix = prefix

    def __call__(self, command: tuple[Any, ...]) -> None:
        for one in command[1:] if command[0] == TRANSACTION else (command,):
            argv = argv_of(one)
            name, second = [*(plain(word).upper() for word in argv[:2]), ""][:2]
            if name in _FOR_ALL or changes_server(argv) or (name, second) in _FORGETS_SCRIPTS:
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
