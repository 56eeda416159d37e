"""An embedded engine and documents for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_collection import DIMENSION, make_document

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    made = LocalEngine.create(tmp_path / "photos.index", IndexInfo(DIMENSION))
    yield made
    made.close()


@pytest.fixture(scope="module")
def collection() -> list[Document]:
    return [make_document(number) for number in range(400)]
