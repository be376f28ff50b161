"""`durable` from end to end: pods, one Redis, one memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.durable import DurablePod
from podrace.reference.durable_dead_letters import DeadLetters
from podrace.reference.durable_scripts import NotReplicatedError
from podrace.reference.durable_server import NotDurableError, damages
from podrace.reference.durable_store import DamagedError
from podrace.reference.memory import MemoryLedger
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.target import PodEnv, load_target

if TYPE_CHECKING:
    from tests.conftest import VirtualRuntime
    from tests.reference.conftest import Gemini

MakePod = Callable[..., DurablePod]
TAG = "mirix:durable:{ann}:"


def parts_of(ledger: MemoryLedger) -> list[dict[str, Any]]:
    return [part for _, _, parts in ledger.batches() for part in parts]


def texts_of(ledger: MemoryLedger) -> list[str]:
    return [part["text"] for part in parts_of(ledger) if part["type"] == "text"]


def images_of(ledger: MemoryLedger) -> list[str]:
    return [part["google_cloud_file_uri"] for part in parts_of(ledger) if part["type"] == "google_cloud_file_uri"]


def missing_of(ledger: MemoryLedger) -> list[dict[str, Any]]:
    return [part for part in parts_of(ledger) if part["type"].startswith("missing")]


@pytest.fixture
def other_runtime(runtime: VirtualRuntime) -> VirtualRuntime:
    """The runtime of a pod that is dead or paused until this runtime runs."""
    return type(runtime)()


class Agent:
    """A memory agent that treats each batch as the test says, and then records it in the ledger."""

    def __init__(self, ledger: MemoryLedger, *before: Callable[[], None], after: Callable[[], None] = lambda: None):
        self._ledger = ledger
        self._before = list(before)
        self._after = after
        self.sent: list[tuple[str | None, int | None]] = []

    def send(
        self,
        user_id: str,
        parts: Sequence[Mapping[str, Any]],
        batch_id: str | None = None,
        fence: int | None = None,
    ) -> None:
        self.sent.append((batch_id, fence))
        if self._before:
            self._before.pop(0)()
        if any("poison" in str(part.get("text")) for part in parts):
            raise ValueError("poison")
        self._ledger.send(user_id, parts, batch_id, fence)
        self._after()


def raises(error: Exception) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


# -- a message's life


def test_factory_makes_a_pod_of_the_simulator(make_env: Callable[..., PodEnv]) -> None:
    pod = load_target("podrace.reference.targets:durable")(make_env("A"))
    assert all(callable(getattr(pod, name)) for name in ("add_message", "absorb", "upload_status", "close"))
    assert isinstance(pod, DurablePod)
    pod.close()


def test_pod_b_absorbs_what_pod_a_accepted(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    jpeg: Path,
    gemini: Gemini,
    left: Callable[[], list[str]],
) -> None:
    a, b = make_durable("A"), make_durable("B")
    placeholders = a.add_message("ann", "look at this", [png, jpeg], "m1")
    assert [p["filename"] for p in placeholders] == [str(png), str(jpeg)]
    assert [b.upload_status(p)["status"] for p in placeholders] == ["pending", "pending"]
    assert b.absorb("ann") == 0
    runtime.run()
    assert [b.upload_status(p)["progress"] for p in placeholders] == [100, 100]
    assert gemini.contents == [png.read_bytes(), jpeg.read_bytes()]
    assert b.absorb("ann") == 1
    results = [a.upload_status(p)["result"]["uri"] for p in placeholders]
    assert [part["type"] for part in parts_of(ledger)] == ["text", "google_cloud_file_uri", "google_cloud_file_uri"]
    assert texts_of(ledger) == ["look at this"]
    assert images_of(ledger) == results
    assert a.absorb("ann") == b.absorb("ann") == 0
    runtime.run()
    assert left() == []


def test_the_source_file_may_be_deleted_once_its_message_is_accepted(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    content = png.read_bytes()
    pod.add_message("ann", "a", [png], "m1")
    png.unlink()
    runtime.run()
    assert pod.absorb("ann") == 1
    assert gemini.contents == [content]


def test_order_is_kept_before_a_pending_image(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    other_runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
) -> None:
    slow, pod = make_durable("slow", runtime=other_runtime), make_durable("B")
    pod.add_message("ann", "1", [], "m1")
    slow.add_message("ann", "2", [png], "m2")
    pod.add_message("ann", "3", [], "m3")
    assert pod.absorb("ann") == 1
    assert pod.absorb("ann") == 0
    assert texts_of(ledger) == ["1"]
    other_runtime.run()
    assert pod.absorb("ann") == 2
    assert texts_of(ledger) == ["1", "2", "3"]


def test_a_batch_has_at_least_the_fewest_and_at_most_the_most_messages(
    make_durable: MakePod, ledger: MemoryLedger
) -> None:
    pod = make_durable(options={"absorb_limit": 3, "batch_limit": 4})
    for number in range(9):
        assert pod.absorb("ann") == (0 if number < 3 else 3 if number == 3 else 0 if number < 6 else 3 * (number == 6))
        pod.add_message("ann", str(number), [], str(number))
    for number in range(9, 14):
        pod.add_message("ann", str(number), [], str(number))
    assert pod.absorb("ann") == 8
    assert [len(parts) for _, _, parts in ledger.batches()] == [3, 3, 4, 4]
    assert texts_of(ledger) == [str(number) for number in range(14)]


def test_users_have_queues_of_their_own(pod: DurablePod, ledger: MemoryLedger) -> None:
    for number, user in enumerate(["ann", "bob", "ann", "a{n}n", "ann*"]):
        pod.add_message(user, str(number), [], "m" + str(number))
    assert [pod.absorb(user) for user in ("ann", "bob", "a{n}n", "ann*", "nobody")] == [2, 1, 1, 1, 0]
    assert [(user, [part["text"] for part in parts]) for _, user, parts in ledger.batches()] == [
        ("ann", ["0", "2"]),
        ("bob", ["1"]),
        ("a{n}n", ["3"]),
        ("ann*", ["4"]),
    ]


def test_an_image_that_is_already_uploaded_is_sent_as_it_is(pod: DurablePod, ledger: MemoryLedger) -> None:
    file = {"uri": "https://files.test/old", "name": "files/old"}
    assert pod.add_message("ann", "a", [file], "m1") == [file]
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/old"]
    assert pod.upload_status(file) == {"status": "completed", "result": file}


def test_same_image_in_two_messages(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    left: Callable[[], list[str]],
    gemini: Gemini,
) -> None:
    """Failure mode 9: delivering the first message does not remove the second's image."""
    pod = make_durable(options={"batch_limit": 1})
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    assert pod.add_message("ann", "2", [placeholder, placeholder], "m2") == [placeholder, placeholder]
    runtime.run()
    assert pod.absorb("ann") == 2
    assert images_of(ledger) == ["https://files.test/1"] * 3
    assert pod.add_message("ann", "3", [placeholder], "m3") == [placeholder]  # known only from the done record
    assert pod.upload_status(placeholder)["status"] == "completed"
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/1"] * 4
    assert len(gemini.contents) == 1
    assert left() == []


