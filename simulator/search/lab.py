"""Sets up what exploring needs: the server's probe, one client a pod, small images, and a Play on demand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from podrace.simulator.fleets.inline import EPOCH_S, InlineFleet, MemoryList
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.fleets.stepped import SteppedFleet
from podrace.simulator.history.events import Event, readable
from podrace.simulator.scenarios.catalogue import Add, Scenario
from podrace.simulator.search.play import Play
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.files_api import FilesApi, InProcessFiles
from podrace.simulator.servers.probe import Probe
from podrace.simulator.target import PodEnv, Target, load_object
from podrace.simulator.world.footprints import EVERYTHING
from podrace.simulator.world.gates import GO, Gate, gated_client, make_env, set_gate

OPTIONS = {"absorb_limit": 1, "compress": False}


@contextmanager
def one_core(server: Server) -> Iterator[None]:
    """Puts this process and our own server on one core, where the system can.

    They take turns and never work at the same time; across two cores each turn would wait for the
    other core to wake, which takes several times as long as a command itself.
    """
    if server.embedded is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    core = {max(allowed)}
    try:
        os.sched_setaffinity(0, core)
        os.sched_setaffinity(server.embedded.pid, core)
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Lab:
    """What both labs share: the server's probe and the scenario's images. A context manager."""

    def __init__(self, server: Server, scenario: Scenario, *, seed: int) -> None:
        self.server = server
        self.scenario = scenario
        self.seed = seed
        self.options = {**OPTIONS, **scenario.options}
        self._stack = ExitStack()
        # A timeout costs two polls a command, and of our own server the watchdog sees that it does not come back.
        self._patience: dict[str, Any] = {"socket_timeout": None} if server.embedded else {}
        self._plays = 0
        self._current: Play | None = None

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="podrace-images-")))
        self.files, self.contents = write_images(self.scenario, self.folder)
        self._stack.enter_context(one_core(self.server))
        self.probe = Probe(connect(self.server.url, **self._patience))
        self._stack.callback(self.probe.close)
        self.table = self.probe.table()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def moves(self) -> object:
        """Something else after every step of every play."""
        return self._plays, self._current and len(self._current.decisions)

    def readable(self, events: Sequence[Event]) -> list[Event]:
        """A play's events as a history file holds them."""
        return readable(events, self.server.prefix, f"{self.folder}/")

    def play(self, retries: int) -> Play:
        """A fresh run, the client retrying a command so often."""
        raise AssertionError("a lab is of one kind or the other")

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys."""
        raise AssertionError("a lab is of one kind or the other")

    def _clear(self, play: Play) -> None:
        """Leave the server as every run should find it. A foreign server's scripts are not ours to remove."""
        unknown = self.probe.under(self.server.prefix) if EVERYTHING in play.touched else ()
        self.probe.delete(*play.touched, *unknown)
        if self.server.embedded is not None and play.has_done("SCRIPT LOAD"):
            self.probe.forget_scripts()

    def _play(self, fleet: Any, memory: Any, files: FilesApi | InProcessFiles) -> Play:
        self._plays += 1
        self._current = Play(
            self.scenario,
            fleet,
            self.probe,
            self.table,
            files=self.files,
            deliveries=memory.batches,
            images=lambda: {record.uri: record.mark for record in files.files().values() if record.mark},
            prefix=self.server.prefix,
        )
        return self._current


class InlineLab(Lab):
    """Makes plays on an inline fleet, one after the other: a Files API and a ledger in memory."""

    def __init__(self, server: Server, target: Target, scenario: Scenario, *, seed: int) -> None:
        super().__init__(server, scenario, seed=seed)
        self._target = target
        self._clients: dict[tuple[str, int], Any] = {}

    def play(self, retries: int) -> Play:
        """A fresh run: new pods, an empty ledger, no file uploaded."""
        memory = MemoryList()
        gemini = InProcessFiles(now=lambda: EPOCH_S, identify=self.contents.get)

        def env(name: str, gate: Gate) -> PodEnv:
            client = self._client(name, retries)
            set_gate(client, gate)
            return make_env(
                name=name,
                gate=gate,
                client=client,
                prefix=self.server.prefix,
                gemini=gemini,
                memory=memory,
                seed=self.seed,
                options=self.options,
            )

        self._fleet = InlineFleet(self._target, env)
        return self._play(self._fleet, memory, gemini)

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys."""
        self._fleet.close()
        for client in self._clients.values():
            _take_back(client)
        self._clear(play)

    def _client(self, name: str, retries: int) -> Any:
        """One client a pod, with one connection: greenlets never talk on it at the same time."""
        if (name, retries) not in self._clients:
            client = connect(self.server.url, retries=retries, **self._patience)
            client = gated_client(client, _NoGate(), one_connection=True)
            self._stack.callback(client.close)
            self._clients[name, retries] = client
        return self._clients[name, retries]


class ProcessLab(Lab):
    """Makes plays on pods in processes: the real google-genai client and the real ledger."""

    def __init__(
        self, server: Server, target_path: str, scenario: Scenario, *, seed: int, parts: Mapping[str, str]
    ) -> None:
        super().__init__(server, scenario, seed=seed)
        self._target_path = target_path
        self._parts = parts

    def play(self, retries: int) -> Play:
        """A fresh run: new processes, an empty ledger, a Files API of its own."""
        self._run = ExitStack()
        path = self.folder / f"ledger-{self._plays}.sqlite"
        memory = load_object(self._parts["memory"], what="memory agent")(path)
        self._run.callback(memory.close)
        files = self._run.enter_context(FilesApi(identify=self.contents.get))
        spec = PodSpec(
            name="",
            target=self._target_path,
            redis_url=self.server.url,
            prefix=self.server.prefix,
            files_url=files.url,
            ledger_path=str(path),
            memory=self._parts["memory"],
            gemini=self._parts["gemini"],
            seed=self.seed,
            retries=retries,
            gated=True,
            epoch_s=EPOCH_S,
            options=self.options,
        )
        fleet = SteppedFleet(lambda name: replace(spec, name=name))
        self._run.callback(fleet.close)
        return self._play(fleet, memory, files)

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys."""
        self._run.close()
        self._clear(play)


def _take_back(client: Any) -> None:
    """Return the connections that a pod held when it died, such as one that watches a key, to the pool, as new."""
    pool = client.connection_pool
    if len(pool._in_use_connections) > 1:
        for connection in [held for held in pool._in_use_connections if held is not client.connection]:
            connection.disconnect()
            pool.release(connection)


class _NoGate:
    """Stands before a client's commands until a pod gets it."""

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        return GO

    def after(self, reply: Any) -> None:
        """Nobody asks."""


def write_images(scenario: Scenario, folder: Path) -> tuple[dict[str, Path], Mapping[bytes, str]]:
    """A tiny PNG for each image that the scenario names. Returns their paths, and names by content."""
    from PIL import Image

    files, contents = {}, {}
    names = [image for calls in scenario.lines.values() for c in calls if isinstance(c, Add) for image in c.images]
    for number, name in enumerate(dict.fromkeys(names), 1):
        path = folder / f"{name}.png"
        Image.new("RGB", (4, 4), (number, number * 40 % 256, 90)).save(path)
        files[name] = path
        contents[path.read_bytes()] = name
    return files, contents
