"""The catalogue: one entry a failure mode. To add a scenario, add an entry to SCENARIOS.

A scenario is a workload (lines of calls, one actor each), the faults that it allows, what the pods'
options are, and which targets are expected to violate the promise in it. `row` is the failure mode's
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podrace.simulator.errors import UsageError
from podrace.simulator.judge.checks import HOLDS, VIOLATED
from podrace.simulator.scenarios.faults import (
    CorruptKey,
    EarlyTimer,
    ExpireKey,
    FailGemini,
    Fault,
    Kill,
    LoseConnection,
    Pause,
)
from podrace.simulator.world.gates import DROP_REPLY, POISON

ALICE = "alice"


@dataclass(frozen=True)
class Add:
    """A client hands a message in. Its name stands for it in `after`.

    `images` are new files by name; `again` are images of an earlier message, handed in by their
    placeholders. `insist`: the client calls again, with the same id, while it cannot know.
    """

    message: str
    images: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    user: Any = ALICE
    text: str = ""
    insist: bool = False
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.message


@dataclass(frozen=True)
class Absorb:
    """Some pod absorbs a user's messages."""

    name: str
    user: Any = ALICE
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ask:
    """A client asks for an image's upload status."""

    name: str
    image: str
    after: tuple[str, ...] = ()


Call = Add | Absorb | Ask


@dataclass(frozen=True)
class Scenario:
    """`lines`: actor (`A`, or `A.reader` for a second line in pod A) to its calls, made one after the other."""

    name: str
    row: int
    lines: Mapping[str, tuple[Call, ...]]
    what: str
    faults: tuple[Fault, ...] = ()
    needs_fault: bool = False
    """Judge only runs that a fault has struck: where none can strike, the row does not apply."""
    options: Mapping[str, Any] = field(default_factory=dict)
    retries: tuple[int, ...] = (0,)
    """The client's own retries of a command; each setting is explored."""
    violates: frozenset[str] = frozenset()
    """Targets that are expected to violate it, by name; every other is expected to hold."""

    def expected(self, target: str) -> str:
        return VIOLATED if target in self.violates else HOLDS


BOTH = frozenset({"local", "shared"})
LOCAL = frozenset({"local"})
SHARED = frozenset({"shared"})

