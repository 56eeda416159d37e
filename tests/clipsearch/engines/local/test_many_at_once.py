"""Documents that are put at once are there as those that are put one after another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_collection import DIMENSION, make_document, same

from clipsearch.document_columns import DocumentColumns
from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.writing import batch
from clipsearch.operations import Delete, Upsert, UpsertMany


def put(engine: LocalEngine, documents: list[Document]) -> dict[str, str]:
    """Put them at once; the reasons of those that were refused, by id."""
    (outcome,) = engine.feed([UpsertMany(DocumentColumns.of(documents))])
    assert outcome.error is None
    engine.finish_feed()
    return dict(outcome.refused)


def put_each(engine: LocalEngine, documents: list[Document]) -> dict[str, str]:
    outcomes = list(engine.feed(map(Upsert, documents)))
    engine.finish_feed()
    return {o.operation.id: o.error for o in outcomes if o.error is not None}


def odd_documents() -> list[Document]:
    long, nothing = np.full(DIMENSION, 2, np.float32), np.full(DIMENSION, np.nan, np.float32)
    changes: list[dict[str, object]] = [
        {"captions": ("a \x01 dog", 'she said "red"', "back\\slash \\u0041 red")},
        {"captions": ("ein Café \x85 \ufffe und 日本語",)},
        {"captions": ("\ud800 red",)},
        {"tags": {"cl\x01ass": "a"}},
        {"tags": {"class\x01": "a", "class\x02": "b"}},
        {"numbers": {"year": float("inf")}},
        {"numbers": {"year": -0.0, "tiny": 5e-324, "large": 1e308}},
        {"embedding": long},
        {"embedding": nothing},
        {"id": ""},
        {"id": "a\0b"},
        {"id": ".."},
        {"id": "é/\x7f.jpg"},
        {"path": "\x7f/\x02.jpg"},
        {"captions": ()},
    ]
    return [
        replace(make_document(500 + number), **{"id": f"odd {number}", **change})  # type: ignore[arg-type]
        for number, change in enumerate(changes)
    ]


@pytest.mark.parametrize("language", ["en", "fr"])
def test_at_once_is_as_one_after_another(tmp_path: Path, language: str) -> None:
    plain = [make_document(number) for number in range(60)]
    documents = [*plain[:40], *odd_documents(), *plain[40:]]
    engines = []
    for name, write in (("many", put), ("each", put_each)):
        engine = LocalEngine.create(tmp_path / name, IndexInfo(DIMENSION, language))
        # Some are there already: with another vector, with the same, and deleted again.
        earlier = [plain[3], replace(plain[4], embedding=plain[9].embedding), plain[5]]
        assert not put_each(engine, earlier)
        list(engine.feed([Delete(plain[5].id)]))
        engines.append((engine, write(engine, documents)))
    (many, refused), (each, expected) = engines
    assert refused == expected and len(refused) == 7
    ids = [document.id for document in documents]
    found = zip(many.get(ids, embeddings=True), each.get(ids, embeddings=True), strict=True)
    assert all(same(*pair) for pair in found)
    assert many.count() == each.count() == len(documents) - len(refused)
    for mode in ("bm25", "vector", "hybrid"):
        query = EngineQuery(mode, ("red", "caf"), plain[7].embedding, k=100, facets=("class",))
        pages = [engine.search(query) for engine in (many, each)]
        assert [(h.document.id, h.score) for h in pages[0].hits] == [
            (h.document.id, h.score) for h in pages[1].hits
        ]
        assert pages[0].facets == pages[1].facets and pages[0].total == pages[1].total
    assert not checksums.verify(Path(many.target)).broken


def test_plain_documents_need_no_object_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine.create(tmp_path / "index", IndexInfo(DIMENSION))
    monkeypatch.setattr(batch.Batch, "of", None)
    assert not put(engine, [make_document(number) for number in range(30)])
    assert engine.count() == 30