# -- accepting


def test_same_id_again_is_the_same_message(
    make_durable: MakePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, gemini: Gemini
) -> None:
    a, b = make_durable("A"), make_durable("B")
    first = a.add_message("ann", "1", [png], "m1")
    assert a.add_message("ann", "1", [png], "m1") == first
    assert b.add_message("ann", "other", [], "m1") == first
    runtime.run()
    assert b.absorb("ann") == 1
    for pod in (a, b):
        assert pod.add_message("ann", "1", [png], "m1") == first
        runtime.run()
        assert pod.absorb("ann") == 0
    assert texts_of(ledger) == ["1"]
    assert len(gemini.contents) == 1


def test_many_messages_are_accepted_in_one_round_trip(
    pod: DurablePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, redis_client: redis.Redis, tmp_path: Path
) -> None:
    pod.add_message("ann", "0", [], "m0")  # from now on the server knows the script
    redis_client.config_resetstat()
    outcomes = pod.add_messages(
        [
            ("ann", "1", [png], "m1"),
            ("ann", "no file", [tmp_path / "gone.png"], "m2"),
            ("bob", "2", [], "m1"),
            ("ann", "3", [], ""),
            ("ann", "0", [], "m0"),
        ]
    )
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    assert [outcome if isinstance(outcome, list) else type(outcome).__name__ for outcome in outcomes] == [
        outcomes[0],
        "InvalidInputError",
        [],
        "InvalidInputError",
        [],
    ]
    runtime.run()
    assert (pod.absorb("ann"), pod.absorb("bob")) == (2, 1)
    assert texts_of(ledger) == ["0", "1", "2"]
    assert pod.add_messages([]) == []


