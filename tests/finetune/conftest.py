"""Folders of tiny checkpoints, for tests of models and of their export."""

import pytest
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
