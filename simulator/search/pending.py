"""How long entries of streams have waited since they were delivered, on the run's clock.

The server counts that by its own clock, which stands still while time passes in a run. So the entries' idle times
are set right before each command that may look at them (XCLAIM with IDLE, https://valkey.io/commands/xclaim/).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from podrace.simulator.history.events import plain
from podrace.simulator.servers.probe import Probe, key_bytes
from podrace.simulator.world.clock import Clock
from podrace.simulator.world.footprints import Footprint

MOST_ENTRIES = 10_000
_GROUPS_USED_BY = frozenset({"XGROUP", "XREADGROUP", "XCLAIM", "XAUTOCLAIM", "XPENDING"})
_CLAIMS = frozenset({"XCLAIM", "XAUTOCLAIM"})
_SLACK_MS = 1000
"""What the server's own clock may go on by during a run's commands: no idle time of a run is told apart by less."""


class Pending:
    """The pending entries of one run's streams."""

    def __init__(self, probe: Probe, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._delivered_us: dict[str, dict[tuple[bytes, bytes], int]] = {}
        """By stream, and by group and entry, when it was delivered last."""
        self._least_us: dict[int, None] = {}
        """The idle times, in microseconds, that commands have asked for."""

    def before(self, argv: Sequence[Any], touches: Footprint) -> None:
        """Set right how long the entries of the streams among the keys that a command touches have waited."""
        uses_group = argv[0] in _GROUPS_USED_BY
        if not uses_group and not self._delivered_us:
            return
        touched = [key for key in touches.touched() if not key.startswith(" ")]
        if uses_group:
            for key in touched:
                self._delivered_us.setdefault(key, {})
            self._least_us.update(dict.fromkeys(asked_for(argv)))
        for key in touched:
            for group, rows in self._rows(key):
                known = self._delivered_us[key]
                self._probe.ask(*(self._waited(key, group, row) for row in rows if (group, row[0]) in known))

    def _waited(self, key: str, group: bytes, row: Sequence[Any]) -> tuple[Any, ...]:
        """The command that sets how long an entry has waited, and leaves all else of it as it is."""
        number, consumer, _, deliveries = row
        idle_ms = self._idle_ms(self._delivered_us[key][group, number])
        return (
            *("XCLAIM", key_bytes(key), group, consumer, 0, number),
            *("IDLE", idle_ms, "RETRYCOUNT", deliveries, "JUSTID"),
        )

    def after(self, touched: Iterable[str]) -> None:
        """Take note of the entries that a command on these keys has delivered, or delivered again."""
        for key in touched if self._delivered_us else ():
            known = self._delivered_us.get(key)
            if known is None:
                continue
            found = {}
            for group, rows in self._rows(key):
                for number, _, idle_ms, _ in rows:
                    then_us = known.get((group, number))
                    if then_us is None or idle_ms + _SLACK_MS < self._idle_ms(then_us):
                        then_us = self._clock.now_us - (idle_ms * 1000 if idle_ms > _SLACK_MS else 0)
                    found[group, number] = then_us
            self._delivered_us[key] = found

    def answer(self, argv: Sequence[Any], key: str) -> tuple[Any] | None:
        """The reply to XPENDING with the run's idle times; None where it tells none."""
        if argv[0] != "XPENDING" or len(argv) < 4:
            return None
        self.before(argv, Footprint(reads=(key,)))
        group = argv[2] if isinstance(argv[2], bytes) else plain(argv[2]).encode()
        try:
            (rows,) = self._probe.ask(tuple(argv))
        except ResponseError as error:  # there is no such group
            return (error,)
        known = self._delivered_us[key]
        return ([[row[0], row[1], self._idle_ms(known[group, row[0]]), row[3]] for row in rows],)

    def deadlines(self, standing: Iterable[Sequence[Any]]) -> Iterator[int]:
        """When entries will have waited for as long as a command has asked for, or is about to."""
        least_us = {*self._least_us, *(us for argv in standing for us in asked_for(argv))}
        for known in self._delivered_us.values():
            for then_us in known.values():
                yield from (then_us + us for us in least_us)

    def _idle_ms(self, then_us: int) -> int:
        return (self._clock.now_us - then_us) // 1000

    def _rows(self, key: str) -> Iterator[tuple[bytes, list[Any]]]:
        """For each group of a stream, its pending entries: number, consumer, idle milliseconds, deliveries."""
        if key not in self._delivered_us:
            return
        try:
            (groups,) = self._probe.ask(("XINFO", "GROUPS", key_bytes(key)))
        except ResponseError:  # there is no such stream any more
            return
        for fields in groups:
            group = fields[fields.index(b"name") + 1]
            (rows,) = self._probe.ask(("XPENDING", key_bytes(key), group, "-", "+", MOST_ENTRIES))
            yield group, rows


def asked_for(argv: Sequence[Any]) -> list[int]:
    """The microseconds for which an entry must have waited, of a command that asks for that."""
    if argv[0] not in _CLAIMS or len(argv) < 5:
        return []
    text = plain(argv[4])
    return [int(text) * 1000] if text.isdecimal() else []
