"""Brings a run to rest: every surviving pod is asked for whatever its workload asks, until nothing moves any more.

Round after round while something changes; when nothing does, time passes, by longer and longer spans. Loops
without an end, such as heartbeats, keep nothing from being judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.model import Call
from podrace.simulator.world.clock import US_PER_S

if TYPE_CHECKING:
    from podrace.simulator.search.play import Play

MOST_ROUNDS = 300
MOST_FRUITLESS = 20
"""This many rounds in a row may change nothing but keys, such as a count of refusals, before time has to pass."""
SPANS_S = (60, 60, 3600, 24 * 3600, 400 * 24 * 3600)
"""How far time passes, one after the other, while nothing moves: past every lease, then past every time to live."""


class Rest:
    """The rest of one run."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._rounds = 0

    def bring(self) -> Run:
        """Bring the run to rest. A first span of time passes always, the longer ones while something is outstanding."""
        play = self._play
        clock = play.side.clock
        play.history.rest("begins")
        self._ask_until_still()
        run, idle = None, 0
        while idle < len(SPANS_S) and self._rounds < MOST_ROUNDS:
            if idle or not clock.next(play.standing.deadlines()):
                run = play.finished()
                if play.workload.is_done(run):
                    break
            run = None
            play.pass_time(clock.now_us + SPANS_S[idle] * US_PER_S)
            idle = 0 if self._ask_until_still() else idle + 1
        play.history.rest("over")
        return run or play.finished()  # what its workload has found of the run it need not find again

    def _ask_until_still(self) -> bool:
        """Ask every pod, again while something moves. Returns whether something moved."""
        moved, held, fruitless = False, None, 0
        while self._rounds < MOST_ROUNDS and fruitless < MOST_FRUITLESS:
            progress, written = self._progress(), self._play.written
            self._ask_once()
            if self._progress() != progress:
                moved, held, fruitless = True, None, 0
            elif self._play.written == written:
                return moved
            else:  # what one step of the round has changed another may have put back
                before, held = held, self._keys_and_values()
                if before == held:
                    return moved or fruitless > 1
                fruitless += 1
        return moved

    def _ask_once(self) -> None:
        play = self._play
        self._rounds += 1
        play.let_all_go()
        for number, (pod, call) in enumerate(play.workload.at_rest(self._pods(), play.finished())):
            play.begin_rest_call(pod, Call(f"rest-{self._rounds}-{number + 1}", call.method, call.args))
            play.let_all_go()

    def _pods(self) -> list[str]:
        """The pods that are left; if all have died, a new one, under a name of its own."""
        survivors = self._play.survivors
        if survivors:
            return survivors
        name = "next"
        while name in self._play.scenario.pods:
            name += "-one"
        return [name]

    def _progress(self) -> Any:
        play = self._play
        return play.workload.progress(play.services), play.busy()

    def _keys_and_values(self) -> list[Any]:
        side = self._play.side
        keys = [key for key, _ in side.left()]
        return [keys, side.probe.values(keys)]
