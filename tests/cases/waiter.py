"""A waiter that looks first and then subscribes: a message published in between reaches nobody."""

from __future__ import annotations

from cases.common import Pod
from podrace import Call, Scenario


class Broken(Pod):
    def finish(self) -> None:
        self.redis.set(self.key("done"), 1, ex=3600)
        self.redis.publish(self.key("news"), "done")

    def wait(self) -> str:
        if self.text("done"):
            return "was done"
        with self.redis.pubsub() as news:
            news.subscribe(self.key("news"))
            for message in news.listen():
                if message["type"] == "message":
                    return "was told"
        return "left alone"


class Mended(Broken):
    """Subscribes, waits for the confirmation, then looks, and looks again from time to time."""

    def wait(self) -> str:
        with self.redis.pubsub() as news:
            news.subscribe(self.key("news"))
            while (message := news.get_message(timeout=5)) is None or message["type"] != "subscribe":
                pass
            while not self.text("done"):
                news.get_message(timeout=5)
        return "was done"


SCENARIO = Scenario("waiter", lines={"A": [Call("wait", "wait")], "B": [Call("finish", "finish")]})
