"""If plain code does what the harness cannot control, a message names the place, and it is never `holds`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podrace import Call, Scenario
from podrace.simulator.app.campaign import explore_cell
from podrace.simulator.app.names import named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

BLOCKS_WITHIN_S = 1.0
HERE = Path(__file__).parent
UNLED = {
    "sleeps_elsewhere": (
        "the target sleeps, at unnamed_library.py in poll",
        "name the module that sleeps in @podrace.own",
    ),
    "starts_a_thread_elsewhere": ("starts a thread of its own, at unnamed_library.py in start_thread", "@podrace.own"),
    "opens_a_connection": ("opens a connection of its own, at unnamed_library.py in talk", "a service of the workload"),
    "looks_up_an_address": ("looks up an address, at unnamed_library.py in look_up", "a service of the workload"),
    "looks_up_an_address_by_its_name": ("looks up an address, at unnamed_library.py in look_up_by", "a service"),
    "starts_a_process": ("starts a process, at unnamed_library.py in run_process", "a service of the workload"),
    "starts_a_native_thread": ("threads that Python knows nothing of", "at the top of the factory's module"),
    "waits_for_a_real_lock": ("did not come back within 1 s", "at unnamed_library.py in hold"),
    "spins_elsewhere": ("did not come back within 1 s", "in spin"),
    "spins_on_the_clock": (
        "reads the clock 100,000 times in one run, at plain_unled.py in spins_on_the_clock",
        "sleep",
    ),
    "spins_on_the_loop": ("reads the clock 100,000 times in one run", "sleep between two looks"),
    "forks": ("starts a process, at plain_unled.py in forks", "a service of the workload"),
    "forks_a_worker": ("starts a process, at plain_unled.py in forks_a_worker", "a service of the workload"),
    "runs_a_pool_of_processes": ("starts a process, at plain_unled.py in runs_a_pool", "a service of the workload"),
    "runs_a_command": ("starts a process, at plain_unled.py in runs_a_command", "a service of the workload"),
    "becomes_another_program": ("starts a process, at plain_unled.py in becomes", "a service of the workload"),
    "leaves_its_process": ("ends its process, at plain_unled.py in leaves_its_process", "raise an exception"),
    "waits_for_a_socket": ("waits for files or sockets, at plain_unled.py in waits_for", "a service of the workload"),
    "waits_by_a_selector": ("waits for files or sockets, at plain_unled.py in waits_by", "a service of the workload"),
    "opens_a_port": ("opens a port of its own, at plain_unled.py in opens_a_port", "a service of the workload"),
    "sends_a_packet": ("sends a packet of its own, at plain_unled.py in sends_a_packet", "a service of the workload"),
    "asks_for_an_address": ("looks up an address, at plain_unled.py in asks_for", "a service of the workload"),
    "sends_a_signal": ("handles or sends signals, at plain_unled.py in sends_a_signal", "around the pod"),
    "sets_an_alarm": ("handles or sends signals, at plain_unled.py in sets_an_alarm", "around the pod"),
    "sends_itself_a_signal": ("handles or sends signals, at plain_unled.py in sends_itself_a_signal", "around the pod"),
    "interrupts_the_main_thread": ("handles or sends signals, at plain_unled.py in interrupts", "around the pod"),
    "waits_for_a_process": ("starts or waits for processes, at plain_unled.py in waits", "a service of the workload"),
    "sleeps_in_c": ("calls a library in C, at plain_unled.py in sleeps_in_c", "a service of the workload"),
    "sleeps_in_c_by_a_loader": ("calls a library in C, at plain_unled.py in sleeps_in_c_by_a_loader", "a service"),
    "sleeps_in_c_by_python_itself": ("calls a library in C, at plain_unled.py in sleeps_in_c_by_python", "a service"),
    "talks_by_a_pair_of_sockets": ("opens sockets or pipes, at plain_unled.py in talks_by_a_pair", "a queue.Queue"),
    "talks_by_a_pipe": ("shares something with processes, at plain_unled.py in talks_by_a_pipe", "of threading"),
    "waits_for_a_process_event": ("shares something with processes, at plain_unled.py in waits_for", "of threading"),
    "takes_a_process_lock": ("shares something with processes, at plain_unled.py in takes_a", "of threading"),
    "asks_a_process_queue": ("shares something with processes, at plain_unled.py in asks_a", "of threading"),
    "shares_a_value": ("shares something with processes, at plain_unled.py in shares_a_value", "of threading"),
    "locks_a_file": ("locks a file, at plain_unled.py in locks_a_file", "a service of the workload"),
    "locks_a_part_of_a_file": ("locks a file, at plain_unled.py in locks_a_part", "a service of the workload"),
    "asks_how_old_a_file_is": ("asks for the time of a file, at plain_unled.py in asks_how_old", "keep the time"),
    "asks_a_path_how_old_it_is": ("asks for the time of a file, at plain_unled.py in asks_a_path", "keep the time"),
    "asks_the_system_how_old_a_file_is": ("asks for the time of a file, at plain_unled.py in asks", "keep the time"),
    "asks_by_number_how_old_a_file_is": ("asks for the time of a file, at plain_unled.py in asks_by", "keep the time"),
    "asks_how_long_it_worked": ("reads a clock that is not the run's, at plain_unled.py in asks", "import time"),
    "asks_for_the_times_of_its_process": ("reads a clock that is not the run's, at plain_unled.py", "import time"),
    "asks_how_busy_the_machine_is": ("reads a clock that is not the run's, at plain_unled.py in asks", "import time"),
    "draws_bytes_by_ssl": ("draws at random, at plain_unled.py in draws_bytes_by_ssl", "import random"),
    "reads_the_clock_of_the_process": ("reads a clock that is not the run's, at plain_unled.py", "import time"),
    "reads_the_clock_through_a_library": ("reads a clock that is not the run's, at plain_unled.py", "import time"),
    "runs_a_file": ("runs a module beside its imports, at plain_unled.py in runs_a_file", "import it by its name"),
    "makes_a_module_of_a_file": ("runs a module beside its imports, at plain_unled.py", "import it by its name"),
    "starts_a_thread_below_threading": ("starts a thread by _thread, at plain_unled.py", "use threading.Thread"),
    "opens_a_connection_by_asyncio": ("opens a socket or starts a process by asyncio, at plain_unled.py", "a service"),
    "starts_a_process_by_asyncio": ("opens a socket or starts a process by asyncio, at plain_unled.py", "a service"),
    "talks_to_two_servers": ("talks to two Redis servers or databases", "plain_unled.py in talks_to_two_servers"),
    "talks_to_another_database": ("localhost:6379, database 3", "let it use one of them"),
    "talks_to_a_cluster": ("talks to a cluster or a sentinel, at plain_unled.py", "one node is what can be led"),
    "makes_a_client_of_gemini": ("makes a client of Gemini, at plain_unled.py", "a service named gemini"),
}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Put the library into another folder than the target."""
    library = tmp_path / "elsewhere" / "unnamed_library.py"
    library.parent.mkdir()
    library.write_bytes((HERE / "planted" / library.name).read_bytes())
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(library.parent)
    yield
    for name in ("planted.plain_unled", "unnamed_library"):
        sys.modules.pop(name, None)


