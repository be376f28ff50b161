"""Asynchronous clients of plain code: each request is made by the synchronous one, in an actor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import redis.asyncio as real_redis

from podrace.simulator.world.plain.clients import KEPT, Made, client_of, named, names_with
from podrace.simulator.world.plain.inside import Here
from podrace.simulator.world.plain.loop import Asked, request


def aioredis_names(here: Here) -> dict[str, Any]:
    def ask(function: Callable[[], Any]) -> Any:
        return request(here, function)

    class Redis(Made, real_redis.Redis):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._sync = client_of(here(), named(args, options))
            self.response_callbacks: Any = {}
            self.connection: Any = None
            self.single_connection_client = False
            self.auto_close_connection_pool = False

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            return await ask(lambda: self._sync.execute_command(*args, **options))

        async def initialize(self) -> Any:
            return self

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None:
            """There is nothing to close."""

        def client(self) -> Any:
            return self

        def get_encoder(self) -> Any:
            return self._sync.get_encoder()

        def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
            return Pipeline(self._sync.pipeline(transaction, shard_hint), ask)

        def pubsub(self, **options: Any) -> Any:
            return PubSub(self._sync.pubsub(**options), ask)

        async def aclose(self, close_connection_pool: bool | None = None) -> None:
            """There is nothing to close."""

        close = aclose

        def __del__(self, *_: Any, **__: Any) -> None:
            """There is nothing to close."""

    return names_with(Redis, here)


def free_names(here: Here) -> dict[str, Any]:
    """The real client, which leads to the pod's server whatever address it names."""

    class Redis(Made, real_redis.Redis):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            inside = here()
            asked = named(args, options)
            client_of(inside, asked)  # refuses a second server
            place = inside.env.redis.connection_pool.connection_kwargs
            where = (
                {"unix_socket_path": place["path"]}
                if "path" in place
                else {key: place[key] for key in ("host", "port")}
            )
            super().__init__(**where, **{name: asked[name] for name in KEPT if asked.get(name) is not None})

    return names_with(Redis, here)


class Pipeline(Asked):
    """Commands are gathered at once, but for those between WATCH and MULTI."""

    def _shown(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        awaited = super()._shown(name, function)
        if name in ("execute", "watch", "unwatch", "discard", "reset"):
            return awaited

        def gather(*args: Any, **options: Any) -> Any:
            if self._sync.watching and not self._sync.explicit_transaction and name != "multi":
                return awaited(*args, **options)
            result = function(*args, **options)
            return self if result is self._sync else result

        return gather

    async def aclose(self) -> None:
        await self.reset()

    def __len__(self) -> int:
        return len(self._sync)

    def __bool__(self) -> bool:
        return True

    async def __aexit__(self, *_: object) -> None:
        if self._sync.watching:
            await self.reset()
        else:
            self._sync.reset()


class PubSub(Asked):
    """A subscriber; its handlers are plain functions."""

    async def listen(self) -> AsyncIterator[Any]:
        while self._sync.subscribed:
            message = await self.get_message(timeout=None)
            if message is not None:
                yield message

    async def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        def get() -> Any:
            if not self._sync.subscribed:  # the synchronous one would wait for somebody to subscribe
                raise RuntimeError("pubsub connection not set: did you forget to call subscribe() or psubscribe()?")
            return self._sync.get_message(ignore_subscribe_messages, timeout)

        return await self._ask(get)

    async def aclose(self, *_: object) -> None:
        self._sync.close()

    close = reset = __aexit__ = aclose
