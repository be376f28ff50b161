"""The lost image and its fix, end to end: through the class, and as a user types it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from podrace.reference.memory import MemoryLedger
from podrace.simulator.app.images import prepare
from podrace.simulator.app.moments import moments
from podrace.simulator.app.names import TARGETS
from podrace.simulator.app.reproduce import Reproduction
from podrace.simulator.fleets.free import pod_name
from podrace.simulator.history.events import Wording, read_history, readable
from podrace.simulator.judge.findings import HOLDS, VIOLATED
from podrace.simulator.servers.connection import connect, open_server
from podrace.simulator.servers.files_api import FilesApi

Until = Callable[..., bool]
Podrace = Any
TcpServers = Callable[..., Any]
SECRET = "hunter2secret"


# --- the class -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "name"), [(0, "A"), (1, "B"), (25, "Z"), (26, "AA"), (27, "AB"), (51, "AZ"), (52, "BA"), (702, "AAA")]
)
def test_pods_are_named_as_columns_are(index: int, name: str) -> None:
    assert pod_name(index) == name


@pytest.mark.parametrize("pods", [1, 2, 3, 8])
def test_every_pod_absorbs_from_every_pod_in_turn(pods: int) -> None:
    rounds = Reproduction("", [], None, None, Path(), pods)  # type: ignore[arg-type]
    pairs = Counter((rounds.accepting(index), rounds.absorbing(index)) for index in range(pods * pods))
    names = [pod_name(number) for number in range(pods)]
    assert pairs == {(one, other): 1 for one in names for other in names}
    for start in range(0, pods * pods, pods):
        own = [index for index in range(start, start + pods) if rounds.accepting(index) == rounds.absorbing(index)]
        assert len(own) == 1
    if pods > 1:
        assert (rounds.accepting(0), rounds.absorbing(0)) == ("A", "B")  # the first image is absorbed elsewhere


@pytest.mark.parametrize(("target", "verdict", "lost"), [("local", VIOLATED, 2), ("shared", HOLDS, 0)])
def test_a_reproduction(tmp_path: Path, target: str, verdict: str, lost: int) -> None:
    """Three images on three pods: A to B, B to A, and C to itself."""
    paths, identify = prepare(tmp_path, 3, source=None, rng=random.Random(7))
    advanced: list[int] = []
    with open_server(None) as server, FilesApi(identify=identify) as files, connect(server.url) as client:
        client.set("other", "untouched")
        one = Reproduction(TARGETS[target], paths, server, files, tmp_path, pods=3, progress=advanced.append)
        done = one.run()
        assert client.keys("*") == [b"other"]
        uploaded = files.files()
    judgement = done.judgement
    assert judgement.verdict == verdict
    assert [finding.subject for finding in judgement.findings if finding.kind == "lost"] == [
        "image-0001",
        "image-0002",
    ][:lost]
    counts = judgement.counts
    assert (counts["images"], counts["accepted"], counts["delivered"]) == (3, 6, 6 - lost)
    assert sorted(record.mark or "" for record in uploaded.values()) == ["image-0001", "image-0002", "image-0003"]
    assert sum(advanced) == 3
    assert done.elapsed_s * 1000 >= done.events[-1]["t_ms"]
    times = [event["t_ms"] for event in done.events]
    assert times == sorted(times)
    assert {event["type"] for event in done.events} == {"invoke", "ok", "step", "snapshot"}
    with closing(MemoryLedger(tmp_path / f"ledger-{target}.sqlite")) as ledger:
        kept = [part for _, _, parts in ledger.batches() for part in parts if "google_cloud_file_uri" in part]
    assert len(kept) == 3 - lost
    shown = moments(readable(done.events, Wording(server.prefix)))
    assert [moment.name for moment in shown] == ["T0", "T1", "T2", "T3"]
    assert [moment.t_ms for moment in shown] == sorted(moment.t_ms for moment in shown)
    said = [" ".join(f"{who} {what}" for who, what in moment.lines) for moment in shown]
    assert "Pod A" in said[0]
    assert "Pod B" in said[2]
    assert ("LOST" in said[3]) == (target == "local")
    assert ("upload status pending" in said[0]) == (target == "shared")
    assert ("upload status completed" in said[1]) == (target == "shared")


def test_t2_is_the_last_read_before_the_send() -> None:
    """It may read again after it sends; T2 is its last read before, so that T2 comes before T3."""
    steps = [
        (40, "redis", "LRANGE temp_messages:user-1 0 -1"),
        (45, "redis", "GET upload_status:u"),
        (50, "service", "send to x: image image-1"),
    ]
    steps += [(55, "redis", "GET upload_status:v"), (60, "redis", "LRANGE temp_messages:user-1 0 -1")]
    events = [
        {
            "t_ms": 0,
            "type": "invoke",
            "actor": "A",
            "call": 0,
            "method": "add_message",
            "args": ["u", "t", ["image-1"], "m"],
        },
        {"t_ms": 10, "type": "ok", "actor": "A", "call": 0, "result": []},
        {"t_ms": 30, "type": "invoke", "actor": "B", "call": 1, "method": "absorb", "args": ["u"]},
        *(
            {"t_ms": t, "type": "step", "actor": "B", "kind": kind, "what": what, "reply": "nil"}
            for t, kind, what in steps
        ),
        {"t_ms": 70, "type": "ok", "actor": "B", "call": 1, "result": 1},
        *(
            {"t_ms": t, "type": "snapshot", "moment": name, "keys": {}}
            for t, name in ((11, "accepted"), (71, "absorbed"))
        ),
    ]
    assert [(moment.name, moment.t_ms) for moment in moments(events)] == [("T0", 10), ("T2", 45), ("T3", 50)]


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def default_run(podrace_once: Podrace) -> Any:
    """The run that the README shows, printed to a pipe, and what is in its folder."""
    ended = podrace_once("reproduce", "--run-dir", "run", COLUMNS="40", FORCE_COLOR="")
    assert ended.code == 0, ended.err
    return ended


def test_the_default_run_shows_the_bug_and_its_fix(default_run: Any) -> None:
    lines = default_run.out.splitlines()
    assert "local   foreign-pod   LOST  1 of 1 images" in lines
    assert "shared  foreign-pod   kept  1 of 1" in lines
    assert "run: run" in lines
    assert default_run.err == ""
    assert default_run.left == []


def test_the_output_fits_a_narrow_terminal(default_run: Any) -> None:
    *timelines, _, _, _, _ = default_run.out.splitlines()  # an empty line, one line for each target, the run's folder
    assert max(map(len, timelines)) <= 40


def test_no_escape_codes_go_into_a_pipe(default_run: Any) -> None:
    assert "\x1b" not in default_run.out
    assert "\r" not in default_run.out


def test_the_runs_folder_holds_all_of_it(default_run: Any, podrace_once: Podrace) -> None:
    folder = podrace_once.folder / "run"
    assert {path.name for path in folder.iterdir()} == {"history.jsonl", "result.json", "timelines.txt"}
    timelines = (folder / "timelines.txt").read_text(encoding="utf-8")
    assert all(word in timelines for word in ("T0", "T1", "T2", "T3", "local", "shared", "LOST"))
    assert "\x1b" not in timelines
    assert max(map(len, timelines.splitlines())) <= 100
    events = read_history(folder / "history.jsonl")
    assert {event["target"] for event in events} == {"local", "shared"}
    assert {event["type"] for event in events} == {"invoke", "ok", "step", "snapshot"}
    assert [event["moment"] for event in events if event["type"] == "snapshot"] == [
        "accepted",
        "uploaded",
        "absorbed",
    ] * 2


def test_the_result_has_the_form_of_the_design(default_run: Any, podrace_once: Podrace) -> None:
    result = json.loads((podrace_once.folder / "run" / "result.json").read_text(encoding="utf-8"))
    assert (result["version"], result["seed"], result["run"]) == (1, 7, "run")
    assert result["command"] == ["reproduce", "--run-dir", "run"]
    assert result["server"]["kind"] == "valkey"
    assert result["server"]["version"]
    assert result["server"]["embedded"] is True
    cells = {cell["target"]: cell for cell in result["cells"]}
    assert list(cells) == ["local", "shared"]
    for target, verdict, lost in (("local", "violated", 1), ("shared", "holds", 0)):
        cell = cells[target]
        assert (cell["scenario"], cell["fleet"]) == ("foreign-pod", "processes")
        assert (cell["verdict"], cell["expected"]) == (verdict, verdict)
        assert cell["counts"] == {
            "accepted": 2,
            "delivered": 2 - lost,
            "messages": 1,
            "images": 1,
            "lost": lost,
            "duplicated": 0,
            "misreported": 0,
            "stuck": 0,
            "leaked": 0,
        }
        assert 0 < cell["elapsed_s"] < 60


def test_eight_pods_lose_seven_of_eight_images_and_json_is_all_that_is_printed(podrace: Podrace) -> None:
    ended = podrace("reproduce", "--pods", "8", "--uploads", "16", "--json", "--run-dir", "run")
    assert (ended.code, ended.err, ended.left) == (0, "", [])
    document = json.loads(ended.out)  # raises if it is not exactly one document
    assert ended.out.startswith("{\n")
    assert document == json.loads((podrace.folder / "run" / "result.json").read_text(encoding="utf-8"))
    counts = {cell["target"]: cell["counts"] for cell in document["cells"]}
    assert (counts["local"]["accepted"], counts["local"]["lost"]) == (32, 14)
    assert (counts["shared"]["accepted"], counts["shared"]["delivered"], counts["shared"]["lost"]) == (32, 32, 0)


def test_one_pod_alone_loses_nothing_and_knows_its_own_upload(podrace: Podrace) -> None:
    ended = podrace("reproduce", "--pods", "1", COLUMNS="200")
    assert (ended.code, ended.err) == (0, "")
    assert "local   foreign-pod   kept  1 of 1" in ended.out
    assert "asks its own dict: completed" in ended.out
    assert "never heard of it" not in ended.out


def test_the_users_own_pictures(podrace: Podrace) -> None:
    own = podrace.folder / "own"
    own.mkdir()
    Image.linear_gradient("L").resize((2600, 1500)).convert("RGB").save(own / "a photo.jpg")
    Image.linear_gradient("L").convert("RGBA").save(own / "b.png")
    ended = podrace("reproduce", "--images", "own", "--uploads", "4")
    assert (ended.code, ended.err) == (0, "")
    assert "shared  foreign-pod   kept  4 of 4" in ended.out
    assert "local   foreign-pod   LOST  2 of 4 images" in ended.out  # two are absorbed by the pod that accepted them
    (run,) = (podrace.folder / "runs").iterdir()
    assert f"run: runs/{run.name}" in ended.out
    assert sorted(path.name for path in own.iterdir()) == ["a photo.jpg", "b.png"]


@pytest.fixture(scope="module")
def foreign(tcp_server: TcpServers) -> Iterator[Any]:
    """A server as somebody else runs it: TCP, a password, foreign keys."""
    with tcp_server(config={"requirepass": SECRET}) as server:
        yield server


def url_of(server: Any, password: str) -> str:
    return server.tcp_url.replace("redis://", f"redis://:{password}@")


def test_another_server_is_left_as_it_was(podrace: Podrace, foreign: Any) -> None:
    kept = {b"other": b"1", b"mirix:upload_status:x": b"2", b"mirix:temp_messages:user-1": b"3"}
    with connect(url_of(foreign, SECRET)) as client:
        client.mset(kept)
        ended = podrace("reproduce", "--redis-url", url_of(foreign, SECRET), "--json", "--run-dir", "run")
        assert {key: client.get(key) for key in client.keys("*")} == kept
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert document["server"]["embedded"] is False
    assert [cell["verdict"] for cell in document["cells"]] == ["violated", "holds"]
    written = "".join(path.read_text(encoding="utf-8") for path in (podrace.folder / "run").iterdir())
    assert SECRET not in ended.out + written


def test_the_environment_names_a_server_too(podrace: Podrace, foreign: Any) -> None:
    ended = podrace("reproduce", PODRACE_REDIS_URL=url_of(foreign, "wrong" + SECRET))
    assert ended.code == 2


# --- bad input -------------------------------------------------------------------------------------


def assert_refused(podrace: Podrace, ended: Any, before: set[Path]) -> None:
    """Exit 2, one clear line, nothing left behind."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("podrace: ")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    assert ended.left == []
    assert set(podrace.folder.rglob("*")) == before


