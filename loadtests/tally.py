"""What became of every message and image of one process: accepted, delivered, lost, duplicated.

Cheap enough to run beside a load: one byte a message, and a set of those on their way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

ACCEPTED, DELIVERED, HAS_IMAGE, IMAGE_IN = 1, 2, 4, 8


class Tally:
    """The messages of one scenario. Message `n` carries image `n`, where it carries one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.outstanding: defaultdict[str, set[int]] = defaultdict(set)
        self._flags = bytearray()
        self._uploaded: dict[str, int] = {}

    def issue(self, *, image: bool) -> int:
        """The number of a new message that is about to be handed in."""
        self._flags.append(HAS_IMAGE if image else 0)
        return len(self._flags) - 1

    def text(self, number: int) -> str:
        return f"{self.name} message {number}"

    def accepted(self, user_id: str, number: int) -> None:
        """The pod has returned: from now on message and image are promised."""
        self._flags[number] |= ACCEPTED
        flags = self._flags[number]
        self.counts["accepted"] += 1 + bool(flags & HAS_IMAGE)
        if flags & DELIVERED:
            self._count_delivery(flags)
        else:
            self.outstanding[user_id].add(number)

    def uploaded(self, uri: str, number: int) -> None:
        """The Files API has stored image `number` under this URI."""
        self._uploaded[uri] = number

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str | None = None) -> None:
        """The memory agent: what arrives here has been delivered."""
        numbers = []
        for part in parts:
            if part["type"] == "text":
                numbers.append(int(part["text"].rsplit(" ", 1)[1]))
            elif part["type"] == "google_cloud_file_uri":
                image = self._uploaded.pop(part["google_cloud_file_uri"], None)
                if image is not None:
                    self._flags[image] |= IMAGE_IN
            elif numbers:  # an image that is named as missing is not lost: somebody was told
                self._flags[numbers[-1]] |= IMAGE_IN
        for number in numbers:
            if self._flags[number] & DELIVERED:
                self.counts["duplicated"] += 1
                continue
            self._flags[number] |= DELIVERED
            if self._flags[number] & ACCEPTED:
                waiting = self.outstanding[user_id]
                waiting.discard(number)
                if not waiting:
                    del self.outstanding[user_id]
                self._count_delivery(self._flags[number])

    def _count_delivery(self, flags: int) -> None:
        """A message that arrives without its image will never bring it: its placeholder is gone with it."""
        self.counts["delivered"] += 1 + bool(flags & IMAGE_IN)
        if flags & HAS_IMAGE and not flags & IMAGE_IN:
            self.counts["lost"] += 1

    def close(self, still_queued: Mapping[str, set[int]]) -> None:
        """After the last absorption: what still stands in a queue is stuck, what stands nowhere is lost."""
        for user_id, numbers in self.outstanding.items():
            for number in numbers:
                queued = number in still_queued.get(user_id, ())
                both = 1 + bool(self._flags[number] & HAS_IMAGE)
                self.counts["stuck" if queued else "lost"] += both
        self.outstanding.clear()
