"""The `podrace` command. Each command stands in a file of `commands/` and imports what it needs only when it runs."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from podrace.simulator.app.commands.dead_letters import dead_letters
from podrace.simulator.app.commands.explore import explore, matrix, scenarios
from podrace.simulator.app.commands.replay import replay
from podrace.simulator.app.commands.report import bench_compare, report
from podrace.simulator.app.commands.reproduce import reproduce
from podrace.simulator.errors import PodraceError

COMMANDS = (reproduce, explore, matrix, replay, report, bench_compare, scenarios, dead_letters)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="podrace")
def cli() -> None:
    """Make cross-pod races happen on purpose: lost uploads, crashes, lost replies, expired leases.

    Exit codes: 0 every verdict as expected, 1 a property is violated, 2 wrong usage, 3 inconclusive,
    4 the harness itself failed.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; errors become one line and the exit code that says whose fault it was."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 is no reason to fail
    try:
        return cli.main(arguments, prog_name="podrace", standalone_mode=False)
    except click.ClickException as error:
        code = _tell_misuse(error)
    except PodraceError as error:
        notes = getattr(error, "__notes__", [])  # for one, of keys that could not be deleted
        click.echo("podrace: " + "; ".join([str(error), *notes]).replace("\n", " "), err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("podrace: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        from podrace.simulator.app.runs import unexpected

        click.echo(f"podrace: {unexpected(error)}", err=True)
        code = 4
    sys.exit(code)


def _tell_misuse(error: click.ClickException) -> int:
    message = error.format_message()
    if "\n" in message and isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "podrace"
        click.echo(f"podrace: {message} Try {command} --help.".replace("\n", " "), err=True)
    return 2