def test_unknown_scripts_are_sent_again(
    pod: DurablePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, redis_client: redis.Redis
) -> None:
    redis_client.script_flush()
    pod.add_message("ann", "1", [png], "m1")
    redis_client.script_flush()
    pod.add_messages([("ann", "2", [], "m2"), ("ann", "3", [], "m3")])
    redis_client.script_flush()
    runtime.run()
    redis_client.script_flush()
    assert pod.absorb("ann") == 3
    assert texts_of(ledger) == ["1", "2", "3"]


def test_accept_fails_with_too_few_replicas(
    make_durable: MakePod, ledger: MemoryLedger, lapse: Callable[[str], None]
) -> None:
    """The outcome is unknown: the message may be stored, and is once it is handed in again."""
    options = {"wait_replicas": 1, "replica_timeout_s": 0.001}
    waiting = make_durable("A", options=options)
    with pytest.raises(NotReplicatedError):
        waiting.add_message("ann", "1", [], "m1")
    assert issubclass(NotReplicatedError, redis.TimeoutError)
    with pytest.raises(NotReplicatedError):
        waiting.absorb("ann")
    assert ledger.batches() == [], "a batch was sent although its messages could still be lost"
    assert waiting.absorb("nobody") == 0
    lapse("claim")
    pod = make_durable("B")
    pod.add_message("ann", "1", [], "m1")
    assert pod.absorb("ann") == 1
    assert texts_of(ledger) == ["1"]


# -- a dead or slow pod


def test_upload_of_a_dead_pod_is_taken_over(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    other_runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    jpeg: Path,
    lapse: Callable[[str], None],
    gemini: Gemini,
    left: Callable[[], list[str]],
) -> None:
    dead, pod = make_durable("dead", runtime=other_runtime), make_durable("B")
    placeholders = dead.add_message("ann", "1", [png, jpeg], "m1")
    assert pod.absorb("ann") == 0
    runtime.run()
    assert gemini.contents == []  # the first pod may be alive
    lapse("lease:m1")
    assert pod.absorb("ann") == 0
    runtime.run()
    assert gemini.contents == [png.read_bytes(), jpeg.read_bytes()]
    assert [pod.upload_status(p)["status"] for p in placeholders] == ["completed"] * 2
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/1", "https://files.test/2"]
    other_runtime.run()  # it was only slow: nobody uses what it has uploaded
    assert gemini.deleted == ["files/3", "files/4"]
    assert left() == []


def test_a_lease_is_no_longer_than_configured_and_is_renewed(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis, gemini: Gemini
) -> None:
    pod = make_durable(options={"lease_s": 6.0})
    gemini.during = lambda: runtime.sleep(7)
    pod.add_message("ann", "1", [png], "m1")
    lease = TAG + "lease:m1"
    assert 5000 < redis_client.pttl(lease) <= 6000
    redis_client.pexpire(lease, 1_000_000)
    runtime.sleep(2.5)
    assert 5000 < redis_client.pttl(lease) <= 6000
    runtime.sleep(10)
    redis_client.pexpire(lease, 1_000_000)
    runtime.sleep(10)
    assert redis_client.pttl(lease) > 6000, "the lease must be renewed although the upload has ended"


def test_lapsed_lease_is_not_renewed(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    redis_client: redis.Redis,
    gemini: Gemini,
    lapse: Callable[[str], None],
) -> None:
    pod = make_durable()
    gemini.during = lambda: runtime.sleep(30)
    pod.add_message("ann", "1", [png], "m1")
    runtime.sleep(1)
    lapse("lease:m1")
    runtime.sleep(20)
    assert not redis_client.exists(TAG + "lease:m1")


