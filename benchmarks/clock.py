"""A clock for shared machines: plain seconds, and reference seconds, in which a slow hour counts as little as it gives.

The same two cores do more than twice as much in one hour as in another. So the clock measures, every few seconds and
between two steps of what is timed, how many float32 operations per second a matrix product reaches, and counts time as
if that rate were always 230 GFLOP/s. The measuring itself is left out, and the processes of a DataLoader stand still
meanwhile, or they would make the machine look slow. On any device other than a CPU, both times are equal.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import torch

REFERENCE = 230e9  # operations per second, on the two cores for which the workshop's figures are stated
SIDE, EVERY = 1024, 5.0  # of the matrices; seconds between measurements


@contextmanager
def without_helpers() -> Iterator[None]:
    """All processes that this one has started stand still."""
    helpers = psutil.Process().children(recursive=True)
    for helper in helpers:
        with suppress(psutil.NoSuchProcess):  # it has ended since
            helper.suspend()
    try:
        yield
    finally:
        for helper in helpers:
            with suppress(psutil.NoSuchProcess):
                helper.resume()


class Clock:
    """Runs from its creation on.

    Attributes:
        seconds: plain ones, without the measuring.
        reference_seconds: see above; up to date after `tick(now=True)`.
        rates: measured ones, operations per second.
    """

    def __init__(self, device: torch.device) -> None:
        self._matrix = torch.randn(SIDE, SIDE) if device.type == "cpu" else None
        self.seconds, self.reference_seconds, self.rates = 0.0, 0.0, []
        self._rate()  # cold: not counted
        self.rates.clear()
        self._rate()
        self._since = time.perf_counter()

    def skip(self) -> None:
        """What happened since the last tick does not count."""
        self._since = time.perf_counter()

    def _rate(self) -> None:
        if self._matrix is None:
            self.rates.append(REFERENCE)
            return
        with without_helpers():
            start = time.perf_counter()
            for _ in range(3):
                self._matrix @ self._matrix
            self.rates.append(3 * 2 * SIDE**3 / (time.perf_counter() - start))

    def times(self) -> dict[str, float]:
        """Until now: seconds, reference_seconds and the mean rate."""
        self.tick(now=True)
        return {
            "seconds": self.seconds,
            "reference_seconds": self.reference_seconds,
            "rate": statistics.mean(self.rates),
        }

    def times_of_more_looks(self, before: dict[str, float], looks: int) -> dict[str, float]:
        """What so many looks at each test image have taken since `before`, but for one, which was counted in that."""
        now, share = self.times(), (looks - 1) / looks
        return {f"shifted_{key}": (now[key] - before[key]) * share for key in ("seconds", "reference_seconds")}

    def tick(self, now: bool = False) -> None:
        """To be called often; measures the rate if it is time to, or `now`."""
        passed = time.perf_counter() - self._since
        if passed < EVERY and not now:
            return
        self._rate()
        self.seconds += passed
        self.reference_seconds += passed * statistics.mean(self.rates[-2:]) / REFERENCE
        self._since = time.perf_counter()
