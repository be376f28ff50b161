from __future__ import annotations

from pathlib import Path

import pytest

from podrace.loadtests.health import GeneratorHealth
from podrace.loadtests.latency import Latencies, Recorder
from podrace.loadtests.slo import Breach, Slo, breaches, load_slo, only
from podrace.loadtests.users import Absorber, StoreReader, StoreWriter, UploadLife
from podrace.simulator.errors import UsageError


def test_our_slo_file_limits_every_operation_of_our_users() -> None:
    ours = load_slo("")
    assert set(ours.operations) == {
        name for user in (StoreReader, StoreWriter, UploadLife, Absorber) for name in user.limited
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lots = 1", "lots: unknown limit"),
        ("operations = 3", "operations: Input should be a valid dictionary, got 3"),
        ('[operations]\n"absorb" = 3', "absorb: Input should be a valid dictionary"),
        ('[operations."absorb"]\np98_us = 3', "operations: absorb: p98_us: unknown limit"),
        (
            '[operations."absorb"]\np99_us = "fast"',
            "operations: absorb: p99_us: Input should be a valid number, got 'fast'",
        ),
        ('[operations."absorb"]\nerror_rate = 5', "Input should be less than or equal to 1, got 5"),
        ("error_rate = nan", "error_rate: Input should be less than or equal to 1, got nan"),
        ("error_rate = -1", "error_rate: Input should be greater than or equal to 0, got -1"),
        ("error_rate = true", "error_rate: Input should be a valid number, got True"),
        ("abort = 1", "abort: Input should be a valid boolean, got 1"),
        ("not toml", "expected a TOML file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_slo(str(path))
    assert "\n" not in str(caught.value)


@pytest.fixture
def latencies() -> Latencies:
    recorder, latencies = Recorder(), Latencies()
    for latency_ms in range(1, 101):
        recorder.on_request(name="absorb", response_time=latency_ms, context={"late_us": 0})
    recorder.on_request(name="accept", response_time=3.0)
    recorder.on_request(name="accept", response_time=3.0, exception=OSError())
    latencies.add("w", recorder.take())
    return latencies


def texts(found: list[Breach]) -> list[str]:
    return [breach.text for breach in found]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"p50_us": 40_000}, "absorb: p50_us 50015 > 40000 (from the intended start)"),
        ({"p90_us": 80_000}, "absorb: p90_us 90047 > 80000 (from the intended start)"),
        ({"p99_us": 90_000}, "absorb: p99_us 99007 > 90000 (from the intended start)"),
        ({"max_us": 99_000}, "absorb: max_us 100031 > 99000 (from the intended start)"),
        ({"p99_9_us": 1}, "absorb: p99_9_us: too few samples (100)"),
        ({"rate_per_s": 60}, "absorb: rate_per_s 50 < 60"),
        ({"samples": 101}, "absorb: samples 100 < 101"),
    ],
)
def test_each_limit_can_be_passed(latencies: Latencies, limit: dict[str, float], said: str) -> None:
    found = breaches(Slo(operations={"absorb": limit}), latencies, duration_s=2.0)
    assert texts(found) == [said]
    kept = {name: 1e9 for name in limit if name.endswith("_us") and name != "p99_9_us"} or {"samples": 100}
    assert breaches(Slo(operations={"absorb": kept}), latencies, duration_s=2.0) == []


def test_error_rates_are_of_the_run_and_of_an_operation(latencies: Latencies) -> None:
    slo = Slo(error_rate=0.001, operations={"accept": {"error_rate": 0.1}, "absorb": {"error_rate": 0.0}})
    assert texts(breaches(slo, latencies, duration_s=1.0)) == [
        "error rate: 0.980% > 0.100% (1 of 102 operations failed)",
        "accept: error rate: 50.000% > 10.000% (1 of 2 operations failed)",
    ]


def test_what_never_ran_is_a_breach_unless_nobody_was_to_do_it(latencies: Latencies) -> None:
    slo = Slo(operations={"GET status": {"p99_us": 1e9}})
    assert texts(breaches(slo, latencies, duration_s=1.0)) == ["GET status: has a limit and never ran"]
    assert breaches(slo, latencies, duration_s=1.0, running=True) == []
    assert breaches(only(slo, {"absorb"}), latencies, duration_s=1.0) == []


def test_during_a_run_only_a_breach_that_cannot_recover_counts(latencies: Latencies) -> None:
    slo = Slo(operations={"absorb": {"samples": 1000, "rate_per_s": 1000, "p99_9_us": 1, "max_us": 1}})
    (found,) = breaches(slo, latencies, duration_s=1.0, running=True)
    assert found.text.startswith("absorb: max_us")


@pytest.mark.parametrize(("cpu_s", "excused"), [(0.1, False), (0.95, True)])
def test_a_rate_is_excused_by_a_generator_that_had_no_time_and_not_by_one_that_woke_up_late(
    latencies: Latencies, cpu_s: float, excused: bool
) -> None:
    health = GeneratorHealth()
    health.add("w", {"lags_us": [[9000, 100]], "pauses_us": [], "wall_s": 1.0, "cpu_s": cpu_s, "waited_s": 0.0,
                     "stolen": 0.0, "begun": 100, "missed": 0})  # fmt: skip
    slo = Slo(operations={"absorb": {"rate_per_s": 1000}})
    (found,) = breaches(slo, latencies, duration_s=1.0, explain=health.explains)
    assert bool(found.excuse) is excused


def test_the_generator_excuses_latencies_and_rates_and_nothing_else(latencies: Latencies) -> None:
    asked: list[tuple[float, float]] = []

    def explain(excess_us: float, percentile: float) -> str:
        asked.append((excess_us, percentile))
        return "the generator was slow"

    slo = Slo(error_rate=0, operations={"absorb": {"p99_us": 90_000, "rate_per_s": 1000, "samples": 1000}})
    found = breaches(slo, latencies, duration_s=1.0, explain=explain)
    assert [bool(breach.excuse) for breach in found] == [False, True, True, False]
    assert asked[0] == (9007, 99.0)