def test_hung_upload_is_given_up_and_its_worker_replaced(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    gemini: Gemini,
    redis_client: redis.Redis,
    ledger: MemoryLedger,
    lapse: Callable[[str], None],
) -> None:
    pod = make_durable(options={"max_workers": 1, "upload_timeout_s": 8.0})
    hangs = [1e6]
    gemini.during = lambda: runtime.sleep(hangs.pop()) if hangs else None
    pod.add_message("ann", "1", [png], "m1")
    pod.add_message("bob", "2", [png], "m2")
    runtime.sleep(9)
    assert len(gemini.contents) == 1
    runtime.sleep(2)
    assert pod.absorb("bob") == 1
    assert redis_client.exists(TAG + "lease:m1")  # it will lapse by itself
    redis_client.pexpire(TAG + "lease:m1", 1_000_000)
    runtime.sleep(20)
    assert redis_client.pttl(TAG + "lease:m1") > 20_000, "the lease is not renewed after its upload was given up"
    lapse("lease:m1")
    assert pod.absorb("ann") == 0
    runtime.sleep(1)
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/2", "https://files.test/3"]
    runtime.run()
    assert gemini.deleted == ["files/1"]  # the hung upload ended after all, and nobody needs its file


def test_closed_pod_starts_nothing(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, lapse: Callable[[str], None]
) -> None:
    pod = make_durable("A")
    pod.add_message("ann", "1", [png], "m1")
    pod.close()
    lapse("lease:m1")
    pod.absorb("ann")
    runtime.run()
    assert gemini.contents == []


# -- absorbing


def test_batch_of_a_dead_absorber_is_offered_again(
    make_durable: MakePod, ledger: MemoryLedger, lapse: Callable[[str], None], left: Callable[[], list[str]]
) -> None:
    """Failure mode 12: the absorber delivers and dies before it acknowledges."""
    agent = Agent(ledger, after=raises(ConnectionError("the agent's answer was lost")))
    a = make_durable("A", memory=agent)
    b_agent = Agent(ledger)
    b = make_durable("B", memory=b_agent)
    a.add_message("ann", "1", [], "m1")
    with pytest.raises(ConnectionError):
        a.absorb("ann")
    b.add_message("ann", "2", [], "m2")
    assert b.absorb("ann") == 0  # A may be alive
    lapse("claim")
    assert b.absorb("ann") == 2
    ((batch, fence),) = agent.sent
    assert b_agent.sent[0] == (batch, (fence or 0) + 1)
    assert texts_of(ledger) == ["1", "2"]
    assert [len(parts) for _, _, parts in ledger.batches()] == [1, 1]
    assert left() == []


def test_paused_absorber_changes_nothing(
    make_durable: MakePod, ledger: MemoryLedger, lapse: Callable[[str], None], redis_client: redis.Redis
) -> None:
    """Failure modes 15 and 20: it claims and pauses, others go on, then it goes on too."""
    b = make_durable("B")

    def others_go_on() -> None:
        lapse("claim")
        assert b.absorb("ann") == 1
        b.add_message("ann", "2", [], "m2")

    a = make_durable("A", memory=Agent(ledger, others_go_on))
    a.add_message("ann", "1", [], "m1")
    assert a.absorb("ann") == 0
    assert redis_client.lrange(TAG + "queue", 0, -1) == [b"m2"]
    assert b.absorb("ann") == 1
    assert texts_of(ledger) == ["1", "2"]


def test_paused_before_the_acknowledgement(
    make_durable: MakePod, ledger: MemoryLedger, lapse: Callable[[str], None], redis_client: redis.Redis
) -> None:
    other = Agent(ledger, raises(ConnectionError()))
    b = make_durable("B", memory=other)

    def another_claims() -> None:
        lapse("claim")
        with pytest.raises(ConnectionError):
            b.absorb("ann")

    a = make_durable("A", memory=Agent(ledger, after=another_claims))
    a.add_message("ann", "1", [], "m1")
    assert a.absorb("ann") == 0
    assert redis_client.exists(TAG + "claim")  # it is B's, so A must not delete it
    assert redis_client.lrange(TAG + "queue", 0, -1) == [b"m1"]
    lapse("claim")
    assert b.absorb("ann") == 1
    assert texts_of(ledger) == ["1"]


