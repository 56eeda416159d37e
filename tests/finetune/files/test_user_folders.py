"""Where a user's caches and state lie: one place for all, where earlier versions had them."""

from pathlib import Path

import platformdirs
import pytest

from clipsearch.feed.ledger.file import ledger_path
from finetune.data.back_translation import default_cache
from finetune.files.user_folders import user_cache, user_state


def test_the_folders_of_the_environment_and_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert user_cache() == tmp_path / ".cache" / "clipsearch"
    assert user_state() == tmp_path / ".local" / "state" / "clipsearch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    assert default_cache().parent == user_cache() == tmp_path / "c" / "clipsearch"
    assert ledger_path("http://vespa.example:8080").parent == tmp_path / "s" / "clipsearch"
    assert not list(tmp_path.iterdir()), "asking makes nothing"


def test_without_a_home_nothing_is_made_where_we_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *a, **b: Path("~/.cache/x"))
    with pytest.raises(RuntimeError, match="no home folder"):
        user_cache()
