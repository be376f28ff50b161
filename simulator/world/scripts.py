"""Whether a Lua script can touch only the keys that it declares. What cannot be proven, is taken to touch any.

A script is clean where `redis` (or `server`) stands only in calls whose command is written out and takes one key at
its first place, and that key is `KEYS[...]` or a local variable that is assigned once, from `KEYS[...]`, and is
nothing but compared elsewhere. `KEYS` itself stands only there, among the further arguments of such calls, and
behind `#`.
"""

from __future__ import annotations

import re
from functools import lru_cache

_TOKEN = re.compile(
    r"(?P<comment>--\[(?P<dashes>=*)\[.*?\](?P=dashes)\]|--[^\n]*)"
    r"|(?P<string>\[(?P<marks>=*)\[.*?\](?P=marks)\]|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<other>\.\.\.|\.\.|[=~<>]=|\S)",
    re.DOTALL,
)
_UNCLEAR = frozenset({"_G", "getfenv", "setfenv", "loadstring", "load", "debug", "rawget", "rawset"})
_HARMLESS = frozenset({"error_reply", "status_reply", "sha1hex", "log"})
_ANY_NUMBER = frozenset({"del", "exists", "touch", "unlink"})
"""Commands that touch every argument: clear with one."""
ONE_KEY = frozenset(
    """
    append bitcount bitpos decr decrby dump expire expireat expiretime get getbit getdel getex getrange getset
    hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hset hsetnx hstrlen hvals incr incrby
    incrbyfloat lindex linsert llen lpop lpos lpush lpushx lrange lrem lset ltrim persist pexpire pexpireat
    pexpiretime psetex pttl rpop rpush rpushx sadd scard set setbit setex setnx setrange sismember smembers
    smismember srem strlen substr ttl type xack xadd xclaim xdel xlen xpending xrange xrevrange xtrim zadd zcard
    zcount zincrby zlexcount zmscore zpopmax zpopmin zrange zrangebyscore zrank zrem zremrangebyrank
    zremrangebyscore zrevrange zrevrangebyscore zrevrank zscore publish spublish
    """.split()  # noqa: SIM905 - one line a word is no list to read
)
"""Commands that touch the key at their first place and no other, always in the same way."""


@lru_cache(maxsize=1000)
def is_clean(text: str) -> bool:
    """Whether it is certain that the script touches no key but those of KEYS."""
    return _Reader(_tokens(text)).is_clean()


@lru_cache(maxsize=1000)
def publishes(text: str) -> bool:
    """Whether the script may publish a message."""
    return "publish" in text.lower()


@lru_cache(maxsize=1000)
def compares(text: str) -> bool:
    """Whether the script may set a time to live only where it is longer, or shorter, than the one before."""
    return any(token[0] in "\"'[" and _content(token).upper() in ("GT", "LT") for token in _tokens(text))


@lru_cache(maxsize=1000)
def commands(text: str) -> frozenset[str]:
    """The names of the commands that the script may send, in upper case: those that are written out."""
    tokens = _tokens(text)
    return frozenset(
        _content(name).upper()
        for call, bracket, name in zip(tokens, tokens[1:], tokens[2:], strict=False)
        if call in ("call", "pcall") and bracket == "(" and name[:1] in ("'", '"')
    )


@lru_cache(maxsize=1000)
def reads_clock(text: str) -> bool:
    """Whether the script may ask the server for its clock, which no harness can lead: by a name that is written out."""
    tokens = ["", "", *_tokens(text)]
    return any(
        token[0] in "\"'[" and _content(token).lower() == "time" and _may_be_a_command(*tokens[place : place + 2])
        for place, token in enumerate(tokens[2:])
    )


def _may_be_a_command(second_before: str, before: str) -> bool:
    """Whether a text after these two tokens may be the command of a call, and not its key or another argument."""
    return before in ("(", "{", "=", "call", "pcall") or (before == "," and second_before in ("call", "pcall"))


def _tokens(text: str) -> list[str]:
    """The script without comments. A carriage return ends a line, as in Lua."""
    found = _TOKEN.finditer(text.replace("\r", "\n"))
    return [token[0] for token in found if token["comment"] is None]


def _content(token: str) -> str:
    return token[1:-1] if token[0] in "\"'" else re.sub(r"^\[=*\[|\]=*\]$", "", token)


class _Reader:
    """Accounts for every token that could name a key; what is left over makes a script unclear."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, *[""] * 8]
        self._accounted: set[int] = set()
        self._named: dict[str, int] = {}
        """Local variables that are assigned from KEYS, and how often."""

    def is_clean(self) -> bool:
        tokens = self._tokens
        if any(token in _UNCLEAR for token in tokens):
            return False
        for place, token in enumerate(tokens):
            if token == "local" and tokens[place + 2 : place + 5] == ["=", "KEYS", "["]:
                self._declaration(place)
        for place, token in enumerate(tokens):
            if token in ("redis", "server") and not self._use(place):
                return False
        open_words = {"KEYS", "redis", "server", *self._named}
        return all(
            place in self._accounted
            or token not in open_words
            or (token == "KEYS" and tokens[place - 1] == "#")
            or (token in self._named and {tokens[place - 1], tokens[place + 1]} & {"==", "~="})
            for place, token in enumerate(tokens)
        ) and all(number == 1 for number in self._named.values())

    def _declaration(self, place: int) -> None:
        """`local NAME = KEYS[...]`, where the expression ends there."""
        end = self._key_at(place + 3)
        after = self._tokens[end] if end else "?"
        if end and (after in ("", ";") or (after[0].isalpha() and after not in ("and", "or"))):
            name = self._tokens[place + 1]
            self._named[name] = self._named.get(name, 0) + 1
            self._accounted |= {place + 1, place + 3}

    def _key_at(self, place: int) -> int:
        """The place behind `KEYS[...]`; 0 where that does not stand there."""
        if self._tokens[place : place + 2] != ["KEYS", "["]:
            return 0
        for end in range(place + 2, len(self._tokens)):
            if self._tokens[end] in ("[", "", "KEYS", "function"):
                return 0
            if self._tokens[end] == "]":
                return end + 1
        return 0

    def _use(self, place: int) -> bool:
        """Whether `redis` stands in a call of one command with one key, or in something harmless."""
        tokens = self._tokens
        self._accounted.add(place)
        if tokens[place + 1] != ".":
            return False
        if tokens[place + 2] in _HARMLESS or tokens[place + 2].startswith("LOG_"):
            return True
        if (
            tokens[place + 2] not in ("call", "pcall")
            or tokens[place + 3] != "("
            or tokens[place + 4][:1] not in ("'", '"')
        ):
            return False
        command = _content(tokens[place + 4]).lower()
        if tokens[place + 5] == ")":
            return command in ("ping", "time")
        if tokens[place + 5] != ",":
            return False
        end = self._key_at(place + 6) or (place + 7 if tokens[place + 6] in self._named else 0)
        if not end or tokens[end] not in (",", ")"):
            return False
        self._accounted.add(place + 6)
        return (command in ONE_KEY or (command in _ANY_NUMBER and tokens[end] == ")")) and self._rest(end)

    def _rest(self, start: int) -> bool:
        """Account for KEYS among the further arguments; a function there could do anything."""
        depth = 1
        for place, token in enumerate(self._tokens[start:], start):
            if token == "function":
                return False
            depth += (token == "(") - (token == ")")
            if depth == 0:
                return True
            if token == "KEYS" and self._key_at(place):
                self._accounted.add(place)
        return False
