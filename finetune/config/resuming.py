"""Which settings a resumed run may change. Imports without torch."""

import json
from collections.abc import Mapping
from typing import Any

from finetune.config.settings import SETTINGS, option

# They change no weight but by rounding: --workers, for example.
OPERATIONAL = frozenset(name for name, declared in SETTINGS.items() if declared.operational)


def differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return what a resumed run may not change but does: "--epochs 3 (was 10)".

    Args:
        asked: `TrainConfig.as_dict()`.
        before: That of the interrupted run, as JSON gave it back.
    """
    mine: dict[str, Any] = json.loads(json.dumps(asked))
    return [
        f"{option(name)} {value} (was {before.get(name)})"
        for name, value in mine.items()
        if name not in OPERATIONAL and value != before.get(name)
    ]
