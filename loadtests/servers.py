"""The servers of a run, as processes of their own: the embedded one, or a foreign one, and the Files API.

Run as a program, it is the embedded server: not inside Locust, whose process gevent has patched.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import podrace
from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.scenarios.upload_checks import LEASE_S
from podrace.simulator.servers import programs
from podrace.simulator.servers.connection import Server, connect, delete_prefix, open_server
from podrace.simulator.servers.embedded import EmbeddedServer, ServerInfo


def files_api_lost(url: str) -> str:
    """Why nobody answers at the URL; empty if somebody does."""
    try:
        with urllib.request.urlopen(url, timeout=2.0):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answers
    except (OSError, ValueError) as error:
        return f"the Files API does not answer ({getattr(error, 'reason', error)})"


@contextmanager
def child(module: str, *arguments: str) -> Iterator[str]:
    """Start a server of ours as a process; yields the first line that it prints. Raises HarnessError without one."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(podrace.__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to handle: the last operations still need it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode().strip()
        if not line:
            raise HarnessError(f"{module}: its process ended before it said where it listens")
        yield line
    finally:
        process.stdin.close()  # it ends with its input, and so also when we are killed
        process.stdout.close()
        process.wait()


@contextmanager
def serve(url: str | None) -> Iterator[Server]:
    """The server that `--host` names, else an embedded one. Errors as open_server's."""
    if url is not None:
        with open_server(url) as server:
            yield server
        return
    with child("podrace.loadtests.servers") as line:
        url, kind, version = line.split()
        yield Server(url=url, info=ServerInfo(kind, version, embedded=True), prefix="mirix:")


def with_our_option(error: PodraceError) -> str:
    """The error's text with the option that is ours."""
    return str(error).replace("--redis-url or PODRACE_REDIS_URL", "--host")


def run_id(server: Server) -> str:
    """The server's id, which changes when it is started again and has forgotten; empty if it does not answer."""
    try:
        with connect(server.url, max_connections=1) as client:
            return str(client.info("server").get("run_id", ""))
    except Exception:  # at the end of the run, `leftovers` says that it is gone
        return ""


def leftovers(server: Server, run_id_before: str, keeps: Sequence[str]) -> tuple[int, str]:
    """Count the keys that the pods have leaked, then delete all. Also returns how the server was lost, if it was.

    Leaked are, as in the simulator, keys that will not expire within LEASE_S and match no pattern of `keeps`.
    """
    try:
        with connect(server.url, max_connections=1) as client:
            keys = list(client.scan_iter(match=f"{server.prefix}*", count=1000))
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.pttl(key)
                stay = [
                    key for key, ms in zip(keys, pipeline.execute(), strict=True) if ms == -1 or ms > LEASE_S * 1000
                ]
            names = [key.decode(errors="surrogateescape").removeprefix(server.prefix) for key in stay]
            left = sum(not any(fnmatchcase(name, pattern) for pattern in ("store:*", *keeps)) for name in names)
            delete_prefix(client, server.prefix)
        again = run_id(server) != run_id_before
        return left, "the server was started again during the run, and may have forgotten" if again else ""
    except Exception as error:
        return 0, f"the server is gone ({type(error).__name__}): nobody knows what it still held"


def _line(server: EmbeddedServer) -> str:
    info = server.info()
    return f"{server.url} {info.kind} {info.version}"


if __name__ == "__main__":
    sys.exit(programs.serve(EmbeddedServer, _line))
