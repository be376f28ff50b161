"""Our arguments beside Locust's own, and the checks of all of them before anything starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from locust import User

from podrace.loadtests import shapes
from podrace.loadtests.targets import TARGETS, find_target
from podrace.simulator.errors import UsageError
from podrace.simulator.fleets import guarded

LEAST = {"pods": 2, "image_size": 1, "rate": 0, "slo_p99_us": 1}
ON_PAGE = ("target", "pods", "rate", "image_size")
"""Our options on the page; all others are settled before it comes up."""
OURS = {*ON_PAGE, "slo", "slo_p99_us", "shape", "files_url", "run_folder", "seed", "podrace_plan"}

_settled: list[bool] = []


def add_arguments(parser: Any) -> None:
    """Add our arguments. Locust listens on loopback, and not on every address as by its own default."""
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    group = parser.add_argument_group("podrace", "--host redis://… names a server; without it one is started.")
    group.add_argument("--target", default="shared", help=f"{', '.join(TARGETS)}, or module:factory")
    group.add_argument("--pods", type=int, default=2, help="pods in each worker, at least 2")
    group.add_argument("--rate", type=float, default=20.0, help="tasks a second for each user; 0: closed loop")
    group.add_argument("--image-size", type=int, default=100, help="size of each image in KB")
    group.add_argument("--shape", choices=shapes.SHAPES, default="none", help="spike: of users; search: for a rate")
    group.add_argument("--slo-p99-us", type=float, default=5000.0, help="what a search's p99 must stay within, in µs")
    group.add_argument("--slo", default="", help="file of limits; default: loadtests/slo.toml, for what is run")
    group.add_argument("--files-url", default="", help="a running Files API; without it one is started")
    group.add_argument("--run-folder", default="", help="default: runs/<time>-load")
    group.add_argument("--seed", type=int, default=0, help="of ids and image contents")
    for action in group._group_actions:
        action.include_in_web_ui = action.dest in ON_PAGE
    parse = parser.parse_args  # wrapped: Locust has no event before it forks, listens and connects

    def parse_and_settle(*args: Any, **kwargs: Any) -> Any:
        options = parse(*args, **kwargs)
        try:
            _settle(options, parser)
        except UsageError as error:
            parser.exit(error.exit_code, f"error: {error}\n")
        return options

    parser.parse_args = parse_and_settle


def _settle(options: Any, parser: Any) -> None:
    """Check the options; workers of --processes get a port of their own, so that two runs never meet."""
    if options.worker or _settled:  # Locust parses again for its page
        return
    _settled.append(True)
    check_numbers(vars(options))
    if options.num_users is not None and options.num_users < 1:  # Locust would go on, with users that never ran
        raise UsageError(f"--users: expected a number of at least 1, got {options.num_users}")
    find_target(options.target)
    known = {user.__name__ for user in _concrete(User)}
    for name in options.user_classes:  # Locust would end with 1 here too
        if name not in known:
            raise UsageError(f"user {name}: expected one of {', '.join(sorted(known))}")
    if options.shape == "search" and not options.rate:
        raise UsageError("--shape search: expected --rate above 0, where the search begins, got 0")
    if options.processes:
        os.register_at_fork(after_in_child=guarded.die_with_parent)
        asked = options.master_bind_port
        port = _free_port(options.master_bind_host, 0 if asked == parser.get_default("master_bind_port") else asked)
        options.master_bind_port = options.master_port = port
    elif options.master:
        _free_port(options.master_bind_host, options.master_bind_port)


def _concrete(user: Any) -> Iterator[Any]:
    """The classes of users that the locustfiles have defined or imported."""
    if not user.abstract:
        yield user
    for each in user.__subclasses__():
        yield from _concrete(each)


def _free_port(host: str, port: int) -> int:
    """The port, or any for 0, if it is free: Locust itself would exit with 1, which says that a limit was exceeded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0" if host == "*" else host, port))
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"--master-bind-port {port}: expected a free port on {host}: {reason}") from error
        return int(probe.getsockname()[1])


def check_numbers(values: Mapping[str, Any]) -> None:
    """Raise UsageError if one of our numbers is out of its range."""
    for name in LEAST.keys() & values.keys():
        value = values[name]
        try:
            fits = LEAST[name] <= float(value) < 1e9
        except ValueError:
            fits = False
        if not fits:
            raise UsageError(f"--{name.replace('_', '-')}: expected a number of at least {LEAST[name]}, got {value}")


def check_form(form: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Raise UsageError for a field of the page's form that Locust would answer with HTTP 500, or not at all."""
    for name, value in form.items():
        if name in OURS and name not in ON_PAGE:
            raise UsageError(f"{name}: is settled when Locust starts, by its option; expected no such field")
        kind = type(options.get(name))
        if kind in (int, float):
            try:
                kind(value)
            except ValueError:
                raise UsageError(f"--{name.replace('_', '-')}: expected a number, got {value!r}") from None
    check_numbers(form)
    if "target" in form:
        find_target(form["target"])


def as_command(options: Mapping[str, Any], parser: Any) -> list[str]:
    """The command that repeats a run: every option that is not its default, whichever way it was set."""
    command = ["locust"]
    positional: list[str] = []
    for action in parser._actions:
        value = options.get(action.dest, action.default)
        if not action.option_strings:
            positional = list(value or [])
        elif action.dest in options and value != action.default and value not in (None, False, []):
            flag = max(action.option_strings, key=len)
            command += [flag] if value is True else [flag, *map(str, value if isinstance(value, list) else [value])]
    return command + positional
