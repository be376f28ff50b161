"""Histories: events in words, the same in every process, and the file form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.errors import UsageError
from podrace.simulator.history.events import (
    Event,
    Wording,
    brief,
    plain,
    read_history,
    readable,
    script_name,
    shorten,
    write_history,
)
from podrace.simulator.world.steps import TRANSACTION, Step

UUID = "0123abcd-0123-4123-8123-0123456789ab"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ä", "ä"),
        ("ä".encode(), "ä"),
        (b"\xff\x00", "\\xff\x00"),
        (bytearray(b"a"), "a"),
        (memoryview(b"a"), "a"),
        ([b"a", None, [1, "b"]], "[a, nil, [1, b]]"),
        ((), "[]"),
        (None, "nil"),
        (True, "OK"),
        (False, "no"),
        (7, "7"),
        (1.5, "1.5"),
    ],
)
def test_values_are_shown_as_plain_text(value: Any, text: str) -> None:
    assert plain(value) == text


def test_a_text_within_the_limit_is_whole() -> None:
    assert shorten("a" * 50, 50) == "a" * 50


@pytest.mark.parametrize("limit", [10, 11])
def test_a_longer_text_loses_its_middle(limit: int) -> None:
    short = shorten("begin" + "x" * 1000 + "endin", limit)
    assert len(short) <= limit
    start, _, end = short.partition("…")
    assert start
    assert end
    assert "begin".startswith(start)
    assert "endin".endswith(end)


def test_ids_statuses_and_messages_are_cut_short() -> None:
    assert brief(f"GET upload_status:{UUID}") == "GET upload_status:0123…"
    assert brief('{"status": "failed", "filename": "x", "timestamp": 1.5, "result": null}') == "<failed>"
    assert brief('{"status": "completed", "filename": "x", "result": {"uri": "y"}}') == "<completed>"
    assert brief('{"message_id": "m1", "text": "t", "images": [], "timestamp": 1.5}') == "<m1>"


# --- commands ---


SCRIPT = "-- Takes a lease.\nreturn redis.call('SET', KEYS[1], ARGV[1])"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("GET", b"run:upload_status:1"), "GET upload_status:1"),
        (("SET", "other:1", b"v", "EX", 30), "SET other:1 v EX 30"),
        ((TRANSACTION, ("MULTI",), ("GET", "run:a"), ("DEL", "run:b"), ("EXEC",)), "MULTI; GET a; DEL b; EXEC"),
        (("EVAL", SCRIPT, 1, "run:lease", "v"), "EVAL (Takes a lease.) lease v"),
        (("eval", SCRIPT, "1", "run:lease"), "EVAL (Takes a lease.) lease"),
        (("EVALSHA", "a1b2", 1, "run:lease", "v"), "EVALSHA (Takes a lease.) lease v"),
        (("EVALSHA_RO", "0123456789abcdef", 1, "run:lease"), "EVALSHA_RO (#01234567) lease"),
        (("SCRIPT LOAD", SCRIPT), "SCRIPT LOAD (Takes a lease.)"),
    ],
)
def test_a_command_in_words(command: tuple[Any, ...], line: str) -> None:
    assert Wording("run:", scripts={"a1b2": SCRIPT}).command(command) == line


def test_a_script_without_a_comment_is_named_by_its_text() -> None:
    name = script_name("return 1")
    assert len(name) == len("#12345678")
    assert script_name("return 1") == name
    assert script_name("return 2") != name


def test_a_long_first_comment_is_cut() -> None:
    assert len(script_name("-- " + "x" * 1000)) <= 40


def test_the_prefix_and_the_folder_are_left_out_of_replies_too() -> None:
    wording = Wording("run:", "/tmp/x1/")
    assert wording.text([b"run:a", "/tmp/x1/image-1.png"]) == "[a, image-1.png]"
    assert wording.value({"run:key": ["/tmp/x1/a", 1, None, True]}) == {"key": ["a", 1, None, True]}


def test_without_a_prefix_a_command_stays_as_it_is() -> None:
    assert Wording().command(("GET", "run:a")) == "GET run:a"


def test_a_very_long_command_is_cut() -> None:
    assert len(Wording().command(("SET", "k", "x" * 100_000))) < 1000


# --- events ---


def step(kind: str, *args: Any, actor: str = "A", action: str = "go", reply: Any = None, **more: Any) -> Event:
    return {"type": "step", "actor": actor, "step": Step(actor, kind, args), "action": action, "reply": reply, **more}


def invoke(actor: str = "A", args: tuple[Any, ...] = ()) -> Event:
    return {"type": "invoke", "actor": actor, "call": 0, "name": "m1", "method": "add_message", "args": args}


def ended(how: str, **more: Any) -> Event:
    return {"type": how, "actor": "A", "call": 0, **more}


LOST = {"drop-request": " ✗ request lost", "drop-reply": " ✗ reply lost"}
TOLD: list[tuple[Event, str, str, str]] = [
    (invoke(args=("alice", "hello", ["image-1"], "m1")), "add_message(alice, hello, [image-1], m1)", "", ""),
    (ended("ok", result=[{"upload_uuid": UUID}]), "→ [{'upload_uuid': '0123…'}]", "", ""),
    (ended("fail", error="ValueError: no"), "→ refused: ValueError: no", "", ""),
    (ended("info", error="TimeoutError: late"), "→ nobody knows: TimeoutError: late", "", ""),
    (step("redis", "SET", "run:k", b"v", reply=True), "SET", "SET k v → OK", ""),
    (step("redis", "GET", "run:k", reply=[b"run:x"]), "GET", "GET k → [x]", ""),
    (
        step("redis", "SET", "run:k", "v", action="drop-request", reply="broken"),
        "SET ✗ request lost",
        "SET k v (never arrived)",
        "lost",
    ),
    (step("redis", "SET", "run:k", "v", action="drop-reply", reply="broken"), "SET ✗ reply lost", "SET k v", "lost"),
    (
        step("redis", TRANSACTION, ("MULTI",), ("DEL", "run:k"), ("EXEC",), reply=[1]),
        "MULTI",
        "MULTI; DEL k; EXEC → [1]",
        "",
    ),
    (step("service", "gemini", says="upload image-1", failed=False), "upload image-1", "", ""),
    (
        step("service", "gemini", says="upload image-1", failed=True, action="fail"),
        "upload image-1 ✗ fails",
        "",
        "fault",
    ),
    (
        step("service", "gemini", says="upload image-1", failed=True, action="hang"),
        "upload image-1 ✗ never answers",
        "",
        "fault",
    ),
    (
        step("service", "gemini", says="upload image-1", failed=True, action="drop-reply"),
        "upload image-1 ✗ reply lost",
        "",
        "lost",
    ),
    (
        step("service", "memory", says="send to alice: 'x'", failed=True, reply="ValueError: no"),
        "send to alice: 'x' ✗ ValueError: no",
        "",
        "",
    ),
    (step("timer", 5_000_000, 2.5), "wakes after 2.5 s", "", ""),
    (step("lock", "the lock"), "waits for a lock", "", ""),
    (step("receive", "a message", None, "a message", reply=[b"run:news"]), "a message: gets [news]", "", ""),
    (step("receive", "a message", None, "a message"), "a message: nothing came", "", ""),
    (
        step("receive", "a message", None, "a message", action="drop-reply"),
        "a message: ✗ its connection is lost",
        "",
        "lost",
    ),
    ({"type": "died", "actor": "A.upload", "error": "ValueError: no"}, "ends in ValueError: no", "", ""),
    ({"type": "fault", "actor": "B", "what": "killed"}, "✗ killed", "", "kill"),
    ({"type": "fault", "actor": "A", "what": "damages run:k"}, "✗ damages k", "", "fault"),
    (
        {"type": "time", "passes_s": 30.0, "gone": ["run:lease"], "fault": True},
        "time passes, while others are under way: 30 s; over: lease",
        "",
        "time",
    ),
    ({"type": "time", "passes_s": 0.25, "gone": [], "fault": False}, "time passes: 0.25 s", "", "time"),
    ({"type": "rest", "stage": "over"}, "at rest", "", ""),
]


@pytest.mark.parametrize(("event", "says", "on_redis", "marks"), TOLD, ids=[row[1] for row in TOLD])
def test_an_event_in_words(event: Event, says: str, on_redis: str, marks: str) -> None:
    told = readable([invoke(), event], Wording("run:"))[1]
    assert (" ".join(told["says"].split()), told["redis"], told["marks"]) == (says, on_redis, marks)
    json.dumps(told)


def test_an_event_says_who_and_its_place() -> None:
    events = [invoke(), step("timer", 1, 1.0, actor="B.upload-1"), {"type": "rest", "stage": "begins"}]
    told = readable(events, Wording())
    assert [(event["n"], event["pod"], event["line"]) for event in told] == [
        (0, "A", ""),
        (1, "B", "upload-1"),
        (2, "", ""),
    ]
    assert "step" not in told[1]


def test_a_lost_request_shows_what_it_would_have_done() -> None:
    (told,) = readable([step("redis", "RPUSH", "run:queue", "hello", action="drop-request")], Wording("run:"))
    assert told["redis"] == "RPUSH queue hello (never arrived)"
    assert told["what"] == "RPUSH queue hello"


def test_the_text_of_an_event_does_not_depend_on_the_prefix_or_the_folder() -> None:
    def history(prefix: str, folder: str) -> list[Event]:
        events = [
            invoke(args=("alice", "t", [f"{folder}image-1.png"], "m1")),
            step("redis", "SET", f"{prefix}k", f"{folder}image-1.png", reply=f"{prefix}k"),
            ended("fail", error=f"OSError: {folder}image-1.png"),
            {"type": "time", "passes_s": 1.0, "gone": [f"{prefix}k"], "fault": False},
            {"type": "died", "actor": "A", "error": f"KeyError: {prefix}k"},
            {"type": "fault", "actor": "A", "what": f"damages {prefix}k"},
        ]
        return readable(events, Wording(prefix, folder))

    shown = [{key: event[key] for key in ("says", "redis")} for event in history("run-1:", "/tmp/a/")]
    assert shown == [{key: event[key] for key in ("says", "redis")} for event in history("run-22:", "/var/b/")]
    assert "run-1" not in json.dumps(shown)
    assert "/tmp" not in json.dumps(shown)


# --- files ---


def test_a_history_comes_back_as_it_was_written(tmp_path: Path) -> None:
    events = [
        {"n": 0, "type": "invoke", "call": 1, "args": ["alice", "ä\n\u2028"]},
        {"n": 1, "type": "fail", "call": 1, "error": None},
    ]
    write_history(tmp_path / "history.jsonl", events)
    assert read_history(tmp_path / "history.jsonl") == events
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == events
    assert lines[-1] == ""


@pytest.mark.parametrize(("value", "written"), [(b"raw", "raw"), (b"\xff", "\\xff"), ("\udcff", "\udcff")])
def test_values_that_json_cannot_represent_are_written_as_text(tmp_path: Path, value: Any, written: str) -> None:
    write_history(tmp_path / "history.jsonl", [{"type": "ok", "result": value}])
    (event,) = read_history(tmp_path / "history.jsonl")
    assert event["result"] == written


@pytest.mark.parametrize("damage", ['{"type": "ok"', "no JSON", "", "[" * 100_000])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"type": "ok"}}\n{damage}\n{{"type": "ok"}}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2") as caught:
        read_history(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
