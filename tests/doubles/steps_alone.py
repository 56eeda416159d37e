"""Training runs of which only the steps matter, or these and the encoder folder."""

import pytest


def leave_out_what_follows(patch: pytest.MonkeyPatch) -> None:
    """Leave out export and plots, which take ten times as long as training so little."""
    patch.setattr("finetune.training.finish.export_encoder", lambda *values, **named: None)
    leave_out_plots(patch)


def leave_out_plots(patch: pytest.MonkeyPatch) -> None:
    """Leave out plots and sheets alone, which take twice as long as the export."""
    patch.setattr("finetune.training.finish.draw", lambda *values, **named: [])
