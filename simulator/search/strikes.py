"""What faults do to a run besides its steps: a pod is killed, a call is cancelled, time passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podrace.simulator.history.outcome import Result
from podrace.simulator.scenarios.faults import CANCEL, CLOCK, KILL, UNTIL
from podrace.simulator.world.footprints import ALL_OF_IT, THE_TIME, Footprint
from podrace.simulator.world.steps import Step, pod_of
from podrace.simulator.world.trace import ALL_OF_POD, POD, READS_CLOCK

if TYPE_CHECKING:
    from podrace.simulator.search.play import Play


def event_of(play: Play, whom: str, action: str) -> int:
    """The hash that a strike on a pod, or on the clock, would have in the trace."""
    if whom == CLOCK:
        return play.touches.trace.event(whom, action, play.touches.of_time(int(action.removeprefix(UNTIL))), scope=POD)
    return play.touches.trace.event(whom, action, _lets_go(play, whom), scope=ALL_OF_POD)


def strike(play: Play, whom: str, action: str) -> None:
    """Strike a pod or the clock."""
    play.struck += 1
    play.taken.append(Step(whom, action, ()))
    play.known.append(None)
    event = event_of(play, whom, action)
    if whom == CLOCK:
        play.pass_time(play.side.clock.now_us + int(action.removeprefix(UNTIL)), by_itself=False)
        play.ends[event] = ()
        play.last_pod = ""
        return
    play.touches.trace.add(event, whom, _lets_go(play, whom), scope=ALL_OF_POD)
    if action.startswith(CANCEL):
        _cancel(play, action.removeprefix(CANCEL), event)
    else:
        _kill(play, whom, event, restarts=action != KILL)
    play.last_pod = ""
    if play.last is not None and pod_of(play.last) == whom:
        play.last = None


def _kill(play: Play, pod: str, event: int, *, restarts: bool) -> None:
    ended = []
    play.touches.forget(pod)
    play.fleet.kill(pod)
    if not restarts:
        play.standing.dead.add(pod)
    play.collect()
    if restarts and play.lines.under_way(pod):
        play.ends[event] = READS_CLOCK
        event = play.touches.trace.reads_clock(event, pod, scope=POD)
    play.history.fault(pod, "killed, and started again by its next call" if restarts else "killed")
    for actor, number in play.lines.under_way(pod):
        if not restarts:
            play.forget_call(actor)
            continue
        call = play.lines.calls[number]
        timed = play.workload.is_timed(call.method)
        ended.append((call.name, timed))
        play.touches.trace.end(event, call.name, timed=timed)
        play.end_call(number, Result("info", error="the pod was killed"))
    play.ends[event] = tuple(ended)


def _cancel(play: Play, actor: str, event: int) -> None:
    """Cancel the call of an actor where it stands."""
    ((_, number),) = [one for one in play.lines.under_way() if one[0] == actor]
    play.history.fault(actor, f"{play.lines.calls[number].name} is cancelled")
    play.fleet.asked_time = False
    play.fleet.cancel(actor)
    event = play.reads_clock(event, actor, POD)
    play.ends.setdefault(event, ())
    play.collect(event)


def _lets_go(play: Play, pod: str) -> Footprint:
    """What a struck pod lets go of: its subscriptions, if it has any."""
    waits = any(step.pod == pod and step.kind == "receive" for step in play.fleet.steps())
    return ALL_OF_IT if waits or play.so_far.has_done("SUBSCRIBE", pod) else Footprint(reads=(THE_TIME,))
