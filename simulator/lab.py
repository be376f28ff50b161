"""Sets up what exploring needs: the server's probe, one client a pod, small images, and a Play on demand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from simulator.files_api import InProcessFiles
from simulator.inline import EPOCH_S, InlineFleet, MemoryList
from simulator.play import Play
from simulator.probe import Probe
from simulator.scenarios import Add, Scenario
from simulator.server import Server, connect
from simulator.target import PodEnv, Target
from simulator.world import Gate, gated_client, make_env

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


class InlineLab:
    """Makes plays of a scenario on an inline fleet, one after the other, over one server. A context manager."""

    def __init__(self, server: Server, target: Target, scenario: Scenario, *, seed: int) -> None:
        self._server = server
        self._target = target
        self._scenario = scenario
        self._seed = seed
        self._stack = ExitStack()
        self._clients: dict[tuple[str, int], tuple[Any, _GateHolder]] = {}

    def __enter__(self) -> InlineLab:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="podrace-images-")))
        self.files, self._contents = write_images(self._scenario, folder)
        self._stack.enter_context(one_core(self._server))
        self._probe = Probe(connect(self._server.url))
        self._stack.callback(self._probe.close)
        self._table = self._probe.table()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client, _ in self._clients.values():
            client.close()
        self._stack.close()

    def play(self, retries: int) -> Play:
        """A fresh run: new pods, an empty ledger, no file uploaded."""
        memory = MemoryList()
        gemini = InProcessFiles(now=lambda: EPOCH_S, identify=self._contents.get)
        options = {**OPTIONS, **self._scenario.options}

        def env(name: str, gate: Gate) -> PodEnv:
            client, holder = self._client(name, retries)
            holder.gate = gate
            return make_env(
                name=name,
                gate=gate,
                client=client,
                prefix=self._server.prefix,
                gemini=gemini,
                memory=memory,
                seed=self._seed,
                options=options,
            )

        fleet = InlineFleet(self._target, env)
        self._fleet = fleet
        return Play(
            self._scenario,
            fleet,
            self._probe,
            self._table,
            files=self.files,
            deliveries=memory.batches,
            images=lambda: {record.uri: record.mark for record in gemini.files().values() if record.mark},
            prefix=self._server.prefix,
        )

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys."""
        self._fleet.close()
        self._probe.delete(*play.touched)

    def _client(self, name: str, retries: int) -> tuple[Any, _GateHolder]:
        """One client a pod, with one connection: greenlets never talk on it at the same time."""
        if (name, retries) not in self._clients:
            holder = _GateHolder()
            client = gated_client(connect(self._server.url, retries=retries), holder, one_connection=True)
            self._clients[name, retries] = (client, holder)
        return self._clients[name, retries]


class _GateHolder:
    """Stands for the gate of the current run in a connection that outlives it."""

    gate: Gate

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        return self.gate.before(kind, args)

    def after(self, reply: Any) -> None:
        self.gate.after(reply)


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
