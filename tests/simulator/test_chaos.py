"""Fleets under faults: the timeline of a seed, what is lost by whom, and how such a run ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from podrace.simulator.app import free_run, resting
from podrace.simulator.app.commands.run import counted
from podrace.simulator.app.directed import DIRECTED, PERSISTENCE, Directed, find, run_directed, unexplored
from podrace.simulator.app.free_run import FreeRun, Plan, progress_line, run_free
from podrace.simulator.app.names import TARGETS, named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import UsageError
from podrace.simulator.fleets.chaos import EVERY_S, FAULTS, SURVIVABLE, draw, named
from podrace.simulator.scenarios.catalogue import SCENARIOS
from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS, identify, numbered
from podrace.simulator.scenarios.uploads import picture
from podrace.simulator.servers.connection import Server, open_server
from podrace.simulator.target import load_object

Podrace = Any
DURABLE = "durable"
CELL = Cell("t", "run", "free", "", "holds", {})


def run(
    tmp_path: Path, target: str, *faults: str, persistence: str = "always", operations: int = 0, **plan: Any
) -> FreeRun:
    """`operations`: on a machine on which fewer are done in the time, there is twice the time for them, three times."""
    plan = {"pods": 4, "users": 20, "messages": 200, "duration_s": 2.0, "seed": 1, **plan}
    for _ in range(4):
        with open_server(None, PERSISTENCE[persistence]) as server:
            wanted = Plan(target=TARGETS[target], faults=named(faults), **plan)
            found = run_free(CELL, wanted, FREE_UPLOADS, server, tmp_path)
        if found.cell.details["operations"] >= operations:
            break
        plan["duration_s"] *= 2
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / free_run.HISTORY).read_text().splitlines()]


# --- the timeline ---


def test_each_fault_is_a_class_of_its_own() -> None:
    assert len({type(fault) for fault in FAULTS.values()}) == len(FAULTS)


def test_the_same_seed_draws_the_same_faults() -> None:
    faults = [*FAULTS.values()]
    first = draw(faults, "ABCD", seed=1, duration_s=60.0)
    assert first == draw(faults, "ABCD", seed=1, duration_s=60.0)
    assert first != draw(faults, "ABCD", seed=2, duration_s=60.0)
    assert {strike.fault for strike in first} == set(faults)
    assert 0.5 < len(first) * EVERY_S / 60.0 < 1.5


def test_nothing_is_struck_again_before_it_has_healed_and_each_fault_lasts_as_long_as_it_should() -> None:
    strikes = draw([*FAULTS.values()], "AB", seed=3, duration_s=60.0)
    for place in {strike.place for strike in strikes}:
        here = [strike for strike in strikes if strike.place == place]
        assert all(one.until_s < other.at_s for one, other in pairwise(here))
    for strike in strikes:
        shortest_s, longest_s = strike.fault.lasts_s
        assert shortest_s - 0.01 < strike.until_s - strike.at_s < longest_s + 0.01
        assert strike.place in ("AB" if strike.fault.on in ("pod", "network") else (strike.fault.on,))


def test_faults_are_chosen_by_name_and_unknown_names_are_refused() -> None:
    assert set(named(["all"])) == set(SURVIVABLE)
    assert set(named(["kill", "evict"])) == {"kill", "evict"}
    with pytest.raises(UsageError, match="fault 'kil': there is none; expected all, none, or some of noop, kill"):
        named(["kil"])


def test_a_foreign_server_is_not_broken(tmp_path: Path, run_server: Server) -> None:
    foreign = Server(url=run_server.url, info=run_server.info, prefix="x:")
    plan = Plan(target=TARGETS["shared"], pods=1, users=1, messages=1, faults=named(["server-full"]))
    with pytest.raises(UsageError, match="fault server-full: it would break a server that podrace has not started"):
        run_free(CELL, plan, FREE_UPLOADS, foreign, tmp_path)


# --- each fault has its effect, and goes again ---


@pytest.mark.parametrize("name", ["image-1-1", "image-1-2", "image-4000-1", "image-4000-16777215"])
def test_a_picture_can_be_identified_after_compression(tmp_path: Path, name: str) -> None:
    from podrace.reference.upload_manager import compress_image

    path = tmp_path / "picture.png"
    path.write_bytes(picture(numbered(name)))
    compressed = compress_image(str(path))
    assert compressed is not None
    assert identify(path.read_bytes()) == identify(Path(compressed).read_bytes()) == name
    assert identify(b"something else") is None


def errors(folder: Path) -> str:
    return " ".join(str(one.get("error")) for one in events(folder) if one["type"] in ("fail", "info"))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("restart-server", "ConnectionError"),
        ("server-full", "OutOfMemoryError"),
        ("cut", "ConnectionError"),
        ("partition", "TimeoutError"),
        ("pause", "no answer within"),
    ],
)
def test_each_fault_causes_the_errors_that_clients_should_get(tmp_path: Path, fault: str, told: str) -> None:
    found = run(tmp_path, DURABLE, fault, duration_s=4.0, messages=800)
    assert found.cell.details["struck"][fault] > 0
    assert told in errors(tmp_path)
    assert found.cell.verdict == "holds", found.cell.details["findings"]


def test_without_faults_nothing_is_lost_and_no_call_is_open(tmp_path: Path) -> None:
    found = run(tmp_path, "shared", "noop", operations=200)
    assert (found.cell.verdict, found.cell.details["findings"]) == ("holds", [])
    assert found.cell.counts["accepted"] == found.cell.counts["delivered"] > 100
    told = events(tmp_path)
    assert {one["type"] for one in told} == {"invoke", "ok", "step", "rest", "fault"}
    assert len([one for one in told if one["type"] == "invoke"]) == len([one for one in told if one["type"] == "ok"])


def test_local_loses_images_without_any_fault(tmp_path: Path) -> None:
    found = run(tmp_path, "local", operations=200)
    assert found.cell.verdict == "violated"
    assert found.cell.counts["lost"] > 5
    assert any(one["verdict"] == "violated" for one in found.cell.details["objects"])


@pytest.mark.parametrize(("persistence", "verdict"), [("none", "violated"), ("always", "holds")])
def test_a_restarted_server_without_persistence_loses_what_it_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, persistence: str, verdict: str
) -> None:
    monkeypatch.setattr(resting, "STILL_S", 2.0)  # do not wait for what was lost
    found = run(tmp_path, DURABLE, "restart-server", persistence=persistence, duration_s=3.0)
    assert found.cell.verdict == verdict
    assert ("lost" in found.cell.counts) == (verdict == "violated")


HANGS = """
import threading
from podrace import Call, Workload
from podrace.simulator.fleets.free import Asked

