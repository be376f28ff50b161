"""The failure modes of image uploads: one entry each, in the order of their numbers.

To add one, add an entry to SCENARIOS. `violates` and `spares` name the targets of this project that are expected
to violate it, `local` and `shared` unless it says otherwise, and those that its fault cannot strike; every other is
expected to hold.
"""

from __future__ import annotations

from functools import partial

from podrace.simulator.errors import UsageError
from podrace.simulator.scenarios.faults import CorruptKey, FailService, Kill, LoseConnection, TimePasses
from podrace.simulator.scenarios.model import Call, Ref, Scenario
from podrace.simulator.scenarios.uploads import POISON, UPLOADS, Uploads, absorb, add, ask
from podrace.simulator.world.steps import DROP_REPLY

NOBODY: frozenset[str] = frozenset()
LOCAL = frozenset({"local"})
SHARED = frozenset({"shared"})
DURABLE = frozenset({"durable"})

ONE = (add("m1", ["image-1"]),)
"""One message with one image."""
TEXT = (add("m1"),)
"""One message without images: what happens to it is the queue's doing alone."""
LEASE_S = 30.0
A, B, C = frozenset("A"), frozenset("B"), frozenset("C")

row_of_uploads = partial(Scenario, workload=UPLOADS, violates=frozenset({"local", "shared"}))

