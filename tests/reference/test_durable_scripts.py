"""The scripts of `durable`: each may run twice, touches only declared keys, and needs each of its safeguards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.durable import DurablePod
from podrace.reference.durable_dead_letters import DeadLetters
from podrace.reference.durable_scripts import SCRIPTS
from podrace.reference.durable_store import Batch, DamagedError, DurableStore
from podrace.reference.memory import MemoryLedger
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.conftest import VirtualRuntime
    from tests.reference.conftest import Gemini

MakePod = Callable[..., DurablePod]
Act = Callable[[], object]
TAG = "mirix:durable:{ann}:"

# -- the texts


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_touches_only_declared_keys(name: str) -> None:
    """Every call names its command in the text and acts on KEYS[...]; only that can be proved from the text."""
    text = re.sub(r"--[^\n]*", "", SCRIPTS[name])
    calls = re.findall(r"redis\.\w+\s*\(?", text)
    assert calls
    assert set(calls) == {"redis.call("}
    assert len(calls) == len(re.findall(r"redis\.call\('[A-Z]+', KEYS\[(?:\d+|number)\]", text))
    assert text.count("redis") == len(calls)
    assert "'TIME'" not in text
    assert not re.search(r"\b(_G|loadstring|setfenv|getfenv|EVAL)\b", text)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_script_begins_with_its_keys_arguments_and_reply(name: str) -> None:
    head = SCRIPTS[name].split("\n\n")[0]
    assert head.removeprefix("#!lua flags=allow-oom\n").startswith("-- ")
    for word in ("KEYS", "ARGV", "Reply"):
        assert re.search(rf"^-- {word} ", head, re.MULTILINE)


# -- sent twice


class Twice(redis.Redis):
    """A client whose every script runs, loses its reply and is sent again; the second reply arrives."""

    def evalsha(self, *args: Any) -> Any:  # type: ignore[override]
        super().evalsha(*args)
        return super().evalsha(*args)

    def eval(self, *args: Any) -> Any:  # type: ignore[override]
        super().eval(*args)
        return super().eval(*args)


def test_a_whole_workload_in_which_every_script_runs_twice(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    gemini: Gemini,
    open_client: Callable[..., redis.Redis],
    lapse: Callable[[str], None],
    left: Callable[[], list[str]],
) -> None:
    client = open_client()
    client.__class__ = Twice
    agent = Poisonable(ledger)
    options = {"upload_attempts": 4, "batch_limit": 2}
    dead = make_durable("dead", redis=client, runtime=type(runtime)(), options=options)
    pod = make_durable("B", redis=client, memory=agent, options=options)
    (shown,) = dead.add_message("ann", "1", [png], "m1")
    pod.add_message("ann", "poison", [], "m2")
    pod.add_message("ann", "3", [shown, png], "m3")
    lapse("lease:m1")
    gemini.errors = [
        None,
        ConnectionError(),
        ConnectionError(),
    ]  # the last of four attempts succeeds; that of the dead pod counts
    pod.absorb("ann")
    runtime.run()
    assert pod.upload_status(shown)["status"] == "completed"
    assert pod.absorb("ann") == 3
    assert [(part["type"], part.get("text")) for _, _, parts in ledger.batches() for part in parts] == [
        ("text", "1"),
        ("google_cloud_file_uri", None),
        ("missing_message", None),
        ("text", "3"),
        ("google_cloud_file_uri", None),
        ("google_cloud_file_uri", None),
    ]
    assert agent.refused == 6  # three times both together, three times one alone
    assert DeadLetters(client, prefix="mirix:").requeue("ann", "m2")
    agent.poison = "cured"
    assert pod.absorb("ann") == 1
    assert left() == []


class Poisonable:
    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.poison = "poison"
        self.refused = 0

    def send(
        self,
        user_id: str,
        parts: Sequence[Mapping[str, Any]],
        batch_id: str | None = None,
        fence: int | None = None,
    ) -> None:
        if any(part.get("text") == self.poison for part in parts):
            self.refused += 1
            raise ValueError("poison")
        self._ledger.send(user_id, parts, batch_id, fence)


# -- a full server


def test_full_server_refuses_to_accept_and_still_lets_absorb(
    make_durable: MakePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, gemini: Gemini
) -> None:
    """Failure mode 24: what frees memory must work when no memory is left."""
    with EmbeddedServer() as server, connect(server.url) as client:
        agent = Poisonable(ledger)
        pod = make_durable("A", redis=client, memory=agent)
        dead = make_durable("dead", redis=client, runtime=type(runtime)())
        pod.add_message("bob", "every script is known from here on", [png], "m1")
        runtime.run()
        pod.absorb("bob")
        pod.add_message("ann", "1", [png], "m1")
        dead.add_message("ann", "2", [png], "m2")
        dead.add_message("ann", "poison", [], "m3")
        client.delete(TAG + "lease:m2")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            pod.add_message("ann", "3", [], "m4")
        outcomes = pod.add_messages([("ann", "3", [], "m4"), ("ann", "4", [png], "m5")])
        assert [type(outcome).__name__ for outcome in outcomes] == ["OutOfMemoryError"] * 2
        runtime.run()
        assert pod.absorb("ann") == 1
        runtime.run()
        assert pod.absorb("ann") == 2
        client.config_set("maxmemory", 0)
    sent = [part["text"] for _, user, parts in ledger.batches() for part in parts if "text" in part and user == "ann"]
    assert sent == ["1", "2"]


# -- safeguards: without any one of them something goes wrong


@pytest.fixture
def scene(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    gemini: Gemini,
    redis_client: redis.Redis,
) -> Callable[..., Scene]:
    return lambda **texts: Scene(make_durable, runtime, ledger, png, gemini, redis_client, texts)


class Scene:
    """Two pods with the same, perhaps crippled, scripts; A is paused until `slow` runs."""

    def __init__(
        self,
        make_durable: MakePod,
        runtime: VirtualRuntime,
        ledger: MemoryLedger,
        png: Path,
        gemini: Gemini,
        client: redis.Redis,
        texts: dict[str, str],
    ) -> None:
        scripts = {**SCRIPTS, **texts}
        self.ledger, self.png, self.gemini, self.redis = ledger, png, gemini, client
        self.slow, self.runtime = type(runtime)(), runtime
        self.agent = Poisonable(ledger)
        self.a = make_durable("A", runtime=self.slow, scripts=scripts, memory=self.agent)
        self.b = make_durable("B", scripts=scripts, memory=self.agent)
        self.store: DurableStore = self.b._store
        self.letters = DeadLetters(client, prefix="mirix:")
        self.letters._store = self.store  # so that it uses the scripts of this scene

    def lapse(self, lease: str) -> None:
        self.redis.delete(TAG + lease)

    def set(self, **settings: int) -> None:
        self.store._settings = replace(self.store._settings, **settings)

    def claim(self, pod: DurablePod) -> Any:
        return pod._store.claim("ann", pod._store.new_id(), lowest_fence=1)

    @property
    def delivered(self) -> list[str]:
        return [part["text"] for _, _, parts in self.ledger.batches() for part in parts if "text" in part]


def accept_again_while_queued(s: Scene) -> object:
    s.a.add_message("ann", "1", [], "m1")
    s.b.add_message("ann", "1", [], "m1")
    s.b.absorb("ann")
    return s.delivered


def accept_again_when_absorbed(s: Scene) -> object:
    s.b.add_message("ann", "1", [], "m1")
    s.b.absorb("ann")
    s.b.add_message("ann", "1", [], "m1")
    s.b.absorb("ann")
    return s.delivered


def status_that_was_damaged(s: Scene) -> object:
    """An upload whose status was damaged is done again."""
    (placeholder,) = s.b.add_message("ann", "1", [s.png], "m1")
    s.runtime.run()
    s.redis.hset(TAG + "uploads", placeholder["upload_uuid"], '{"status":"pend')
    s.b.absorb("ann")
    s.runtime.run()
    return s.b.upload_status(placeholder)["status"]


def progress_of_what_is_done_again(s: Scene) -> object:
    """Progress of a repeated upload is not shown: a reader may have seen `completed` before."""
    (placeholder,) = s.a.add_message("ann", "1", [s.png], "m1")
    s.redis.hset(TAG + "uploads", placeholder["upload_uuid"], '{"status":"pend')
    s.b.absorb("ann")
    s.a._store.renew(TAG + "lease:m1", s.a._store.holder, progress=(placeholder, 40))
    return isinstance(s.b.upload_statuses([placeholder])[0], DamagedError)


def status_damaged_in_a_claimed_batch(s: Scene) -> object:
    """The batch is not offered again without the message whose upload is repeated."""
    s.b.add_message("ann", "1", [], "m1")
    (placeholder,) = s.b.add_message("ann", "2", [s.png], "m2")
    s.runtime.run()
    s.claim(s.a)
    s.lapse("claim")
    s.redis.hset(TAG + "uploads", placeholder["upload_uuid"], '{"status":"pend')
    return isinstance(s.claim(s.b), Batch)


def late_completion(s: Scene) -> object:
    """An image named as missing stays missing: that may have been sent to the memory agent already."""
    (placeholder,) = s.a.add_message("ann", "1", [s.png], "m1")
    s.lapse("lease:m1")
    s.b.absorb("ann")
    s.gemini.errors = [RefusedError()]
    s.runtime.run()
    s.slow.run()
    return s.b.upload_status(placeholder)["status"]


def take_over_of_the_living(s: Scene) -> object:
    s.a.add_message("ann", "1", [s.png], "m1")
    s.b.absorb("ann")
    s.runtime.run()
    return len(s.gemini.contents)


def take_over_of_the_dead(s: Scene) -> object:
    s.a.add_message("ann", "1", [s.png], "m1")
    s.lapse("lease:m1")
    s.b.absorb("ann")
    s.runtime.run()
    return len(s.gemini.contents)


def renewal_of_a_foreign_lease(s: Scene) -> object:
    s.redis.set(TAG + "claim", "another's", ex=5)
    return s.store.renew(TAG + "claim", "ours"), s.redis.ttl(TAG + "claim") <= 5


def two_claims_at_once(s: Scene) -> object:
    s.a.add_message("ann", "1", [], "m1")
    return [isinstance(s.claim(pod), Batch) for pod in (s.a, s.b)]


def claim_is_frozen(s: Scene) -> object:
    s.b.add_message("ann", "1", [], "m1")
    first = s.claim(s.a)
    s.b.add_message("ann", "2", [], "m2")
    s.lapse("claim")
    second = s.claim(s.b)
    return first.batch_id == second.batch_id, len(second.items), second.fence > first.fence


def acknowledgement_of_the_late(s: Scene) -> object:
    s.b.add_message("ann", "1", [], "m1")
    first = s.claim(s.a)
    s.lapse("claim")
    s.claim(s.b)
    return s.store.ack("ann", first), s.redis.exists(TAG + "claim"), s.redis.llen(TAG + "queue")


def acknowledgement_twice(s: Scene) -> object:
    s.b.add_message("ann", "1", [], "m1")
    first = s.claim(s.b)
    s.b.add_message("ann", "2", [], "m2")
    return s.store.ack("ann", first), s.store.ack("ann", first), s.redis.lrange(TAG + "queue", 0, -1)


def refusal_twice(s: Scene) -> object:
    s.b.add_message("ann", "1", [], "m1")
    batch = s.claim(s.b)
    s.set(send_attempts=2)
    verdicts = [s.store.dead_letter("ann", batch, reason="no", missing=b"{}") for _ in range(2)]
    return verdicts, s.letters.find("ann")


def refusal_by_the_late(s: Scene) -> object:
    s.b.add_message("ann", "1", [], "m1")
    batch = s.claim(s.a)
    s.lapse("claim")
    s.claim(s.b)
    s.set(send_attempts=1)
    return s.store.dead_letter("ann", batch, reason="no", missing=b"{}"), s.letters.find("ann")


def poison_in_company(s: Scene) -> object:
    for text in ("1", "poison", "3"):
        s.b.add_message("ann", text, [], text)
    s.b.absorb("ann")
    return s.delivered


def shared_image(s: Scene) -> object:
    (placeholder,) = s.b.add_message("ann", "1", [s.png], "m1")
    s.runtime.run()
    batch = s.claim(s.b)
    s.b.add_message("ann", "2", [placeholder], "m2")
    s.store.ack("ann", batch)
    s.redis.delete(TAG + "done:m1")
    return s.b.upload_status(placeholder)["status"]


def image_still_pending(s: Scene) -> object:
    s.a.add_message("ann", "1", [s.png], "m1")
    return s.b.absorb("ann")


def progress_goes_up(s: Scene) -> object:
    (placeholder,) = s.a.add_message("ann", "1", [s.png], "m1")
    seen = []
    for percent in (40, 20):
        s.a._store.renew(TAG + "lease:m1", s.a._store.holder, progress=(placeholder, percent))
        seen.append(s.b.upload_status(placeholder)["progress"])
    return seen


def progress_after_the_end(s: Scene) -> object:
    (placeholder,) = s.b.add_message("ann", "1", [s.png, s.png], "m1")[:1]
    s.runtime.run()
    s.redis.set(TAG + "lease:m1", s.b._store.holder)
    s.b._store.renew(TAG + "lease:m1", s.b._store.holder, progress=(placeholder, 101))
    return s.b.upload_status(placeholder)["status"]


def requeue_twice(s: Scene) -> object:
    s.b.add_message("ann", "poison", [], "m1")
    s.b.absorb("ann")
    s.agent.poison = "cured"
    s.letters.requeue("ann", "m1")
    s.letters.requeue("ann", "m1")
    s.b.absorb("ann")
    return s.delivered


def attempt_twice(s: Scene) -> object:
    (placeholder,) = s.b.add_message("ann", "1", [s.png], "m1")
    taken = [s.b._store.take("ann", placeholder["upload_uuid"], "m1", "attempt") for _ in range(2)]
    return [found and found[0] for found in taken]


def limit_of_kept_bytes(s: Scene) -> object:
    s.set(max_kept_bytes=s.png.stat().st_size)
    refused = []
    for name in ("m1", "m2"):
        try:
            s.b.add_message("ann", "1", [s.png], name)
        except ValueError:
            refused.append(name)
    return refused


class RefusedError(Exception):
    code = 400


SAFEGUARDS: list[tuple[Callable[[Scene], object], object, str, str, str]] = [
    (accept_again_while_queued, ["1"], "accept", "if record then", "if false then"),
    (accept_again_when_absorbed, ["1"], "accept", "if done then", "if false then"),
    (
        accept_again_when_absorbed,
        ["1"],
        "ack",
        "redis.call('SET', KEYS[number], ARGV[2 * number - 10], 'PX', ARGV[2])",
        "",
    ),
    (limit_of_kept_bytes, ["m2"], "accept", "if kept and kept", "if false and kept"),
    (status_that_was_damaged, "completed", "claim", "if not whole(status) then", "if false then"),
    (progress_of_what_is_done_again, True, "renew", " and not now.again", ""),
    (status_damaged_in_a_claimed_batch, False, "claim", "fewest, most = size, size", "most = size"),
    (late_completion, "failed", "finish", "if ended then", "if false then"),
    (take_over_of_the_living, 0, "take", "if holder and holder ~= ARGV[2]", "if false"),
    (
        take_over_of_the_dead,
        1,
        "claim",
        "pending[#pending + 1] = cjson.decode(status).message_id",
        "pending = {'none'}",
    ),
    (attempt_twice, [2, 2], "take", "~= ARGV[4] then", "~= '' then"),
    (renewal_of_a_foreign_lease, (False, True), "renew", "~= ARGV[1] then", "== '' then"),
    (progress_goes_up, [40, 40], "renew", "(now.progress or 0) < tonumber(ARGV[5])", "true"),
    (progress_after_the_end, "completed", "renew", "now.status == 'pending'", "true"),
    (two_claims_at_once, [True, False], "claim", "if holder and holder ~= ARGV[1]", "if false"),
    (claim_is_frozen, (True, 1, True), "claim", "if size == 0 then\n  batch", "if true then\n  batch"),
    (
        claim_is_frozen,
        (True, 1, True),
        "claim",
        "if size > 0 then fewest, most = size, size",
        "if size > 0 then fewest = size",
    ),
    (claim_is_frozen, (True, 1, True), "claim", "tonumber(stored or 0) + 1", "tonumber(stored or 0)"),
    (image_still_pending, 0, "claim", "if #pending > 1 then break end", ""),
    (acknowledgement_of_the_late, (False, 1, 1), "ack", "if state[2] ~= ARGV[1]", "if false"),
    (acknowledgement_twice, (True, True, [b"m2"]), "ack", "== ARGV[1] then return 1", "== 0 then return 1"),
    (shared_image, "completed", "ack", "'/more') or 0) > 0", "'/more') or 0) > 9"),
    (
        shared_image,
        "completed",
        "accept",
        "redis.call('HINCRBY', KEYS[5], ARGV[i] .. '/more', 1)\n  end\nend\nredis",
        "end\nend\nredis",
    ),
    (refusal_twice, (["again", "counted"], []), "dead_letter", "then return 'counted' end", "then end"),
    (
        refusal_by_the_late,
        ("stale", []),
        "dead_letter",
        "if state[1] ~= ARGV[1] or",
        "if",
    ),
    (poison_in_company, ["1", "3"], "dead_letter", "if size > 1 then", "if false then"),
    (poison_in_company, ["1", "3"], "claim", "alone > 0 then fewest, most", "alone > 0 then local _"),
    (
        requeue_twice,
        ["poison"],
        "requeue",
        "redis.call('HDEL', KEYS[3], 'record/' .. ARGV[1], 'uploads/' .. ARGV[1], 'reason/' .. ARGV[1])",
        "",
    ),
]


@pytest.mark.parametrize(
    ("act", "expected", "script", "safeguard", "without"),
    SAFEGUARDS,
    ids=[f"{number}-{act.__name__}" for number, (act, *_) in enumerate(SAFEGUARDS)],
)
def test_without_a_safeguard_a_script_answers_otherwise(
    scene: Callable[..., Scene],
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Scene], object],
    expected: object,
    script: str,
    safeguard: str,
    without: str,
) -> None:
    text = SCRIPTS[script]
    assert text.count(safeguard) == 1
    assert act(scene()) == expected
    redis_client.flushall()
    crippled = scene(**{script: text.replace(safeguard, without)})
    crippled.ledger._connection.executescript("DELETE FROM part; DELETE FROM batch; DELETE FROM fence")
    crippled.gemini.contents.clear()
    monkeypatch.setattr(crippled.runtime, "_due", [])
    waits = 0

    def not_for_ever(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits > 20:
            raise RuntimeError("it goes on for ever")

    crippled.b._runtime = type("Hasty", (), {"now": crippled.runtime.now, "sleep": staticmethod(not_for_ever)})()
    try:
        found = act(crippled)
    except (redis.ResponseError, RuntimeError, AttributeError, ValueError) as error:
        found = error
    assert found != expected, f"without {safeguard!r} in {script}.lua nothing goes wrong"
