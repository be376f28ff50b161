"""The factories: one pod, its state kept in one of several ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.reference.accumulator import Accumulator
from podrace.reference.status import Placeholder, Status
from podrace.reference.store import RedisStore, UploadStore
from podrace.reference.upload_manager import UploadManager

if TYPE_CHECKING:
    from podrace.reference.durable import DurablePod


class ServicePod:
    """One instance of the service: an accumulator over an upload manager.

    `env` brings `name`, `redis`, `prefix`, `gemini` (a FilesService), `memory` (a MemoryAgent), `runtime`, `rng` and
    `options`, all optional: `max_workers`, `upload_timeout_s`, `absorb_limit`, `compress`.
    """

    def __init__(self, env: Any, store: UploadStore | None) -> None:
        options = env.options
        self.upload_manager = UploadManager(
            env.gemini,
            env.runtime,
            rng=env.rng,
            store=store,
            max_workers=options.get("max_workers", 4),
            upload_timeout_s=options.get("upload_timeout_s", 10.0),
        )
        self.accumulator = Accumulator(
            env.redis,
            self.upload_manager,
            env.memory,
            env.runtime,
            pod_name=env.name,
            prefix=env.prefix,
            absorb_limit=options.get("absorb_limit", 20),
            compress=options.get("compress", True),
        )

    def add_message(
        self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str
    ) -> list[Placeholder]:
        return self.accumulator.add_message(user_id, text, images, message_id)

    def absorb(self, user_id: str) -> int:
        if not self.accumulator.should_absorb_content(user_id):
            return 0
        return self.accumulator.absorb_content_into_memory(user_id)

    def upload_status(self, placeholder: Placeholder) -> Status:
        return self.upload_manager.get_upload_status(placeholder)

    def wait_for_upload(self, placeholder: Placeholder, timeout: float = 30) -> Any:
        return self.upload_manager.wait_for_upload(placeholder, timeout)

    def close(self) -> None:
        """Nothing to stop: what runs still, ends by itself."""


def local(env: Any) -> ServicePod:
    """The bug: upload statuses live in the pod's own memory."""
    return ServicePod(env, store=None)


def shared(env: Any) -> ServicePod:
    """The published fix: upload statuses live in Redis."""
    return ServicePod(env, RedisStore(env.redis, env.runtime, prefix=env.prefix))


def durable(env: Any) -> DurablePod:
    """Ours: upload statuses, messages and images live in Redis, changed by scripts that lose nothing."""
    from podrace.reference.durable import DurablePod  # with redis-py, whose import takes about 0.2 s

    return DurablePod(env)


durable.keeps = ("durable:{*}:done:*", "durable:{*}:state", "durable:{*}:dead")  # type: ignore[attr-defined]