def test_claim_is_renewed_while_the_agent_works(
    make_durable: MakePod, ledger: MemoryLedger, redis_client: redis.Redis, runtime: VirtualRuntime
) -> None:
    def work(seconds: float) -> Callable[[], None]:
        def let_time_pass() -> None:
            redis_client.pexpire(TAG + "claim", 1_000_000)
            runtime.sleep(seconds)
            left_ms.append(redis_client.pttl(TAG + "claim"))

        return let_time_pass

    left_ms: list[int] = []
    pod = make_durable(memory=Agent(ledger, work(6), work(20)), options={"absorb_timeout_s": 10.0})
    pod.add_message("ann", "1", [], "m1")
    assert pod.absorb("ann") == 1
    pod.add_message("ann", "2", [], "m2")
    redis_client.delete(TAG + "claim")
    assert pod.absorb("ann") == 1
    assert left_ms[0] <= 15_000
    runtime.run()
    assert not redis_client.exists(TAG + "claim")


def test_fences_still_increase_after_redis_has_forgotten_the_last_one(
    make_durable: MakePod, ledger: MemoryLedger, redis_client: redis.Redis, runtime: VirtualRuntime
) -> None:
    agent = Agent(ledger)
    a = make_durable("A", memory=agent)
    for number in range(3):
        a.add_message("ann", str(number), [], str(number))
        assert a.absorb("ann") == 1
        runtime.sleep(1)
        redis_client.delete(TAG + "state")  # as if its time to live were over
    fences = [fence for _, fence in agent.sent]
    assert fences == sorted(set(fences), key=lambda fence: fence or 0)
    assert texts_of(ledger) == ["0", "1", "2"]


# -- what the memory agent refuses


def test_a_refused_message_does_not_keep_others_from_being_delivered(
    make_durable: MakePod,
    ledger: MemoryLedger,
    png: Path,
    runtime: VirtualRuntime,
    left: Callable[[], list[str]],
    redis_client: redis.Redis,
    letters: DeadLetters,
) -> None:
    pod = make_durable(memory=Agent(ledger))
    pod.add_message("ann", "1", [], "m1")
    (placeholder,) = pod.add_message("ann", "poison", [png], "m2")
    pod.add_message("ann", "3", [], "m3")
    runtime.run()
    assert pod.absorb("ann") == 3
    assert texts_of(ledger) == ["1", "3"]
    reason = "ValueError: poison"
    assert missing_of(ledger) == [
        {"type": "missing_message", "message_id": "m2", "reason": reason, "filenames": [str(png)]}
    ]
    assert letters.find("ann") == [{"user_id": "ann", "message_id": "m2", "reason": reason, "text": "poison"}]
    assert pod.upload_status(placeholder)["status"] == "completed"
    assert left() == [TAG + what for what in ("bytes", "dead", "state", "uploads")]
    pod.add_message("ann", "poison", [png], "m2")
    assert pod.absorb("ann") == 0  # it counts as the same message
    redis_client.delete(TAG + "done:m2")
    pod.add_message("ann", "poison", [png], "m2")
    assert pod.absorb("ann") == 0


def test_dead_letter_is_queued_again_with_its_images(
    make_durable: MakePod,
    ledger: MemoryLedger,
    png: Path,
    runtime: VirtualRuntime,
    left: Callable[[], list[str]],
    letters: DeadLetters,
) -> None:
    cured = make_durable("B")
    pod = make_durable("A", memory=Agent(ledger))
    pod.add_message("ann", "poison", [png], "m1")
    runtime.run()
    assert letters.requeue("ann", "m1")  # it is queued already
    assert not letters.requeue("ann", "m0")
    assert pod.absorb("ann") == 1
    assert letters.requeue("ann", "m1")
    assert letters.requeue("ann", "m1")
    assert letters.find("ann") == []
    assert cured.absorb("ann") == 1
    assert texts_of(ledger) == ["poison"]
    assert images_of(ledger) == ["https://files.test/1"]
    assert not letters.requeue("ann", "m1")
    assert left() == []


def test_dead_letters_without_a_pod(
    make_durable: MakePod, ledger: MemoryLedger, open_client: Callable[..., redis.Redis]
) -> None:
    pod = make_durable(memory=Agent(ledger), prefix="a[*]:")
    make_durable(memory=Agent(ledger), prefix="a1:").add_message("cid", "poison", [], "m1")
    for user in ("ann", "b{o}:b*"):
        pod.add_message(user, "poison", [], "m1")
        assert pod.absorb(user) == 1
    elsewhere = DeadLetters(open_client(), prefix="a[*]:")
    assert [(letter["user_id"], letter["text"]) for letter in elsewhere.find()] == [
        ("ann", "poison"),
        ("b{o}:b*", "poison"),
    ]
    assert elsewhere.requeue("ann", "m1")
    assert [letter["user_id"] for letter in elsewhere.find()] == ["b{o}:b*"]


