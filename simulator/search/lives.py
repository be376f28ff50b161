"""How long keys have to live, on the run's clock.

The server tells when by its own clock a key ends (PEXPIRETIME). A command that has left that as it was has left the
key's deadline on the run's clock as it was too; what is new was given relative to now, and lies on the run's clock as
far from now. Right before a command that may set or read a life, those of its keys are set to what is left of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import plain
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world import scripts
from podrace.simulator.world.clock import EPOCH_S, US_PER_S, Clock, roundest
from podrace.simulator.world.footprints import ASKS_LIFE, TELLS_TIME

SETS_LIFE = TELLS_TIME | {
    *("SET", "GETSET", "PERSIST", "COPY", "RENAME", "RENAMENX", "SORT", "BITOP"),
    *("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"),
}
"""Commands that may give a key a time to live, or whose reply may depend on one. All others leave it or end the key."""
_FUNCTIONS = frozenset({"FCALL", "FCALL_RO"})
_LONG_MS = (EPOCH_S - 10 * 365 * 24 * 3600) * 1000
"""A key that ends later than this by the server's clock was given a date, which lies on the run's clock."""
_MILLISECOND_S = 0.002
"""After this time the server's clock certainly shows another millisecond."""


class Lives:
    """The lives of one run's keys."""

    def __init__(self, probe: Probe, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._seen: dict[str, tuple[int, int]] = {}
        """By key, when it ends by the server's clock, in milliseconds, and how late it was on ours when we saw that."""

    def before(self, argv: Sequence[Any], keys: Iterable[str], text: str | None, watched: Collection[str]) -> None:
        """Let the server have the lives that a command may read or set. `text` is that of a script it runs.

        Keys that a pod watches are left alone, for its transaction would fail. Raises TargetError where that counts.
        """
        now_us = self._clock.now_us
        reads = _reads_lives(argv, text)
        stale = [
            key for key in keys if key in self._clock.deadlines and (reads or self._seen.get(key, (0, 0))[1] != now_us)
        ]
        if alone := [key for key in stale if key in watched]:
            if reads and (text is None or scripts.is_clean(text)):
                raise TargetError(
                    f"the target watches {alone[0]}, whose time to live it asks for: that cannot be led; "
                    "no verdict can be given"
                )
            time.sleep(_MILLISECOND_S)  # else a life that is given anew could end in the same millisecond as before
            for key, ends_ms in zip(alone, self._probe.ends(alone)[0], strict=True):
                self._seen[key] = ends_ms, self._seen.get(key, (0, now_us))[1]
        rest = [key for key in stale if key not in watched]
        lives = [(key, self._clock.left_ms(key) or 1) for key in rest]
        for key, ends_ms in zip(rest, self._probe.let_live(lives), strict=True):
            self._seen[key] = ends_ms, now_us

    def set_plainly(self, key: str, life_us: int) -> None:
        """Take note of a key that has just been set, to live for so long; 0 is for ever."""
        self._seen.pop(key, None)
        self._clock.deadlines.pop(key, None)
        if life_us:
            self._clock.deadlines[key] = self._clock.now_us + life_us

    def forget_ended(self, keys: Sequence[str]) -> None:
        """Forget the deadlines of keys that are gone; the command has changed none."""
        if keys:
            for key, ends_ms in zip(keys, self._probe.ends(keys)[0], strict=True):
                if ends_ms < 0:
                    del self._clock.deadlines[key]

    def after(self, keys: Sequence[str], hints: Sequence[int], began_s: float) -> None:
        """Take note of what a command has done to the lives of these keys.

        `hints` are numbers of milliseconds that it may have given as lives; `began_s` is when it was sent.
        """
        deadlines, now_us = self._clock.deadlines, self._clock.now_us
        kept = {self._seen[key][0]: deadlines[key] for key in keys if key in self._seen and key in deadlines}
        found, server_ms = self._probe.ends(keys)
        passed_ms = int((time.monotonic() - began_s) * 1000) + 1
        for key, ends_ms in zip(keys, found, strict=True):
            before_ms, _ = self._seen.get(key, (None, 0))
            if ends_ms < 0:
                deadlines.pop(key, None)
            elif key not in deadlines or ends_ms != before_ms:
                deadlines[key] = kept.get(ends_ms) or self._deadline(ends_ms, server_ms, passed_ms, hints)
            self._seen[key] = ends_ms, now_us

    def _deadline(self, ends_ms: int, server_ms: int, passed_ms: int, hints: Sequence[int]) -> int:
        """When a key ends on the run's clock that was given a life at most so long ago."""
        if ends_ms > _LONG_MS or ends_ms < server_ms - US_PER_S * 1000:
            return ends_ms * 1000
        left_ms = ends_ms - server_ms
        over = left_ms <= 0 and (0 in hints or not any(hints))
        return self._clock.now_us + 1000 * (0 if over else roundest(max(0, left_ms), left_ms + passed_ms, hints))


def _reads_lives(argv: Sequence[Any], text: str | None) -> bool:
    """Whether what a command does may depend on how long keys have to live."""
    named = {argv[0]} if text is None else scripts.commands(text)
    if argv[0] in _FUNCTIONS or (text is not None and not scripts.is_clean(text)):
        return True
    compares = any(plain(word).upper() in ("GT", "LT") for word in argv[1:])
    return compares or not named.isdisjoint(ASKS_LIFE) or (text is not None and scripts.compares(text))