def bad_image(folder: Path, what: str) -> str:
    path = folder / "own.png"
    if what == "a folder without images":
        (folder / "own").mkdir()
        (folder / "own" / "notes.txt").write_text("text")
        return "own"
    if what == "no image":
        path.write_text("no image at all")
    elif what == "a corrupt PNG":
        Image.linear_gradient("L").save(path)
        path.write_bytes(path.read_bytes()[:300])
    return path.name


@pytest.mark.parametrize("what", ["a folder without images", "no image", "a corrupt PNG", "nothing there"])
def test_files_that_are_no_images_are_refused(podrace: Podrace, what: str) -> None:
    name = bad_image(podrace.folder, what)
    before = set(podrace.folder.rglob("*"))
    ended = podrace("reproduce", "--images", name)
    assert_refused(podrace, ended, before)
    assert name in ended.err


def test_zero_pods_are_refused(podrace: Podrace) -> None:
    before = set(podrace.folder.rglob("*"))
    ended = podrace("reproduce", "--pods", "0")
    assert_refused(podrace, ended, before)
    assert "--pods" in ended.err


def test_a_run_folder_that_cannot_be_written(podrace: Podrace) -> None:
    (podrace.folder / "file").touch()
    before = set(podrace.folder.rglob("*"))
    ended = podrace("reproduce", "--run-dir", "file/run")
    assert_refused(podrace, ended, before)
    assert "file/run" in ended.err


