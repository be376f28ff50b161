"""Which scripts are provably clean: each claim is compared with what the server does when the script runs."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from podrace.simulator.world.scripts import commands, is_clean, reads_clock

CLEAN = {
    "a literal command": "return redis.call('SET', KEYS[1], 'v')",
    "double quotes, lower case, spaces": 'return redis . call ( "set" , KEYS [ 1 ] , ARGV[1] )',
    "the other name of redis": "return server.call('SET', KEYS[1], 'v')",
    "an error that is caught": "return redis.pcall('SET', KEYS[1], 'v')",
    "a local variable": "local key = KEYS[1]\nredis.call('SET', key, 'v')",
    "a local variable, on one line": "local key = KEYS[1] redis.call('SET', key, 'v')",
    "a local variable, semicolons": "local key = KEYS[1]; local n = #KEYS; redis.call('SET', key, n)",
    "the clock and a ping": "redis.call('PING') redis.call('TIME') redis.call('SET', KEYS[1], 'v')",
    "a loop over the keys": "for i = 1, #KEYS do redis.call('SET', KEYS[i], 'v') end",
    "a loop in which a command stands": "for i = 1, 3 do redis.call('INCRBY', KEYS[1], i) end",
    "a command in a condition": (
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end redis.call('SET', KEYS[1], 1)"
    ),
    "a comparison is no assignment": "local key = KEYS[1]\nif key == 'x' then return 0 end redis.call('SET', key, 1)",
    "a command in a comment": "-- redis.call('SET', 'other', 1)\nredis.call('SET', KEYS[1], 'v')",
    "a command in a long comment": "--[==[ redis.call('SET', 'other', 1) ]] ]==] redis.call('SET', KEYS[1], 'v')",
    "a command in a string": "redis.call('SET', KEYS[1], \"redis.call('SET', 'other', 1)\")",
    "a command in a long string": "redis.call('SET', KEYS[1], [[redis.call('SET', 'other', 1)]])",
    "an escaped quote": "redis.call('SET', KEYS[1], 'it\\'s redis.call')",
    "harmless helpers": "redis.log(redis.LOG_DEBUG, redis.sha1hex('x')) redis.call('SET', KEYS[1], 'v')",
    "a status as the reply": "redis.call('SET', KEYS[1], 'v') return redis.status_reply('FINE')",
}
DIRTY = {
    "a key written out": "redis.call('SET', 'other', 'v')",
    "a key from the arguments": "redis.call('SET', ARGV[1], 'v')",
    "a key that is put together": "redis.call('SET', KEYS[1] .. 'x', 'v')",
    "a second key": "redis.call('RENAME', KEYS[1], 'other')",
    "a command of several keys": "redis.call('MSET', KEYS[1], 'v', 'other', 'v')",
    "a command from the arguments": "redis.call(ARGV[2], 'other', 'v')",
    "a command that is put together": "redis.call('M' .. 'SET', KEYS[1], 'v', 'other', 'v')",
    "no brackets": "redis.call 'FLUSHALL'",
    "caught": "pcall(redis.call, 'SET', 'other', 'v')",
    "caught by redis": "redis.pcall('SET', 'other', 'v')",
    "another name for redis": "local r = redis r.call('SET', 'other', 'v')",
    "another name for the function": "local call = redis.call call('SET', 'other', 'v')",
    "by index": "redis['call']('SET', 'other', 'v')",
    "redis as a parameter": "local function put(redis) redis.call('SET', 'other', 'v') end put(redis)",
    "through the globals": "_G['re' .. 'dis'].call('SET', 'other', 'v')",
    "loaded from a string": "loadstring('re' .. 'dis.call(\"SET\", \"other\", 1)')()",
    "handed to a library": "string.gsub('other', '.+', function(k) redis.call('SET', k, 'v') end)",
    "KEYS changed": "KEYS[1] = 'other' redis.call('SET', KEYS[1], 'v')",
    "KEYS changed, second of two": "local x x, KEYS[1] = 1, 'other' redis.call('SET', KEYS[1], 'v')",
    "KEYS changed by a library": "table.insert(KEYS, 'other') redis.call('SET', KEYS[2], 'v')",
    "KEYS changed under another name": "local k = KEYS k[1] = 'other' redis.call('SET', KEYS[1], 'v')",
    "KEYS changed by rawset": "rawset(KEYS, 1, 'other') redis.call('SET', KEYS[1], 'v')",
    "KEYS shadowed": "local KEYS = {'other'} redis.call('SET', KEYS[1], 'v')",
    "KEYS shadowed by a parameter": "(function(KEYS) redis.call('SET', KEYS[1], 'v') end)({'other'})",
    "KEYS shadowed by a loop": "for _, KEYS in ipairs({{'other'}}) do redis.call('SET', KEYS[1], 'v') end",
    "a variable assigned again": "local k = KEYS[1]\nk = 'other' redis.call('SET', k, 'v')",
    "a variable assigned again, first of two": "local k, x = KEYS[1]\nk, x = 'other', 1 redis.call('SET', k, 'v')",
    "a variable declared again": "local k = KEYS[1]\ndo local k = 'other' redis.call('SET', k, 'v') end",
    "a variable that is a loop's": "local k = KEYS[1]\nfor _, k in ipairs({'other'}) do redis.call('SET', k, 'v') end",
    "a variable that counts": "local k = KEYS[1]\nfor k = 1, 2 do redis.call('SET', k, 'v') end",
    "a variable that is a parameter": "local k = KEYS[1];(function(a, k) redis.call('SET', k, 'v') end)(1, 'other')",
    "a variable put together": "local k = KEYS[1] .. 'x'\nredis.call('SET', k, 'v')",
    "a variable with a default": "local k = KEYS[1] and 'other'\nredis.call('SET', k, 'v')",
    "an element of a variable": "local k = {KEYS[1], 'other'}\nredis.call('SET', k[2], 'v')",
    "an assignment in a comment's shadow": "local k = KEYS[1] -- k\nk --[[ ]] = 'other' redis.call('SET', k, 'v')",
    "after a string that looks like a comment": "local s = '--' redis.call('SET', 'other', s)",
    "after a string that looks like a long comment": "local s = '--[[' redis.call('SET', 'other', s) s = ']]'",
    "after the end of a long comment": "--[[ ]] redis.call('SET', 'other', 'v') --[[ ]]",
    "after a long comment with another level within": "--[=[ ]] ]=] redis.call('SET', 'other', 'v')",
    "after a long string": "local s = [=[ ]] ]=] redis.call('SET', 'other', s)",
    "after an escaped backslash": "local s = '\\\\' redis.call('SET', 'other', s) s = ''",
    "a command within the index of a key": "redis.call('SET', KEYS[redis.call('INCR', 'other')], 'v')",
}


def touched_by(client: redis.Redis, script: str) -> set[bytes]:
    """The keys after the script has run on a server with the keys `declared` and `witness`."""
    client.mset({"declared": 0, "witness": 0})
    client.eval(script, 1, "declared", "other", "SET")
    return set(client.keys())


@pytest.mark.parametrize("script", CLEAN.values(), ids=CLEAN)
def test_a_script_that_names_its_keys_is_clean(redis_client: redis.Redis, script: str) -> None:
    assert is_clean(script)
    assert touched_by(redis_client, script) == {b"declared", b"witness"}
    assert redis_client.get("declared") != b"0"


@pytest.mark.parametrize("script", DIRTY.values(), ids=DIRTY)
def test_a_script_that_touches_another_key_is_not_clean(redis_client: redis.Redis, script: str) -> None:
    assert touched_by(redis_client, script) != {b"declared", b"witness"}
    assert not is_clean(script)


@pytest.mark.parametrize(
    ("script", "reads"),
    [
        ("return redis.call('TIME')", True),
        ('return redis.pcall ( "time" )', True),
        ("return redis.call('GET', KEYS[1])", False),
        ("local time = ARGV[1] return time", False),
        ("return redis.call('HGET', KEYS[1], 'time')", False),
    ],
)
def test_a_script_that_asks_for_the_time(script: Any, reads: bool) -> None:
    assert reads_clock(script) is reads


def test_the_commands_of_a_script() -> None:
    text = """
    -- redis.call('DEL', KEYS[1])
    if redis.call("get", KEYS[1]) then server.pcall ( 'LTRIM', KEYS[1], 1, -1) end
    return redis.sha1hex('SET')
    """
    assert commands(text) == {"GET", "LTRIM"}
