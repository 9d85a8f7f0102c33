"""The simulation of many replicas agrees with arithmetic where arithmetic knows the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def simulation() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        yield pytest.importorskip("benchmarks.driver.simulation", reason="benchmarks come with a checkout only")


def outcome(simulation: Any, driver: dict[str, float], **setting: float) -> Any:
    """Simulate a driver whose stages take no time but those given, and replicas."""
    none = dict.fromkeys(simulation.Driver._fields, 0.0)
    return simulation.Simulation(simulation.Driver(**none | driver), simulation.Setting(**setting)).outcome()


BUSY = {"before": 2e-5, "arriving": 1e-5, "storing": 1e-5, "after": 1e-5}
SLOW = {"replicas": 4, "rate": 50.0, "latency": 0.0, "sequences": 100_000}
FAST = {"replicas": 64, "rate": 1e9, "latency": 0.0, "sequences": 100_000}


def test_a_driver_that_takes_no_time_gets_what_its_replicas_can_do(simulation: Any) -> None:
    out = outcome(simulation, {}, **SLOW, generation=100_000)

    assert out.rate == pytest.approx(200, rel=2 * simulation.SPREAD)
    assert out.waiting < 2 * simulation.SPREAD
    assert out.driver == out.memo == out.link == 0


def test_with_replicas_that_take_no_time_the_driver_is_the_limit(simulation: Any) -> None:
    out = outcome(simulation, BUSY, **FAST)

    assert out.rate == pytest.approx(1 / sum(BUSY.values()), rel=1e-3)
    assert out.driver == pytest.approx(1, rel=1e-3)


def test_runs_beside_each_other_wait_for_one_memo(simulation: Any) -> None:
    out = outcome(simulation, BUSY, **FAST | {"runs": 8, "sequences": 8_000_000})

    assert out.rate == pytest.approx(1 / BUSY["storing"], rel=0.03)
    assert out.memo == pytest.approx(1, rel=0.03)


def test_a_slow_link_is_the_limit(simulation: Any) -> None:
    assert outcome(simulation, {"link": 1e-3}, **FAST).rate == pytest.approx(1_000, rel=1e-3)


def test_every_part_pays_the_latency(simulation: Any) -> None:
    four = FAST | {"replicas": 1, "latency": 0.5, "generation": 1_000, "sequences": 1_000}

    assert outcome(simulation, {}, **four).seconds == pytest.approx(4 * 0.5, rel=1e-3)


def test_the_same_setting_gives_the_same_outcome(simulation: Any) -> None:
    assert outcome(simulation, BUSY, **SLOW) == outcome(simulation, BUSY, **SLOW)
