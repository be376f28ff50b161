"""Commands as they are sent where time and chance are the harness's: none blocks by itself, none draws at random.

The ids of XADD, and the members that SPOP and its like choose, are made by the harness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from podrace.simulator.history.events import plain

BLOCKING = {"BLPOP": -1, "BRPOP": -1, "BLMOVE": -1, "BRPOPLPUSH": -1, "BZPOPMIN": -1, "BZPOPMAX": -1}
BLOCKING |= {"BLMPOP": 1, "BZMPOP": 1, "WAIT": 2, "WAITAOF": 3}
"""Commands that block, and where their timeout stands."""
STREAMS = frozenset({"XREAD", "XREADGROUP"})
_BY_CHANCE = {"SPOP": "SMEMBERS", "SRANDMEMBER": "SMEMBERS", "HRANDFIELD": "HKEYS", "ZRANDMEMBER": "ZRANGE"}
_CHOOSE = """
local all = redis.call('%s', KEYS[1]%s)
table.sort(all)
local chosen = {unpack(all, 1, math.min(#all, math.abs(tonumber(ARGV[1] or 1))))}
if '%s' == 'SPOP' and #chosen > 0 then redis.call('SREM', KEYS[1], unpack(chosen)) end
if ARGV[1] then return chosen end
return chosen[1] or false
"""
_CHANGED = BLOCKING.keys() | STREAMS | _BY_CHANCE.keys() | {"XADD"}


def timeout_of(words: tuple[Any, ...]) -> float | None:
    """The timeout in seconds of a command that blocks, 0 for ever; None for one that does not block."""
    name = plain(words[0]).upper()
    try:
        if name in BLOCKING:
            value = float(plain(words[BLOCKING[name]]))
            return value / 1000 if name.startswith("WAIT") else value
        if name in STREAMS:
            place = [plain(word).upper() for word in words].index("BLOCK")
            return float(plain(words[place + 1])) / 1000
    except (IndexError, ValueError):
        pass
    return None


def as_led(words: tuple[Any, ...], now: Callable[[], float]) -> tuple[Any, ...]:
    """The command as it is sent; `now` tells the run's time in seconds."""
    name = plain(words[0]).upper()
    if name not in _CHANGED:
        return words
    if name in BLOCKING and timeout_of(words) is not None:
        place = BLOCKING[name] % len(words)
        return (*words[:place], 0, *words[place + 1 :])
    if name in STREAMS and timeout_of(words) is not None:
        place = [plain(word).upper() for word in words].index("BLOCK") + 1
        return (*words[:place], 0, *words[place + 1 :])
    if name == "XADD":
        for place, word in enumerate(words[2:], 2):
            if plain(word) == "*":
                return (*words[:place], f"{int(now() * 1000)}-*", *words[place + 1 :])
            if "-" in plain(word):
                break
    if name in _BY_CHANCE and len(words) in (2, 3):
        arguments = ", 0, -1" if name == "ZRANDMEMBER" else ""
        return ("EVAL", _CHOOSE % (_BY_CHANCE[name], arguments, name), 1, *words[1:])
    return words