def explored(server: Server, target: str, method: str, folder: Path, *, on_processes: bool = True) -> Cell:
    """Explore two pods at once, whose other calls do nothing that the harness cannot control."""
    scenario = Scenario("calls", {pod: [Call(pod, method)] for pod in "AB"}, keeps=["*"])
    return explore_cell(
        server,
        named_target(target),
        scenario,
        Bounds(budget_s=BLOCKS_WITHIN_S),
        seed=7,
        folder=folder,
        on_processes=on_processes,
    )


@pytest.mark.parametrize("method", UNLED)
def test_what_the_harness_cannot_control_is_named_with_its_place(
    run_server: Server, tmp_path: Path, method: str
) -> None:
    cell = explored(run_server, "planted.plain_unled:pod", method, tmp_path)
    assert (cell.verdict, cell.counterexample) == ("inconclusive", None), cell.note
    assert "\n" not in cell.note
    said = re.sub(r"at \S*/(\w+\.py):\d+", r"at \1", cell.note)
    for words in UNLED[method]:
        assert words in said


@pytest.mark.parametrize("method", ["call", "log"])
def test_output_and_logs_of_a_pod_are_suppressed_and_noted(
    run_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    cell = explored(run_server, "planted.plain_unled:prints", method, tmp_path, on_processes=False)
    assert cell.verdict == "holds"
    assert "the target prints, at" in cell.note
    assert f"in {method}: left out here" in cell.note
    assert capsys.readouterr() == ("", "")
