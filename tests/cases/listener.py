"""A listener in a background task: its loop ends with its connection, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis.exceptions import ConnectionError as LostConnectionError

from cases.common import Effects, Pod, entries
from podrace import Call, Finding, LoseConnection, Run, Scenario


class Broken(Pod):
    """One loop over listen(); a PUBLISH with 0 receivers is treated as success."""

    def start(self) -> None:
        news = self.redis.pubsub()
        news.subscribe(self.key("news"))
        news.get_message(timeout=5)
        self.env.runtime.spawn("listener", lambda: self.listen(news))

    def listen(self, news: Any) -> None:
        for message in news.listen():
            if message["type"] == "message":
                self.env.ledger.put(message["data"].decode())

    def send(self, text: str) -> str:
        self.redis.publish(self.key("news"), text)
        return "sent"


class Mended(Broken):
    """A key holds the last message; after a lost connection it subscribes again and then reads the key."""

    def start(self) -> None:
        self.seen: set[str] = set()
        self.env.runtime.spawn("listener", self.listen_for_ever)

    def listen_for_ever(self) -> None:
        while True:
            try:
                with self.redis.pubsub() as news:
                    news.subscribe(self.key("news"))
                    for _ in news.listen():  # the first message is the confirmation
                        self.look()
            except LostConnectionError:
                self.env.runtime.sleep(1)

    def look(self) -> None:
        last = self.text("last")
        if last is not None and last not in self.seen:
            self.env.ledger.put(last)
            self.seen.add(last)

    def send(self, text: str) -> str:
        self.redis.set(self.key("last"), text, ex=24 * 3600)
        return super().send(text)


def what_was_sent_arrives(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.value == "sent" and call.args[0] not in entries(run):
            yield Finding("lost", str(call.args[0]), f"{call.args[0]} was sent, and nobody has seen it")


SCENARIO = Scenario(
    "listener in the background",
    lines={"A": [Call("start", "start")], "B": [Call("send", "send", ("m1",), after=("start",))]},
    faults=[LoseConnection(pods=frozenset("A"), since="start")],
    workload=Effects(),
    checks=[what_was_sent_arrives],
)
