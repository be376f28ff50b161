"""The embedded server in a process of its own: `python -m loadtests.embedded`, until standard input ends.

Not inside Locust, whose process gevent has patched. Prints the URL, kind and version on one line.
"""

from __future__ import annotations

import sys

from podrace.simulator.errors import PodraceError
from podrace.simulator.servers.embedded import EmbeddedServer


def main() -> int:
    """Serve until standard input ends. Returns the exit code."""
    try:
        with EmbeddedServer() as server:
            info = server.info()
            print(server.url, info.kind, info.version, flush=True)
            sys.stdin.read()
    except PodraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