def test_a_dead_letter_cannot_be_requeued_before_the_memory_agent_was_told_of_it(
    make_durable: MakePod, ledger: MemoryLedger, letters: DeadLetters
) -> None:
    pod = make_durable(memory=Agent(ledger, *[raises(ValueError("no"))] * 3, raises(ConnectionError())))
    pod.add_message("ann", "1", [], "m1")
    with pytest.raises(ConnectionError):
        pod.absorb("ann")
    with pytest.raises(ValueError, match="absorb first"):
        letters.requeue("ann", "m1")


def test_a_dead_letter_is_kept_even_if_the_agent_refuses_the_note_about_it(
    make_durable: MakePod, ledger: MemoryLedger, left: Callable[[], list[str]], letters: DeadLetters
) -> None:
    pod = make_durable(memory=Agent(ledger, *[raises(ValueError("no"))] * 6))
    pod.add_message("ann", "1", [], "m1")
    pod.add_message("bob", "2", [], "m2")
    assert pod.absorb("ann") == 0
    assert [letter["text"] for letter in letters.find("ann")] == ["1"]
    pod.add_message("ann", "3", [], "m3")
    assert pod.absorb("ann") == 1
    assert texts_of(ledger) == ["3"]


def test_an_unreachable_agent_does_not_count_as_a_refusal(
    make_durable: MakePod, ledger: MemoryLedger, lapse: Callable[[str], None], letters: DeadLetters
) -> None:
    wrapped = RuntimeError("cannot send")
    wrapped.__cause__ = ConnectionResetError()
    unreachable = (TimeoutError(), wrapped, redis.ConnectionError(), redis.exceptions.RedisClusterException())
    agent = Agent(ledger, *[raises(error) for error in unreachable])
    pod = make_durable(memory=agent)
    pod.add_message("ann", "1", [], "m1")
    for error in unreachable:
        with pytest.raises(type(error)):
            pod.absorb("ann")
        assert pod.absorb("ann") == 0
        lapse("claim")
    assert pod.absorb("ann") == 1
    assert len({batch for batch, _ in agent.sent}) == 1
    assert letters.find("ann") == []


def test_refusals_are_counted_and_forgotten(
    make_durable: MakePod, ledger: MemoryLedger, runtime: VirtualRuntime
) -> None:
    agent = Agent(ledger, *[raises(ValueError("not now"))] * 2)
    pod = make_durable(memory=agent)
    pod.add_message("ann", "1", [], "m1")
    before = runtime.now()
    assert pod.absorb("ann") == 1
    assert runtime.now() - before == 1.5
    agent._before = [raises(ValueError("not now"))] * 2
    pod.add_message("ann", "2", [], "m2")
    assert pod.absorb("ann") == 1
    assert missing_of(ledger) == []


# -- damage


def test_damaged_record_is_set_aside_and_reported(
    pod: DurablePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    redis_client: redis.Redis,
    left: Callable[[], list[str]],
    letters: DeadLetters,
) -> None:
    pod.add_message("ann", "1", [png], "m1")
    pod.add_message("ann", "2", [], "m2")
    runtime.run()
    redis_client.hset(TAG + "messages", "record/m1", '{"message_id": "m')
    assert pod.absorb("ann") == 2
    missing = {"message_id": "m1", "reason": "its record was damaged", "filenames": [str(png)]}
    assert parts_of(ledger) == [{"type": "missing_message", **missing}, {"type": "text", "text": "2"}]
    assert letters.find("ann") == [
        {"user_id": "ann", "message_id": "m1", "reason": "its record was damaged", "text": None}
    ]
    assert left() == [TAG + "dead"]


