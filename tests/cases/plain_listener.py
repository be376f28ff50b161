"""A listener in a thread of its own: nothing here knows of podrace."""

import threading
import time

import redis


class Listener:
    """One loop over listen(); a PUBLISH with 0 receivers is treated as success."""

    def __init__(self, show):
        self.redis = redis.Redis(decode_responses=True)
        self.show = show

    def start(self):
        news = self.redis.pubsub()
        news.subscribe("news")
        news.get_message(timeout=5)
        threading.Thread(target=self._listen, args=(news,), name="listener", daemon=True).start()

    def _listen(self, news):
        for message in news.listen():
            if message["type"] == "message":
                self.show(message["data"])

    def send(self, text):
        self.redis.publish("news", text)
        return "sent"


class Returning(Listener):
    """A key holds the last message; after a lost connection it subscribes again and then reads the key."""

    def start(self):
        self.seen = set()
        threading.Thread(target=self._listen_for_ever, name="listener", daemon=True).start()

    def _listen_for_ever(self):
        while True:
            try:
                with self.redis.pubsub() as news:
                    news.subscribe("news")
                    for _ in news.listen():  # the first message is the confirmation
                        self._look()
            except redis.ConnectionError:
                time.sleep(1)

    def _look(self):
        last = self.redis.get("last")
        if last is not None and last not in self.seen:
            self.show(last)
            self.seen.add(last)

    def send(self, text):
        self.redis.set("last", text, ex=24 * 3600)
        return super().send(text)
