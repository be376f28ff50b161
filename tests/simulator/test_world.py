"""The gates before Redis, Gemini and the memory agent, and what a fault at each of them does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as BrokenError
from redis.exceptions import ResponseError, WatchError

from podrace.simulator.scenarios.uploads import POISON, Memory
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.files_api import InProcessFiles
from podrace.simulator.servers.files_api.inprocess import unavailable
from podrace.simulator.world.client import gated_client, set_gate
from podrace.simulator.world.locks import VirtualLock
from podrace.simulator.world.pods import make_env
from podrace.simulator.world.services import Content, GatedService
from podrace.simulator.world.steps import (
    DROP_REPLY,
    DROP_REQUEST,
    FAIL,
    GO,
    HANG,
    TRANSACTION,
    PodKilledError,
    plain_reply,
)


class Script:
    """A gate that answers with the given actions, then with GO, and records what passes."""

    virtual = False
    answer: Any = None

    def __init__(self, *actions: str) -> None:
        self.actions = deque(actions)
        self.steps: list[tuple[Any, ...]] = []
        self.replies: list[Any] = []
        self.hung = False
        self.dead = False
        self.losses: list[BaseException] = []

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        if self.dead:
            raise PodKilledError
        self.steps.append((kind, *args))
        return self.actions.popleft() if self.actions else GO

    def after(self, reply: Any) -> None:
        self.replies.append(reply)

    def receive(self, connection: Any, seconds: float | None, what: str) -> bool:
        raise AssertionError("nothing blocks here")

    def lost(self, error: BaseException) -> None:
        self.losses.append(error)

    def hang(self) -> None:
        self.hung = True
        raise PodKilledError

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Does nothing: time stands still."""

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        function()

    def lock(self) -> AbstractContextManager[Any]:
        return nullcontext()


@pytest.fixture(params=[False, True], ids=["pool", "one connection"])
def client_of(
    request: pytest.FixtureRequest, server: EmbeddedServer, redis_client: redis.Redis
) -> Iterator[Callable[..., redis.Redis]]:
    """A gated client; `redis_client` inspects and empties the server."""
    clients = []

    def make(gate: Script, retries: int = 0) -> redis.Redis:
        client = gated_client(connect(server.url, retries=retries), gate, one_connection=request.param)
        clients.append(client)
        return client

    yield make
    for client in clients:
        set_gate(client, Script())
        client.close()


Make = Callable[..., redis.Redis]


def test_every_command_is_a_step(client_of: Make) -> None:
    gate = Script()
    client = client_of(gate)
    client.set("k", "v")
    assert client.get("k") == b"v"
    assert gate.steps == [("redis", "SET", "k", "v"), ("redis", "GET", "k")]
    assert [plain_reply(reply) for reply in gate.replies] == ["OK", "v"]


def test_a_dropped_request_never_reaches_the_server(client_of: Make, redis_client: redis.Redis) -> None:
    gate = Script(DROP_REQUEST)
    client = client_of(gate)
    with pytest.raises(BrokenError, match="the request was lost"):
        client.incr("k")
    assert redis_client.get("k") is None
    assert client.incr("k") == 1
    assert isinstance(gate.replies[0], BrokenError)


def test_a_dropped_reply_was_applied(client_of: Make, redis_client: redis.Redis) -> None:
    gate = Script(DROP_REPLY)
    client = client_of(gate)
    with pytest.raises(BrokenError, match="the reply was lost"):
        client.incr("k")
    assert redis_client.get("k") == b"1"
    assert client.incr("k") == 2


@pytest.mark.parametrize(("action", "applied"), [(DROP_REPLY, 2), (DROP_REQUEST, 1)])
def test_with_a_retry_the_clients_own_second_try_is_a_step_too(client_of: Make, action: str, applied: int) -> None:
    gate = Script(action)
    assert client_of(gate, retries=1).incr("k") == applied
    assert gate.steps == [("redis", "INCRBY", "k", 1)] * 2
    assert len(gate.replies) == 2


def test_a_retry_whose_reply_is_lost_too_breaks_the_call(client_of: Make, redis_client: redis.Redis) -> None:
    gate = Script(DROP_REPLY, DROP_REPLY)
    with pytest.raises(BrokenError):
        client_of(gate, retries=1).rpush("k", "v")
    assert redis_client.llen("k") == 2


def test_a_transaction_is_one_step(client_of: Make) -> None:
    gate = Script()
    pipe = client_of(gate).pipeline(transaction=True)
    assert pipe.set("a", 1).get("a").execute() == [True, b"1"]
    assert gate.steps == [("redis", TRANSACTION, ("MULTI",), ("SET", "a", 1), ("GET", "a"), ("EXEC",))]
    assert len(gate.replies) == 1


