"""Commands and replies on a connection of redis-py, without its own way, which takes longer than the server does."""

from __future__ import annotations

from typing import Any

import hiredis

_MOST_READ_BYTES = 65536


def packed(connection: Any, command: tuple[Any, ...]) -> bytes:
    """The command as it goes over the wire. Raises redis-py's DataError for what cannot be sent."""
    try:
        if " " not in command[0]:
            return hiredis.pack_command(command)  # type: ignore[no-any-return]
    except TypeError:  # redis-py converts some that hiredis refuses
        pass
    return b"".join(connection._command_packer.pack(*command))


def read(connection: Any) -> Any:
    """The next reply. Raises it where it is an error, and what redis-py raises for a broken connection."""
    reader = connection._parser._reader
    reply = reader.gets()
    while type(reply) is object:  # which stands for a reply that is not there yet
        received = connection._sock.recv(_MOST_READ_BYTES)
        if not received:
            raise _closed()
        reader.feed(received)
        reply = reader.gets()
    if isinstance(reply, Exception):
        raise reply
    return reply


def _closed() -> Exception:
    from redis.exceptions import ConnectionError as RedisConnectionError

    return RedisConnectionError("Connection closed by server.")
