"""The space-time diagram of a history written by hand: its lanes, arrows and marks are counted."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from podrace.reports.rows import MOST_ROWS, rows_of
from podrace.reports.timeline import NARROW, timeline

SVG = "{http://www.w3.org/2000/svg}"


def drawn(history: list[dict[str, Any]], **options: Any) -> ET.Element:
    return ET.fromstring(str(timeline(history, **({"title": "shared: paused-pod"} | options))))


def of_class(svg: ET.Element, *names: str) -> list[ET.Element]:
    return [one for one in svg.iter() if set(names) <= set(one.get("class", "").split())]


def texts(svg: ET.Element) -> list[str]:
    return [one.text or "" for one in svg.iter(SVG + "text")]


def lanes(svg: ET.Element) -> list[str | None]:
    return [one.get("data-lane") for one in of_class(svg, "lane")]


def step(n: int, actor: str = "A", command: str = "GET k", **more: Any) -> dict[str, Any]:
    event = {"type": "step", "n": n, "actor": actor, "kind": "redis", "what": command, "reply": "OK"}
    return event | {"says": command.split()[0], "redis": f"{command} → OK", "marks": "", "action": "go"} | more


def call(n: int, actor: str, says: str = "absorb(alice)", **more: Any) -> dict[str, Any]:
    return {"type": "invoke", "n": n, "actor": actor, "call": n, "says": says, "redis": "", "marks": ""} | more


def test_a_lane_a_pod_one_for_redis_and_one_for_each_service_that_is_named(history: list[dict[str, Any]]) -> None:
    assert lanes(drawn(history)) == ["A", "B", "redis", "gemini", "memory"]


def test_a_users_own_services_have_lanes_and_what_is_too_many_shares_one() -> None:
    services = [step(n, kind="service", service=f"s{n}", redis="", says="pay") for n in range(9)]
    assert lanes(drawn(services)) == ["A", "s0", "s1", "s2", "s3", "s4", "more"]


def test_a_service_without_a_name_has_a_lane_all_the_same() -> None:
    assert lanes(drawn([step(0, kind="service", redis="", what="upload image-1")])) == ["A", "service"]


def test_a_pods_workers_have_lines_of_their_own(history: list[dict[str, Any]]) -> None:
    found = [one.text for one in of_class(drawn(history), "lane") for one in of_class(one, "sub")]
    assert found == ["main", "upload"]


def test_every_command_has_an_arrow_and_every_answer_one_back(history: list[dict[str, Any]]) -> None:
    svg = drawn(history)
    assert len(of_class(svg, "step")) == 6
    assert len(of_class(svg, "a", "back")) == 5, "one request never arrived; one reply starts and is lost"


def test_the_picture_says_what_the_history_says(history: list[dict[str, Any]]) -> None:
    said = texts(drawn(history))
    for text in ("add_message(alice, text, [i1], m1)", "RPUSH temp_messages:alice <m1> ✗ reply lost", "✗ killed"):
        assert text in said
    assert "DEL lock:alice (never arrived) ✗ request lost" in said
    assert "memory.send(alice, 'text')" in said


def test_what_was_lost_and_every_fault_is_crossed(history: list[dict[str, Any]]) -> None:
    svg = drawn(history)
    assert len(of_class(svg, "x")) == 2 + 1 + 1, "two lost, one killed, one failed call"
    said = [text for one in of_class(svg, "struck") for text in texts(one)]
    assert any("reply lost" in text for text in said)
    assert any("time passes" in text for text in said), "time that passes while others are under way is a fault"


def test_the_action_of_a_fault_is_shown_where_the_words_leave_it_out() -> None:
    assert "GET k → OK ✗ corrupt k" in texts(drawn([step(0, action="corrupt k", marks="fault")]))


def test_the_deciding_step_is_marked_once_and_says_what_the_text_says(history: list[dict[str, Any]]) -> None:
    svg = drawn(history, sentence="image-1 was lost: B read <pending>.")
    (deciding,) = of_class(svg, "deciding")
    assert any("GET upload_status:" in text for text in texts(deciding))
    assert len(of_class(svg, "tint")) == 1
    assert svg.findtext(SVG + "desc") == "image-1 was lost: B read <pending>."


def test_a_killed_pods_lane_ends_and_goes_on_where_it_is_started_again(history: list[dict[str, Any]]) -> None:
    def tall(svg: ET.Element) -> dict[str | None, float]:
        bands = {one.get("data-lane"): one.find(SVG + "rect") for one in of_class(svg, "lane")}
        return {name: float(band.get("height", 0)) for name, band in bands.items() if band is not None}

    found = tall(drawn(history))
    assert found["A"] < found["B"] == found["redis"]
    svg = drawn([*history, step(14, "A")])
    assert tall(svg)["A"] == tall(svg)["B"]
    assert [(one.get("d") or "").count("M") for one in of_class(svg, "live")][:2] == [2, 2], "with a gap"


def test_on_a_narrow_screen_the_texts_stand_beneath_and_stay_on_the_page(history: list[dict[str, Any]]) -> None:
    many = [step(n, f"P{n}.upload-{n}", "SET " + "x" * 300) for n in range(8)]
    for events in (history, many):
        svg = drawn(events, layout=NARROW)
        assert float(svg.get("width", 0)) <= 350
        assert max(len(text) for text in texts(svg)) <= NARROW.chars
    assert "A: RPUSH temp_messages:alice <m1> ✗ reply lost" in " ".join(texts(drawn(history, layout=NARROW)))


def test_rounds_at_rest_in_which_nothing_moves_are_counted() -> None:
    rounds = [
        event
        for n in range(10, 100, 10)
        for event in (call(n, f"A.rest-{n}"), step(n + 1, f"A.rest-{n}", "LPOP q" if n == 50 else "GET k"))
    ]
    events = [call(0, "A"), step(1), {"type": "rest", "says": "the run comes to rest"}, *rounds]
    said = texts(drawn(events))
    assert [text for text in said if "LPOP" in text or "GET" in text] == ["GET k → OK", "GET k → OK", "LPOP q → OK"]
    assert "14 more at rest, in rounds in which nothing moved" in said
    assert "12 more at rest, in rounds in which nothing moved" in texts(drawn(events, sentence="lost (step 71)"))


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


def test_of_many_calls_those_that_the_sentence_names_are_drawn_and_the_others_are_counted() -> None:
    events: list[dict[str, Any]] = []
    for n in range(1, 31):
        events += [
            call(n, "A", f"add_message(user-{n}, m{n})", name=f"m{n}", args=[f"user-{n}", f"m{n}"]),
            step(n, command=f"RPUSH temp_messages:user-{n} x"),
            {"type": "ok", "actor": "A", "call": n, "result": [], "says": "→ []"},
        ]
    svg = drawn(events, sentence="image-1 of message m2 arrived 0 of 1 times")
    assert [text for one in of_class(svg, "step") for text in texts(one) if "RPUSH" in text] == [
        "RPUSH temp_messages:user-2 x → OK"
    ]
    assert [text for one in of_class(svg, "more") for text in texts(one)] == ["87 more, of other calls"]
    assert len(of_class(drawn(events[:60], sentence="message m2"), "step")) == 20, "few enough: all of them"


def test_a_long_text_is_cut_in_the_middle_and_whole_in_its_tooltip() -> None:
    svg = drawn([step(0, command="SET " + "x" * 300)])
    (shown,) = (one for one in svg.iter(SVG + "text") if (one.text or "").startswith("SET"))
    assert len(shown.text or "") <= 62
    assert (shown.text or "").endswith("→ OK")
    assert "x" * 200 in (shown.findtext(SVG + "title") or "")


@pytest.mark.parametrize("deciding", [0, 50_000, 99_999])
def test_100_000_events_are_drawn_in_five_seconds_and_capped(deciding: int) -> None:
    events = [step(n, f"P{n % 40}.upload-{n}", f"SET k{n} v") for n in range(100_000)]
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
        {"type": "step", "actor": "A", "kind": "service", "says": None, "what": 3, "redis": ["x"]},
        {"type": "invoke", "actor": "A", "says": "f()", "args": 7, "name": ["m1"]},
        {"type": "died", "actor": "A.x", "t_ms": "soon"},
    ],
)
def test_events_of_another_shape_are_drawn_as_well_as_may_be(event: dict[str, Any]) -> None:
    for count in (1, 100):
        drawn([event] * count + [call(0, "A", name="m1", args=["m1"])], sentence="message m1 was lost")


def test_an_event_that_does_not_say_what_it_shows_is_drawn_with_its_type() -> None:
    old = {"type": "step", "actor": "A", "kind": "redis", "what": "GET k", "reply": "nil", "action": "drop-reply"}
    svg = drawn([old])
    assert [text for one in of_class(svg, "step") for text in texts(one)] == ["0", "A", "step"]
    assert of_class(svg, "x") == []


def test_times_stand_in_the_place_of_numbers_where_there_are_any() -> None:
    rows = rows_of([{"type": "step", "actor": "A", "t_ms": 700.0}, {"type": "step", "actor": "A", "t_ms": 712.25}])
    assert [one.number for one in rows] == ["0.0", "12.2"]
