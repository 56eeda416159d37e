"""codecarbon: energy and emissions of the machine while it trains, for the model card.

It asks the network where it is, for the share of each source of energy there; without network set
CODECARBON_COUNTRY_ISO_CODE (such as "FRA"). A resumed run adds to what was used before.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from codecarbon import EmissionsTracker, OfflineEmissionsTracker
from codecarbon.output import BaseOutput

from finetune.trackers.run import TrackedRow, TrackedRun

COUNTRY = "CODECARBON_COUNTRY_ISO_CODE"
# A kill loses what was used since.
NOTED_EVERY_SECONDS = 60.0
EMISSIONS, ENERGY, SECONDS = "kg_co2eq", "kwh", "seconds"
REGION = "region"


class LastMeasurement(BaseOutput):  # type: ignore[misc]
    """Keeps what codecarbon would write to a file."""

    def __init__(self) -> None:
        self.values: dict[str, float] | None = None
        self.region = ""

    def out(self, total: Any, delta: Any) -> None:
        """Take the sums since its start, from codecarbon's flush and stop."""
        self.values = {
            EMISSIONS: float(total.emissions),
            ENERGY: float(total.energy_consumed),
            SECONDS: float(total.duration),
        }
        self.region = str(getattr(total, "country_name", "") or "")

    def live_out(self, total: Any, delta: Any) -> None:
        """Take them as `out`, now and then."""
        self.out(total, delta)


class CarbonTracker:
    """Measures from its start to its finish."""

    def __init__(self, run: TrackedRun) -> None:
        # It tells of its settings before it looks at log_level.
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self._state = run.state
        self._before: dict[str, float] = run.state.get("carbon") or {}
        self._last = LastMeasurement()
        settings = {
            "project_name": run.name,
            "output_methods": [],
            "output_handlers": [self._last],
            "log_level": "critical",
            # Its lock would take over Ctrl-C.
            "allow_multiple_runs": True,
        }
        country = os.environ.get(COUNTRY)
        if country:
            self._tracker = OfflineEmissionsTracker(country_iso_code=country, **settings)
        else:
            self._tracker = EmissionsTracker(**settings)
        self._tracker.start()
        self._noted_at = time.monotonic()

    def log(self, rows: Sequence[TrackedRow]) -> None:
        """Note the sums once a minute; the rows themselves are of no interest."""
        if time.monotonic() - self._noted_at >= NOTED_EVERY_SECONDS:
            self._tracker.flush()
            self._state.put("carbon", self._sums())
            self._noted_at = time.monotonic()

    def finish(self, summary: Mapping[str, float], *, completed: bool) -> dict[str, Any]:
        """Stop, and return `kg_co2eq`, `kwh` and `seconds` in all, and `region`, if it is known."""
        self._tracker.stop()
        sums = self._sums()
        self._state.put("carbon", sums)
        return sums | ({REGION: self._last.region} if self._last.region else {})

    def _sums(self) -> dict[str, float]:
        if self._last.values is None:
            raise RuntimeError("codecarbon measured nothing")
        return {
            name: self._before.get(name, 0.0) + value for name, value in self._last.values.items()
        }


start = CarbonTracker