@pytest.mark.parametrize("password", ["wrong" + SECRET, ""])
def test_a_server_that_needs_another_password_is_refused(podrace: Podrace, foreign: Any, password: str) -> None:
    before = set(podrace.folder.rglob("*"))
    ended = podrace("reproduce", "--redis-url", url_of(foreign, password) if password else foreign.tcp_url)
    assert_refused(podrace, ended, before)
    assert SECRET not in ended.err
    assert "password" in ended.err


def test_a_server_that_does_not_answer_is_reported_within_2_s(podrace: Podrace) -> None:
    """At most 2 s longer than for a closed port, for which the command takes only its start-up time."""
    before = set(podrace.folder.rglob("*"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"redis://:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
        refused = podrace("reproduce", "--redis-url", url)
        silent.listen()
        unanswered = podrace("reproduce", "--uploads", "100000", "--redis-url", url)  # before any work
    for ended in (refused, unanswered):
        assert_refused(podrace, ended, before)
        assert SECRET not in ended.err
    assert unanswered.took_s < refused.took_s + 2.0


# --- the end of the parent -------------------------------------------------------------------------


def begun(podrace: Podrace, until: Until, *kinds: str) -> subprocess.Popen[str]:
    """A long run of `small.png`, once it has a process of each kind."""
    small = podrace.folder / "small.png"
    process = podrace.start(
        "reproduce", "--images", str(small), "--uploads", "1000", "--run-dir", "run", measured=False, fresh=True
    )

    def is_there() -> bool:
        processes = podrace.processes()
        return all(processes[kind] for kind in kinds) or process.poll() is not None

    assert until(is_there, timeout_s=30.0)
    assert process.poll() is None
    return process


def ledger_is_written(podrace: Podrace) -> bool:
    return any(path.stat().st_size for path in podrace.temporary.rglob("ledger-*.sqlite"))


@pytest.mark.parametrize("when", ["while the fork server starts", "in the middle"])
def test_ctrl_c_leaves_nothing(podrace: Podrace, until: Until, when: str) -> None:
    Image.new("L", (64, 36)).save(podrace.folder / "small.png")
    before = set(podrace.folder.rglob("*"))
    if when == "in the middle":
        process = begun(podrace, until, "fork server", "server")
        assert until(lambda: ledger_is_written(podrace), timeout_s=30.0)
    else:
        process = begun(podrace, until, "fork server")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "podrace: interrupted")
    assert podrace.left() == []
    assert set(podrace.folder.rglob("*")) == before


def test_sigkill_leaves_no_process_socket_or_temporary_file(podrace: Podrace, until: Until) -> None:
    Image.new("L", (64, 36)).save(podrace.folder / "small.png")
    process = begun(podrace, until, "fork server", "server")
    assert until(lambda: ledger_is_written(podrace), timeout_s=30.0)
    assert list(podrace.temporary.rglob("image-0001*"))
    assert list(podrace.temporary.rglob("redis.sock"))
    process.kill()
    process.communicate(timeout=30)
    assert podrace.left() == []
