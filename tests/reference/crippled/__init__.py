"""`durable` with one safeguard taken away, and the scenarios in which that loses something.

A factory is named by what it lacks. `SCRIPTS_WITHOUT` takes a line out of a script, `PODS_WITHOUT` changes a pod.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

from podrace.reference.durable import DurablePod
from podrace.reference.durable_scripts import SCRIPTS

SCRIPTS_WITHOUT: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "one_accept_while_queued": ("accept", "if record then", "if false then"),
        "one_accept_once_absorbed": ("accept", "if done then", "if false then"),
        "done_records": ("ack", "redis.call('SET', KEYS[number], ARGV[2 * number - 10], 'PX', ARGV[2])", ""),
        "references_that_count": (
            "accept",
            "redis.call('HINCRBY', KEYS[5], ARGV[i] .. '/more', 1)\n  end\nend\nredis",
            "end\nend\nredis",
        ),
        "first_end_stays": ("finish", "if ended then", "if false then"),
        "take_over_of_the_dead_alone": ("take", "if holder and holder ~= ARGV[2]", "if false"),
        "attempt_counted_once": ("take", "~= ARGV[4] then", "~= '' then"),
        "waiting_for_pending_images": ("claim", "if #pending > 1 then break end", ""),
        "one_batch_id_for_one_batch": ("claim", "if size == 0 then\n  batch", "if true then\n  batch"),
        "same_messages_under_one_batch_id": (
            "claim",
            "if size > 0 then fewest, most = size, size",
            "if size > 0 then fewest = size",
        ),
        "rising_fence": ("claim", "math.max(tonumber(stored or 0) + 1, tonumber(ARGV[3]))", "1"),
        "damaged_records_set_aside": ("claim", "whole(held[1]) and held[1] or", "held[1] or"),
        "damaged_uploads_done_again": ("claim", "if not whole(status) then", "if false then"),
        "damaged_ids_found_again": ("claim", "    if one and not queued[one] then", "    if false then"),
        "fence_at_the_acknowledgement": ("ack", "if state[2] ~= ARGV[1]", "if false"),
        "one_acknowledgement": ("ack", "if state[1] == ARGV[1]", "if false"),
        "last_reference_alone_deletes": ("ack", "'/more') or 0) > 0", "'/more') or 0) > 9"),
        "fence_at_the_refusal": ("dead_letter", "if state[1] ~= ARGV[1] or", "if"),
        "refusal_counted_once": ("dead_letter", "then return 'counted' end", "then end"),
        "limit_of_refusals": ("dead_letter", "if refusals < tonumber(ARGV[2])", "if true"),
        "taking_a_refused_batch_apart": ("dead_letter", "if size > 1 then", "if false then"),
        "sending_alone_what_was_taken_apart": (
            "claim",
            "alone > 0 then fewest, most",
            "alone > 0 then local _",
        ),
    }
)


def _with_script(env: Any, name: str) -> DurablePod:
    script, safeguard, instead = SCRIPTS_WITHOUT[name]
    text = SCRIPTS[script]
    assert text.count(safeguard) == 1, f"{script}.lua no longer has {safeguard!r}"
    return DurablePod(env, scripts={**SCRIPTS, script: text.replace(safeguard, instead)})


class _Sends:
    """Passes batches on to the memory agent without the parts that are switched off."""

    def __init__(self, memory: Any, *, batch_id: bool = True, fence: bool = True, usable_until: bool = True) -> None:
        self._memory = memory
        self._included = batch_id, fence, usable_until

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str, fence: int) -> None:
        says_batch, says_fence, says_until = self._included
        if not says_until:
            parts = [{name: value for name, value in part.items() if name != "usable_until"} for part in parts]
        self._memory.send(
            user_id, parts, batch_id=batch_id if says_batch else None, fence=fence if says_fence else None
        )


class _Everybody:
    def __contains__(self, holder: object) -> bool:
        return True


class _UploadsOnly:
    """Gemini, of whose files nobody asks in which state they are."""

    def __init__(self, gemini: Any) -> None:
        self._gemini = gemini

    def upload(self, *, file: Any) -> Any:
        made = self._gemini.upload(file=file)
        return SimpleNamespace(name=made.name, uri=made.uri, create_time=made.create_time)


def _less(env: Any, **less: bool) -> DurablePod:
    pod = DurablePod(env)
    pod._memory = _Sends(env.memory, **less)
    return pod


def _no_take_over(env: Any) -> DurablePod:
    pod = DurablePod(env)
    pod._uploader.take_over = lambda user_id, pending: None  # type: ignore[method-assign]
    return pod


def _no_end_of_what_hangs(env: Any) -> DurablePod:
    pod = DurablePod(env)
    pod._uploader.heartbeat._before = lambda: None
    return pod


def _no_look_at_anothers_key(env: Any) -> DurablePod:
    pod = DurablePod(env)
    pod._uploader._same_key = _Everybody()  # type: ignore[assignment]
    return pod


def _no_wait_for_active_files(env: Any) -> DurablePod:
    pod = DurablePod(env)
    pod._uploader._gemini = _UploadsOnly(env.gemini)
    return pod


class _AcceptsInTwoSteps(DurablePod):
    """The message's record first, its place in the queue by a second command."""

    def add_message(self, user_id: str, text: str, images: Any, message_id: str) -> list[dict[str, Any]]:
        shown = super().add_message(user_id, text, images, message_id)
        self._redis.rpush(self._store.key(user_id, "queue"), message_id)
        return shown


def _no_atomic_accept(env: Any) -> DurablePod:
    text = SCRIPTS["accept"].replace("redis.call('RPUSH', KEYS[1], ARGV[1])\n", "")
    assert text != SCRIPTS["accept"]
    return _AcceptsInTwoSteps(env, scripts={**SCRIPTS, "accept": text})


class _ReadsThenSubscribes(DurablePod):
    """Looks, subscribes, and waits for an announcement without a further look."""

    def wait_for_upload(self, placeholder: Any, timeout: float = 30) -> Any:
        if (result := self._result(placeholder)) is not None:
            return result
        with self._redis.pubsub() as listener:
            listener.subscribe(self._store.key(placeholder["user_id"], "finished"))
            while heard := listener.get_message(timeout=timeout):
                if heard["type"] == "message":
                    return self._result(placeholder)
        raise TimeoutError("nothing was announced")


PODS_WITHOUT: Mapping[str, Callable[[Any], DurablePod]] = MappingProxyType(
    {
        "batch_ids": partial(_less, batch_id=False),
        "fence_at_the_agent": partial(_less, fence=False),
        "usable_until": partial(_less, usable_until=False),
        "take_over": _no_take_over,
        "end_of_what_hangs": _no_end_of_what_hangs,
        "look_at_anothers_key": _no_look_at_anothers_key,
        "wait_for_active_files": _no_wait_for_active_files,
        "atomic_accept": _no_atomic_accept,
        "subscribing_before_the_look": _ReadsThenSubscribes,
    }
)


def __getattr__(name: str) -> Callable[[Any], DurablePod]:
    """The factory of that name."""
    if name in SCRIPTS_WITHOUT:
        return partial(_with_script, name=name)
    if name in PODS_WITHOUT:
        return PODS_WITHOUT[name]
    raise AttributeError(name)
