"""The service's pods inside this process, behind a load balancer's round robin, as greenlets."""

from __future__ import annotations

import io
import itertools
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import gevent

from podrace.loadtests.judging import TEXT, Journal, image_name
from podrace.loadtests.targets import LoadTarget, Plan
from podrace.reference.gemini import GeminiFiles
from podrace.reference.runtime import ThreadRuntime
from podrace.simulator.errors import HarnessError
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.probe import Probe
from podrace.simulator.target import PodEnv, make_pod_here
from podrace.simulator.world.footprints import key_text

MARK = b"podrace image %010d"
UPLOAD_TIMEOUT_S = 10.0
DRAIN_S = UPLOAD_TIMEOUT_S + 3.0
POD_CONNECTIONS = 1024
"""Of one pod, at most: a user or an upload holds one for one command, so this is never reached, but by mistake."""
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


class GreenletRuntime(ThreadRuntime):
    """A pod's runtime: locust has patched the process, so that threads and locks are gevent's.

    It counts what actors raise, which nobody else would hear of.
    """

    def __init__(self) -> None:
        self.died: Counter[str] = Counter()

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        gevent.spawn(self._run, name, function)

    def _run(self, name: str, function: Callable[[], None]) -> None:
        try:
            function()
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # gevent would end the whole run
            self.died[f"{name}: {type(error).__name__}"] += 1


class MarkedFiles:
    """The real google-genai client, which tells the journal under which URI each of our images is stored."""

    def __init__(self, inner: GeminiFiles, journal: Journal) -> None:
        self._inner = inner
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def upload(self, *, file: Any) -> Any:
        number = _image_number(file)  # before: the file may be gone afterwards
        try:
            stored = self._inner.upload(file=file)
        except Exception:
            self._journal.refused(number)
            raise
        self._journal.uploaded(stored.uri, number)
        return stored


def _image_number(file: Any) -> int:
    """The number of our image, -1 for any other. Pods do not compress here, so a file's last bytes hold it."""
    size = len(MARK % 0)
    try:
        if isinstance(file, io.BytesIO):  # without reading it, which its pod might notice
            last = bytes(file.getbuffer()[-size:])
        else:
            with nullcontext(file) if isinstance(file, io.IOBase) else open(file, "rb") as stream:
                began = stream.tell()
                stream.seek(-size, os.SEEK_END)
                last = stream.read()
                stream.seek(began)
        return int(last.removeprefix(MARK.partition(b"%")[0]))
    except (OSError, ValueError, TypeError):
        return -1


class Fleet:
    """The pods of this process, with one store each, and what became of all that they took in."""

    def __init__(self, plan: Plan, target: LoadTarget, *, worker: str) -> None:
        self.plan = plan
        self.journal = Journal()
        self.runtime = GreenletRuntime()
        self.inconclusive = ""
        self.worker = worker
        self._folder = tempfile.TemporaryDirectory(prefix="podrace-load-")
        self._names = itertools.count(1)
        self._clients = [connect(plan.redis_url, max_connections=POD_CONNECTIONS) for _ in range(plan.pods)]
        self._gemini = [GeminiFiles(api_key="local", base_url=plan.files_url) for _ in range(plan.pods)]
        envs = [
            PodEnv(
                name=f"{worker}-{number}",
                redis=client,
                prefix=plan.prefix,
                services={"gemini": MarkedFiles(gemini, self.journal), "memory": self.journal},
                runtime=self.runtime,
                rng=random.Random(f"{plan.seed} {worker} {number}"),
                # compressing is Pillow's work, not the protocol's, and would stop every greenlet for its time
                options={"absorb_limit": 1, "compress": False, "upload_timeout_s": UPLOAD_TIMEOUT_S},
            )
            for number, (client, gemini) in enumerate(zip(self._clients, self._gemini, strict=True))
        ]
        self.pods: list[Any] = [make_pod_here(target.factory, env) for env in envs]
        self.stores = [target.store(env) for env in envs] if target.store else []
        self._turns = itertools.cycle(range(plan.pods))
        self._image = PNG_HEAD + random.Random(plan.seed).randbytes(max(0, plan.image_size_bytes - len(PNG_HEAD)))

    def warm_up(self) -> None:
        """Make each pod's Gemini client before the load, since that blocks this process for half a second.

        Raises HarnessError where the Files API does not answer.
        """
        path = Path(self._folder.name, "warm-up.png")
        path.write_bytes(PNG_HEAD)
        try:
            for gemini in self._gemini:
                gemini.upload(file=str(path))
        except Exception as error:
            raise HarnessError(f"files API {self.plan.files_url}: {type(error).__name__}: {error}") from error

    def next_two(self, pods: Sequence[Any]) -> tuple[Any, Any]:
        """Where the load balancer sends the next two requests of a user: to two different pods, or their stores."""
        first = next(self._turns)
        return pods[first], pods[(first + 1) % len(pods)]

    def new_user(self, scenario: str) -> str:
        """The id of a user nobody else has, in any process."""
        return f"{scenario}/{self.worker}/{next(self._names)}"

    def write_image(self, number: int) -> Path:
        """A file that no other image equals; the caller removes it."""
        path = Path(self._folder.name, f"{image_name(number)}.png")
        path.write_bytes(self._image + MARK % number)
        return path

    def drain(self, within_s: float = DRAIN_S) -> None:
        """After the load, absorb what is left, by every pod in turn, then judge what was not delivered."""
        try:
            with gevent.Timeout(within_s, False):  # a pod may wait in the middle of an absorption, and for ever
                while users := self.journal.waiting():
                    for user_id in users:
                        self.pods[next(self._turns)].absorb(user_id)
                    gevent.sleep(0.02)
            held = self._texts_in_redis() if self.journal.waiting() else set()
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, Interrupted):
                raise
            self.inconclusive = f"{type(error).__name__} while the queues were emptied: nobody knows what they held"
            return
        self.journal.finish(held)

    def close(self) -> None:
        """End what the pods do in the background: nothing may be written once their keys are deleted."""
        for pod in self.pods:
            getattr(pod, "close", lambda: None)()
        closing: list[Any] = [*self._clients, *self._gemini]
        for client in closing:
            client.close()
        self._folder.cleanup()

    def _texts_in_redis(self) -> set[str]:
        """The texts of our messages that still stand in any key of this run."""
        probe = Probe(connect(self.plan.redis_url, max_connections=1), own=False)
        with closing(probe):
            keys = self._clients[0].scan_iter(
                match=f"{self.plan.prefix}*", count=1000
            )  # KEYS would stop everybody else
            return {found[0] for key in keys for found in TEXT.finditer(str(probe.values([key_text(key)])))}
