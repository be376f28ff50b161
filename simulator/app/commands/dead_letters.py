"""`podrace dead-letters`: what the memory agent could not take, for an operator: listed, and queued again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from podrace.simulator.app import show
from podrace.simulator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OF_DURABLE = "podrace.reference.durable_dead_letters:DeadLetters"
"""What knows where a target keeps them, by name: the simulator imports no target."""


@click.command("dead-letters")
@click.option(
    "--redis-url",
    envvar="PODRACE_REDIS_URL",
    required=True,
    metavar="URL",
    help="The pods' server: redis://, rediss://, unix://, redis+sentinel://host:port,…/NAME or redis+cluster://host:port.",
)
@click.option("--prefix", default="mirix:", help="The beginning of the pods' keys.")
@click.option(
    "--user", metavar="ID", help="List only those of this user.  [default: of all users, which looks at every key]"
)
@click.option("--requeue", metavar="ID", help="Put this message at the end of its user's queue again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def dead_letters(redis_url: str, prefix: str, user: str | None, requeue: str | None, as_json: bool) -> None:
    """List the messages that durable has given up.

    The memory agent has refused these until their attempts were used up. Each is listed with its user, its id and the
    reason. With --requeue one is queued again, with its images, and the next absorption offers it to the agent.
    """
    from podrace.simulator.servers.connection import visiting
    from podrace.simulator.target import load_object

    with visiting(redis_url) as client:
        letters: Any = load_object(OF_DURABLE, noun="dead letters")(client, prefix=prefix)
        try:
            found = letters.find(user)
            if requeue is not None:
                letter = _the_one(found, requeue, user)
                letters.requeue(letter["user_id"], requeue)
                found = [letter]
        except ValueError as error:
            raise UsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps({"requeued": requeue is not None, "dead_letters": found}, indent=2, ensure_ascii=False))
    elif requeue is not None:
        click.echo(f"message {requeue} of user {found[0]['user_id']} waits in its queue again")
    else:
        for letter in found:
            click.echo(f"{letter['user_id']!r}  {letter['message_id']!r}  {letter['reason']}")
        click.echo(show.counted(len(found), "dead letter"))


def _the_one(found: Sequence[Mapping[str, Any]], message_id: str, user: str | None) -> Mapping[str, Any]:
    """The dead letter of that id; UsageError where there is none, or several users have one."""
    matching = [letter for letter in found if letter["message_id"] == message_id]
    if not matching:
        whose = "" if user is None else f" of user {user[:60]!r}"
        raise UsageError(
            f"--requeue {message_id[:60]!r}: there is no such dead letter{whose}; without it they are listed"
        )
    if len(matching) > 1:
        users = ", ".join(repr(letter["user_id"][:60]) for letter in matching[:5])
        raise UsageError(f"--requeue {message_id[:60]!r}: users {users} have one each; say whose with --user")
    return matching[0]