@pytest.mark.parametrize("damage", ['{"status":"comp', '{"status":"pending","re', "7", "[]", "null", None])
@pytest.mark.parametrize("keep", [True, False])
def test_upload_whose_status_is_damaged_is_done_again(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    redis_client: redis.Redis,
    damage: str | None,
    keep: bool,
    left: Callable[[], list[str]],
) -> None:
    """No reader gets a status that contradicts an earlier one: until it is known again, asking is an error."""
    pod = make_durable(options={"keep_bytes": keep})
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    uploads = TAG + "uploads"
    if damage is None:
        redis_client.hdel(uploads, placeholder["upload_uuid"])
    else:
        redis_client.hset(uploads, placeholder["upload_uuid"], damage)
        with pytest.raises(DamagedError, match=r"image\.png"):
            pod.upload_status(placeholder)
        (found,) = pod.upload_statuses([placeholder])
        assert isinstance(found, DamagedError)
    redis_client.delete(TAG + "lease:m1")
    assert pod.absorb("ann") == 0
    with pytest.raises(DamagedError):
        pod.upload_status(placeholder)
    runtime.run()
    status = "completed" if keep else "failed"
    assert pod.upload_status(placeholder)["status"] == status
    assert pod.absorb("ann") == 1
    assert len(images_of(ledger)) == (status == "completed")
    assert [part["reason"] for part in missing_of(ledger)] == (
        ["its bytes were not kept"] if status == "failed" else []
    )
    assert pod.upload_status(placeholder)["status"] == status
    assert left() == []


def test_status_that_is_damaged_while_its_batch_is_claimed(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    png: Path,
    redis_client: redis.Redis,
    lapse: Callable[[str], None],
) -> None:
    """The memory agent may have recorded the batch, so it is offered again whole or not at all."""
    agent = Agent(ledger, after=raises(ConnectionError("the agent's answer was lost")))
    a, b = make_durable("A", memory=agent), make_durable("B")
    a.add_message("ann", "1", [], "m1")
    (placeholder,) = a.add_message("ann", "2", [png], "m2")
    runtime.run()
    with pytest.raises(ConnectionError):
        a.absorb("ann")
    redis_client.hset(TAG + "uploads", placeholder["upload_uuid"], "{")
    for lease in ("claim", "lease:m2"):
        lapse(lease)
    assert b.absorb("ann") == 0
    runtime.run()
    assert b.absorb("ann") == 2
    assert texts_of(ledger) == ["1", "2"]
    assert images_of(ledger) == ["https://files.test/1"]


def test_damaged_done_record(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis, ledger: MemoryLedger
) -> None:
    placeholders = pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    assert pod.absorb("ann") == 1
    redis_client.set(TAG + "done:m1", '{"ima', keepttl=True)
    with pytest.raises(DamagedError):
        pod.upload_status(placeholders[0])
    assert pod.add_message("ann", "1", [png], "m1") == placeholders
    assert pod.absorb("ann") == 0


# -- statuses


def test_statuses_of_many(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, redis_client: redis.Redis
) -> None:
    pod = make_durable(options={"max_workers": 1})
    gemini.errors = [None, Exception(), *[None] * 9]
    gemini.errors[1] = type("Refused", (Exception,), {"code": 400})()
    placeholders = [
        pod.add_message(user, str(number), [png], str(number))[0] for number, user in enumerate(["ann", "bob", "ann"])
    ]
    runtime.run()
    pod.absorb("ann")
    placeholders += pod.add_message("ann", "more", [png], "more")
    placeholders.append({**placeholders[0], "message_id": "other", "upload_uuid": placeholders[0]["upload_uuid"][::-1]})
    placeholders[-1]["upload_uuid"] = "0f8fad5b-d9cb-469f-a165-70867728950e"
    expected = ["completed", "failed", "completed", "pending", "unknown"]
    assert [status["status"] for status in pod.upload_statuses(placeholders)] == expected
    assert pod.upload_statuses(placeholders) == [pod.upload_status(placeholder) for placeholder in placeholders]
    assert pod.upload_statuses([]) == []


def test_absorbed_upload_is_remembered_for_a_while(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis
) -> None:
    pod = make_durable(options={"remember_s": 20})
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    before = pod.upload_status(placeholder)
    assert pod.absorb("ann") == 1
    assert pod.upload_status(placeholder) == before
    assert 19_000 < redis_client.pttl(TAG + "done:m1") <= 20_000
    assert 19_000 < redis_client.pttl(TAG + "state") <= 20_000
    redis_client.delete(TAG + "done:m1")
    assert pod.upload_status(placeholder)["status"] == "unknown"


# -- what it costs


