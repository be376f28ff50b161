"""The space-time diagram of a history written by hand: its lanes, arrows and marks are counted."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from podrace.reports.timeline import MOST_ROWS, rows_of, timeline

SVG = "{http://www.w3.org/2000/svg}"


def drawn(history: list[dict[str, Any]], **options: Any) -> ET.Element:
    return ET.fromstring(str(timeline(history, **({"title": "shared: paused-pod"} | options))))


def of_class(svg: ET.Element, *names: str) -> list[ET.Element]:
    return [one for one in svg.iter() if set(names) <= set(one.get("class", "").split())]


def texts(svg: ET.Element) -> list[str]:
    return ["".join(one.itertext()) for one in svg.iter(SVG + "text")]


def test_a_lane_a_pod_and_one_each_for_redis_gemini_and_memory(history: list[dict[str, Any]]) -> None:
    lanes = [one.get("data-lane") for one in of_class(drawn(history), "lane")]
    assert lanes == ["A", "B", "redis", "gemini", "memory"]


def test_a_pods_workers_have_lines_of_their_own(history: list[dict[str, Any]]) -> None:
    assert [one.text for one in of_class(drawn(history), "lane") for one in of_class(one, "sub")] == [
        "main",
        "upload",
    ]


def test_every_command_has_an_arrow_and_every_answer_one_back(history: list[dict[str, Any]]) -> None:
    svg = drawn(history)
    steps = of_class(svg, "step")
    assert len(steps) == 6
    assert len(of_class(svg, "a", "back")) == 5, "one request never arrived; one reply starts and is lost"


def test_what_was_lost_and_every_fault_is_crossed(history: list[dict[str, Any]]) -> None:
    svg = drawn(history)
    assert len(of_class(svg, "x")) == 2 + 2 + 1, "two lost, paused and killed, one failed call"
    said = [text for one in of_class(svg, "struck") for text in texts(one)]
    assert any("→ reply lost" in text for text in said)
    assert any("→ request lost" in text for text in said)
    assert "killed" in said


def test_the_deciding_step_is_marked_once_and_says_what_the_text_says(history: list[dict[str, Any]]) -> None:
    svg = drawn(history, sentence="image-1 was lost: B read <pending>.")
    (deciding,) = of_class(svg, "deciding")
    assert any("GET upload_status:48e6… → <pending>" in text for text in texts(deciding))
    assert len(of_class(svg, "tint")) == 1
    assert svg.findtext(SVG + "desc") == "image-1 was lost: B read <pending>."


def test_a_killed_pods_lane_ends_and_a_paused_ones_is_dotted(history: list[dict[str, Any]]) -> None:
    svg = drawn(history)
    tall = {
        one.get("data-lane"): float(one.find(SVG + "rect").get("height", 0))  # type: ignore[union-attr]
        for one in of_class(svg, "lane")
    }
    assert tall["A"] < tall["B"] == tall["redis"]
    assert len(of_class(svg, "paused")) == 1


def test_every_picture_has_a_role_a_title_and_a_description(history: list[dict[str, Any]]) -> None:
    svg = drawn(history)
    assert svg.get("role") == "img"
    assert svg.findtext(SVG + "title") == "shared: paused-pod"
    assert svg.findtext(SVG + "desc")
    assert set(svg.get("aria-labelledby", "").split()) == {one.get("id") for one in svg.iter() if one.get("id")}


def test_alone_it_carries_its_style_and_its_sentence(history: list[dict[str, Any]]) -> None:
    svg = drawn(history, sentence="B read <pending>.", alone=True)
    assert "prefers-color-scheme" in (svg.findtext(SVG + "style") or "")
    assert "B read <pending>." in texts(svg)


def test_of_many_messages_the_one_that_the_sentence_names_is_drawn_and_the_others_are_counted() -> None:
    events: list[dict[str, Any]] = []
    for n in range(1, 31):
        events += [
            {"type": "invoke", "actor": "A", "call": n, "op": "add", "message": f"m{n}", "user": f"user-{n}"},
            {"type": "step", "actor": "A", "kind": "redis", "what": f"RPUSH temp_messages:user-{n} x", "reply": "1"},
            {"type": "ok", "call": n, "result": []},
        ]
    svg = drawn(events, sentence="image-1 of message m2 arrived 0 of 1 times")
    assert [text for one in of_class(svg, "step") for text in texts(one) if "RPUSH" in text] == [
        "RPUSH temp_messages:user-2 x → 1"
    ]
    assert [text for one in of_class(svg, "more") for text in texts(one)] == ["87 more, of other messages"]
    assert len(of_class(drawn(events[:60], sentence="message m2"), "step")) == 20, "few enough: all of them"


def test_a_long_text_is_cut_and_whole_in_its_tooltip() -> None:
    svg = drawn([{"type": "step", "actor": "A", "kind": "redis", "what": "SET " + "x" * 300, "reply": "OK"}])
    (shown,) = of_class(svg, "what")
    assert len(shown.text or "") < 62
    assert "x" * 200 in (shown.findtext(SVG + "title") or "")


@pytest.mark.parametrize("deciding", [0, 50_000, 99_999])
def test_100_000_events_are_drawn_in_five_seconds_and_capped(deciding: int) -> None:
    events = [
        {
            "type": "step",
            "actor": f"P{n % 40}.upload-{n}",
            "kind": "redis",
            "what": f"SET k{n} v",
            "reply": "OK",
            "n": n,
        }
        for n in range(100_000)
    ]
    events[deciding]["deciding"] = True
    began_s = time.monotonic()
    text = str(timeline(events, title="many"))
    assert time.monotonic() - began_s < 5
    svg = ET.fromstring(text)
    assert len(of_class(svg, "step")) <= MOST_ROWS
    assert len(of_class(svg, "deciding")) == 1
    more = [int(text.split()[0].replace(",", "")) for one in of_class(svg, "more") for text in texts(one)]
    assert sum(more) + len(of_class(svg, "step")) == 100_000
    assert len(text.encode()) < 200_000


@pytest.mark.parametrize(
    "event",
    [
        {"type": "step"},
        {"type": "ok", "call": 99},
        {"type": "invoke"},
        {"type": "fault", "actor": None, "what": 3},
        {"type": "step", "actor": "A", "kind": "novel", "what": None, "reply": {"a": [1]}},
        {"type": "never heard of"},
        {"type": "drain", "stage": 7},
        {"type": "died", "actor": "A.x", "t_ms": "soon"},
    ],
)
def test_events_of_another_shape_are_drawn_as_well_as_may_be(event: dict[str, Any]) -> None:
    drawn([event, {"type": "invoke", "actor": "A", "call": 1, "op": "add", "message": "m1"}])


def test_times_stand_in_the_place_of_numbers_where_there_are_any() -> None:
    rows = rows_of([{"type": "step", "actor": "A", "t_ms": 700.0}, {"type": "step", "actor": "A", "t_ms": 712.25}])
    assert [one.number for one in rows] == ["0.0", "12.2"]
