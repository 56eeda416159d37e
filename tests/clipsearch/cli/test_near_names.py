"""What was perhaps meant by a path: at each place that says that nothing is there."""

from pathlib import Path

import pytest

from clipsearch.engines.local.folder import read_info
from clipsearch.search.synonyms import Synonyms
from finetune.encoder_folder import read_description
from finetune.errors import ClipsearchError
from finetune.manifest.inputs import check_exists
from finetune.manifest.manifest import Manifest
from finetune.near_names import did_you_mean


@pytest.mark.parametrize(
    ("reads", "named", "there"),
    [
        (check_exists, "photo.csv", "photos.csv"),
        (Manifest.open, "Photos.CSV.", "photos.csv"),
        (Synonyms.read, "synonym.txt", "synonyms.txt"),
        (read_description, "encodr", "encoder"),
        (read_info, "pictures.indx", "pictures.index"),
    ],
)
def test_a_mistyped_path_names_the_one_beside_it(reads, named, there, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    if "." in there and not there.endswith(".index"):
        (tmp_path / there).touch()
    else:
        (tmp_path / there).mkdir()
    with pytest.raises(ClipsearchError, match=rf"\(did you mean {tmp_path / there}\?\)"):
        reads(tmp_path / named)


def test_a_mistyped_folder_on_the_way_is_found_and_nothing_is_made_up(tmp_path: Path) -> None:
    (tmp_path / "Pictures").mkdir()
    (tmp_path / "Pictures" / "photos.csv").touch()
    meant = tmp_path / "Pictures" / "photos.csv"
    assert did_you_mean(tmp_path / "Pictrues" / "photos.csv") == f" (did you mean {meant}?)"
    assert did_you_mean(tmp_path / "Pictrues" / "other.csv") == ""
    assert did_you_mean(tmp_path / "Pictures" / "photo.csv", folders=True) == ""
    assert did_you_mean("photos\0.csv") == ""
    assert did_you_mean("") == ""
