"""Folders of tiny checkpoints, and training runs without what follows them."""

import pytest
from steps_alone import leave_out_plots, leave_out_what_follows
from tiny_checkpoints import save_clip, save_siglip


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP checkpoint as the hub has them."""
    save_clip(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def siglip_folder(tmp_path):
    """A SigLIP checkpoint: no begin of text, filled to the full length, no mask."""
    save_siglip(tmp_path / "siglip")
    return tmp_path / "siglip"


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what follows the last step of a training run."""
    leave_out_what_follows(monkeypatch)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plots that a training run draws (test_trainer and test_plots look at them)."""
    leave_out_plots(monkeypatch)
