"""Which settings a resumed run may change. Imports without torch."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from finetune.config.setting import plain
from finetune.config.settings import SETTINGS, TrainConfig, option

# They change no weight but by rounding: --workers, for example.
OPERATIONAL = frozenset(name for name, declared in SETTINGS.items() if declared.operational)


def differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return what a resumed run may not change but does: "--epochs 3 (was 10)".

    What an earlier version did not know was as it is by default.

    Args:
        asked: `TrainConfig.as_dict()`.
        before: That of the interrupted run, as JSON gave it back.
    """
    mine: dict[str, Any] = json.loads(json.dumps(asked))
    theirs = _with_defaults(before)
    return [
        f"{option(name)} {value} (was {theirs.get(name)})"
        for name, value in mine.items()
        if name not in OPERATIONAL and value != theirs.get(name)
    ]


def _with_defaults(before: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(before)
    for item in fields(TrainConfig):
        if item.default is MISSING:
            continue
        default = json.loads(json.dumps(plain(item.default)))
        found = known.setdefault(item.name, default)
        if isinstance(default, dict) and isinstance(found, dict):
            known[item.name] = default | found
    return known
