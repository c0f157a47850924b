"""The exponent of a growth: the slope between the logarithms of size and cost."""

from __future__ import annotations

import pytest

from benchmarks.growth import exponent


@pytest.mark.parametrize(
    ("values", "power"),
    [
        ([5.0, 50.0, 500.0], 1.0),
        ([7.0, 7.0, 7.0], 0.0),
        ([1.0, 100.0, 10_000.0], 2.0),
        ([1.0, 10**0.5, 10.0], 0.5),
        # Least squares: the middle of three evenly spaced points does not tilt the line.
        ([1.0, 20.0, 100.0], 1.0),
    ],
)
def test_the_exponent_is_the_power_of_the_size(values: list[float], power: float) -> None:
    assert exponent([10, 100, 1000], values) == pytest.approx(power)
