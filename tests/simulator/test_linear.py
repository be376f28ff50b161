"""The judge of linearizability: against an oracle that tries every order, on planted bugs, and on files."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from podrace.simulator.app.commands.check import check as check_command
from podrace.simulator.errors import UsageError
from podrace.simulator.judge.linear import ILLEGAL, MODELS, Model, Operation, check, overall
from podrace.simulator.judge.operations import read_operations

STATUSES = ("pending", "failed", "completed")


def can_be_ordered(operations: Sequence[Operation], model: Model) -> bool:
    """The oracle: every order of all ended operations with every choice of open ones, tried one by one."""
    ended = [one for one in operations if one.ended is not None]
    opens = [one for one in operations if one.ended is None]
    return any(
        _fits(order, model)
        for count in range(len(opens) + 1)
        for chosen in combinations(opens, count)
        for order in permutations([*ended, *chosen])
    )


def _fits(order: Sequence[Operation], model: Model) -> bool:
    value: Any = model.initial
    latest_begin = -1
    for one in order:
        if one.ended is not None and one.ended < latest_begin:
            return False
        latest_begin = max(latest_begin, one.began)
        if one.f != "read" or one.ended is not None:
            value = model.step(value, one.f, one.value)
        if value is ILLEGAL:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn, model: Model) -> list[Operation]:
    """Up to six operations of any results in any overlap, some open."""
    places = iter(draw(st.permutations(range(12))))
    values = st.sampled_from(STATUSES if model.values else range(3))
    operations = []
    for process in range(draw(st.integers(1, 6))):
        f = draw(st.sampled_from(sorted(model.operations)))
        value = (draw(values), draw(values)) if f == "cas" else draw(values)
        began, ended = sorted((next(places), next(places)))
        is_open = f != "read" and draw(st.integers(0, 2)) == 0
        operations.append(Operation(process, f, value, began, None if is_open else ended))
    return operations


@pytest.mark.parametrize("name", sorted(MODELS))
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_the_verdict_is_the_same_as_that_of_trying_every_order(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    operations = data.draw(histories(model))

    (found,) = check({"x": operations}, model)

    assert found.verdict == ("holds" if can_be_ordered(operations, model) else "violated")
    if found.verdict == "violated":
        for chosen in ({*found.shows}, *({*found.shows} - {one} for one in found.shows)):
            others = [one for one in operations if one not in chosen and one.f != "read"]
            explained = any(
                can_be_ordered([*chosen, *some], model)
                for count in range(len(others) + 1)
                for some in combinations(others, count)
            )
            assert explained == (len(chosen) < len(found.shows)), "all operations shown are needed, and suffice"


def record(rng: random.Random, *, operations: int, open_share: float = 0.1, values: int = 5) -> list[Operation]:
    """What five clients of a real register see: each operation takes effect at one instant between begin and end.

    As in recordings of etcd, a client that gets no answer in time goes on as another process, and its operation may
    still take effect later, or never.
    """
    value: Any = None
    idle, fresh, at = list(range(5)), 5, 0
    under_way: list[dict[str, Any]] = []
    adrift: list[dict[str, Any]] = []
    done: list[Operation] = []
    begun = 0
    while begun < operations or under_way:
        at += 1
        choices = [*under_way, *adrift, *([None] if begun < operations and idle else [])]
        one = rng.choice(choices)
        if one is None:
            f = rng.choice(["read", "write", "cas"])
            given = rng.randrange(values)
            value_of = {"read": None, "write": given, "cas": (given, rng.randrange(values))}[f]
            process = idle.pop(rng.randrange(len(idle)))
            under_way.append({"process": process, "f": f, "value": value_of, "began": at, "ok": None})
            begun += 1
            continue
        if one in under_way and rng.random() < open_share:  # its client never gets an answer
            under_way.remove(one)
            idle.append(fresh)
            fresh += 1
            if one["f"] != "read":
                done.append(Operation(one["process"], one["f"], one["value"], one["began"]))
            if one["ok"] is None:
                adrift.append(one)
        elif one["ok"] is None:
            one["ok"] = one["f"] != "cas" or value == one["value"][0]
            if one["f"] == "read":
                one["value"] = value
            elif one["ok"]:
                value = one["value"][1] if one["f"] == "cas" else one["value"]
            if one in adrift:
                adrift.remove(one)
        else:
            under_way.remove(one)
            idle.append(one["process"])
            if one["ok"]:
                done.append(Operation(one["process"], one["f"], one["value"], one["began"], at))
    return done


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), open_share=st.sampled_from([0.0, 0.1, 0.3]))
def test_histories_of_a_real_register_are_linearizable(seed: int, open_share: float) -> None:
    operations = record(random.Random(seed), operations=60, open_share=open_share)

    assert [one.verdict for one in check({"x": operations}, MODELS["cas-register"])] == ["holds"]


@pytest.mark.parametrize("seed", range(20))
def test_a_read_of_what_was_never_written_is_found_wherever_it_stands(seed: int) -> None:
    rng = random.Random(seed)
    operations = record(rng, operations=80)
    reads = [number for number, one in enumerate(operations) if one.f == "read" and one.ended is not None]
    place = rng.choice(reads)
    operations[place] = operations[place]._replace(value="never written")

    (found,) = check({"x": operations}, MODELS["cas-register"])

    assert found.verdict == "violated"
    assert found.shows == (operations[place],)


def test_a_stale_read_is_shown_with_the_write_that_makes_it_stale() -> None:
    model = MODELS["register"]
    before = [Operation(0, "write", 9, n, n + 1) for n in range(0, 40, 2)]
    stale = [
        Operation(1, "write", 1, 50, 51),
        Operation(2, "write", 2, 52, 55),
        Operation(3, "read", 1, 60, 61),
    ]
    after = [Operation(0, "read", 1, 70, 71)]

    (found,) = check({"x": [*before, *stale, *after]}, model)

    assert found.shows == tuple(stale[1:])


def test_a_status_that_goes_backwards_is_violated_and_a_lower_write_has_no_effect() -> None:
    model = MODELS["upload-status"]
    writes = [
        Operation("add", "write", "pending", 0, 1),
        Operation("upload", "write", "completed", 2),
        Operation("timeout", "write", "failed", 2),
    ]

    def verdict(*told: str) -> str:
        reads = [Operation("A", "read", status, 10 + 2 * n, 11 + 2 * n) for n, status in enumerate(told)]
        return check({"x": [*writes, *reads]}, model)[0].verdict

    assert verdict("pending", "failed", "completed", "completed") == "holds"
    assert verdict("completed", "failed") == "violated"
    assert verdict("failed", "pending") == "violated"
    assert verdict("pending", "unknown") == "violated"


def test_an_open_operation_may_happen_at_any_later_time_but_only_once_and_not_before_it_began() -> None:
    model = MODELS["register"]
    first, late = Operation(0, "write", 1, 0, 1), Operation(1, "write", 2, 2)

    def verdict(*reads: Operation) -> str:
        return check({"x": [first, late, *reads]}, model)[0].verdict

    assert verdict(Operation(2, "read", 1, 3, 4), Operation(2, "read", 2, 5, 6)) == "holds"
    again = [Operation(2, "read", 2, 3, 4), Operation(2, "write", 1, 5, 6), Operation(2, "read", 2, 7, 8)]
    assert verdict(*again) == "violated"
    assert check({"x": [Operation(2, "read", 2, 0, 1), late]}, model)[0].verdict == "violated"


def hard(writers: int) -> list[Operation]:
    """Overlapping writes, then reads that no order of the writes explains: all orders have to be tried."""
    writes = [Operation(n, "write", n, n, 1000 + n) for n in range(writers)]
    reads = [Operation(100, "read", n % writers, 2000 + 2 * n, 2001 + 2 * n) for n in range(2)]
    return [*writes, *(Operation(50, "read", n, 500, 1500) for n in range(writers)), *reads]


def test_a_key_beyond_the_budget_is_inconclusive_and_the_others_are_still_judged() -> None:
    model = MODELS["register"]
    wrong = [Operation(0, "read", 7, 0, 1)]

    found = check({"hard": hard(14), "wrong": wrong, "right": []}, model, states_a_key=5_000)

    assert [one.verdict for one in found] == ["inconclusive", "violated", "holds"]
    assert found[0].states >= 5_000
    assert overall(found) == "violated"
    assert overall(found[::2]) == "inconclusive"
    assert check({"hard": hard(7)}, model)[0].verdict == "violated"


# --- files ---


def lines_of(operations: Sequence[Operation], key: str = "x") -> list[bytes]:
    """The lines of a file with these operations, without reads that are open."""
    marks = []
    for one in operations:
        value = list(one.value) if isinstance(one.value, tuple) else one.value
        event = {"process": one.process, "f": one.f, "key": key}
        marks.append((one.began, event | {"type": "invoke", "value": None if one.f == "read" else value}))
        if one.ended is not None:
            marks.append((one.ended, event | {"type": "ok", "value": value}))
    return [json.dumps(event).encode() + b"\n" for _, event in sorted(marks, key=lambda mark: mark[0])]


def run_check(path: Path, *options: str) -> Any:
    from podrace.simulator.app import cli

    runner = CliRunner()
    return runner.invoke(cli.cli, ["check", str(path), *options])


@pytest.mark.parametrize(("value", "code", "word"), [(1, 0, "holds: 2 keys"), (3, 1, "violated: 2 keys")])
def test_a_file_is_judged_and_its_exit_code_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: int, code: int, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "history.jsonl"
    other = lines_of([Operation(5, "write", 4, 0, 1)], key="y")
    path.write_bytes(b"".join([*lines_of([Operation(0, "write", 1, 0, 1), Operation(1, "read", value, 2, 3)]), *other]))

    result = run_check(path, "--model", "register")

    assert result.exit_code == code
    assert word in result.output
    if code == 1:
        assert "Process 1" in result.output
        assert "→ 3" in result.output
        assert "write 4" not in result.output


def test_a_violation_is_drawn_and_where_that_cannot_be_it_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "history.jsonl"
    shows = [Operation("a.1", "write", 1, 0, 2), Operation("<b>", "read", 1, 1, 3), Operation("c", "read", None, 4, 5)]
    path.write_bytes(b"".join(lines_of(shows)))

    told = json.loads(run_check(path, "--model", "register", "--json").stdout)

    (key,) = told["keys"]
    picture = Path(key["picture"])
    assert picture.parts[0] == "runs"
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    heads = [one.text for one in root.iter() if one.get("class") == "head"]
    assert heads == [one["process"] for one in key["shows"]]
    assert "key x: violated: no order explains these" in "".join(root.itertext())
    assert "→ null" in "".join(root.itertext())

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/runs").write_text("no folder")
    result = run_check(path, "--model", "register")
    assert result.exit_code == 1
    assert "Process c" in result.stdout
    assert "podrace: no picture: run folder runs/" in result.stderr


def test_an_inconclusive_file_exits_3(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"".join(lines_of([one._replace(process=n) for n, one in enumerate(hard(14))])))

    result = run_check(path, "--model", "register", "--states", "3000")

    assert result.exit_code == 3
    assert "inconclusive" in result.output


INVOKE = {"process": 0, "type": "invoke", "f": "write", "key": "x", "value": 1}


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([INVOKE, "nonsense"], "line 2: expected one JSON object"),
        ([INVOKE, [1]], "line 2: expected one JSON object"),
        ([INVOKE, INVOKE], "line 2: process 0 begins an operation before its last one has ended"),
        ([INVOKE | {"type": "ok"}], "line 1: process 0 ends an operation that it has not begun"),
        ([INVOKE, INVOKE | {"type": "okay"}], "line 2: type: expected one of invoke, ok, fail, info, got 'okay'"),
        ([INVOKE | {"f": "cas"}], "line 1: f: expected one of read, write for register, got 'cas'"),
        ([{"process": 0, "type": "invoke", "f": "read"}], "line 1: expected the field 'key'"),
        ([INVOKE, INVOKE | {"type": "ok", "value": 2}], "line 2: value: expected 1, as in line 1, got 2"),
        ([INVOKE, INVOKE | {"type": "ok", "key": "y"}], "line 2: expected the end of the write of 'x' that began"),
    ],
)
def test_a_bad_line_is_named_by_its_number(events: list[Any], told: str) -> None:
    lines = [(event if isinstance(event, str) else json.dumps(event)).encode() for event in events]

    with pytest.raises(UsageError, match=r"^h\.jsonl, line") as raised:
        read_operations(lines, MODELS["register"], source="h.jsonl")

    assert told in str(raised.value)


def test_a_failed_operation_did_not_happen_and_one_that_never_ended_is_open() -> None:
    read = {"process": 1, "type": "invoke", "f": "read", "key": "x"}
    events = [
        INVOKE | {"value": 5},
        INVOKE | {"type": "fail", "value": 5},
        INVOKE,
        INVOKE | {"type": "info"},
        INVOKE | {"value": 2},
        read,
        read | {"type": "ok", "value": True},
    ]

    found = read_operations([json.dumps(event).encode() for event in events], MODELS["register"], source="h")

    assert found == {
        "x": [
            Operation(0, "write", 1, 3),
            Operation(1, "read", ("true",), 6, 7),
            Operation(0, "write", 2, 5),
        ]
    }


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(check_command, [str(tmp_path / "none"), "--model", "register"])

    assert isinstance(result.exception, UsageError)
