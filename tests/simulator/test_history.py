"""Histories: steps in words, and the file form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.errors import UsageError
from podrace.simulator.history.events import describe, describe_parts, plain, read_history, shorten, write_history


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
def test_plain(value: Any, text: str) -> None:
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


@pytest.mark.parametrize(
    ("kind", "args", "line"),
    [
        ("redis", ("GET", b"mirix:upload_status:1"), "GET upload_status:1"),
        ("redis", ("SET", "other:1", b"v", "EX", 30), "SET other:1 v EX 30"),
        ("redis", ("BATCH", ("GET", "mirix:a"), ("DEL", "mirix:b")), "GET a; DEL b"),
        ("gemini", ("/tmp/x/image-0001.png",), "upload image-0001.png"),
        ("timer", (123.0, 10.0), "timer of 10 s fires"),
        ("memory", ("user-1", ({"type": "text", "text": "hello"},)), "send to user-1: 'hello'"),
        ("else", (b"a", 1), "else a 1"),
    ],
)
def test_a_step_in_words(kind: str, args: tuple[Any, ...], line: str) -> None:
    assert describe(kind, args, "mirix:") == line


def test_a_command_without_a_prefix_stays_as_it_is() -> None:
    assert describe("redis", ("GET", "mirix:a")) == "GET mirix:a"


def test_the_folder_of_the_images_is_left_out() -> None:
    command = ("RPUSH", "mirix:m", '{"filename": "/tmp/x1/image-0001.png"}')
    assert describe("redis", command, "mirix:", "/tmp/x1/") == 'RPUSH m {"filename": "image-0001.png"}'


def test_a_very_long_command_is_cut() -> None:
    assert len(describe("redis", ("SET", "k", "x" * 100_000))) < 1000


def test_parts_in_words() -> None:
    parts = [
        {"type": "text", "text": "hello"},
        {"type": "google_cloud_file_uri", "google_cloud_file_uri": "http://localhost/v1beta/files/abc"},
        {"type": "missing_image", "filename": "x.png", "reason": "upload failed"},
    ]
    assert describe_parts(parts) == "'hello', image abc, missing x.png (upload failed)"


def test_a_history_comes_back_as_it_was_written(tmp_path: Path) -> None:
    events = [
        {"t_ms": 0.25, "type": "invoke", "call": 1, "op": "add", "images": ["image-0001"], "text": "ä\n\u2028"},
        {"t_ms": 1.0, "type": "fail", "call": 1, "error": None},
    ]
    write_history(tmp_path / "history.jsonl", events)
    assert read_history(tmp_path / "history.jsonl") == events
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == events
    assert lines[-1] == ""


def test_what_json_does_not_know_is_written_as_text(tmp_path: Path) -> None:
    write_history(tmp_path / "history.jsonl", [{"type": "ok", "result": b"raw"}])
    assert read_history(tmp_path / "history.jsonl") == [{"type": "ok", "result": "raw"}]


@pytest.mark.parametrize("damage", ['{"type": "ok"', "no JSON", ""])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"type": "ok"}}\n{damage}\n{{"type": "ok"}}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2") as caught:
        read_history(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
