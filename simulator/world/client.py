"""The gate in redis-py's connection: there a retry of the client's own is a step like any other.

A dropped request was never sent. A dropped reply was read, so that the server has applied the command for certain,
and is then withheld. Both look to the client like a broken connection. A pipeline without a transaction is sent
command by command, so that another pod can come between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from podrace.simulator.history.events import plain
from podrace.simulator.servers import wire
from podrace.simulator.world.led import BLOCKING, STREAMS, as_led, timeout_of
from podrace.simulator.world.steps import DROP_REPLY, DROP_REQUEST, GO, TRANSACTION, Gate, PodKilledError

if TYPE_CHECKING:
    import redis

_SUBSCRIBES = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"})
LEAVES_A_MARK = (
    frozenset({"SELECT", "MULTI", "EXEC", "WATCH", "CLIENT", "RESET", "AUTH", "HELLO", "MONITOR"}) | _SUBSCRIBES
)
"""Commands on which later ones of the same connection depend."""


def gated_client(
    client: redis.Redis,
    gate: Gate,
    *,
    one_connection: bool = False,
    import_source: bool = False,
    guard: Callable[[tuple[Any, ...]], None] | None = None,
    connected: Callable[[], None] = lambda: None,
) -> redis.Redis:
    """The same client, the gate before every command that it sends (a transaction is one step).

    `one_connection`: for actors that never talk at the same time. `import_source`: the server is in import mode,
    in which it leaves keys alone whose time to live is over. `guard` raises where a command must not be sent.
    `connected` is told of every connection that is made. `set_gate` changes the gate later.
    """
    pool: Any = client.connection_pool
    names: dict[str, Any] = {
        "gate": gate,
        "import_source": import_source,
        "guard": staticmethod(guard) if guard else None,
    }
    names["connected"] = staticmethod(connected)
    pool.connection_class = type("GatedConnection", (_GatedConnection, pool.connection_class), names)
    if not one_connection:
        return client
    direct = type("GatedRedis", (_DirectRedis, type(client)), {})
    made = direct(connection_pool=pool, single_connection_client=True)
    made.pooled = client
    return made  # type: ignore[no-any-return]


def set_gate(client: redis.Redis, gate: Gate) -> None:
    """Put another gate before the commands of a client that `gated_client` made."""
    pool: Any = client.connection_pool
    pool.connection_class.gate = gate


def another(client: redis.Redis, options: dict[str, Any]) -> redis.Redis:
    """A client behind the same gate with these options besides: one for each set of them, kept while the first is."""
    others: dict[Any, redis.Redis] = vars(client).setdefault("others", {})
    key = tuple(sorted(options.items()))
    if key not in others:
        from redis import ConnectionPool, Redis

        pool: Any = client.connection_pool
        own = ConnectionPool(
            connection_class=pool.connection_class,
            max_connections=pool.max_connections,
            **{**pool.connection_kwargs, **options},
        )
        one_connection = isinstance(client, _DirectRedis)
        made: Any = type(client)(connection_pool=own, single_connection_client=one_connection)
        if one_connection:
            made.pooled = Redis(connection_pool=own)
        others[key] = made
    return others[key]


def is_as_new(client: redis.Redis) -> bool:
    """Whether the client of one run can serve the next: it has one connection, which nothing has left a mark on."""
    pool: Any = client.connection_pool
    if not hasattr(pool, "_in_use_connections"):  # the target has put something else there
        return False
    unmarked = pool._created_connections <= 1 and not any(one.marked for one in pool._in_use_connections)
    return unmarked and all(map(is_as_new, vars(client).get("others", {}).values()))


def disconnect(client: redis.Redis) -> None:
    """Close all connections of the client, and of those that `another` has made of it."""
    for one in (client, *vars(client).get("others", {}).values()):
        with suppress(AttributeError):  # the target has put something else there
            one.connection_pool.disconnect()


def broken(lost: str) -> Exception:
    """The error that a client gets when its connection breaks."""
    from redis.exceptions import ConnectionError as RedisConnectionError

    return RedisConnectionError(f"connection broken: the {lost} was lost")


class _DirectRedis:
    """Mixed into redis-py's client: a command that nothing befalls goes straight to its one connection.

    redis-py's retry loop and its measuring, which take longer than the server, are entered for what a fault
    befalls: there they matter. So they are for a command that blocks, on a connection of its own.
    """

    connection: Any
    pooled: redis.Redis

    def close(self) -> None:
        """Leave the connection open: a client that is used after it was closed makes a new one, which is the same."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = args[0]
        if name in BLOCKING or name in STREAMS or name.startswith("HIMPORT"):
            return self.pooled.execute_command(*args, **options)  # type: ignore[no-untyped-call]
        connection = self.connection
        if connection.guard is not None:
            connection.guard(args)
        gate = connection.gate
        action = gate.before("redis", args)
        if action != GO:
            connection.decided = action
            return super().execute_command(*args, **options)  # type: ignore[misc]
        if gate.answer is not None:
            reply = _answered(gate)
        else:
            if connection._sock is None:  # new, or broken by what befell another actor while this one waited
                connection.connect()
            if name in LEAVES_A_MARK:
                connection.marked = True
            connection.send_passed(as_led(args, gate.now) if gate.virtual else args)
            options.pop("keys", None)  # of a cache that we have not
            if options:
                return self.parse_response(connection, name, **options)  # type: ignore[attr-defined]
            reply = connection.read_passed()
        options.pop("keys", None)
        understand = self.response_callbacks.get(name)  # type: ignore[attr-defined]
        return understand(reply, **options) if understand else reply


