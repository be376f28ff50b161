"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from warm import Warm

pytest_plugins = "pytester"

WALLET = """
from podrace import Call, Finding, Scenario
import podrace
import redis

class Wallet:
    def __init__(self):
        self.redis = redis.Redis(decode_responses=True)

    def pay(self, amount):
        paid = int(self.redis.get("paid") or 0)
        self.redis.set("paid", paid + amount)

    def pay_at_once(self, amount):
        self.redis.incrby("paid", amount)

    def read(self):
        return self.redis.get("paid")

@podrace.own()
def pod(env):
    return Wallet()

def nothing_is_lost(run):
    paid = sum(call.args[0] for call in run.calls if call.type == "ok")
    if int(run.redis.get("paid", 0)) != paid:
        yield Finding("lost", "paid", f"{paid} were paid, {run.redis.get('paid')} are there")

def scenario(name, method, **options):
    lines = {pod: [Call(pod, method, (5,))] for pod in "AB"}
    return Scenario(name, lines, checks=[nothing_is_lost], keeps=["paid"], **options)

PAY = scenario("pay", "pay")
AT_ONCE = scenario("at once", "pay_at_once")
IDLE = scenario("idle", "pay_at_once", faults=[podrace.FailService(service="none")])
"""


class Project:
    """A folder with a service, and pytest in a process of its own, with our plugin."""

    def __init__(self, pytester: pytest.Pytester, warm: Warm | None) -> None:
        self.path = pytester.path
        self.makepyfile = pytester.makepyfile
        self.makepyfile(wallet=WALLET)
        self._run_fresh = pytester.runpytest_subprocess
        self._warm = warm

    def run(self, *arguments: str, all_plugins: bool = False) -> pytest.RunResult:
        """Run pytest, with no other plugin unless `all_plugins` says so: each takes time to import."""
        installed = any(one.name == "podrace" for one in entry_points(group="pytest11"))
        plugin = "podrace" if installed else "podrace.simulator.app.pytest_plugin"
        if all_plugins or self._warm is None:
            return self._run_fresh(*(() if installed else ("-p", plugin)), *arguments)
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        started = self._warm.start(["-p", plugin, *arguments], cwd=str(self.path), env=environment)
        out, err = started.communicate(timeout=60)
        print(out, err, sep="\n")
        return pytest.RunResult(started.returncode, out.splitlines(), err.splitlines(), 0.0)


@pytest.fixture(scope="module")
def warm_pytest() -> Iterator[Warm | None]:
    """Forks processes that run pytest; None where coverage is measured, which begins with an interpreter.

    It has imported libraries alone: a plugin, and what tests import, pytest has to import itself.
    """
    if any(key.startswith("COV") for key in os.environ):
        yield None
        return
    with Warm("pytest", "pytest:main", ("pytest", "redis", "google.genai", "multiprocess.forkserver")) as started:
        yield started


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, warm_pytest: Warm | None) -> Project:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path or os.getcwd() for path in sys.path))
    return Project(pytester, warm_pytest)


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a counterexample, made in another process: pytester removes modules from this one."""
    folder = tmp_path_factory.mktemp("explored")
    (folder / "wallet.py").write_text(WALLET, encoding="utf-8")
    (folder / "found").mkdir()
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    code = "import podrace; podrace.explore('wallet:pod', 'wallet:PAY', folder='found', on_processes=False)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": paths}, check=True)
    return folder / "found"


def marked(scenario: str, name: str = "it", more: str = "") -> str:
    return f"@pytest.mark.podrace(target='wallet:pod', scenario='wallet:{scenario}'{more})\ndef test_{name}(): pass\n"


def test_a_service_that_raises_keyboard_interrupt_ends_only_its_test(project: Project) -> None:
    (project.path / "wallet.py").write_text(WALLET.replace("self.redis.incrby(", "raise KeyboardInterrupt; ("))
    project.makepyfile("import pytest\n" + marked("AT_ONCE") + marked("PAY", "other"))
    result = project.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines("*A raised KeyboardInterrupt: expected the target to return or to raise an Exception*")


def test_ctrl_c_ends_the_session_though_the_service_catches_everything(project: Project) -> None:
    loop = """while True:
            import os, signal, threading
            if not os.path.exists("sent"):
                open("sent", "w")
                signal.raise_signal(signal.SIGINT)
            try: self.redis.get("paid")
            except BaseException: pass