SCENARIOS: tuple[Scenario, ...] = (
    row_of_uploads(
        "foreign-pod",
        {"A": ONE, "B": (absorb("absorb", after=("m1",)),)},
        row=1,
        what="B absorbs a message whose upload A started",
        violates=LOCAL,
    ),
    row_of_uploads(
        "timeout-overwrites-completion",
        {"A": ONE},
        row=2,
        what="the timeout handler has seen pending, the worker completes, the handler writes failed",
        faults=(TimePasses(at_most_s=LEASE_S, since="add_message", until="gemini"),),
        violates=SHARED,
    ),
    row_of_uploads(
        "late-completion",
        {"A": ONE, "A.absorber": (absorb("absorb", after=("m1",)),)},
        row=3,
        what="the handler writes failed, an absorber skips the image and cleans up, then the worker completes",
        faults=(TimePasses(at_most_s=LEASE_S),),
    ),
    row_of_uploads(
        "queued-past-timeout",
        {"A": (add("m1", ["image-1", "image-2"]), absorb("absorb"))},
        row=4,
        what="more uploads than workers, and the time of one is over while it waits for its turn",
        faults=(TimePasses(at_most_s=LEASE_S),),
        options={"max_workers": 1},
    ),
    row_of_uploads(
        "pod-killed-mid-upload",
        {"A": ONE, "B": (add("m2", after=("m1",)),)},
        row=5,
        what="A dies while it uploads; nobody takes the upload over",
        faults=(Kill(pods=A),),
    ),
    row_of_uploads(
        "expired-before-absorbed",
        {"A": ONE, "B": (absorb("absorb", after=("m1",)),)},
        row=6,
        what="a completed status passes its time to live while the message waits",
        faults=(TimePasses(since="gemini", keys_only=True),),
    ),
    row_of_uploads(
        "crash-between-status-and-push",
        {"A": ONE, "B": (add("m2"),)},
        row=7,
        what="A dies after it wrote pending, before the message is in the queue",
        faults=(Kill(pods=A, during="add_message", until="RPUSH"),),
        violates=SHARED,
    ),
    row_of_uploads(
        "cleanup-while-resolving",
        {"A": (*ONE, absorb("absorb")), "A.reader": (ask("ask", "m1"),)},
        row=8,
        what="an absorber cleans up while a reader resolves the same placeholder",
    ),
    row_of_uploads(
        "same-placeholder-twice",
        {"A": (*ONE, add("m2", again=[("m1", 0)])), "A.absorber": (absorb("absorb", after=("m1",)),)},
        row=9,
        what="two messages carry one placeholder; the first clean-up takes it from the second",
    ),
    row_of_uploads(
        "corrupt-value",
        {"A": (*ONE, add("m2")), "A.absorber": (absorb("absorb", after=("m1",)),)},
        row=10,
        what="what a key holds is damaged",
        faults=(CorruptKey(during="absorb"),),
    ),
    row_of_uploads(
        "stale-local-copy",
        {"A": ONE, "B": (ask("ask-b", "m1"),), "A.reader": (ask("ask-a", "m1", after=("ask-b",)),)},
        row=11,
        what="Redis no longer knows an upload, the pod that started it still does: pods disagree",
        faults=(TimePasses(since="gemini", keys_only=True),),
    ),
    row_of_uploads(
        "crash-after-send",
        {"A": TEXT, "B": (absorb("absorb", after=("m1",)),)},
        row=12,
        what="an absorber delivers, and dies before it cleans up",
        faults=(Kill(pods=B, since="memory"),),
    ),
    row_of_uploads(
        "crash-before-send",
        {"A": TEXT, "B": (absorb("absorb", after=("m1",)),)},
        row=13,
        what="an absorber dies before it has delivered",
        faults=(Kill(pods=B, until="memory"),),
        violates=NOBODY,
    ),
    row_of_uploads(
        "trim-applied-twice",
        {"A": (add("m1"), add("m2")), "B": (absorb("absorb", after=("m1",)),)},
        row=14,
        what="the reply to LTRIM is lost and the client sends it again: twice as many leave",
        faults=(LoseConnection(actions=(DROP_REPLY,), commands=frozenset({"LTRIM"})),),
        retries=(1,),
    ),
    row_of_uploads(
        "lock-expires-mid-send",
        {
            "A": (add("m1"), add("m2")),
            "B": (absorb("absorb-b", after=("m1",)),),
            "C": (absorb("absorb-c", after=("m1",)),),
        },
        row=15,
        what="a slow absorber outlives its lock; a second one sends the same batch, and both trim",
        faults=(TimePasses(at_most_s=LEASE_S, keys_only=True),),
    ),
    row_of_uploads(
        "foreign-unlock",
        {
            "A": (add("m1"), add("m2", after=("m1",))),
            "B": (absorb("absorb-b", after=("m1",)),),
            "C": (absorb("absorb-c", after=("m2",)),),
            "D": (absorb("absorb-d", after=("m2",)),),
        },
        row=16,
        what="the plain DEL of an absorber whose lock has expired frees another's lock",
        faults=(TimePasses(pods=B, since="LTRIM", until="DEL", at_most_s=LEASE_S, keys_only=True),),
        spares=DURABLE,  # both are one script
    ),
    row_of_uploads(
        "push-applied-twice",
        {"A": TEXT},
        row=17,
        what="RPUSH is applied, its reply is lost, the client sends it again",
        faults=(LoseConnection(actions=(DROP_REPLY,)),),
        retries=(1,),
    ),
    row_of_uploads(
        "accept-unanswered",
        {"A": (add("m1", insist=True),)},
        row=18,
        what="the reply to accept is lost for good; the caller cannot know, and calls again with the same id",
        faults=(LoseConnection(actions=(DROP_REPLY,)),),
    ),
    row_of_uploads(
        "poison-message",
        {"A": (add("m1", text=f"a {POISON} message"), add("m2")), "B": (absorb("absorb", after=("m2",)),)},
        row=19,
        what="one message makes the memory agent refuse, every time",
    ),
    row_of_uploads(
        "paused-pod",
        {
            "A": (add("m1"), add("m2")),
            "B": (absorb("absorb-b", after=("m1",)),),
            "C": (absorb("absorb-c", after=("m1",)),),
        },
        row=20,
        what="an absorber stands still past every lease, then goes on as if nothing had happened",
        faults=(TimePasses(pods=B, since="absorb"),),
    ),
    row_of_uploads(
        "connection-dropped",
        {"A": (add("m1", insist=True), add("m2", insist=True)), "B": (absorb("absorb", after=("m1",)),)},
        row=26,
        what="a connection drops at any command, before or after the server applied it",
        faults=(LoseConnection(),),
        retries=(0, 1),
    ),
    row_of_uploads(
        "hostile-ids",
        {
            "A": (add("m1", user=None), add("m2", user="None"), add("m3", user="a*?{}:\n")),
            "B": (absorb("absorb", "None", after=("m2",)),),
        },
        row=28,
        what="ids with * ? { } : and newlines, empty, None",
    ),
    row_of_uploads(
        "missed-notification",
        {"A": ONE, "B": (Call("wait", "wait_for_upload", (Ref("m1", 0),), ("m1",)), absorb("absorb"))},
        row=29,
        what="completion is announced between a waiter's look and its subscription",
        violates=LOCAL,
    ),
    row_of_uploads(
        "expired-gemini-file",
        {"A": (*ONE, absorb("absorb"))},
        row=30,
        what="Gemini's file is over 48 h old when its message is absorbed",
        faults=(TimePasses(since="gemini.upload"),),
    ),
    row_of_uploads(
        "unready-gemini-file",
        {"A": (*ONE, absorb("absorb"))},
        workload=Uploads(processing_s=5.0),
        row=30,
        what="Gemini's file is still PROCESSING when its message is absorbed",
    ),
    row_of_uploads(
        "failed-gemini-file",
        {"A": (*ONE, absorb("absorb"))},
        workload=Uploads(fails=frozenset({"image-1"})),
        row=30,
        what="Gemini takes the file, and then fails to make it usable",
    ),
    row_of_uploads(
        "foreign-gemini-file",
        {"A": ONE, "B": (absorb("absorb", after=("m1",)),)},
        workload=Uploads(keys={"B": "another key"}),
        row=30,
        what="the pod that absorbs has another API key than the one that uploaded",
    ),
    row_of_uploads(
        "gemini-refuses",
        {"A": (*ONE, absorb("absorb"))},
        row=32,
        what="Gemini answers 503, never answers, or its reply is lost",
        faults=(FailService(service="gemini"),),
    ),
    row_of_uploads(
        "foreign-status",
        {"A": ONE, "B": (ask("ask", "m1"),)},
        row=34,
        what="another pod is asked for a status",
        violates=LOCAL,
    ),
    row_of_uploads(
        "two-absorbers",
        {
            "A": (add("m1"), add("m2")),
            "B": (absorb("absorb-b", after=("m1",)),),
            "C": (absorb("absorb-c", after=("m1",)),),
        },
        row=35,
        what="two pods absorb one user at once",
        violates=NOBODY,
    ),
    row_of_uploads(
        "same-id-twice",
        {"A": (add("m1", text="one message"),), "B": (add("m1-again", text="one message", message_id="m1"),)},
        row=36,
        what="one message id is handed in on two pods at once",
    ),
    row_of_uploads(
        "restarted-pod",
        {"A": (*ONE, add("m2"))},
        row=37,
        what="a killed pod starts again under its name",
        faults=(Kill(pods=A, restart=True),),
    ),
    row_of_uploads(
        "two-users",
        {
            "A": (add("m1"), add("m2", user="bob")),
            "B": (add("m3", user="bob"), absorb("absorb-b", after=("m1",))),
            "C": (absorb("absorb-c", user="bob", after=("m2",)),),
        },
        row=38,
        what="two users' messages interleave: nothing may cross over, the order of each is kept",
        violates=NOBODY,
    ),
    row_of_uploads(
        "subscriber-dropped",
        {"A": ONE, "B": (Call("wait", "wait_for_upload", (Ref("m1", 0),), ("m1",)), absorb("absorb"))},
        row=39,
        what="the connection on which a waiter listens is lost",
        faults=(LoseConnection(commands=frozenset()),),
        violates=LOCAL,
        spares=SHARED,
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
    raise UsageError(
        f"scenario {name!r}: there is none; near it: {', '.join(near)}; `podrace scenarios` lists all, "
        "module:NAME names one of your own"
    )