def test_round_trips_of_a_life(
    pod: DurablePod, runtime: VirtualRuntime, jpeg: Path, png: Path, redis_client: redis.Redis
) -> None:
    pod.add_message("bob", "every script is known from here on", [png], "m1")
    runtime.run()
    pod.absorb("bob")

    def sent() -> dict[str, int]:
        stats = redis_client.info("commandstats")
        redis_client.config_resetstat()
        return {name: entry["calls"] for name, entry in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval")}

    sent()
    placeholders = pod.add_message("ann", "1", [png, jpeg, png], "m1")
    assert sent() == {"cmdstat_evalsha": 1}
    runtime.run()
    assert sent() == {"cmdstat_evalsha": len(placeholders)}
    assert pod.absorb("ann") == 1
    assert sent() == {"cmdstat_evalsha": 2}


# -- the server


@pytest.mark.parametrize("durability", ["refuse", "warn", "off"])
def test_a_server_that_may_lose_acknowledged_writes(
    make_durable: MakePod, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    if durability == "refuse":
        with pytest.raises(NotDurableError, match="`appendonly yes`"):
            make_durable(options={"durability": durability})
        return
    make_durable(options={"durability": durability})
    assert ("appendonly yes" in caplog.text) == (durability == "warn")


KEEPS = {"appendonly": "yes", "appendfsync": "always"}


@pytest.mark.parametrize(
    ("config", "replicas", "change"),
    [
        (KEEPS, 0, None),
        ({}, 0, "`appendonly yes`"),
        ({**KEEPS, "appendfsync": "everysec"}, 0, "`appendfsync always`"),
        ({**KEEPS, "maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, 0, "`maxmemory-policy noeviction`"),
        ({**KEEPS, "maxmemory": "100mb", "maxmemory-policy": "noeviction"}, 0, None),
        (KEEPS, 1, "`wait_replicas`"),
    ],
)
def test_a_server_that_may_lose_data_is_told_which_setting_to_change(
    config: dict[str, str], replicas: int, change: str | None
) -> None:
    with EmbeddedServer(config=config) as server, connect(server.url) as client:
        found = list(damages(client, replicas=replicas))
    assert [change in one for one in found] == ([True] if change else [])


def test_every_node_of_a_cluster_is_asked() -> None:
    """What Cluster's client answers by itself is one node's."""

    class Cluster:
        def get_nodes(self) -> list[Any]:
            return [SimpleNamespace(name="n:1", client=good), SimpleNamespace(name="n:2", client=bad)]

        def get_redis_connection(self, node: Any) -> Any:
            return node.client

    with (
        EmbeddedServer(config=KEEPS) as keeps,
        EmbeddedServer() as loses,
        connect(keeps.url) as good,
        connect(loses.url) as bad,
    ):
        (said,) = damages(Cluster(), replicas=0)
    assert said.endswith("set `appendonly yes` and `appendfsync always` (on n:2)")


def test_a_server_that_hides_its_settings_is_not_trusted_to_keep_data(open_client: Callable[..., redis.Redis]) -> None:
    open_client().acl_setuser("shy", enabled=True, nopass=True, categories=["+@all"], commands=["-config"], keys=["*"])
    shy = open_client(username="shy", password="any")
    (said,) = damages(shy, replicas=0)
    assert said.startswith("CONFIG GET failed")
    open_client().acl_deluser("shy")


def test_client_that_decodes_replies(make_durable: MakePod, open_client: Callable[..., redis.Redis]) -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        make_durable(redis=open_client(decode_responses=True))


@pytest.mark.parametrize("option", [{"durability": "yes"}, {"keep_bytes": "no"}, {"lease_s": 0}, {"remember_s": 1}])
def test_options_are_checked(make_durable: MakePod, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        make_durable(options=option)


def test_restarted_pod_goes_on(
    make_durable: MakePod, runtime: VirtualRuntime, other_runtime: VirtualRuntime, png: Path, ledger: MemoryLedger
) -> None:
    """Failure mode 37, with the same randomness as before: it may go on at once where it still has a lease."""
    make_durable("A", runtime=other_runtime, rng=random.Random(1)).add_message("ann", "1", [png], "m1")
    again = make_durable("A", rng=random.Random(1))
    again.add_message("ann", "2", [png], "m2")
    assert again.absorb("ann") == 0
    runtime.run()
    assert again.absorb("ann") == 2
    assert texts_of(ledger) == ["1", "2"]
    assert len(images_of(ledger)) == 2
