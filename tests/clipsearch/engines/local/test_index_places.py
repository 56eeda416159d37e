"""Places where no index can be: said in a sentence, at once."""

import errno
import os
from pathlib import Path

import pytest

from clipsearch.engines import feed_lock, open_engine
from clipsearch.engines.local import lock
from finetune.errors import EngineError


def said(index: Path) -> tuple[str, str]:
    """What is said to who feeds it, and to who asks it."""
    with pytest.raises(EngineError) as fed, feed_lock(str(index), "feed"):
        pass
    with pytest.raises(EngineError) as asked:
        open_engine(str(index))
    return str(fed.value), str(asked.value)


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    index = tmp_path / "notes.txt" / "x.index"
    sentence = f"{index}: {tmp_path / 'notes.txt'} is a file; name an index in a folder"
    assert said(index) == (sentence, sentence)


@pytest.mark.parametrize("below", ["", "deeper/x.index"])
def test_behind_a_link_to_nowhere(tmp_path: Path, below: str) -> None:
    (tmp_path / "x.index").symlink_to("nowhere-1.index")
    fed, asked = said(tmp_path / "x.index" / below)
    assert "a link to nowhere-1.index, which is not there; make that, or remove the link" in fed
    assert asked == fed
    os.mkdir(tmp_path / "nowhere-1.index")  # noqa: PTH102
    with feed_lock(str(tmp_path / "x.index" / below), "feed"):
        pass


def test_where_no_folder_can_be_made_it_does_not_try_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refused(folder: Path) -> list[Path]:
        tried.append(folder)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

    # As in /proc, where mkdir answers so.
    monkeypatch.setattr(lock, "_make", refused)
    monkeypatch.setattr(lock, "_PAUSE_SECONDS", 0)
    with (
        pytest.raises(EngineError, match=r"x\.index: cannot write there: No such file"),
        feed_lock(str(tmp_path / "x.index"), "feed"),
    ):
        pass
    assert len(tried) == 100