class _GatedConnection:
    """Mixed into redis-py's connection."""

    gate: Gate
    import_source = False
    guard: Callable[[tuple[Any, ...]], None] | None = None
    connected: Callable[[], None]
    decided: str | None = None
    """What the gate said already of the next command."""
    marked = False
    """Whether something was done on it that outlives the command."""
    _dead_at: Gate | None = None
    """The gate at which the pod of this connection died."""
    _connecting = False
    _batch: tuple[Any, ...] = ()
    _one_by_one: list[tuple[Any, ...]] = []  # noqa: RUF012 - never changed in place
    """Commands of a pipeline without a transaction that are still to be sent."""
    _action = GO
    _replies_due = 0
    _subscribed = False
    _receives = False
    """Whether something that was waited for can be read."""

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self._sock is not None:  # type: ignore[attr-defined]
            return
        self._connecting = True
        try:
            super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
            self.connected()
            if self.import_source:
                super().send_command("CLIENT", "IMPORT-SOURCE", "ON", check_health=False)  # type: ignore[misc]
                super().read_response()  # type: ignore[misc]
        except Exception as error:
            self._tell_loss(error)
            raise
        finally:
            self._connecting = False

    def pack_commands(self, commands: Any) -> Any:
        self._batch = tuple(tuple(command) for command in commands)
        return super().pack_commands(self._batch)  # type: ignore[misc]

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        if self._connecting:
            super().send_command(*args, **kwargs)  # type: ignore[misc]
            return
        self._pass_gate(args, 1)
        self._send(args)

    def _send(self, args: tuple[Any, ...]) -> None:
        """Send one command that has passed the gate; one that blocks is waited for, at a gate of its own."""
        gate = self.gate
        if gate.answer is not None:
            return
        timeout_s = timeout_of(args) if gate.virtual else None
        name = plain(args[0]).upper()
        if timeout_s is not None:
            super().send_command("CLIENT", "ID")  # type: ignore[misc]
            number = super().read_response()  # type: ignore[misc]
        self._super_send(*(as_led(args, gate.now) if gate.virtual else args))
        if name in _SUBSCRIBES:
            self._subscribed = True
            self._replies_due = 0
            gate.sent()
        elif timeout_s is not None:
            gate.sent()
            self._replies_due = 0
            try:
                is_there = gate.receive(self, timeout_s or None, f"{name} {plain(args[1])}")
            except BaseException:  # its pod is dead or the call cancelled, and the server would keep the next command
                self.disconnect()  # type: ignore[attr-defined]
                raise
            if not is_there:
                _unblock(self, number)
            self._replies_due = 1

    def _super_send(self, *args: Any) -> None:
        try:
            super().send_command(*args)  # type: ignore[misc]
        except Exception as error:
            self._tell_loss(error)
            raise

    def send_passed(self, args: tuple[Any, ...]) -> None:
        """Send a command that has passed the gate, without redis-py's own way."""
        self._action, self._replies_due = GO, 1
        packed = wire.packed(self, args)
        try:
            self._sock.sendall(packed)  # type: ignore[attr-defined]
        except OSError as error:
            self._tell_loss(error)
            raise

    def read_passed(self) -> Any:
        """The reply to what `send_passed` has sent; without redis-py's own way where the server is ours."""
        if not self.import_source:
            return self.read_response()
        self._replies_due = 0
        try:
            reply = wire.read(self)
        except Exception as error:
            self._tell_loss(error)
            self.gate.after(error)
            raise
        self.gate.after(reply)
        return reply

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._batch and not self._connecting:
            batch, self._batch = self._batch, ()
            if plain(batch[0][0]).upper() != "MULTI":
                self._one_by_one = list(batch)
                return
            self._pass_gate((TRANSACTION, *batch), len(batch))
            if self.gate.virtual:
                command = super().pack_commands([as_led(one, self.gate.now) for one in batch])  # type: ignore[misc]
        super().send_packed_command(command, check_health)  # type: ignore[misc]

    def can_read(self, timeout: float = 0) -> bool:
        """Whether there is something to read, for which a pod that listens for messages may wait."""
        if self._connecting or not self._subscribed or not self.gate.virtual:
            return bool(super().can_read(timeout))  # type: ignore[misc]
        self._receives = self.gate.receive(self, timeout, "a message")
        if not self._receives:
            self.gate.after(None)
        return self._receives

    def is_readable(self) -> bool:
        """Whether there is something to read now; of a lost connection an error can be read."""
        return bool(super().can_read(0))  # type: ignore[misc]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if self._connecting:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        if self._one_by_one and not self._replies_due:
            command, self._one_by_one = self._one_by_one[0], self._one_by_one[1:]
            self._pass_gate(command, 1)
            self._send(command)
        if not self._replies_due and self._subscribed and self.gate.virtual:
            return self._read_received(*args, **kwargs)
        if self._action == DROP_REPLY:
            while self._replies_due:
                self._replies_due -= 1
                self._read_quietly(*args, **kwargs)
            self._break("reply")
        self._replies_due -= 1
        if self.gate.answer is not None:
            return _answered(self.gate)
        try:
            reply = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except Exception as error:
            self._tell_loss(error)
            if self._replies_due <= 0:
                self.gate.after(error)
            raise
        if self._replies_due <= 0:
            self.gate.after(reply)
        return reply

    def _read_received(self, *args: Any, **kwargs: Any) -> Any:
        """A message, once there is one."""
        if not self._receives:
            self.gate.receive(self, None, "a message")
        self._receives = False
        message = super().read_response(*args, **kwargs)  # type: ignore[misc]
        self.gate.after(message)
        return message

    def _read_quietly(self, *args: Any, **kwargs: Any) -> None:
        from redis.exceptions import ResponseError

        try:
            super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError:
            pass

    def _pass_gate(self, command: tuple[Any, ...], replies: int) -> None:
        if self._dead_at is self.gate:  # a pipeline that is being cleared away wants to UNWATCH
            raise broken("request")
        if self.guard is not None:
            self.guard(command)
        try:
            action, self.decided = self.decided or self.gate.before("redis", command), None
        except PodKilledError:
            self._dead_at = self.gate
            raise
        if action == DROP_REQUEST:
            self._break("request")
        if command[0] == TRANSACTION or plain(command[0]).upper() in LEAVES_A_MARK:
            self.marked = True
        self._action = action
        self._replies_due = replies

    def _break(self, lost: str) -> None:
        self._action, self._replies_due, self._one_by_one = GO, 0, []
        error = broken(lost)
        self.gate.after(error)
        raise error

    def _tell_loss(self, error: BaseException) -> None:
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import TimeoutError as RedisTimeoutError

        if isinstance(error, OSError | RedisConnectionError | RedisTimeoutError):
            self.gate.lost(error)


def _answered(gate: Gate) -> Any:
    """The reply that the harness gives in the server's place; raised where it is an error."""
    (reply,), gate.answer = gate.answer, None
    gate.after(reply)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _unblock(connection: Any, number: int) -> None:
    """End a command that blocks as its timeout would."""
    side: Any = type(connection).__mro__[2](**_settings(connection))
    connection.connected()
    try:
        side.send_command("CLIENT", "UNBLOCK", number, "TIMEOUT")
        side.read_response()
    finally:
        side.disconnect()


def _settings(connection: Any) -> dict[str, Any]:
    names = ("path", "host", "port", "db", "username", "password")
    found = {name: getattr(connection, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
