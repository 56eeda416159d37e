"""What the page shows before any script runs."""

from pathlib import Path

import numpy as np
import pytest
from running_service import RunningService

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.operations import Upsert
from clipsearch.server.settings import ServerSettings


@pytest.mark.parametrize(("captions", "hidden"), [((), " hidden"), (("a dog",), "")])
def test_words_are_offered_where_documents_have_some(
    captions: tuple[str, ...], hidden: str, tmp_path: Path
) -> None:
    index = str(tmp_path / "vectors.index")
    engine = create_engine(index, IndexInfo(dimension=4))
    bare = Document("a/dog.png", embedding=np.eye(4, dtype=np.float32)[0])
    last = Document("z/dog.png", captions=captions, embedding=np.eye(4, dtype=np.float32)[1])
    list(engine.feed([Upsert(bare), Upsert(last)]))
    engine.finish_feed()
    engine.close()
    with RunningService(ServerSettings(index, tmp_path / "cache")) as running:
        page = running.get("/").text
        assert f'<button id="compare"{hidden} aria' in page
        assert f'<label class="slider"{hidden}>Words' in page
