"""Our arguments beside Locust's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from podrace.loadtests import shapes
from podrace.loadtests.targets import TARGETS
from podrace.simulator.errors import UsageError


def add_arguments(parser: Any) -> None:
    """Our arguments, and loopback where Locust itself would listen on every address."""
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    group = parser.add_argument_group("podrace", "--host redis://… names a server; without it one is started.")
    group.add_argument("--target", choices=list(TARGETS), default="shared", help="how the pods keep their state")
    group.add_argument("--pods", type=int, default=2, help="pods in each worker, at least 2")
    group.add_argument("--rate", type=float, default=20.0, help="tasks a second for each user; 0: closed loop")
    group.add_argument("--image-size", type=int, default=100, help="size of each image in KB")
    group.add_argument("--shape", choices=shapes.SHAPES, default="none", help="users over time")
    group.add_argument("--slo-p99-us", type=float, default=5000.0, help="what a search's p99 must stay within, in µs")
    group.add_argument("--slo", default=str(Path(__file__).with_name("slo.toml")), help="file of limits")
    group.add_argument("--files-url", default="", help="a running Files API; without it one is started")
    group.add_argument("--files-latency-ms", type=float, default=0.0, help="what an upload takes, in the one started")
    group.add_argument("--run-folder", default="", help="default: runs/<time>-load")
    group.add_argument("--seed", type=int, default=0, help="of ids and image contents")
    # the page must offer neither: they are settled before it comes up
    for action in group._group_actions:
        action.include_in_web_ui = action.dest in ("target", "pods", "rate", "image_size")


LEAST = {"pods": 2, "image_size": 1, "rate": 0, "slo_p99_us": 1, "files_latency_ms": 0}


def check_numbers(values: Mapping[str, Any]) -> None:
    """UsageError for one of our numbers that is out of its range, or, from the page's form, no number."""
    for name in LEAST.keys() & values.keys():
        value = values[name]
        try:
            fits = LEAST[name] <= float(value) < 1e9
        except ValueError:
            fits = False
        if not fits:
            raise UsageError(f"--{name.replace('_', '-')}: expected a number of at least {LEAST[name]}, got {value}")
