"""A process that has imported what takes long. It forks ones that run a command, which saves a second of CPU each.

The forked process is a real one: it has its own process id, session, streams, folder and environment, ends by signals,
and ends as an interpreter ends. What the interpreter itself decides when it starts (encodings of streams, hash seed,
closed descriptors, limits) is the warm process's; a test of these starts a new interpreter.

    worker of pytest ── warm process ── minder ── command ── reserve (becomes the fork server of its pods)
                                                         └── reserve (becomes the resource tracker)
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from os import close, fork, waitpid  # gevent replaces those of the module
from typing import Any

_MOST_BYTES = 1_000_000


class Warm:
    """The test's side: starts processes that run a function, `module:name`, each handed out as a subprocess.Popen."""

    def __init__(self, name: str, function: str, preloaded: Sequence[str]) -> None:
        self._name = name
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PODRACE_", "LOCUST_", "COV"))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), function, *preloaded],
                pass_fds=[theirs.fileno()],
                env=env,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._orders = ours

    def start(self, arguments: Sequence[str], *, cwd: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
        return _Forked(self._orders, [self._name, *arguments], cwd, env)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        self._process.wait()


class _Forked(subprocess.Popen[str]):
    """A Popen whose process another process forks, and waits for."""

    def __init__(self, orders: socket.socket, arguments: list[str], cwd: str, env: Mapping[str, str]) -> None:
        self._orders = orders
        pipe = subprocess.PIPE
        super().__init__(arguments, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def _execute_child(self, args: Any, *given: Any) -> None:
        _, _, _, _, cwd, env, _, _, _, stdin, _, _, stdout, _, stderr, *_ = given
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            order = json.dumps({"argv": args, "cwd": cwd, "env": env}).encode()
            socket.send_fds(self._orders, [order], [stdin, stdout, stderr, theirs.fileno()])
        for descriptor in (stdin, stdout, stderr):
            close(descriptor)
        self.pid = int(self._status.recv(16))
        self._child_created = True

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None:
                with suppress(BlockingIOError):
                    self.returncode = os.waitstatus_to_exitcode(int(self._status.recv(16, socket.MSG_DONTWAIT)))
                    self._status.close()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        while self._internal_poll() is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode


def _serve(orders: socket.socket) -> dict[str, Any] | None:
    """Fork for each order. Returns it in the process that is to run it, and None in the warm one once all is over."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, _MOST_BYTES, 4)
        if not message:
            return None
        minder = fork()
        if not minder:
            order: dict[str, Any] = json.loads(message)
            orders.close()
            return _mind(order, descriptors)
        for descriptor in descriptors:
            close(descriptor)
        waitpid(minder, 0)


def _mind(order: dict[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    """Fork the command, and tell its process id, then how it has ended. Returns in the command's process only."""
    if fork():
        os._exit(0)  # the warm process waits for this one only, and is ready for the next order
    os.setsid()
    *streams, status = descriptors
    command = fork()
    if command:
        for descriptor in (0, 1, 2, *streams):
            close(descriptor)
        os.write(status, b"%d\n" % command)
        _, ended = waitpid(command, 0)
        os.write(status, b"%d" % ended)
        os._exit(0)
    close(status)
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        close(descriptor)
    return order


def _become(order: Mapping[str, Any]) -> None:
    """Take over the order's folder, environment and streams."""
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    tempfile.tempdir = None  # it was kept from the warm process's TMPDIR
    sys.argv = list(order["argv"])
    wanted = order["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = ["", *wanted, *(path for path in sys.path[1:] if path not in wanted)]
    main = sys.modules["__main__"]
    main.__spec__, main.__file__ = None, None  # as with -c: no process that is started imports this file
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as in a job of a shell
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if "gevent" in sys.modules:
        import gevent

        gevent.reinit()
    if "multiprocess" in sys.modules:
        _keep_reserves()


def _keep_reserves() -> None:
    """Fork now what can become the fork server and the resource tracker: before any module of the user."""
    from multiprocess import process, util

    reserves = [_Reserve(), _Reserve()]
    process.ORIGINAL_DIR = os.getcwd()  # where pods look for modules
    spawn = util.spawnv_passfds

    def start(path: str, args: list[str], descriptors: Sequence[int]) -> int:
        while reserves:
            reserve = reserves.pop(0)
            if pid := reserve.start(args[-1], list(descriptors)):
                return pid
        started: int = spawn(path, args, descriptors)
        return started

    util.spawnv_passfds = start


class _Reserve:
    """A child that has not imported anything of the user's yet, and can become a server of `multiprocess`."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = fork()
        if not self.pid:
            self._orders.close()
            _run_reserve(theirs)
        theirs.close()

    def start(self, code: str, descriptors: list[int]) -> int | None:
        blocked = [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
        passed = [0, 1, 2, *descriptors]
        order = json.dumps({"code": code, "descriptors": passed, "env": dict(os.environ), "blocked": blocked})
        try:
            socket.send_fds(self._orders, [order.encode()], passed)
        except OSError:  # a signal to the whole process group has ended it, or one of our streams is closed
            return None
        self._orders.close()
        return self.pid


def _run_reserve(orders: socket.socket) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    message, received, _, _ = socket.recv_fds(orders, _MOST_BYTES, 8)
    orders.close()
    if not message:
        os._exit(0)
    order = json.loads(message)
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, 500) for one in received]
    os.closerange(3, 500)
    for number, descriptor in zip(order["descriptors"], high, strict=True):
        os.dup2(descriptor, number)
        close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, order["blocked"])
    os.environ.clear()
    os.environ.update(order["env"])
    code = 1
    try:
        exec(order["code"], {"__name__": "__main__"})
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    orders = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[3:]:
        import_module(module)
    gc.collect()
    gc.freeze()  # pages that nobody counts stay shared
    module, _, name = sys.argv[2].partition(":")
    if (order := _serve(orders)) is not None:
        _become(order)
        sys.exit(getattr(import_module(module), name)())
