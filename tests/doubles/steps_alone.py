"""Training runs of which only the steps matter."""

import pytest


def leave_out_what_follows(patch: pytest.MonkeyPatch) -> None:
    """Leave out export and plots, which take ten times as long as training so little."""
    patch.setattr("finetune.training.finish.export_encoder", lambda *values, **named: None)
    patch.setattr("finetune.training.finish.draw", lambda *values, **named: [])
