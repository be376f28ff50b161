"""The pytest plugin: explorations as tests, counterexamples as regression tests, and what both need as fixtures.

    @pytest.mark.podrace(target="wallet:pod", scenario="wallet:TRANSFER")
    def test_a_transfer_is_made_once(podrace_cell): ...

Only pytest and the standard library are imported here: everything else is loaded where a test needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from podrace.simulator.app.counterexample import SavedSchedule
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.fleets.processes import Fleet
    from podrace.simulator.servers.connection import Server
    from podrace.simulator.servers.files_api import FilesApi

SUFFIX = ".podrace.json"
_NOTE = "podrace"
_MARKER = (
    "podrace(target, scenario, *, preemptions=2, faults=1, budget_s=60.0, seed=7): explore all schedules of the "
    "scenario within bounds before the test runs; it fails where one violates the scenario, or nobody knows"
)


STACK = pytest.StashKey[ExitStack]()
SERVER = pytest.StashKey["Server"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    stack = config.stash[STACK] = ExitStack()
    config.add_cleanup(stack.close)


def _server(config: pytest.Config) -> Server:
    """The server that the tests of this process share; it begins with the first that needs it."""
    if SERVER not in config.stash:
        from podrace.simulator.servers.connection import open_server

        config.stash[SERVER] = config.stash[STACK].enter_context(open_server(None))
    return config.stash[SERVER]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name.endswith(SUFFIX):
        return ScheduleFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that is wrong before anything of the test begins."""
    marker = item.get_closest_marker("podrace")
    if marker is not None:
        _asked(marker)


@pytest.fixture
def podrace_cell(request: pytest.FixtureRequest) -> Cell:
    """What became of the target in the scenario of the test's own marker: `.verdict`, `.words`, `.schedules`."""
    marker = request.node.get_closest_marker("podrace")
    if marker is None:
        pytest.fail(
            "podrace_cell: expected a test that @pytest.mark.podrace(target=…, scenario=…) marks", pytrace=False
        )
    return _explore(request.node, **_asked(marker))


@pytest.fixture
def podrace_server(pytestconfig: pytest.Config) -> Server:
    """An embedded server, empty: `.url` is what clients need. Each worker has one."""
    from podrace.simulator.servers.connection import connect

    server = _server(pytestconfig)
    with connect(server.url) as client:
        client.flushall()
    return server


@pytest.fixture
def podrace_files() -> Iterator[FilesApi]:
    """A local Gemini Files API: `.url` is what google-genai needs as `base_url`."""
    from podrace.simulator.servers.files_api import FilesApi

    with FilesApi() as files:
        yield files


