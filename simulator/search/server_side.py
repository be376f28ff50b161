"""What the harness does on the server for one run: ends keys, answers in the server's place, clears up.

Keys' times to live lie on the run's clock (see lives.py), and so does how long entries of streams have waited
(pending.py). Replies that depend on time or chance are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import plain
from podrace.simulator.search.lives import SETS_LIFE, Lives
from podrace.simulator.search.pending import Pending
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world import scripts
from podrace.simulator.world.client import LEAVES_A_MARK
from podrace.simulator.world.clock import US_PER_S, Clock
from podrace.simulator.world.footprints import (
    ASKS_LIFE,
    CHANNELS,
    EVERYTHING,
    CommandTable,
    Footprint,
    argv_of,
    sha_of,
)
from podrace.simulator.world.foreign import CHANGES_SERVER, changes_server
from podrace.simulator.world.led import as_led
from podrace.simulator.world.steps import TRANSACTION, Step

_FIELDS_LIVE = frozenset({"HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HSETEX", "HGETEX"})
_ENDS_KEYS = frozenset({"DEL", "UNLINK", "GETDEL"})
_RUN_SCRIPTS = frozenset({"EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO"})
_ANSWERED = ASKS_LIFE | {"TIME", "EVALSHA", "EVALSHA_RO", "XPENDING", "SCRIPT"}
_LOOKED_INTO = _RUN_SCRIPTS | _FIELDS_LIVE | CHANGES_SERVER | {"FUNCTION", "FCALL", "FCALL_RO"}
"""Commands of which the harness has to know more than the keys that they touch."""

_AS_SENT = frozenset({int, bytes, type(None)})

Part = tuple[tuple[Any, ...], tuple[Any, ...]]
"""A command of a step, as it is sent and as an argv (see argv_of)."""


class ServerSide:
    """The server's part of one run. `clock` is the run's."""

    def __init__(self, probe: Probe, table: CommandTable, clock: Clock, prefix: str) -> None:
        self.probe = probe
        self.table = table
        self.clock = clock
        self.prefix = prefix
        self.touched: dict[str, None] = {}
        """Keys that were written."""
        self._loaded: set[str] = set()
        """SHA-1s of scripts that this run's server knows: it starts without any."""
        self.used_functions = False
        self.lives = Lives(probe, clock)
        self.pending = Pending(probe, clock)
        self.watched: set[str] = set()
        """Keys that pods watch: a change of one makes a pod's transaction fail."""
        self._has_listeners = False
        self._are_alike = True
        """Whether a command does the same on whichever connection it is sent."""

    @staticmethod
    def parts(step: Step) -> list[Part]:
        """The command of a step, or the commands of its transaction."""
        commands = step.args[1:] if step.args[0] == TRANSACTION else (step.args,)  # MULTI and EXEC included
        return [(command, argv_of(command)) for command in commands]

    def names(self, parts: Sequence[Part]) -> set[str]:
        """The names of the commands, and of those that their scripts send in this run."""
        found = {argv[0] for _, argv in parts}
        for _, argv in parts if found & _RUN_SCRIPTS else ():
            text = self.table.script_of(argv)
            if text is not None and (argv[0] in ("EVAL", "EVAL_RO") or plain(argv[1]).lower() in self._loaded):
                found |= scripts.commands(text)
        return found

    def answer(self, parts: Sequence[Part]) -> tuple[Any] | None:
        """The reply that the harness makes in the server's place; None where the server makes it."""
        if len(parts) > 1:
            return None
        command, argv = parts[0]
        name = argv[0]
        if name not in _ANSWERED:
            return None
        if name == "TIME":
            now_us = self.clock.now_us
            return ([str(now_us // US_PER_S).encode(), str(now_us % US_PER_S).encode()],)
        if name in ASKS_LIFE and len(argv) == 2:
            return (self._life(name, self.table.footprint(command).reads[0]),)
        if name in ("EVALSHA", "EVALSHA_RO") and plain(argv[1]).lower() not in self._loaded:
            return (_no_script(),)
        if name == "XPENDING":
            return self.pending.answer(argv, self.table.footprint(command).reads[0])
        if name == "SCRIPT" and plain(argv[1]).upper() == "EXISTS":
            return ([int(plain(sha).lower() in self._loaded) for sha in argv[2:]],)
        return None

    def owe(self, command: tuple[Any, ...], reply: Any) -> None:
        """Have a command sent later whose reply is known."""
        self.probe.owe(as_led(command, lambda: self.clock.now_us / US_PER_S), reply)

    def can_tell(self, parts: Sequence[Part], touches: Footprint, reply: Any) -> bool:
        """Whether the server can but give this reply again in the same state, and nobody else hears of it."""
        name = parts[0][1][0]
        to_all = CHANNELS in touches.writes or EVERYTHING in touches.writes
        return self._are_alike and len(parts) == 1 and self.table.is_on_keys(name) and not to_all and _is_plain(reply)

    def before(self, parts: Sequence[Part], touches: Footprint) -> None:
        """Set right on the server what the step's outcome depends on. Raises TargetError for what cannot be led.

        `touches` is what the step touches, what others wait for included.
        """
        if len(parts) == 1:
            command, argv = parts[0]
            if argv[0] != "SET" or _life_of_set(argv[3:]) is None:  # else it depends on no life
                self._before(command, argv, touches)
        for command, argv in parts[1:-1]:
            self._before(command, argv, self.table.footprint(command))

    def _before(self, command: tuple[Any, ...], argv: tuple[Any, ...], touches: Footprint) -> None:
        name, text = argv[0], None
        self._are_alike &= name not in LEAVES_A_MARK
        if name in _LOOKED_INTO or name.endswith("SUBSCRIBE"):
            text = self._look_into(name, argv)
        if self._has_listeners and (CHANNELS in touches.writes or EVERYTHING in touches.writes):
            self.probe.settle()  # the server knows by then of subscribers whose connections have been closed
        self.pending.before(argv, touches)
        if self.clock.deadlines and (name in SETS_LIFE or EVERYTHING in touches.writes):
            keys = list(self.clock.deadlines) if EVERYTHING in touches.touched() else touches.touched()
            self.lives.before(argv, keys, text, self.watched)

    def _look_into(self, name: str, argv: tuple[Any, ...]) -> str | None:
        """Take note of what a command changes besides keys, and refuse what cannot be led. Returns a script's text."""
        text = self.table.script_of(argv)
        if name in ("FUNCTION", "FCALL", "FCALL_RO"):
            self.used_functions = True
        if name == "FUNCTION" and len(argv) > 2:
            text = plain(argv[-1])
        if changes := changes_server(argv, text):
            raise TargetError(
                f"the target sends {changes}, which changes the server itself, for every later run too: that cannot "
                "be led; expected commands on keys, channels and scripts; no verdict can be given"
            )
        if text is not None and scripts.reads_clock(text):
            raise TargetError(
                "a script of the target asks the server for TIME, which cannot be led: expected the time as an "
                "argument, or leases as keys with a time to live; no verdict can be given"
            )
        if name in _FIELDS_LIVE:
            raise TargetError(f"the target sends {name}: lives of hash fields cannot be led; no verdict can be given")
        if name in ("EVALSHA", "EVALSHA_RO") and plain(argv[1]).lower() not in self._loaded:
            self._forget_scripts()  # inside a transaction: alone it is answered by the harness
        self._has_listeners |= "SUBSCRIBE" in name
        return text

    def _forget_scripts(self) -> None:
        known = [("SCRIPT", "LOAD", self.table.texts[sha]) for sha in sorted(self._loaded) if sha in self.table.texts]
        self.probe.ask(("SCRIPT", "FLUSH"), *known)

    def after(self, parts: Sequence[Part], touches: Footprint, reply: Any, began_s: float) -> None:
        """Take note of what the step has done to keys' times to live, and of the scripts that it has loaded."""
        for key in touches.writes:
            self.touched[key] = None
        self.pending.after(touches.writes)
        asked: dict[str, None] = {}
        hints: list[int] = []
        alone = len(parts) == 1
        for part in parts if alone else parts[1:-1]:
            self._after(part, asked, hints, reply=reply, certain=alone and not isinstance(reply, BaseException))
        if EVERYTHING in asked:
            del asked[EVERYTHING]
            asked.update(dict.fromkeys([*self.clock.deadlines, *self.probe.under(self.prefix)]))
            self.touched.update(asked)
        if asked:
            self.lives.after([key for key in asked if not key.startswith(" ")], hints, began_s)

    def _after(self, part: Part, asked: dict[str, None], hints: list[int], *, reply: Any, certain: bool) -> None:
        command, argv = part
        touches = self.table.footprint(command)
        name = argv[0]
        deadlines = self.clock.deadlines
        if certain and name == "SET" and (plainly := _life_of_set(argv[3:])) is not None:
            if reply is not None:
                self.lives.set_plainly(touches.writes[0], plainly)
            return
        if name in ("EVAL", "EVAL_RO", "SCRIPT"):
            self._learn_script(name, argv)
        if certain and name in _ENDS_KEYS:
            for key in touches.writes:
                deadlines.pop(key, None)
        elif name not in SETS_LIFE:
            if deadlines:
                self.lives.forget_ended([key for key in touches.writes if key in deadlines])
            if EVERYTHING in touches.writes:
                asked[EVERYTHING] = None
        elif touches.writes:
            asked.update(dict.fromkeys(touches.writes))
            for number in (int(plain(word)) for word in argv[1:] if _is_number(word)):
                hints += [number, number * 1000]
            if any(plain(word).startswith("-") for word in argv[1:] if isinstance(word, int | str | bytes)):
                hints.append(0)  # a time to live that is over at once

    def _learn_script(self, name: str, argv: tuple[Any, ...]) -> None:
        if name != "SCRIPT":
            self._loaded.add(sha_of(argv[1]))
        elif plain(argv[1]).upper() == "LOAD":
            self._loaded.add(sha_of(argv[2]))
        elif plain(argv[1]).upper() == "FLUSH":
            self._loaded.clear()

    def _life(self, name: str, key: str) -> int:
        due_us = self.clock.deadlines.get(key)
        if due_us is None:
            return -1 if self.probe.exists(key) else -2
        if name in ("TTL", "PTTL"):
            left_us = due_us - self.clock.now_us
            return (left_us + US_PER_S // 2) // US_PER_S if name == "TTL" else left_us // 1000
        return due_us // US_PER_S if name == "EXPIRETIME" else due_us // 1000

    def end_keys(self) -> list[str]:
        """End the keys whose time to live is over. Returns them, those that are due first before the others."""
        gone = self.clock.over()
        self.probe.delete(gone)
        return gone

    def left(self) -> list[tuple[str, int | None]]:
        """The run's keys that are there, with the microseconds that they have to live."""
        keys = self.probe.under("" if self.probe.own else self.prefix)
        now_us, deadlines = self.clock.now_us, self.clock.deadlines
        return [(key, deadlines[key] - now_us if key in deadlines else None) for key in keys]

    def clear(self) -> None:
        """Leave the server as the next run should find it."""
        keys = [key for key in self.touched if not key.startswith(" ") and key != EVERYTHING]
        if EVERYTHING in self.touched:
            keys += self.probe.under(self.prefix)
        self.probe.clear(keys, scripts=self.used_functions)


def _life_of_set(options: tuple[Any, ...]) -> int | None:
    """For a SET whose reply tells its outcome, the microseconds that the key lives, 0 for ever; else None."""
    try:
        return _read_options(options)
    except TypeError:  # an option that cannot be hashed, which redis-py will refuse
        return None


@lru_cache(maxsize=1000)
def _read_options(options: tuple[Any, ...]) -> int | None:
    life_us, rest = 0, [plain(word).upper() for word in options]
    while rest:
        option = rest.pop(0)
        if option in ("EX", "PX") and rest and rest[0].isdecimal():
            life_us = int(rest.pop(0)) * (US_PER_S if option == "EX" else 1000)
        elif option not in ("NX", "XX"):
            return None
    return life_us


def _is_plain(reply: Any) -> bool:
    """Whether a reply is as the server sends it, no error, and no text that a client has made of it."""
    return all(type(one) in _AS_SENT for one in (reply if type(reply) is list else (reply,)))


def _is_number(word: Any) -> bool:
    text = plain(word) if isinstance(word, int | str | bytes) else ""
    return text.isdecimal() and len(text) < 16


def _no_script() -> Exception:
    from redis.exceptions import NoScriptError

    return NoScriptError("No matching script. Please use EVAL.")