def test_a_pipeline_without_a_transaction_is_a_step_a_command(client_of: Make) -> None:
    """Another client's command can come between two of them."""
    gate = Script()
    pipe = client_of(gate).pipeline(transaction=False)
    assert pipe.set("a", 1).get("a").execute() == [True, b"1"]
    assert gate.steps == [("redis", "SET", "a", 1), ("redis", "GET", "a")]
    assert [plain_reply(reply) for reply in gate.replies] == ["OK", "1"]


def test_a_pipeline_that_breaks_in_the_middle_was_done_up_to_there(client_of: Make, redis_client: redis.Redis) -> None:
    gate = Script(GO, DROP_REPLY)
    client = client_of(gate)
    with pytest.raises(BrokenError), client.pipeline(transaction=False) as pipe:
        pipe.set("a", 1).set("b", 1).set("c", 1).execute()
    assert redis_client.mget("a", "b", "c") == [b"1", b"1", None]
    assert client.incr("d") == 1


@pytest.mark.parametrize(("action", "held"), [(DROP_REPLY, b"1"), (DROP_REQUEST, None)])
def test_a_transaction_is_lost_or_applied_as_a_whole(
    client_of: Make, redis_client: redis.Redis, action: str, held: bytes | None
) -> None:
    gate = Script(action)
    client = client_of(gate)
    with pytest.raises(BrokenError), client.pipeline() as pipe:
        pipe.set("a", 1).set("b", 1).execute()
    assert redis_client.mget("a", "b") == [held, held]
    with client.pipeline() as pipe:
        assert pipe.incr("c").execute() == [1]


def test_an_error_of_the_server_is_the_steps_reply(client_of: Make, redis_client: redis.Redis) -> None:
    gate = Script()
    redis_client.set("k", "text")
    client = client_of(gate)
    with pytest.raises(ResponseError, match="not an integer"):
        client.incr("k")
    assert isinstance(gate.replies[0], ResponseError)
    assert client.get("k") == b"text"
    assert plain_reply(gate.replies[0]).startswith("ResponseError: value is not an integer")


def test_the_dropped_reply_of_an_error_is_lost_too(client_of: Make, redis_client: redis.Redis) -> None:
    redis_client.set("k", "text")
    client = client_of(Script(DROP_REPLY))
    with pytest.raises(BrokenError):
        client.incr("k")
    assert client.get("k") == b"text"


def test_a_watched_key_that_changes_ends_the_transaction(client_of: Make, redis_client: redis.Redis) -> None:
    gate = Script()
    with client_of(gate).pipeline() as pipe:
        pipe.watch("k")
        redis_client.set("k", "changed")
        pipe.multi()
        pipe.set("k", "ours")
        with pytest.raises(WatchError):
            pipe.execute()
    assert redis_client.get("k") == b"changed"
    assert gate.steps[0] == ("redis", "WATCH", "k")


def test_a_pod_that_dies_while_it_watches_takes_no_further_step(client_of: Make) -> None:
    """redis-py sends UNWATCH when it resets the pipeline, but a dead pod must not."""
    gate = Script()
    client = client_of(gate)

    def watch_and_die() -> None:
        with client.pipeline() as pipe:
            pipe.watch("k")
            gate.dead = True
            pipe.get("k")

    with pytest.raises(PodKilledError):
        watch_and_die()
    assert gate.steps == [("redis", "WATCH", "k")]
    after = Script()
    set_gate(client, after)
    assert client.pipeline().set("k", 1).execute() == [True]
    assert [step[1] for step in after.steps] == [TRANSACTION]


def test_an_argument_that_redis_py_refuses_is_the_callers_error(client_of: Make) -> None:
    client = client_of(Script())
    with pytest.raises(redis.DataError):
        client.set("k", ["no", "text"])  # type: ignore[arg-type]
    assert client.set("k", "text")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"content")
    return path


def gated_files(files: InProcessFiles, gate: Script) -> Any:
    return GatedService("gemini", files, gate, unavailable)


def test_a_call_of_a_service_passes_the_gate(image: Path) -> None:
    gate, files = Script(), InProcessFiles()
    uploaded = gated_files(files, gate).upload(file=image)
    assert gate.steps == [("service", "gemini", "upload", (), {"file": image})]
    assert gate.replies == [uploaded]
    assert len(files.files()) == 1


def test_the_step_of_an_upload_shows_the_readable_content_of_an_open_file(image: Path) -> None:
    gate, files = Script(), InProcessFiles()
    with image.open("rb") as opened:
        gated_files(files, gate).upload(file=opened, config={"mime_type": "image/png"})
    assert gate.steps[0][4]["file"] == Content(b"content")
    (stored,) = files.files().values()
    assert stored.size_bytes == len(b"content")


