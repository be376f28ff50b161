"""`podrace dead-letters`, on a server with messages that the memory agent has refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import redis

from podrace.reference.durable import DurablePod
from podrace.reference.runtime import ThreadRuntime
from podrace.simulator.app.cli import main
from podrace.simulator.scenarios.uploads import POISON, Memory
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.files_api import InProcessFiles
from podrace.simulator.target import PodEnv

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def client(server: EmbeddedServer) -> Any:
    with connect(server.url) as made:
        made.flushall()
        yield made


@pytest.fixture
def pod(client: redis.Redis) -> DurablePod:
    env = PodEnv(
        name="A",
        redis=client,
        prefix="mirix:",
        services={"gemini": InProcessFiles(), "memory": Memory()},
        runtime=ThreadRuntime(),
        rng=random.Random(7),
        options={"absorb_limit": 1, "durability": "off", "send_attempts": 1},
    )
    return DurablePod(env)


@pytest.fixture
def podrace(server: EmbeddedServer, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, url: str = server.url) -> tuple[int, str, str]:
        code = 0
        try:
            main(["dead-letters", "--redis-url", url, *arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def refuse(pod: DurablePod, user: str, message_id: str) -> None:
    pod.add_message(user, f"a {POISON} message", [], message_id)
    assert pod.absorb(user) == 1


def test_a_server_without_dead_letters_lists_none(client: redis.Redis, podrace: Run) -> None:
    assert podrace() == (0, "0 dead letters\n", "")
    assert json.loads(podrace("--json")[1]) == {"requeued": False, "dead_letters": []}
    assert client.keys() == []


def test_dead_letters_are_listed_for_all_users_or_for_one(pod: DurablePod, podrace: Run) -> None:
    refuse(pod, "ann", "m1")
    refuse(pod, "b{*}\n", "m2")
    code, out, _ = podrace()
    assert code == 0
    assert out.splitlines() == [
        "'ann'  'm1'  ValueError: the memory agent cannot take this batch",
        "'b{*}\\n'  'm2'  ValueError: the memory agent cannot take this batch",
        "2 dead letters",
    ]
    (letter,) = json.loads(podrace("--json", "--user", "ann")[1])["dead_letters"]
    assert letter == {
        "user_id": "ann",
        "message_id": "m1",
        "reason": "ValueError: the memory agent cannot take this batch",
        "text": "a poison message",
    }
    assert podrace("--prefix", "other:")[1] == "0 dead letters\n"


def test_a_dead_letter_is_queued_again(pod: DurablePod, podrace: Run, client: redis.Redis) -> None:
    refuse(pod, "ann", "m1")
    assert podrace("--requeue", "m1") == (0, "message m1 of user ann waits in its queue again\n", "")
    assert client.lrange("mirix:durable:{ann}:queue", 0, -1) == [b"m1"]
    code, _, err = podrace("--requeue", "m1")
    assert (code, err.startswith("podrace: --requeue 'm1': there is no such dead letter")) == (2, True)
    assert client.lrange("mirix:durable:{ann}:queue", 0, -1) == [b"m1"]


def test_an_id_of_two_users_needs_the_user(pod: DurablePod, podrace: Run) -> None:
    for user in ("ann", "bob"):
        refuse(pod, user, "m1")
    code, _, err = podrace("--requeue", "m1")
    assert (code, "say whose with --user" in err) == (2, True)
    assert json.loads(podrace("--requeue", "m1", "--user", "bob", "--json")[1])["dead_letters"][0]["user_id"] == "bob"
    assert json.loads(podrace("--json")[1])["dead_letters"][0]["user_id"] == "ann"


@pytest.mark.parametrize(
    ("arguments", "url", "says"),
    [
        ((), "unix:///nowhere/redis.sock", "No such file"),
        ((), "redis://:hunter2@localhost:1", "Connection refused"),
        ((), "http://localhost", "http://localhost"),
        ((), "redis+sentinel://:hunter2@localhost:1/", "NAME"),
        ((), "redis+sentinel://:hunter2@localhost:1/pods?db=x", "?db=N"),
        ((), "redis+sentinel://:hunter2@localhost:1,localhost:2/pods", "no Sentinel that answers knows a primary"),
        ((), "redis+sentinel://localhost/pods", "expected host:port"),
        ((), "redis+cluster://:hunter2@localhost:1,localhost:2", "no node of a Cluster answers"),
        ((), "redis+cluster://", "expected host:port"),
        ((), "redis+cluster://localhost:99999", "expected host:port"),
        (("--user", ""), "", "user id"),
        (("--user", "x" * 1000), "", "user id"),
        (("--requeue", "m\n1"), "", "there is no such dead letter"),
    ],
)
def test_wrong_use_is_one_line(
    podrace: Run, client: redis.Redis, arguments: tuple[str, ...], url: str, says: str
) -> None:
    code, out, err = podrace(*arguments, **({"url": url} if url else {}))
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert "hunter2" not in err
    assert client.keys() == []


def test_a_server_that_does_not_answer_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PODRACE_REDIS_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["dead-letters"])
    assert ended.value.code == 2
    assert "--redis-url" in capsys.readouterr().err
