"""Pods as real processes: started by a fork server, told what to do over a pipe, killed, paused, resumed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.pipes import packed, unpacked
from podrace.simulator.history.events import Event
from podrace.simulator.history.outcome import Result

READY_WITHIN_S = 20.0
ANSWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class PodSpec:
    """All that a pod's process needs to build its pod: strings and numbers, no object that is alive.

    `services`: by name, the class of a client that the pod makes from its `settings`, as `module:name`; one without
    is called over the pipe. A `gated` pod takes no step before it is let go; one that `cancels` may have its calls
    cancelled. Of a `free` one no step is told, and its connections may break; what it prints goes into the file
    `output`. `import_source`: see world.client. `lanes`: how many calls are made on connections of their own.
    """

    name: str
    target: str
    redis_url: str = field(repr=False)
    prefix: str
    services: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    incarnation: int = 1
    retries: int = 0
    import_source: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)
    gated: bool = False
    cancels: bool = False
    free: bool = False
    output: str = ""
    lanes: int = 0
    epoch_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Handle:
    """One pod's process as its parent sees it."""

    spec: PodSpec
    process: Any
    connection: Any
    lanes: Sequence[Any] = ()
    alive: bool = True
    results: dict[int, Result] = field(default_factory=dict)
    inbox: deque[tuple[Any, ...]] = field(default_factory=deque)


PRELOADED = ("redis", "google.genai", "podrace.simulator.fleets.pod")


def warm_up(paths: Sequence[str]) -> None:
    """Start the fork server, so that its slow imports, done once, run beside whatever comes next.

    `paths` are the `module:name` of what the pods will build. Where a fork server runs already, its
    imports stay as they are: a pod then imports the rest by itself.
    """
    import multiprocess
    from multiprocess import resource_tracker
    from multiprocess.forkserver import ensure_running

    modules = {path.partition(":")[0]: None for path in paths}
    multiprocess.get_context("forkserver").set_forkserver_preload([*PRELOADED, *modules])
    resource_tracker.ensure_running()  # first: it unblocks SIGINT
    with _without_main(), without_interrupts(), guarded.handed_over():
        ensure_running()


class NoAnswerError(HarnessError):
    """A pod that is alive does not answer in time."""