@pytest.fixture
def podrace_fleet(podrace_server: Server) -> Iterator[Callable[..., Fleet]]:
    """Starts pods in processes of their own, under the real clock, which end with the test.

    `podrace_fleet("wallet:pod", "A", "B")` returns the fleet: `.call(pod, method, *args)`, `.submit`, `.wait`,
    `.kill`, `.pause`, `.resume`. `options` are what the target finds in `env.options`.
    """
    from podrace.simulator.fleets.processes import Fleet, PodSpec

    with ExitStack() as stack:

        def start(target: str, *pods: str, options: dict[str, Any] | None = None) -> Fleet:
            spec = PodSpec("", target, podrace_server.url, podrace_server.prefix, {}, options=options or {})
            return stack.enter_context(Fleet([replace(spec, name=pod) for pod in pods]))

        yield start


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Explore what the marker asks for; the test's own function runs afterwards."""
    marker = pyfuncitem.get_closest_marker("podrace")
    if marker is None:
        return
    cell: Any = pyfuncitem.funcargs.get("podrace_cell") or _explore(pyfuncitem, **_asked(marker))
    if cell.verdict == "not-applicable":
        pytest.skip(f"–: {cell.note}")
    if cell.verdict != "holds":
        pytest.fail(_message(cell), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep timelines out of pytest's summary, which on CI would repeat all of one, and of JUnit's one-line message."""
    report = yield
    ours = isinstance(item, ScheduleItem) or item.get_closest_marker("podrace") is not None
    crash = getattr(report.longrepr, "reprcrash", None)
    if ours and crash is not None:
        crash.message = crash.message.partition("\n")[0]
    return report


def _asked(marker: pytest.Mark) -> dict[str, Any]:
    """What the marker asks for; fails where it cannot be."""
    known = {"target", "scenario", "preemptions", "faults", "budget_s", "seed"}
    wrong = sorted(set(marker.kwargs) - known)
    if marker.args or wrong or not {"target", "scenario"} <= set(marker.kwargs):
        got = f"got {wrong[0]}=" if wrong else "got positional arguments" if marker.args else "one of them is missing"
        pytest.fail(f"@pytest.mark.podrace: expected target=… and scenario=… by name, {got}", pytrace=False)
    return dict(marker.kwargs)


def _explore(item: Any, target: Any, scenario: Any, *, budget_s: float = 60.0, seed: int = 7, **bounds: Any) -> Cell:
    from podrace.simulator.app.campaign import explore_cell
    from podrace.simulator.app.names import named_scenario, named_target
    from podrace.simulator.errors import PodraceError
    from podrace.simulator.search.frontier import Bounds

    try:
        return explore_cell(
            _server(item.config),
            named_target(target),
            named_scenario(scenario),
            Bounds(budget_s=budget_s, **bounds),
            seed=seed,
            folder=_folder(item.config),
        )
    except PodraceError as error:
        pytest.fail(f"podrace: {error}", pytrace=False)


def _folder(config: pytest.Config) -> Path:
    """Where counterexamples go: pytest's cache, where there is one."""
    cache = getattr(config, "cache", None)
    return cache.mkdir("podrace") if cache else Path(tempfile.mkdtemp(prefix="podrace-"))


def _message(cell: Cell) -> str:
    """Why a test fails: the timeline, and the line that repeats it."""
    if cell.counterexample is None:
        return f"{cell.target} {cell.scenario}: {cell.verdict}: {cell.note}"
    path = Path(cell.counterexample)
    text = path.with_name(f"{path.name.removesuffix(SUFFIX)}.txt").read_text(encoding="utf-8").rstrip()
    return f"{cell.target} {cell.scenario}: {cell.words}\n\n{text}\n\nagain: podrace replay {path}"


class ScheduleFile(pytest.File):
    """A counterexample that was kept: what it found must not happen again."""

    def collect(self) -> Iterator[pytest.Item]:
        yield ScheduleItem.from_parent(self, name="schedule")


class ScheduleItem(pytest.Item):
    def runtest(self) -> None:
        from podrace.simulator.app.campaign import replayed
        from podrace.simulator.app.counterexample import load
        from podrace.simulator.app.timeline import draw
        from podrace.simulator.errors import HarnessError, TargetError, UsageError

        try:
            saved = load(self.path)
            again = replayed(_server(self.config), saved, "inline")
        except TargetError as error:
            self._explore_again(saved, error)
            return
        except (UsageError, HarnessError) as error:
            pytest.fail(f"podrace: {error}", pytrace=False)
        if again.judgement.findings:
            text = f"{draw(again.events)}\n\n{again.sentence}\n\nagain: podrace replay {self.path}"
            pytest.fail(f"it happens again: {again.judgement.words}\n\n{text}", pytrace=False)

    def _explore_again(self, saved: SavedSchedule, error: Exception) -> None:
        """The code has changed so that the schedule no longer fits."""
        bounds = {"preemptions": max(2, saved.preemptions), "faults": max(1, saved.faults)}
        cell = _explore(self, saved.target, saved.scenario, seed=saved.seed, **bounds)
        told = (
            f"its schedule no longer fits ({error}); the scenario was explored again within "
            f"{bounds['preemptions']} preemptions and {bounds['faults']} faults: {cell.words}"
        )
        self.user_properties.append((_NOTE, told))
        if cell.verdict != "holds":
            pytest.fail(f"{told}\n\n{_message(cell)}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.path.name


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which schedules no longer fit: their tests have shown something else than they did."""
    reports: Sequence[Any] = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    told = [(report.nodeid, text) for report in reports for key, text in report.user_properties if key == _NOTE]
    if told:
        terminalreporter.section("podrace")
        for nodeid, text in told:
            terminalreporter.write_line(f"{nodeid}: {text}")
