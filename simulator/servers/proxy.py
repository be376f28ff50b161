"""A proxy between pods and their server, one socket a pod, so that the network of one pod can be broken alone.

It runs as a process of its own and needs no rights. It knows nothing of what it passes on, chunks of bytes: a request
that is cut off never reaches the server, a reply that is cut off is of a command that the server has done.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from podrace.simulator.errors import HarnessError

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What befalls the network of one pod; nothing by itself.

    `cut_requests`, `cut_replies`: the share of chunks that break the connection instead of arriving. `late_requests_s`,
    `late_replies_s`: how late each chunk is, `jitter_s`: by how much more at most. `holds_requests`, `holds_replies`:
    chunks wait until that is over.
    """

    cut_requests: float = 0.0
    cut_replies: float = 0.0
    late_requests_s: float = 0.0
    late_replies_s: float = 0.0
    jitter_s: float = 0.0
    holds_requests: bool = False
    holds_replies: bool = False


class Proxy:
    """The proxy as its parent sees it, a context manager; it ends with the parent however that ends.

    `names` are those of the pods, `upstream` is the path of the server's socket. Sockets are made in `folder`.
    """

    def __init__(self, folder: Path, names: Sequence[str], upstream: Path, *, seed: int = 0) -> None:
        self._folder = folder
        self._names = names
        self._upstream = upstream
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None

    def url(self, name: str) -> str:
        """Where a pod finds its server."""
        return f"unix://{quote(str(self._folder / name))}.sock"

    def set(self, name: str, conditions: Conditions) -> None:
        """What befalls one pod's network from now on."""
        self._tell({"name": name, "conditions": asdict(conditions)})

    def lead_to(self, upstream: Path) -> None:
        """Break every connection; new ones lead to the server at another socket."""
        self._tell({"upstream": str(upstream)})

    def _tell(self, order: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Proxy:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._tell({"sockets": {name: f"{self._folder / name}.sock" for name in self._names}})
        self._tell({"upstream": str(self._upstream)})
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.__exit__()
            raise HarnessError(f"proxy: cannot listen in {self._folder}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# --- in the proxy's process ---


@dataclass
class _Route:
    conditions: Conditions = field(default_factory=Conditions)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)


class _Switchboard:
    def __init__(self, seed: int) -> None:
        self.upstream = ""
        self.rng = random.Random(seed)
        self.routes: dict[str, _Route] = {}

    def obey(self, order: Mapping[str, Any]) -> None:
        if "conditions" in order:
            route = self.routes[order["name"]]
            route.conditions = Conditions(**order["conditions"])
            route.changed.set()
            route.changed = asyncio.Event()
            return
        self.upstream = order["upstream"]
        for route in self.routes.values():
            for writer in route.writers:
                writer.transport.abort()

    async def connected(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        route = self.routes[name]
        try:
            there, to_there = await asyncio.open_unix_connection(self.upstream)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, to_there}
        route.writers |= both
        passing = [
            asyncio.ensure_future(self._pass(route, reader, to_there, is_request=True)),
            asyncio.ensure_future(self._pass(route, there, writer, is_request=False)),
        ]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for task in passing:
            task.cancel()
        route.writers -= both
        for one in both:
            one.transport.abort() if one.transport.get_write_buffer_size() == 0 else one.close()

    async def _pass(
        self, route: _Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        """Pass chunks on in one direction until the connection ends, or is cut off."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                now = route.conditions
                if self.rng.random() < (now.cut_requests if is_request else now.cut_replies):
                    return
                late_s = now.late_requests_s if is_request else now.late_replies_s
                if late_s or now.jitter_s:
                    await asyncio.sleep(late_s + now.jitter_s * self.rng.random())
                while route.conditions.holds_requests if is_request else route.conditions.holds_replies:
                    await route.changed.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            return


async def _serve(board: _Switchboard) -> None:
    """Listen at the sockets that the first line of standard input names, then obey further lines until it ends."""
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    for name, path in json.loads(await lines.readline())["sockets"].items():
        board.routes[name] = _Route()
        await asyncio.start_unix_server(partial(board.connected, name), path)
    board.obey(json.loads(await lines.readline()))
    print("ready", flush=True)
    while line := await lines.readline():
        board.obey(json.loads(line))
    os._exit(0)  # the parent has gone: what is still held goes with it


if __name__ == "__main__":
    asyncio.run(_serve(_Switchboard(int(sys.argv[1]))))