class Pod:
    def __init__(self, env):
        self.name = env.name

    def ring(self, who):
        if (self.name, who) == ("A", "bob"):
            threading.Event().wait()

class Bells(Workload):
    def client(self, number, messages, pause_s, rng):
        for turn in range(messages):
            yield Asked(f"ring-{turn}", "ring", ("alice",), ("alice",))

    def at_rest(self, pods, run):
        return [(pod, Call("ring", "ring", (who,))) for pod in pods for who in ("alice", "bob")]

BELLS = Bells()
"""


def test_a_call_that_never_returns_once_all_has_healed_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(resting, "STILL_S", 5.0)
    plan = Plan(target="hangs:Pod", pods=2, users=2, messages=20, faults=named(["pause"]), duration_s=0.5)
    with open_server(None) as server:
        found = run_free(CELL, plan, load_object("hangs:BELLS", noun="workload"), server, tmp_path)
    assert found.cell.verdict == "violated"
    (finding,) = found.cell.details["findings"]
    assert (finding["kind"], finding["subject"]) == ("stuck", "rest-1-2")
    assert "it waits for pod A, which is alive and has not answered for" in finding["sentence"]


# --- many pods, all faults ---


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.parametrize(
    ("target", "seed"),
    [
        (DURABLE, 1),
        ("local", 1),
        ("shared", 2),
        *(pytest.param(DURABLE, seed, marks=pytest.mark.nightly) for seed in (2, 3)),
        *(pytest.param("local", seed, marks=pytest.mark.nightly) for seed in (2, 3)),
        *(pytest.param("shared", seed, marks=pytest.mark.nightly) for seed in (1, 3)),
    ],
)
def test_ten_seconds_of_all_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, seed: int) -> None:
    if target != DURABLE:  # these lose messages, and there is no need to wait longer for their locks
        monkeypatch.setattr(resting, "STILL_S", 2.0)
    size = {"pods": 8, "users": 50, "messages": 1500, "duration_s": 10.0, "operations": 1200}
    found = run(tmp_path, target, "all", seed=seed, **size)
    if target == DURABLE:
        assert (found.cell.verdict, found.cell.details["findings"]) == ("holds", [])
        assert found.cell.counts["accepted"] == found.cell.counts["delivered"] > 200
    else:
        assert found.cell.verdict == "violated"
        assert found.cell.counts["lost"] > 0
        # Judged this early, what has not come yet is stuck; how much that is, the machine's load decides.
        assert found.cell.counts["lost"] + found.cell.counts.get("stuck", 0) > 20
    assert len(found.cell.details["struck"]) == len(SURVIVABLE)


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.parametrize("one", DIRECTED, ids=lambda one: one.name)
def test_a_failure_mode_of_whole_fleets_is_as_expected_of_durable(tmp_path: Path, one: Directed) -> None:
    cell = run_directed(one, named_target(DURABLE), tmp_path, seed=7).cell
    assert cell.verdict == one.expected(DURABLE), (cell.sentence, cell.note)
    if cell.verdict == "not-applicable":
        assert "set `" in cell.note  # it says what to configure


SHARED_LOSES = "restart failover eviction server-full gemini-files-expire source-file-gone gemini-fails".split()  # noqa: SIM905


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.parametrize("name", SHARED_LOSES)
def test_a_failure_mode_of_whole_fleets_is_lost_by_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(resting, "STILL_S", 2.0)
    cell = run_directed(find(name), named_target("shared"), tmp_path, seed=7).cell
    assert cell.verdict == "violated"


def test_every_failure_mode_that_is_not_explored_has_a_run_of_its_own() -> None:
    explored = {scenario.row for scenario in SCENARIOS}
    assert {one.row for one in DIRECTED} == {*range(21, 28), *range(30, 34)}
    assert {one.row for one in unexplored()} == {21, 22, 23, 24, 25, 27, 31, 33}
    assert explored | {one.row for one in DIRECTED} >= {*range(1, 40)}


def test_while_pods_are_replaced_the_old_ones_go_on_losing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "STILL_S", 2.0)
    found = run(tmp_path, "local", then=TARGETS["shared"], messages=400, duration_s=4.0)
    drawn = json.loads((tmp_path / "over-time.json").read_text())["over_time"]
    assert [fault["name"] for fault in drawn["faults"]] == ["deploy"] * 4
    losses = [one["lost"] for one in drawn["bins"]]
    assert losses == sorted(losses)
    assert losses[-1] == found.cell.counts["lost"] > 5
    last_deployed_s = max(fault["until_s"] for fault in drawn["faults"])
    after = [one["lost"] for one in drawn["bins"] if one["at_s"] > last_deployed_s + 0.1]
    assert len(set(after)) <= 1, "something was lost after the last old pod had gone"


@pytest.mark.parametrize(("target", "loses"), [(DURABLE, False), ("local", True)])
def test_pods_that_come_later_are_judged_by_what_they_have_promised_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, loses: bool
) -> None:
    monkeypatch.setattr(resting, "STILL_S", 2.0)
    found = run(tmp_path, "local", then=TARGETS[target], messages=400, duration_s=4.0, operations=300)
    assert found.cell.verdict == "violated"
    assert found.since is not None
    assert 0 < found.since.cell.counts["accepted"] < found.cell.counts["accepted"]
    assert found.since.cell.counts["old_lost"] > 0
    assert found.since.cell.counts.get("lost", 0) + found.since.cell.counts["old_lost"] == found.cell.counts["lost"]
    assert ("lost" in found.since.cell.counts) == loses
    assert found.since.cell.words.startswith("lost" if loses else "ok; old pods: lost")


# --- the command ---


def test_the_run_command_prints_its_verdict_and_writes_every_file(podrace: Podrace) -> None:
    words = "run --target local --pods 2 --users 4 --messages 60 --duration 1 --faults kill --run-dir r".split()  # noqa: SIM905
    ended = podrace(*words)
    assert ended.code == 1, ended.err
    assert "local  violated: accepted" in ended.out
    assert " messages, " in ended.out
    assert "faults: kill" in ended.out
    assert {path.name for path in (podrace.folder / "r").iterdir()} == {
        "events.jsonl",
        "local-run.history.jsonl",
        "local-run.txt",
        "over-time.json",
        "target-output.txt",
        "result.json",
    }
    result = json.loads((podrace.folder / "r" / "result.json").read_text())
    (cell,) = result["cells"]
    assert (cell["fleet"], cell["verdict"]) == ("free", "violated")
    assert cell["counts"]["lost"] > 0
    assert cell["details"]["operations"] > 0
    assert set(cell["details"]["struck"]) <= {"kill"}
    assert cell["details"]["findings"][0]["sentence"] == cell["sentence"]
    assert ended.left == []
    shown = (podrace.folder / "r" / "local-run.txt").read_text()
    assert shown.splitlines()[0].split()[:2] == ["step", "Pod"]
    assert "add_message(user-" in shown
    assert "step  Pod" in ended.out
    assert shown.splitlines()[-1] in ended.out
    assert podrace("report", "r", "--out", "page.html").code == 0
    page = (podrace.folder / "page.html").read_text()
    picture = page[page.index('<figure class="counterexample" id="local-run">') :]
    assert picture.index("<svg") < picture.index("add_message(user-") < picture.index("</figure>")


def test_short_runs_of_failure_modes_are_printed_as_a_matrix(podrace: Podrace) -> None:
    ended = podrace("run", "--target", "durable", "--scenario", "eviction,clock-skew", "--run-dir", "r")
    assert ended.code == 0, ended.err
    result = json.loads((podrace.folder / "r" / "result.json").read_text())
    assert [(one["scenario"], one["row"], one["verdict"]) for one in result["cells"]] == [
        ("eviction", 23, "not-applicable"),
        ("clock-skew", 27, "holds"),
    ]
    assert (podrace.folder / "r" / "durable-clock-skew" / "over-time.json").exists()
    assert podrace("run", "--scenario", "nothing").code == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_matrix_also_runs_failure_modes_of_whole_fleets(podrace: Podrace, workers: int) -> None:
    words = "matrix --targets local,durable --scenarios foreign-pod,source-file-gone --run-dir r --workers"
    ended = podrace(*words.split(), str(workers))
    assert ended.code == 0, ended.err
    folder = podrace.folder / "r"
    cells = json.loads((folder / "result.json").read_text())["cells"]
    assert [(one["scenario"], one["fleet"], one["target"], one["verdict"]) for one in cells] == [
        ("foreign-pod", "inline", "local", "violated"),
        ("foreign-pod", "inline", "durable", "holds"),
        ("source-file-gone", "free", "local", "violated"),
        ("source-file-gone", "free", "durable", "holds"),
    ]
    assert (folder / "local-source-file-gone.history.jsonl").exists()


def test_a_target_that_refuses_a_server_is_a_skipped_case(podrace: Podrace) -> None:
    assert podrace("matrix", "--targets", "durable", "--scenarios", "eviction", "--run-dir", "r").code == 0
    assert podrace("report", "r", "--format", "junit", "--out", "cells.xml").code == 0
    cases = {one.get("name"): one for one in ElementTree.parse(podrace.folder / "cells.xml").iter("testcase")}
    skipped = cases["eviction (free)"].find("skipped")
    assert skipped is not None
    assert "refuses to start" in str(skipped.get("message"))


def test_scenarios_of_whole_fleets_are_not_explored_and_refuse_a_foreign_server(podrace: Podrace) -> None:
    ended = podrace("explore", "--scenario", "restart")
    assert (ended.code, "podrace run --scenario runs it" in ended.err) == (2, True)
    for words in ("matrix --fleets", "matrix --scenarios restart", "run --scenario restart"):
        ended = podrace(*words.split(), "--redis-url", "redis://127.0.0.1:1/0")
        assert ended.code == 2
        assert "use their own only; leave --redis-url out" in ended.err
    assert "33  rolling-deploy " in podrace("scenarios").out


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("--pods 2 --users 4 --messages 100000 --duration 600 --faults noop", "events.jsonl"),
        ("--scenario failover,partition", "shared-failover/events.jsonl"),
    ],
)
def test_ctrl_c_ends_a_run_with_the_verdict_so_far(
    podrace: Podrace, until: Callable[..., bool], words: str, file: str
) -> None:
    process = podrace.start(*f"run --target shared --run-dir r --json {words}".split(), measured=False)
    path = podrace.folder / "r" / file
    assert until(lambda: path.exists() and path.read_bytes().count(b"\n") > 20, timeout_s=20.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    cell, *more = json.loads(out)["cells"]
    assert {(one["verdict"], one["note"]) for one in (cell, *more)} == {("inconclusive", "interrupted")}
    assert len(more) == ("partition" in words)
    assert cell["counts"]["accepted"] > 0
    assert podrace.left() == []


def test_a_workload_without_clients_is_wrong_usage(podrace: Podrace) -> None:
    (podrace.folder / "mine.py").write_text("from podrace import Workload\nPLAIN = Workload()\n")
    ended = podrace("run", "--workload", "mine:PLAIN")
    assert ended.code == 2
    assert "has no clients" in ended.err


def test_the_progress_tells_what_is_accepted_delivered_and_pending() -> None:
    ended = {("add_message", "ok"): 30, ("absorb", "ok"): 10}
    told = "running 2 s  messages: accepted 30  delivered 20  pending 10  calls 3  20/s  faults: A: kill"
    assert progress_line("running", 2.0, ended, 3, 20, ["A: kill"]) == told


def test_the_last_line_counts_messages_and_images_by_their_names() -> None:
    counts = {"accepted": 45, "delivered": 44, "messages": 30, "images": 15, "lost": 1, "leaked": 0}
    assert counted(counts) == "accepted 45 (30 messages, 15 images), delivered 44, lost 1"
    assert counted({"accepted": 2, "delivered": 2, "lost": 0}) == "accepted 2, delivered 2"
    assert counted({"lost": 0}) == ""