@pytest.mark.parametrize(("action", "stored"), [(FAIL, 0), (DROP_REPLY, 1)])
def test_a_failed_upload_is_the_services_503(image: Path, action: str, stored: int) -> None:
    from google.genai.errors import ServerError

    gate, files = Script(action), InProcessFiles()
    with pytest.raises(ServerError, match="503 UNAVAILABLE"):
        gated_files(files, gate).upload(file=image)
    assert len(files.files()) == stored
    assert isinstance(gate.replies[0], ServerError)


def test_a_service_that_has_no_error_of_its_own_breaks_as_a_connection_does() -> None:
    gate = Script(FAIL)
    with pytest.raises(ConnectionError, match="the service is not available"):
        GatedService("memory", Memory(), gate).send("alice", [])


def test_a_call_that_hangs_never_comes_back(image: Path) -> None:
    gate, files = Script(HANG), InProcessFiles()
    with pytest.raises(PodKilledError):
        gated_files(files, gate).upload(file=image)
    assert gate.hung
    assert not files.files()


def test_uploading_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    gate = Script()
    with pytest.raises(FileNotFoundError):
        gated_files(InProcessFiles(), gate).upload(file=tmp_path / "none.png")
    assert isinstance(gate.replies[0], FileNotFoundError)


def test_what_is_sent_is_a_copy_as_it_was_before_the_step() -> None:
    """The caller may change the parts while the step waits, and afterwards."""
    parts = [{"type": "text", "text": "as it was"}]
    gate, memory = Script(), Memory()
    gate.before = lambda kind, args: parts[0].update(text="changed") or GO  # type: ignore[method-assign,func-returns-value]
    GatedService("memory", memory, gate).send("alice", parts)
    assert memory.batches()[0][2] == [{"type": "text", "text": "as it was"}]


def test_a_batch_passes_the_gate_and_its_id_counts_once() -> None:
    gate, memory = Script(), Memory()
    gated = GatedService("memory", memory, gate)
    for _ in range(2):
        gated.send("alice", [{"type": "text", "text": "hello"}], batch_id="1")
    gated.send("alice", [{"type": "text", "text": "hello"}])
    assert [batch[0] for batch in memory.batches()] == ["1", "batch-2"]
    assert gate.replies == [None] * 3


def test_a_poisoned_batch_is_refused_and_not_recorded() -> None:
    gate, memory = Script(), Memory()
    with pytest.raises(ValueError, match="cannot take"):
        GatedService("memory", memory, gate).send("alice", [{"type": "text", "text": f"a {POISON}"}])
    assert memory.batches() == []
    assert isinstance(gate.replies[0], ValueError)


def test_a_lock_is_re_entrant_and_lets_others_wait_at_the_gate() -> None:
    me = ["A"]
    gate = Script()
    lock = VirtualLock(gate, lambda: me[0])
    with lock, lock:
        assert not lock.free
    assert lock.free
    assert gate.steps == []
    lock.acquire()
    me[0] = "B"
    gate.before = lambda kind, args: lock.release() or GO  # type: ignore[method-assign,func-returns-value]
    lock.acquire()
    assert gate.replies == ["free"]
    assert not lock.free
    assert lock == VirtualLock(gate, lambda: "C")


@pytest.fixture
def env_of(client_of: Make) -> Callable[..., Any]:
    def make(name: str = "A", seed: int = 7, incarnation: int = 1) -> Any:
        gate = Script()
        return make_env(
            name=name,
            gate=gate,
            client=client_of(gate),
            prefix="p:",
            services={"memory": Memory()},
            seed=seed,
            incarnation=incarnation,
            options={},
            failures={},
        )

    return make


def test_a_pods_randomness_comes_from_the_seed_its_name_and_how_often_it_was_started(
    env_of: Callable[..., Any],
) -> None:
    assert env_of().rng.random() == env_of().rng.random()
    others = [env_of(), env_of("B"), env_of(seed=8), env_of(incarnation=2)]
    assert len({env.rng.random() for env in others}) == 4


def test_a_service_can_be_reached_by_name_and_as_an_attribute(env_of: Callable[..., Any]) -> None:
    env = env_of()
    assert env.memory is env.services["memory"]
    with pytest.raises(AttributeError, match="the environment has no gemini; its services: memory"):
        _ = env.gemini


def test_a_connection_that_breaks_without_a_fault_is_reported(server: EmbeddedServer) -> None:
    gate = Script()
    client = gated_client(connect("unix:///nowhere/redis.sock"), gate)
    with pytest.raises(BrokenError):
        client.get("k")
    assert [type(error) for error in gate.losses] == [BrokenError]
