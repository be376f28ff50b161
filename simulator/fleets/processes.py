"""Pods as real processes: started by a fork server, told what to do over a pipe, killed, paused, resumed."""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.pipes import READ_BYTES, framed, packed, taken, unpacked
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


@dataclass(eq=False, slots=True)
class Channel:
    """One connection to a pod: what is still to be written to it, and what has come of its next message.

    A pod says everything over its pipe; its lanes, which nobody reads, are for what it is told.
    """

    pod: str
    connection: Any
    file: int
    is_read: bool
    quick: bool
    is_open: bool = True
    out: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


@dataclass
class Handle:
    """One pod's process as its parent sees it. `channels` are its pipe, then its lanes."""

    spec: PodSpec
    process: Any
    channels: Sequence[Channel]
    idle: list[Channel]
    """The lanes that have no call."""
    busy: dict[int, Channel] = field(default_factory=dict)
    """By number of a call, the lanes that have one."""
    alive: bool = True
    is_ready: bool = False
    is_paused: bool = False
    results: dict[int, Result] = field(default_factory=dict)


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

    Their pipes are read and written without waiting: what a stopped pod does not read is kept for it.
    """

    def __init__(self, specs: Sequence[PodSpec]) -> None:
        self._calls = 0
        self._pods: dict[str, Handle] = {}
        self._specs = specs
        self._selector = selectors.DefaultSelector()

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
        """Start one more pod, or a killed one again; `await_ready` says when it can be called."""
        import multiprocess

        warm_up([spec.target, *filter(None, spec.services.values())])
        forkserver = multiprocess.get_context("forkserver")
        ends = [forkserver.Pipe(), *(forkserver.Pipe(duplex=False)[::-1] for _ in range(spec.lanes))]
        theirs = [end for _, end in ends]
        process = forkserver.Process(target=_pod_main, args=(theirs, spec), name=f"pod-{spec.name}", daemon=True)
        channels = [Channel(spec.name, end, end.fileno(), end is ends[0][0], spec.free) for end, _ in ends]
        with _without_main(), without_interrupts():  # started and known to us, or neither
            process.start()
            self._pods[spec.name] = Handle(spec, process, channels, channels[1:])
        for connection in theirs:
            connection.close()
        for channel in channels:
            os.set_blocking(channel.file, False)
        self._await(channels[0])

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
        results = self._pods[pod].results
        self._hear_until(pod, lambda: call in results, within_s=ANSWER_WITHIN_S)
        return results.pop(call)

    def await_ready(self, pod: str) -> None:
        """Wait until a pod can be called. Raises what kept it from being made."""
        handle = self._pods[pod]
        self._hear_until(pod, lambda: handle.is_ready, within_s=READY_WITHIN_S)

    def send(self, pod: str, *message: Any) -> None:
        """Tell a pod something (see pod.serve). Raises HarnessError where it died unexpectedly."""
        self._send(self._pods[pod].channels[0], message)

    def pump(self, timeout_s: float) -> None:
        """Take what has come from the pods, and wait at most so long for the first of it."""
        for key, ready in self._selector.select(max(0.0, timeout_s)):
            channel = key.data
            if channel.is_open and ready & selectors.EVENT_WRITE:
                channel.out = bytearray(self._write(channel, channel.out))
                if not channel.out:
                    self._await(channel)
            if channel.is_open and ready & selectors.EVENT_READ:
                self._read(channel)

    def kill(self, pod: str) -> None:
        """SIGKILL: the pod is gone between two instructions, and what it had said and nobody had read yet with it."""
        handle = self._pods[pod]
        handle.alive = False
        handle.process.kill()
        handle.process.join()
        self._shut(handle)

    def pause(self, pod: str) -> None:
        """SIGSTOP: the pod stands still and knows nothing of it."""
        os.kill(self._pods[pod].process.pid, signal.SIGSTOP)
        self._pods[pod].is_paused = True

    def resume(self, pod: str) -> None:
        """SIGCONT: the pod goes on as if nothing had happened."""
        os.kill(self._pods[pod].process.pid, signal.SIGCONT)
        self._pods[pod].is_paused = False

    def close(self) -> None:
        """End every pod that is left; none outlives this."""
        for name, handle in self._pods.items():
            if handle.alive and (handle.is_paused or handle.channels[0].out):
                self.kill(name)  # it would not hear that it should end
            elif handle.alive:
                with suppress(PodraceError):
                    self.send(name, "close")
        for handle in self._pods.values():
            if handle.process.is_alive():
                handle.process.join(1.0)
            if handle.process.is_alive():
                handle.process.kill()
                handle.process.join()
            handle.alive = False
            self._shut(handle)
            handle.process.close()
        self._pods.clear()
        self._selector.close()

    def _heard(self, handle: Handle, message: tuple[Any, ...]) -> None:
        """Take a message from a pod."""
        if message[0] == "result":
            handle.results[message[1]] = Result(*message[2:])
        elif message[0] == "ready":
            handle.is_ready = True
        elif message[0] == "broken":
            raise message[1]

    def _hear_until(self, pod: str, came: Callable[[], object], *, within_s: float) -> None:
        handle, until_s = self._pods[pod], time.monotonic() + within_s
        while not came():
            if not handle.channels[0].is_open:
                raise self._died(handle)
            if time.monotonic() > until_s:
                raise NoAnswerError(f"pod {pod}: expected an answer within {within_s:g} s, none came")
            self.pump(until_s - time.monotonic())

    def _send(self, channel: Channel, message: tuple[Any, ...]) -> None:
        data = framed(packed(message, quick=channel.quick))
        if channel.out:
            channel.out += data
        elif channel.is_open:
            channel.out += self._write(channel, data)
            if channel.out:
                self._await(channel)
        elif channel.is_read:
            raise self._died(self._pods[channel.pod])

    def _write(self, channel: Channel, data: bytes | bytearray) -> bytes | bytearray:
        """Write what the pod takes. Returns the rest."""
        try:
            return data[os.write(channel.file, data) :]
        except BlockingIOError:
            return data
        except OSError:
            self._ended(channel)
            return b""

    def _read(self, channel: Channel) -> None:
        try:
            data = os.read(channel.file, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(channel)
            return
        channel.received += data
        while channel.is_open and (one := taken(channel.received)) is not None:  # it may be killed for what it said
            self._heard(self._pods[channel.pod], unpacked(one, quick=channel.quick))

    def _ended(self, channel: Channel) -> None:
        """A connection has ended: whoever waits for the pod, or tells it something, is told."""
        channel.is_open = False
        self._await(channel)

    def _await(self, channel: Channel) -> None:
        """Hear of it when there is something to read, and when what is left to be written can be."""
        events = (selectors.EVENT_READ if channel.is_read else 0) | (selectors.EVENT_WRITE if channel.out else 0)
        if channel.file in self._selector.get_map():
            self._selector.unregister(channel.file)
        if events and channel.is_open:
            self._selector.register(channel.file, events, channel)

    def _shut(self, handle: Handle) -> None:
        for channel in handle.channels:
            if not channel.connection.closed:
                self._ended(channel)
                channel.connection.close()

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
