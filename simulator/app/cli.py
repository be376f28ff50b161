"""The `podrace` command. Each command stands in a file of `commands/` and imports what it needs only when it runs."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn

import click

from podrace.simulator.app import streams
from podrace.simulator.app.commands.check import check, init
from podrace.simulator.app.commands.dead_letters import dead_letters
from podrace.simulator.app.commands.explore import explore, matrix, scenarios
from podrace.simulator.app.commands.replay import replay
from podrace.simulator.app.commands.report import bench_compare, report
from podrace.simulator.app.commands.reproduce import reproduce
from podrace.simulator.app.commands.run import run
from podrace.simulator.app.endings import endings
from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.interrupts import Interrupted

COMMANDS = (reproduce, run, explore, matrix, replay, report, bench_compare, scenarios, dead_letters, check, init)
MOST_CHARS = 2000
"""The line that says why a command ends is no longer than this: names in it may be of any length."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True})
@click.version_option(package_name="podrace")
def cli() -> None:
    """Make cross-pod races happen on purpose: lost uploads, crashes, lost replies, expired leases.

    Exit codes: 0 every verdict as expected, 1 a property is violated, 2 wrong usage, 3 inconclusive,
    4 the harness itself failed.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit. Errors become one line, and the exit code that says whose fault it was."""
    streams.make_robust()
    with endings():
        try:
            code = _run(arguments)
            sys.stdout.flush()
        except HarnessError as error:  # for example, the disk behind standard output is full
            code = _tell(error, error.exit_code)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="podrace", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except click.ClickException as error:
        return _tell_misuse(error)
    except PodraceError as error:
        return _tell(error, error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        return _tell(cause, cause.exit_code) if isinstance(cause, Interrupted) else _tell_unexpected(cause or error)
    except Exception as error:
        return _tell_unexpected(error)


def _tell_unexpected(error: BaseException) -> int:
    from podrace.simulator.app.runs import unexpected

    ours = unexpected(error)
    return _tell(ours, ours.exit_code)


def _tell(reason: object, code: int) -> int:
    """Print one line on standard error: why the command ends, and the error's notes, such as keys that are left.

    Characters that would move the terminal's cursor or ring its bell stand there by their numbers.
    """
    from podrace.simulator.history.events import shorten

    line = " ".join("; ".join([str(reason), *getattr(reason, "__notes__", [])]).split())
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in shorten(line, MOST_CHARS))
    with suppress(HarnessError):  # if nothing can be written there, the exit code still says it
        click.echo(f"podrace: {shown}", err=True)
    return code


def _tell_misuse(error: click.ClickException) -> int:
    message = error.format_message()
    if "\n" in message and isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "podrace"
    return _tell(f"{message}{'' if message.endswith('.') else '.'} Try {command} --help.", 2)
