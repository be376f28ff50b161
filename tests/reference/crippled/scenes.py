"""Scenarios that the catalogue has not: each is there to make one safeguard of `durable` matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podrace.simulator.judge.findings import Finding
from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.faults import CorruptKey, FailService, LoseConnection, TimePasses
from podrace.simulator.scenarios.model import Call, Ref, Scenario
from podrace.simulator.scenarios.uploads import POISON, UPLOADS, Uploads, absorb, add, ask
from podrace.simulator.world.steps import DROP_REPLY, FAIL

ONE = (add("m1", ["image-1"]),)
A, B = frozenset("A"), frozenset("B")
LEASE_S = 15.0
KEEPS = ("durable:{*}:done:*", "durable:{*}:state", "durable:{*}:dead")


@dataclass(frozen=True)
class _OneAtATime:
    """A memory agent that refuses what has several messages and was not recorded before."""

    inner: Any

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str, fence: int | None) -> None:
        known = [(user, name) for name, user, _ in self.inner.memory.batches()]
        if (user_id, batch_id) not in known and sum(part["type"] == "text" for part in parts) > 1:
            raise ValueError("one message at a time")
        self.inner.send(user_id, parts, batch_id=batch_id, fence=fence)


@dataclass(frozen=True, kw_only=True)
class _ChoosyForC(Uploads):
    """Pod C has another agent than the others, over the same memory."""

    def service_for(self, pod: str, service: str, inner: Any) -> Any:
        made = super().service_for(pod, service, inner)
        return _OneAtATime(made) if (pod, service) == ("C", "memory") else made


def nothing_is_missing(run: Run) -> Iterator[Finding]:
    """Stricter than the promise: whatever struck, it was not enough to give up a message or an image."""
    for _, _, parts in run.services["memory"].batches():
        for part in parts:
            if str(part["type"]).startswith("missing") and POISON not in str(part.get("message_id")):
                name = str(part.get("filename") or part.get("message_id"))
                yield Finding("lost", name, f"{name} was given up for nothing: {part['reason']}")


def every_call_returns(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "wait_for_upload" and call.type != "ok":
            yield Finding("stuck", call.name, f"{call.name} ended as {call.type}: {call.error}")


ABSORBED_BEFORE_THE_RETRY = Scenario(
    "absorbed-before-the-retry",
    {"A": (add("m1", insist=True),), "B": (absorb("absorb"),)},
    workload=UPLOADS,
    faults=(LoseConnection(pods=A, actions=(DROP_REPLY,)),),
    what="the reply to accept is lost, the message is absorbed, and only then the caller calls again",
)
LATE_COMPLETION_TOLD = Scenario(
    "late-completion-told",
    {"A": ONE, "B": (absorb("absorb", after=("m1",)), ask("ask-1", "m1"), ask("ask-2", "m1"))},
    workload=UPLOADS,
    faults=(TimePasses(pods=A, at_most_s=LEASE_S, keys_only=True, since="add_message", until="gemini"),),
    options={"upload_attempts": 1},
    what="another pod gives an upload up, then it completes after all, and readers are told both",
)
ABSORBED_WHILE_UPLOADING = Scenario(
    "absorbed-while-uploading",
    {"A": ONE, "B": (absorb("absorb", after=("m1",)),)},
    workload=UPLOADS,
    options={"upload_attempts": 1},
    what="a pod absorbs while another one is at an upload that may be tried once",
)
ATTEMPT_SENT_TWICE = Scenario(
    "attempt-sent-twice",
    {"A": (*ONE, Call("wait", "wait_for_upload", (Ref("m1", 0),)))},
    workload=UPLOADS,
    faults=(
        FailService(service="gemini", actions=(FAIL,), until="gemini"),
        LoseConnection(actions=(DROP_REPLY,), commands=frozenset({"HINCRBY"})),
    ),
    retries=(1,),
    options={"upload_attempts": 2},
    checks=(nothing_is_missing,),
    what="an upload fails once, and the script that begins its second attempt is sent twice",
)
LATE_BATCH = Scenario(
    "late-batch",
    {
        "A": (add("m1"), add("m2")),
        "B": (absorb("absorb-b", after=("m2",)),),
        "C": (absorb("absorb-c", after=("m2",)),),
    },
    workload=_ChoosyForC(),
    faults=(TimePasses(pods=B, since="absorb", at_most_s=LEASE_S, keys_only=True),),
    options={"send_attempts": 1},
    what="a refused batch was taken apart and its messages sent; then who stood still sends the whole of it",
)
POISON_IN_COMPANY = Scenario(
    "poison-in-company",
    {"A": (add("m1"), add(POISON, text=f"a {POISON} message"), add("m3")), "B": (absorb("absorb", after=(POISON,)),)},
    workload=UPLOADS,
    checks=(nothing_is_missing,),
    what="a message that the agent never takes stands between two that it takes",
)
LATE_REFUSAL = Scenario(
    "late-refusal",
    {
        "A": (add(POISON, text=f"a {POISON} message"), add("m2", after=("absorb-c",))),
        "B": (absorb("absorb-b", after=(POISON,)),),
        "C": (absorb("absorb-c", after=(POISON,)),),
    },
    workload=UPLOADS,
    faults=(TimePasses(pods=B, since="memory", until="HINCRBY", at_most_s=LEASE_S, keys_only=True),),
    options={"send_attempts": 1},
    checks=(nothing_is_missing,),
    what="who was refused stands still until another has dealt with the refusal, and then counts it",
)
REFUSAL_SENT_TWICE = Scenario(
    "refusal-sent-twice",
    {"A": (add(POISON, text=f"a {POISON} message"),), "B": (absorb("absorb", after=(POISON,)),)},
    workload=UPLOADS,
    faults=(LoseConnection(actions=(DROP_REPLY,)),),
    retries=(1,),
    options={"send_attempts": 1},
    what="the script that makes a message a dead letter is sent twice",
)
DAMAGED_BETWEEN_TWO_ASKS = Scenario(
    "damaged-between-two-asks",
    {
        "A": (*ONE, ask("ask-1", "m1")),
        "B": (absorb("absorb-1", after=("ask-1",)), absorb("absorb-2"), ask("ask-2", "m1", after=("absorb-2",))),
    },
    workload=UPLOADS,
    faults=(CorruptKey(during="absorb"),),
    what="a reader is told completed, then the status is damaged, and a reader asks again",
)
WAITED_FOR = Scenario(
    "waited-for",
    {"A": ONE, "B": (Call("wait", "wait_for_upload", (Ref("m1", 0),), ("m1",)),)},
    workload=UPLOADS,
    checks=(every_call_returns,),
    what="an upload ends between a waiter's look and its subscription",
)
SCENES = {
    scene.name: scene
    for scene in (
        ABSORBED_BEFORE_THE_RETRY,
        LATE_COMPLETION_TOLD,
        ABSORBED_WHILE_UPLOADING,
        ATTEMPT_SENT_TWICE,
        LATE_BATCH,
        POISON_IN_COMPANY,
        LATE_REFUSAL,
        REFUSAL_SENT_TWICE,
        DAMAGED_BETWEEN_TWO_ASKS,
        WAITED_FOR,
    )
}
