"""The local Gemini Files API as a process of its own."""

from __future__ import annotations

import argparse
import sys

from podrace.simulator.servers.files_api.api import FilesApi
from podrace.simulator.servers.programs import serve


def main() -> int:
    """Serve until stdin ends, SIGTERM or SIGINT; prints the URL on one line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m podrace.simulator.servers.files_api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; loopback by default")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="what every upload takes")
    options = parser.parse_args()

    def api() -> FilesApi:
        return FilesApi(host=options.host, port=options.port, latency_s=options.latency_ms / 1000)

    return serve(api, lambda opened: opened.url)


if __name__ == "__main__":
    sys.exit(main())
