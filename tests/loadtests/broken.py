"""Targets with one planted bug each: a run that is green with any of them has not checked what it measured."""

from __future__ import annotations

from typing import Any, ClassVar

from podrace.loadtests.targets import LoadTarget
from podrace.reference import targets
from podrace.reference.accumulator import Accumulator
from podrace.reference.status import PENDING
from podrace.reference.store import RedisStore


def with_store(kind: type[RedisStore]) -> LoadTarget:
    return LoadTarget(
        factory=targets.shared, store=lambda env: kind(env.redis, env.runtime, prefix=f"{env.prefix}store:")
    )


class KeepsAll(RedisStore):
    def delete_upload_status(self, upload_id: str) -> None: ...


class ListsNothing(RedisStore):
    def get_all_upload_statuses(self) -> dict[str, Any]:
        return {}


class ListsDeleted(RedisStore):
    deleted: ClassVar[dict[str, Any]] = {}

    def delete_upload_status(self, upload_id: str) -> None:
        self.deleted[upload_id] = self.get_upload_status(upload_id)
        super().delete_upload_status(upload_id)

    def get_all_upload_statuses(self) -> dict[str, Any]:
        return super().get_all_upload_statuses() | self.deleted


class NeverPending(RedisStore):
    def set_upload_status(self, upload_id: str, status: str, *args: Any, **kwargs: Any) -> None:
        if status != PENDING:
            super().set_upload_status(upload_id, status, *args, **kwargs)


class ForgetsTheName(RedisStore):
    def set_upload_status(self, upload_id: str, status: str, *args: Any, **kwargs: Any) -> None:
        super().set_upload_status(upload_id, status, args[0] if args else None)


class ForgetsTheResult(RedisStore):
    def get_upload_status(self, upload_id: str) -> dict[str, Any]:
        return super().get_upload_status(upload_id) | {"result": None}


STORES = {
    "keeps_all": KeepsAll,
    "lists_nothing": ListsNothing,
    "lists_deleted": ListsDeleted,
    "never_pending": NeverPending,
    "forgets_the_name": ForgetsTheName,
    "forgets_the_result": ForgetsTheResult,
}
keeps_all, lists_nothing = with_store(KeepsAll), with_store(ListsNothing)


class Reversed(Accumulator):
    def _build_memory_message(self, ready: list[Any]) -> list[dict[str, Any]]:
        return super()._build_memory_message(ready[::-1])


class AnothersImage(Accumulator):
    def _build_memory_message(self, ready: list[Any]) -> list[dict[str, Any]]:
        files = [file for _, file in ready]
        moved = files[1:] + files[:1]
        return super()._build_memory_message([(message, file) for (message, _), file in zip(ready, moved, strict=True)])


class AnothersUser(Accumulator):
    def absorb_content_into_memory(self, user_id: str) -> int:
        send = self._memory.send
        self._memory = type("M", (), {"send": staticmethod(lambda user_id, parts: send("load-queue/x", parts))})()
        try:
            return super().absorb_content_into_memory(user_id)
        finally:
            self._memory = type("M", (), {"send": staticmethod(send)})()


class SendsTwice(Accumulator):
    def _build_memory_message(self, ready: list[Any]) -> list[dict[str, Any]]:
        return super()._build_memory_message(ready) * 2


class Drops(Accumulator):
    def _build_memory_message(self, ready: list[Any]) -> list[dict[str, Any]]:
        return super()._build_memory_message(ready[1:])


ACCUMULATORS = {
    "reversed": Reversed,
    "anothers_image": AnothersImage,
    "anothers_user": AnothersUser,
    "sends_twice": SendsTwice,
    "drops": Drops,
}


def with_accumulator(kind: type[Accumulator]) -> LoadTarget:
    def factory(env: Any) -> Any:
        pod = targets.shared(env)
        pod.accumulator.__class__ = kind
        return pod

    return LoadTarget(factory=factory)


def raises(env: Any) -> Any:
    raise RuntimeError("this factory makes nothing")


def exits(env: Any) -> Any:
    raise SystemExit(0)


def interrupts(env: Any) -> Any:
    raise KeyboardInterrupt


def exits_in_a_call(env: Any) -> Any:
    """Nothing is ever absorbed, and whoever asks for it would end as if all were well."""
    pod = targets.shared(env)
    pod.absorb = lambda user_id: exits(env)
    return pod


def exits_in_the_background(env: Any) -> Any:
    pod = targets.shared(env)
    absorb = pod.absorb

    def absorb_and_exit(user_id: str) -> int:
        env.runtime.spawn("leaver", lambda: exits(env))
        return absorb(user_id)

    pod.absorb = absorb_and_exit
    return pod


def plain(env: Any) -> Any:
    return targets.shared(env)