"""
    (project.path / "wallet.py").write_text(WALLET.replace('self.redis.incrby("paid", amount)\n', loop))
    project.makepyfile("import pytest\n" + marked("AT_ONCE") + marked("PAY", "other"))
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes()


@pytest.mark.parametrize("on_ci", [False, True])
def test_a_marked_test_explores_and_fails_with_the_timeline_and_the_replay_command(
    project: Project, monkeypatch: pytest.MonkeyPatch, on_ci: bool
) -> None:
    for name in ("CI", "BUILD_NUMBER"):  # if one is set, pytest's summary shows whole messages
        monkeypatch.delenv(name, raising=False)
    if on_ci:
        monkeypatch.setenv("CI", "true")
    project.makepyfile("import pytest\n" + marked("PAY", "pays") + marked("AT_ONCE", "at_once"))
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "wallet:pod wallet:PAY: lost" in text
    assert re.search(r"step +Pod A +Pod B +Redis", text)
    assert "10 were paid, 5 are there" in text
    (path,) = re.findall(r"again: podrace replay (\S+)", text)
    assert json.loads(Path(path).read_text(encoding="utf-8"))["words"] == "lost"
    assert "Traceback" not in text
    (summary,) = re.findall(r"^FAILED .*", text, re.MULTILINE)
    assert not on_ci or summary.endswith("::test_pays - Failed: wallet:pod wallet:PAY: lost")


def test_the_marker_takes_a_factory_and_a_scenario_as_objects_and_the_test_gets_the_cell(
    project: Project,
) -> None:
    project.makepyfile(
        """
        import pytest, wallet

        @pytest.mark.podrace(target=wallet.pod, scenario=wallet.AT_ONCE, preemptions=1, faults=0)
        def test_it(podrace_cell):
            assert (podrace_cell.verdict, podrace_cell.schedules["complete"]) == ("holds", True)
        """
    )
    project.run().assert_outcomes(passed=1)


def test_an_inconclusive_cell_fails_and_one_whose_fault_had_nothing_to_strike_is_skipped(
    project: Project,
) -> None:
    project.makepyfile(
        "import pytest\n"
        + marked("IDLE", "idle")
        + marked("AT_ONCE", "late", ", budget_s=0.0")
        + marked("NONE", "wrong")
        + "@pytest.mark.podrace('wallet:pod')\ndef test_bad(): pass\n"
        + "@pytest.mark.podrace(target='wallet:pod', scenarios='x')\ndef test_misspelt(): pass\n"
    )
    result = project.run("-rs")
    result.assert_outcomes(skipped=1, failed=2, errors=2)
    text = result.stdout.str()
    assert "the faults of this scenario have nothing to strike" in text
    assert "inconclusive: the budget of 0 s was spent" in text
    assert "module wallet has no NONE" in text
    assert "expected target=… and scenario=… by name, got positional arguments" in text
    assert "by name, got scenarios=" in text


@pytest.fixture
def found(project: Project, explored: Path) -> Path:
    """A counterexample under the tests' folder."""
    shutil.copytree(explored, project.path, dirs_exist_ok=True)
    (path,) = project.path.glob("*.podrace.json")
    return path


def test_a_counterexample_is_a_regression_test(project: Project, found: Path) -> None:
    result = project.run()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "it happens again: lost" in text
    assert "10 were paid, 5 are there" in text
    assert "again: podrace replay " in text


def test_where_its_schedule_no_longer_fits_the_scenario_is_explored_again_and_the_test_says_so(
    project: Project, found: Path
) -> None:
    project.makepyfile(wallet=WALLET.replace("def pay(", "def pay_slowly(").replace("def pay_at_once(", "def pay("))
    result = project.run()
    result.assert_outcomes(passed=1)
    said = "its schedule no longer fits (the target has changed since this was found: at step 2 expected 'GET paid'"
    assert f"{found.name}::schedule: {said}" in result.stdout.str()
    assert "explored again within 2 preemptions and 1 faults: ok" in result.stdout.str()


def test_a_target_that_changed_but_is_still_broken_fails_though_its_schedule_no_longer_fits(
    project: Project, found: Path
) -> None:
    project.makepyfile(wallet=WALLET.replace('self.redis.get("paid") or', 'self.redis.getrange("paid", 0, -1) or'))
    result = project.run()
    result.assert_outcomes(failed=1)
    assert "explored again within 2 preemptions and 1 faults: lost" in result.stdout.str()
    assert "10 were paid, 5 are there" in result.stdout.str()


