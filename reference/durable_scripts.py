"""The scripts of `lua/`, and how they are sent: by their hash, and as a text where the server does not know that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError, RedisClusterException, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    import redis

Call = tuple[str, list[str], list[Any]]
"""A script's name, its keys and its arguments."""


class NotReplicatedError(RedisTimeoutError):
    """Indefinite: the primary has it, but fewer replicas than `wait_replicas`. Call again, with the same ids."""

    def __init__(self, copies: int, replicas: int, replies: list[Any]) -> None:
        super().__init__(f"{copies} of {replicas} replicas have it in time; call again")
        self.replies = replies


SCRIPTS: Mapping[str, str] = MappingProxyType(
    {path.stem: path.read_text() for path in Path(__file__).with_name("lua").glob("*.lua")}
)
"""The texts of `lua/`. A test hands in others, to see that a safeguard is missed."""


class ScriptRunner:
    """Runs the scripts on a server, or on the nodes of a Cluster. What it raises is redis-py's."""

    def __init__(self, client: redis.Redis, scripts: Mapping[str, str], *, replicas: int, wait_ms: int) -> None:
        self._redis: Any = client
        self._replicas = replicas
        self._wait_ms = wait_ms
        self._texts = scripts
        self._sha = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in scripts.items()}

    def run(self, name: str, keys: list[str], args: Sequence[Any]) -> Any:
        try:
            return self._redis.evalsha(self._sha[name], len(keys), *keys, *args)
        except NoScriptError:  # a server that is new, was restarted, or took over: EVAL teaches it the script
            return self._redis.eval(self._texts[name], len(keys), *keys, *args)

    def run_all(self, calls: list[Call]) -> list[Any]:
        """Many in one round trip a node; what the server answers to one alone is an exception in its place.

        Raises NotReplicatedError where fewer than `replicas` have them within `wait_ms`.
        """
        if len(calls) == 1 and not self._replicas:
            try:
                return [self.run(*calls[0])]
            except ResponseError as error:
                return [error]
        replies, copies = self._pipelined(calls)
        if any(isinstance(reply, NoScriptError | MovedError) for reply in replies):
            for name in {name for name, _, _ in calls}:
                self._redis.script_load(self._texts[name])
            replies, copies = self._pipelined(calls)
        if copies < self._replicas:
            raise NotReplicatedError(copies, self._replicas, replies)
        return replies

    def _pipelined(self, calls: list[Call]) -> tuple[list[Any], int]:
        """The replies, and how many replicas are known to have everything."""
        by_node: dict[Any, list[int]] = {}
        for number, (_, keys, _) in enumerate(calls):
            by_node.setdefault(self._node(keys[0]), []).append(number)
        replies: dict[int, Any] = {}
        copies = self._replicas
        for node, numbers in by_node.items():
            pipeline = node.pipeline(transaction=False)
            for name, keys, args in (calls[number] for number in numbers):
                pipeline.evalsha(self._sha[name], len(keys), *keys, *args)
            if self._replicas:  # on the same connection: WAIT speaks of what that has written
                pipeline.execute_command("WAIT", self._replicas, self._wait_ms)
            try:
                answers = pipeline.execute(raise_on_error=False)
            except (RedisConnectionError, RedisTimeoutError):
                self.look_again()
                raise
            if self._replicas:
                known = answers.pop()
                copies = min(copies, 0 if isinstance(known, Exception) else known)
            replies.update(zip(numbers, answers, strict=True))
        if any(isinstance(reply, MovedError) for reply in replies.values()):
            self.look_again()
        return [reply for _, reply in sorted(replies.items())], copies

    def _node(self, key: str) -> Any:
        """The client of the one node that has a key: redis-py pipelines no scripts in a Cluster."""
        if not hasattr(self._redis, "get_node_from_key"):
            return self._redis
        return self._redis.get_redis_connection(self._redis.get_node_from_key(key))

    def look_again(self) -> None:
        """After a node was lost, or its keys have moved: a Cluster's client is told to ask where they are."""
        if hasattr(self._redis, "nodes_manager"):
            with suppress(RedisClusterException):  # no node answers: the next call says so
                self._redis.nodes_manager.initialize()
