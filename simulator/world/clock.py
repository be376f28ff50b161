"""The one clock of a fleet and its server: timers, waits and keys' times to live all lie on it.

Microseconds since the epoch as whole numbers, so that a deadline is met exactly. The clock stands in the far
future: no time that a target asks the server for by date lies in the server's own past or near future, so the
harness can tell those from relative ones, and none runs out by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

US_PER_S = 1_000_000
EPOCH_S = 4_000_000_000
EPOCH_US = EPOCH_S * US_PER_S


def seconds(us: int) -> str:
    """A number of microseconds as seconds without superfluous digits, such as `0.25` or `3600`."""
    text = f"{Decimal(us) / US_PER_S:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def microseconds(text: str) -> int:
    """The reverse of `seconds`; ValueError for what is no number."""
    try:
        return int(Decimal(text) * US_PER_S)
    except ArithmeticError as error:
        raise ValueError(f"expected seconds, got {text!r}") from error


def roundest(least: int, most: int, hints: Iterable[int] = ()) -> int:
    """Of the whole numbers from `least` to `most` a hint, else the one with the most trailing zeros.

    A time to live that is measured is too short by what has passed since: it was one of these numbers, and
    programs choose round ones.
    """
    for hint in hints:
        if least <= hint <= most:
            return hint
    step = 1
    while (most // (step * 10)) * step * 10 >= max(least, 1):
        step *= 10
    return (most // step) * step


class Clock:
    """What time it is, and when which key ceases to be."""

    def __init__(self) -> None:
        self.now_us = EPOCH_US
        self.deadlines: dict[str, int] = {}
        """By key, in microseconds of this clock."""

    def over(self) -> list[str]:
        """Keys whose time to live is over, in the order of their deadlines; they are forgotten."""
        gone = sorted((due, key) for key, due in self.deadlines.items() if due <= self.now_us)
        for _, key in gone:
            del self.deadlines[key]
        return [key for _, key in gone]

    def left_ms(self, key: str) -> int | None:
        """How long a key has to live, in milliseconds; None for ever."""
        due = self.deadlines.get(key)
        return None if due is None else max(1, (due - self.now_us) // 1000)

    def next(self, others: Iterable[int]) -> Sequence[int]:
        """Every moment to come at which something is due: keys' deadlines and the others, in order."""
        return sorted({due for due in (*self.deadlines.values(), *others) if due > self.now_us})