def test_a_damaged_counterexample_is_reported_in_one_line(project: Project) -> None:
    (project.path / "broken.podrace.json").write_text("{", encoding="utf-8")
    result = project.run()
    result.assert_outcomes(failed=1)
    assert "broken.podrace.json: expected a *.podrace.json file" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_fixtures_give_a_server_a_fleet_of_processes_and_the_files_api(project: Project) -> None:
    project.makepyfile(
        seam="""
        class Counter:
            def __init__(self, env):
                self.env = env
            def count(self):
                return self.env.redis.incr(self.env.prefix + "n")
        """,
        free="""
        import asyncio, threading, time
        import podrace, redis
        import redis.asyncio as aioredis

        class Threaded:
            def __init__(self):
                self.redis = redis.Redis(host="redis.example.com", decode_responses=True)
            def count(self):
                found = []
                thread = threading.Thread(target=lambda: found.append(self.redis.incr("n")))
                thread.start()
                thread.join()
                return found[0]

        class Asynchronous:
            def __init__(self):
                self.redis = aioredis.from_url("redis://redis.example.com")
            async def count(self):
                await asyncio.sleep(0.001)
                return await self.redis.incr("n")

        @podrace.own()
        def threaded(env):
            return Threaded()

        @podrace.own()
        def asynchronous(env):
            return Asynchronous()
        """,
        test_them="""
        import redis
        from google import genai
        from google.genai import types

        def test_a_server(podrace_server):
            with redis.from_url(podrace_server.url) as client:
                assert client.dbsize() == 0
                client.set("a", 1)

        def test_an_empty_server(podrace_server):
            with redis.from_url(podrace_server.url) as client:
                assert client.dbsize() == 0

        def test_a_fleet(podrace_fleet):
            fleet = podrace_fleet("seam:Counter", "A", "B")
            assert [fleet.call(pod, "count").value for pod in "ABA"] == [1, 2, 3]
            fleet.kill("A")
            assert fleet.names == ["B"]

        def test_a_fleet_of_plain_code(podrace_fleet):
            fleet = podrace_fleet("free:threaded", "A", "B")
            assert [fleet.call(pod, "count").value for pod in "ABA"] == [1, 2, 3]

        def test_a_fleet_of_plain_code_on_asyncio(podrace_fleet):
            fleet = podrace_fleet("free:asynchronous", "A", "B")
            assert [fleet.call(pod, "count").value for pod in "ABA"] == [1, 2, 3]

        def test_files(podrace_files, tmp_path):
            path = tmp_path / "a.png"
            path.write_bytes(b"a picture")
            options = types.HttpOptions(base_url=podrace_files.url)
            client = genai.Client(api_key="test", http_options=options)
            assert client.files.upload(file=path).uri.startswith(podrace_files.url)
            client.close()
        """,
    )
    project.run().assert_outcomes(passed=6)


def test_under_xdist_each_worker_has_a_server(project: Project, found: Path) -> None:
    project.makepyfile(
        "import pytest\n"
        + "".join(marked("AT_ONCE", f"at_once_{number}") for number in range(3))
        + marked("PAY", "pays")
        + "def test_url(podrace_server, worker_id):\n    open(f'url-{worker_id}', 'w').write(podrace_server.url)\n"
        + "def test_other(podrace_server, worker_id):\n    open(f'url-{worker_id}', 'w').write(podrace_server.url)\n"
    )
    result = project.run("-p", "xdist", "-n2", "--dist=each")
    result.assert_outcomes(passed=10, failed=4)
    first, second = (path.read_text(encoding="utf-8") for path in sorted(project.path.glob("url-*")))
    assert first != second


def test_the_plugin_hardly_slows_collection_down(project: Project) -> None:
    """It imports almost nothing that pytest does not import itself."""
    code = (
        "import sys, pytest, tempfile; before = set(sys.modules)\n"
        "import podrace.simulator.app.pytest_plugin\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ours = ["podrace", "podrace.simulator", "podrace.simulator.app", "podrace.simulator.app.pytest_plugin"]
    assert told.split() == ours


def test_the_plugin_works_with_coroutine_tests_and_other_plugins(project: Project) -> None:
    project.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.podrace(target="wallet:pod", scenario="wallet:AT_ONCE")
        async def test_it(podrace_cell):
            assert podrace_cell.words == "ok"
        """
    )
    project.run(all_plugins=True).assert_outcomes(passed=1)