class Fleet:
    """The pods of one run. Use as a context manager: at its end no pod is left.

    `on_event` gets each event as it arrives from a pod.
    """

    def __init__(self, specs: Sequence[PodSpec], *, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._calls = 0
        self._pods: dict[str, Handle] = {}
        self._specs = specs

    def __enter__(self) -> Fleet:
        try:
            for spec in self._specs:
                self.add(spec)
            for name in self._pods:
                self.await_ready(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        return [name for name, pod in self._pods.items() if pod.alive]

    def add(self, spec: PodSpec) -> None:
        """Start one more pod; `await_ready` says when it can be called."""
        import multiprocess

        warm_up([spec.target, *filter(None, spec.services.values())])
        forkserver = multiprocess.get_context("forkserver")
        ours, theirs = forkserver.Pipe()
        lanes = [forkserver.Pipe(duplex=False) for _ in range(spec.lanes)]
        told = [theirs, *(end for end, _ in lanes)]
        process = forkserver.Process(target=_pod_main, args=(told, spec), name=f"pod-{spec.name}", daemon=True)
        with _without_main(), without_interrupts():  # started and known to us, or neither
            process.start()
            self._pods[spec.name] = Handle(spec, process, ours, [end for _, end in lanes])
        for connection in told:
            connection.close()

    def call(self, pod: str, method: str, *args: Any) -> Result:
        """Call a method of a pod and wait for how it ends."""
        return self.wait(pod, self.submit(pod, method, *args))

    def submit(self, pod: str, method: str, *args: Any) -> int:
        """Begin a call of a pod's method, on a line of its own. Returns the call's number."""
        self._calls += 1
        self.send(pod, "call", self._calls, pod, method, args)
        return self._calls

    def wait(self, pod: str, call: int) -> Result:
        """How a call ended. Raises HarnessError where the pod died unexpectedly or does not answer in time."""
        handle = self._pods[pod]
        while call not in handle.results:
            self._receive(handle, within_s=ANSWER_WITHIN_S)
        return handle.results.pop(call)

    def send(self, pod: str, *message: Any) -> None:
        """Tell a pod something (see pod.serve). Raises HarnessError where it died unexpectedly."""
        try:
            handle = self._pods[pod]
            handle.connection.send_bytes(packed(message, quick=handle.spec.free))
        except OSError as error:
            raise self._died(self._pods[pod]) from error

    def await_ready(self, pod: str) -> None:
        """Wait until a pod can be called. Raises what kept it from being made."""
        self.receive(pod, within_s=READY_WITHIN_S)  # it is the first thing that a pod says

    def receive(self, pod: str, *, within_s: float) -> tuple[Any, ...]:
        """The next message from a pod that is neither an event nor a result."""
        handle = self._pods[pod]
        while not handle.inbox:
            self._receive(handle, within_s=within_s)
        return handle.inbox.popleft()

    def kill(self, pod: str) -> None:
        """SIGKILL: the pod is gone between two instructions."""
        handle = self._pods[pod]
        handle.alive = False
        handle.process.kill()
        handle.process.join()
        self._drain(handle)

    def pause(self, pod: str) -> None:
        """SIGSTOP: the pod stands still and knows nothing of it."""
        os.kill(self._pods[pod].process.pid, signal.SIGSTOP)

    def resume(self, pod: str) -> None:
        """SIGCONT: the pod goes on as if nothing had happened."""
        os.kill(self._pods[pod].process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End every pod that is left; none outlives this."""
        for handle in self._pods.values():
            if handle.alive:
                with suppress(OSError):
                    handle.connection.send_bytes(packed(("close",), quick=handle.spec.free))
        for handle in self._pods.values():
            if handle.process.is_alive():
                handle.process.join(1.0)
            if handle.process.is_alive():
                handle.process.kill()  # also ends what is stopped
                handle.process.join()
            if handle.alive:
                with suppress(PodraceError):  # of a pod that could not be made: another's is on its way already
                    self._drain(handle)
            handle.alive = False
            for connection in (handle.connection, *handle.lanes):
                connection.close()
            handle.process.close()
        self._pods.clear()

    def _receive(self, handle: Handle, *, within_s: float) -> None:
        try:
            if not handle.connection.poll(within_s):
                raise NoAnswerError(f"pod {handle.spec.name}: expected an answer within {within_s:g} s, none came")
            message = unpacked(handle.connection.recv_bytes(), quick=handle.spec.free)
        except (EOFError, OSError) as error:
            raise self._died(handle) from error
        self._take(handle, message)

    def _take(self, handle: Handle, message: tuple[Any, ...]) -> None:
        if message[0] == "event":
            self._on_event(message[1])
        elif message[0] == "result":
            handle.results[message[1]] = Result(*message[2:])
        elif message[0] == "broken":
            raise message[1]
        else:
            handle.inbox.append(message)

    def _drain(self, handle: Handle) -> None:
        """Take what a pod sent before it ended."""
        with suppress(EOFError, OSError):
            while handle.connection.poll(0):
                self._take(handle, unpacked(handle.connection.recv_bytes(), quick=handle.spec.free))

    def _died(self, handle: Handle) -> HarnessError:
        handle.process.join(1.0)
        return HarnessError(
            f"pod {handle.spec.name} died unexpectedly (exit code {handle.process.exitcode}); "
            f"its target is {handle.spec.target}"
        )


def _pod_main(connections: Sequence[Any], spec: PodSpec) -> None:
    from podrace.simulator.fleets.pod import main  # in the child: the parent needs none of what a pod imports

    main(connections, spec)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Defers Ctrl-C to the end of the block. A fork server started in the block, and its pods, never receive it.

    On its own it ignores SIGINT only after its imports, and would print a traceback before that. The
    signal's mask is for the fork server; with other threads about it keeps nothing from this one.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.getsignal(signal.SIGINT)
    handled = callable(handler) and threading.current_thread() is threading.main_thread()
    came: list[tuple[Any, ...]] = []
    if handled:
        signal.signal(signal.SIGINT, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if came and callable(handler):
            handler(*came[0])


@contextmanager
def _without_main() -> Iterator[None]:
    """Keeps `multiprocess` from running the caller's main script again in every pod: pods need none of it."""
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main.__dict__["__file__"] = file
