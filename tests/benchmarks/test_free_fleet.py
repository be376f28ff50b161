"""What a free-running fleet does in a second: beside plain processes that send the same Redis commands."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benched import TARGETS
from measuring import Ratio, check, ratio_of, tell

from podrace.simulator.app.free_run import Plan, run_free
from podrace.simulator.app.runs import Cell
from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.model import Call
from podrace.simulator.scenarios.upload_clients import FreeUploads
from podrace.simulator.servers.connection import connect, open_server

PODS, USERS = 8, 50
LEAST = 0.6
PLAIN = """
# The commands of a fleet's pods with the same arguments: every message is made, lists grow as long, all that is read
# is parsed.
import json, sys, time
from podrace.simulator.servers.connection import connect
url, prefix, name, *counts = sys.argv[1:]
pushes, absorbs = map(int, counts)
client = connect(url)
client.ping()
print("ready", flush=True)
sys.stdin.readline()
for turn in range(pushes):
    key = f"{prefix}temp_messages:{name}-{turn % 8}"
    message = {"message_id": f"{name}-{turn}", "text": f"text of {name}-{turn}", "images": [], "timestamp": time.time()}
    client.rpush(key, json.dumps(message))
    if (turn + 1) * absorbs // pushes > turn * absorbs // pushes:
        [json.loads(one) for one in client.lrange(key, 0, -1)]
        if client.set(f"{prefix}lock:{name}", name, nx=True, ex=30):
            ready = [json.loads(one) for one in client.lrange(key, 0, -1)]
            client.ltrim(key, len(ready), -1)
            client.delete(f"{prefix}lock:{name}")
print("done", flush=True)
"""


PEAK = """
import sys
from pathlib import Path
from podrace.simulator.app.free_run import Plan, run_free
from podrace.simulator.app.names import TARGETS
from podrace.simulator.app.runs import Cell
from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS
from podrace.simulator.servers.connection import open_server
folder, messages = Path(sys.argv[1]), int(sys.argv[2])
plan = Plan(target=TARGETS["shared"], pods=8, users=50, messages=messages)
with open_server(None) as server:
    cell = Cell("shared", "run", "free", "", "holds", {})
    found = run_free(cell, plan, FREE_UPLOADS, server, folder).cell
status = Path("/proc/self/status").read_text()  # ru_maxrss is what the parent had, where that was more
print(status.partition("VmHWM:")[2].split()[0], found.details["operations"])
"""


@dataclass(frozen=True, kw_only=True)
class Counted(FreeUploads):
    """Messages without images. `sent` are the Redis commands of the time in which clients were at it, by name."""

    url: str
    images_share: float = 0.0
    sent: dict[str, int] = field(default_factory=dict)

    def at_rest(self, pods: Sequence[str], run: Run) -> Sequence[tuple[str, Call]]:
        if not self.sent:
            with connect(self.url) as client:
                stats = client.info("commandstats")
            self.sent.update({name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()})
        return super().at_rest(pods, run)


def fleet_s(folder: Path, messages: int) -> tuple[float, Mapping[str, int]]:
    """Seconds that the fleet took until all was said, and the commands that it sent in that time."""
    folder.mkdir()
    plan = Plan(target=TARGETS["shared"].path, pods=PODS, users=USERS, messages=messages)
    with open_server(None) as server:
        workload = Counted(url=server.url)
        found = run_free(Cell("shared", "run", "free", "", "holds", {}), plan, workload, server, folder).cell
    assert found.verdict == "holds"
    return found.details["busy_s"], workload.sent


def plain_s(pushes: int, absorbs: int) -> float:
    with open_server(None) as server:
        counts = [str(pushes // PODS), str(absorbs // PODS)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PLAIN, server.url, server.prefix, f"p{number}", *counts],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PODS)
        ]
        for one in processes:
            assert one.stdout is not None
            one.stdout.readline()
        began_s = time.monotonic()
        for one in processes:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in processes:
            assert one.stdout is not None
            one.stdout.readline()
        took_s = time.monotonic() - began_s
        for one in processes:
            one.communicate()
        return took_s


def peak_kb(folder: Path, messages: int) -> tuple[int, int]:
    """The most memory that the harness had in one run, from its first message to the picture of it; and its calls."""
    folder.mkdir()
    words = [sys.executable, "-c", PEAK, str(folder), str(messages)]
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(found[0]), int(found[1])


def test_operations_a_second(benchmark: Any, tmp_path: Path) -> None:
    """Several rounds, as the machine is never quiet for long: each stands beside its own floor.

    They are so long that the first calls of pods, which connect to the server, are a small part: the plain processes
    are connected when they begin.

    The fleet's pods run under SCHED_BATCH, as they always do; the plain processes under the default policy.
    """
    ratios, rounds = [], 1 if benchmark.disabled else 10
    for number in range(rounds):
        busy_s, sent = fleet_s(tmp_path / str(number), 200 if benchmark.disabled else 20_000)
        ratios.append(plain_s(sent["rpush"], sent["ltrim"]) / busy_s)
    benchmark.pedantic(lambda: None)
    if benchmark.disabled:
        return
    found: Ratio = ratio_of(ratios)
    tell(
        benchmark,
        target="free fleet",
        operation="operations a second",
        floor="plain processes",
        found={"plain processes": found},
    )
    got = f"{found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]"
    asked = f">= {LEAST:g} of {PODS} plain processes"
    check(benchmark, "free fleet: operations a second", asked=asked, got=got, holds=found.high >= LEAST)


def test_memory_an_operation(benchmark: Any, tmp_path: Path) -> None:
    benchmark.pedantic(lambda: None)
    if benchmark.disabled:
        assert peak_kb(tmp_path / "run", 100)[0] > 0
        return
    (few_kb, few), (many_kb, many) = (peak_kb(tmp_path / str(messages), messages) for messages in (5000, 20_000))
    grown_kb = (many_kb - few_kb) / (many - few)
    asked, got = "< 1 KB an operation", f"{grown_kb:.2f} KB of {many - few} more"
    check(benchmark, "free fleet: memory of the harness", asked=asked, got=got, holds=grown_kb < 1)