ONE = (Add("m1", images=("image-1",)),)
"""One message with one image."""
TEXT = (Add("m1"),)
"""One message without images: what happens to it is the queue's doing alone."""
LOCK_MS = 60_000

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "foreign-pod",
        1,
        {"A": ONE, "B": (Absorb("absorb", after=("m1",)),)},
        "B absorbs a message whose upload A started",
        violates=LOCAL,
    ),
    Scenario(
        "timeout-overwrites-completion",
        2,
        {"A": ONE, "B": (Add("m2"),)},
        "the timeout handler has seen pending, the worker completes, the handler writes failed",
        faults=(EarlyTimer(),),
        violates=SHARED,
    ),
    Scenario(
        "late-completion",
        3,
        {"A": ONE, "A.absorber": (Absorb("absorb", after=("m1",)),)},
        "the handler writes failed, an absorber skips the image and cleans up, then the worker completes",
        faults=(EarlyTimer(),),
        violates=BOTH,
    ),
    Scenario(
        "queued-past-timeout",
        4,
        {"A": (Add("m1", images=("image-1", "image-2")), Absorb("absorb"))},
        "more uploads than workers, and the time of one is over while it waits for its turn",
        faults=(EarlyTimer(),),
        options={"max_workers": 1},
        violates=BOTH,
    ),
    Scenario(
        "pod-killed-mid-upload",
        5,
        {"A": ONE, "B": (Add("m2", after=("m1",)),)},
        "A dies while it uploads; nobody takes the upload over",
        faults=(Kill(pods=frozenset("A")),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "expired-before-absorbed",
        6,
        {"A": ONE, "B": (Absorb("absorb", after=("m1",)),)},
        "a completed status passes its time to live while the message waits",
        faults=(ExpireKey(json_only=True),),
        needs_fault=True,
        violates=SHARED,
    ),
    Scenario(
        "crash-between-status-and-push",
        7,
        {"A": ONE, "B": (Add("m2"),)},
        "A dies after it wrote pending, before the message is in the queue",
        faults=(Kill(pods=frozenset("A"), accepting=True),),
        needs_fault=True,
        violates=SHARED,
    ),
    Scenario(
        "cleanup-while-resolving",
        8,
        {"A": (*ONE, Absorb("absorb")), "A.reader": (Ask("ask", "image-1", after=("m1",)),)},
        "an absorber cleans up while a reader resolves the same placeholder",
        violates=BOTH,
    ),
    Scenario(
        "same-placeholder-twice",
        9,
        {
            "A": (*ONE, Add("m2", again=("image-1",))),
            "A.absorber": (Absorb("absorb", after=("m1",)),),
        },
        "two messages carry one placeholder; the first clean-up takes it from the second",
        violates=BOTH,
    ),
    Scenario(
        "corrupt-value",
        10,
        {"A": (*ONE, Add("m2"))},
        "a stored status is damaged",
        faults=(CorruptKey(),),
        needs_fault=True,
        violates=SHARED,
    ),
    Scenario(
        "stale-local-copy",
        11,
        {
            "A": ONE,
            "B": (Ask("ask-b", "image-1", after=("m1",)),),
            "A.reader": (Ask("ask-a", "image-1", after=("ask-b",)),),
        },
        "Redis no longer knows an upload, the pod that started it still does: pods disagree",
        faults=(ExpireKey(json_only=True),),
        needs_fault=True,
        violates=SHARED,
    ),
    Scenario(
        "crash-after-send",
        12,
        {"A": TEXT, "B": (Absorb("absorb", after=("m1",)),)},
        "an absorber delivers, and dies before it cleans up",
        faults=(Kill(pods=frozenset("B"), since="memory"),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "crash-before-send",
        13,
        {"A": TEXT, "B": (Absorb("absorb", after=("m1",)),)},
        "an absorber dies before it has delivered",
        faults=(Kill(pods=frozenset("B"), until="memory"),),
        needs_fault=True,
    ),
    Scenario(
        "trim-applied-twice",
        14,
        {"A": (Add("m1"), Add("m2")), "B": (Absorb("absorb", after=("m1",)),)},
        "the reply to LTRIM is lost and the client sends it again: twice as many leave",
        faults=(LoseConnection(actions=(DROP_REPLY,), commands=frozenset({"LTRIM"})),),
        needs_fault=True,
        retries=(1,),
        violates=BOTH,
    ),
    Scenario(
        "lock-expires-mid-send",
        15,
        {
            "A": (Add("m1"), Add("m2")),
            "B": (Absorb("absorb-b", after=("m1",)),),
            "C": (Absorb("absorb-c", after=("m1",)),),
        },
        "a slow absorber outlives its lock; a second one sends the same batch, and both trim",
        faults=(ExpireKey(longest_ms=LOCK_MS),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "foreign-unlock",
        16,
        {
            "A": (Add("m1"), Add("m2", after=("m1",))),
            "B": (Absorb("absorb-b", after=("m1",)),),
            "C": (Absorb("absorb-c", after=("m2",)),),
            "D": (Absorb("absorb-d", after=("m2",)),),
        },
        "the plain DEL of an absorber whose lock has expired frees another's lock",
        faults=(ExpireKey(longest_ms=LOCK_MS, pods=frozenset("C"), since="LTRIM", until=(frozenset("CD"), "SET")),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "push-applied-twice",
        17,
        {"A": TEXT},
        "RPUSH is applied, its reply is lost, the client sends it again",
        faults=(LoseConnection(actions=(DROP_REPLY,)),),
        needs_fault=True,
        retries=(1,),
        violates=BOTH,
    ),
    Scenario(
        "accept-unanswered",
        18,
        {"A": (Add("m1", insist=True),)},
        "the reply to accept is lost for good; the caller cannot know, and calls again with the same id",
        faults=(LoseConnection(actions=(DROP_REPLY,)),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "poison-message",
        19,
        {"A": (Add("m1", text=f"a {POISON} message"), Add("m2")), "B": (Absorb("absorb", after=("m2",)),)},
        "one message makes the memory agent refuse, every time",
        violates=BOTH,
    ),
    Scenario(
        "paused-pod",
        20,
        {
            "A": (Add("m1"), Add("m2")),
            "B": (Absorb("absorb-b", after=("m1",)),),
            "C": (Absorb("absorb-c", after=("m1",)),),
        },
        "an absorber stands still past every lease, then goes on as if nothing had happened",
        faults=(Pause(pods=frozenset("B")),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "connection-dropped",
        26,
        {"A": (Add("m1", insist=True), Add("m2", insist=True)), "B": (Absorb("absorb", after=("m1",)),)},
        "a connection drops at any command, before or after the server applied it",
        faults=(LoseConnection(),),
        needs_fault=True,
        retries=(0, 1),
        violates=BOTH,
    ),
    Scenario(
        "gemini-refuses",
        32,
        {"A": (*ONE, Absorb("absorb"))},
        "Gemini answers 503, never answers, or its reply is lost",
        faults=(FailGemini(),),
        needs_fault=True,
        violates=BOTH,
    ),
    Scenario(
        "hostile-ids",
        28,
        {
            "A": (Add("m1", user=None), Add("m2", user="None"), Add("m3", user="a*?{}:\n")),
            "B": (Absorb("absorb", "None", after=("m2",)),),
        },
        "ids with * ? { } : and newlines, empty, None",
        violates=BOTH,
    ),
)


def find(name: str) -> Scenario:
    """The scenario of that name; UsageError, with near names, where there is none."""
    for scenario in SCENARIOS:
        if scenario.name == name:
            return scenario
    from difflib import get_close_matches

    names = [scenario.name for scenario in SCENARIOS]
    near = get_close_matches(name, names, 3, 0.3) or names[:3]
    raise UsageError(f"scenario {name!r}: there is none; near it: {', '.join(near)}; `podrace scenarios` lists all")
