"""Each safeguard of `durable` is removed in turn, and a search of all schedules finds what is lost without it.

Without the safeguards that only save work or time, or shorten a wait, nothing is lost, so a search cannot notice
that they are gone; test_durable_scripts tests them directly, and an operator's requeue, which no scenario calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from crippled import PODS_WITHOUT, SCRIPTS_WITHOUT
from crippled.moving import MOVING, Both
from crippled.scenes import SCENES

from podrace.reference.memory import MemoryLedger
from podrace.reference.targets import durable, shared
from podrace.simulator.errors import TargetError
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.servers.connection import Server
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.target import PodEnv

pytestmark = pytest.mark.wide

ENDLESS = "endless"
"""Instead of a finding: without this safeguard a call goes on for ever, so that its run never ends."""

WITHOUT = (
    ("one_accept_while_queued", "same-id-twice", "duplicated"),
    ("one_accept_once_absorbed", "absorbed-before-the-retry", "duplicated"),
    ("done_records", "absorbed-before-the-retry", "duplicated"),
    ("atomic_accept", "crash-between-status-and-push", "leaked"),
    ("references_that_count", "same-placeholder-twice", "lost"),
    ("last_reference_alone_deletes", "same-placeholder-twice", "lost"),
    ("first_end_stays", "late-completion-told", "misreported"),
    ("take_over", "pod-killed-mid-upload", "stuck"),
    ("take_over_of_the_dead_alone", "absorbed-while-uploading", "lost"),
    ("attempt_counted_once", "attempt-sent-twice", "lost"),
    ("end_of_what_hangs", "gemini-refuses", "stuck"),
    ("waiting_for_pending_images", "foreign-pod", "lost"),
    ("batch_ids", "crash-after-send", "duplicated"),
    ("one_batch_id_for_one_batch", "crash-after-send", "duplicated"),
    ("same_messages_under_one_batch_id", "lock-expires-mid-send", "lost"),
    ("rising_fence", "two-absorbers", "leaked"),
    ("fence_at_the_acknowledgement", "paused-pod", "stuck"),
    ("fence_at_the_agent", "late-batch", "duplicated"),
    ("one_acknowledgement", "trim-applied-twice", "stuck"),
    ("fence_at_the_refusal", "late-refusal", "lost"),
    ("refusal_counted_once", "refusal-sent-twice", "stuck"),
    ("limit_of_refusals", "poison-message", "stuck"),
    ("taking_a_refused_batch_apart", "poison-in-company", "stuck"),
    ("sending_alone_what_was_taken_apart", "poison-in-company", ENDLESS),
    ("damaged_records_set_aside", "corrupt-value", "leaked"),
    ("damaged_uploads_done_again", "damaged-between-two-asks", "misreported"),
    ("damaged_ids_found_again", "corrupt-value", "stuck"),
    ("usable_until", "expired-gemini-file", "lost"),
    ("look_at_anothers_key", "foreign-gemini-file", "lost"),
    ("wait_for_active_files", "unready-gemini-file", "lost"),
    ("wait_for_active_files", "failed-gemini-file", "lost"),
    ("subscribing_before_the_look", "waited-for", "stuck"),
)
BOUNDS = {
    "attempt-sent-twice": Bounds(preemptions=1, faults=2, budget_s=600),
    "late-completion-told": Bounds(preemptions=0, budget_s=600),
    "damaged-between-two-asks": Bounds(preemptions=0, budget_s=600),
}
"""Bounds of the scenes that need more than one fault to show a loss, or no preemption."""


@pytest.fixture
def run_server(server: EmbeddedServer) -> Server:
    return Server(url=server.url, info=server.info(), prefix="mirix:", embedded=server)


def explore(server: Server, target: str, name: str, word: str) -> Exploration:
    """Search until a finding as bad as the word, or until all schedules within the scene's bounds are played."""
    known = {**SCENES, MOVING.name: MOVING}
    scenario = replace(known.get(name) or find(name), keeps=durable.keeps)  # type: ignore[attr-defined]
    bounds = BOUNDS.get(name, Bounds(preemptions=1, budget_s=600))
    with InlineLab(server, target, scenario, seed=7) as lab:
        return Explorer(lab.scenario, lab.play, lab.finish, bounds, worst=word).explore()


def test_every_safeguard_that_can_be_taken_away_is() -> None:
    assert {name for name, _, _ in WITHOUT} == {*SCRIPTS_WITHOUT, *PODS_WITHOUT}


@pytest.mark.parametrize(("name", "scenario", "word"), WITHOUT, ids=[f"{name}-{row}" for name, row, _ in WITHOUT])
def test_without_a_safeguard_its_scenario_is_violated(run_server: Server, name: str, scenario: str, word: str) -> None:
    if word == ENDLESS:
        with pytest.raises(TargetError, match="did not finish within"):
            explore(run_server, f"crippled:{name}", scenario, "lost")
        return
    found = explore(run_server, f"crippled:{name}", scenario, word)
    assert found.verdict == "violated", found.outcomes
    assert word in found.judgement.kinds, found.judgement.findings


@pytest.mark.parametrize("scenario", SCENES)
def test_with_all_safeguards_every_scenario_holds(run_server: Server, scenario: str) -> None:
    """Only for scenes that are no row of the catalogue: the matrix covers those."""
    found = explore(run_server, "podrace.reference.targets:durable", scenario, "lost")
    assert (found.verdict, found.complete) == ("holds", True), found.judgement.findings


def test_old_and_new_pods_side_by_side(run_server: Server) -> None:
    """As the README describes; a new pod that did not wait for what old ones accepted would break the order."""
    found = explore(run_server, "crippled.moving:pods", "moving", "lost")
    assert (found.verdict, found.complete) == ("holds", True), found.judgement.findings
    hasty = explore(run_server, "crippled.moving:hasty_pods", "moving", "misreported")
    assert "was delivered before m1" in hasty.judgement.findings[0].sentence


def test_the_last_old_messages_do_not_wait_for_more(make_env: Callable[..., PodEnv], ledger: MemoryLedger) -> None:
    """A user whose old queue is shorter than the limit would be served by nobody, for ever."""
    options = {"absorb_limit": 3, "durability": "off"}
    shared(make_env("A", options=options)).add_message("ann", "old", [], "m0")
    pod = Both(make_env("B", options=options))
    for number in range(3):
        pod.add_message("ann", f"new {number}", [], f"m{number + 1}")
    assert pod.absorb("ann") == 4
    delivered = [part["text"] for _, _, parts in ledger.batches() for part in parts]
    assert delivered == ["old", "new 0", "new 1", "new 2"]
