"""Segments and their merges: one that is merged is, to the byte, one that was made at once."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_collection import make_document

from clipsearch.documents import Document
from clipsearch.engines.local.collection import Collection, Part
from clipsearch.engines.local.segments.merging import Source, merged
from clipsearch.engines.local.segments.sections import (
    PART_BYTES,
    BrokenSegmentError,
    Sections,
    write_sections,
)
from clipsearch.engines.local.segments.segment import Row, Segment, id_hashes, sections_of
from clipsearch.engines.local.vectors.blocks import VectorStore
from clipsearch.engines.local.writing.upkeep import FACTOR, SMALL, due
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.text import tokens


def rows_of(documents: dict[int, Document]) -> list[Row]:
    return [Row(document, key, key) for key, document in documents.items()]


def as_values(sections: Sections) -> dict[str, object]:
    """What a segment says, whatever the order in which it met values."""
    segment = Segment(sections, 0)
    metadata = segment.metadata
    terms = segment.postings.terms.all()
    found: dict[str, object] = {
        "ids": segment.ids.all(),
        "keys": segment.keys.tolist(),
        "slots": segment.slots.tolist(),
        "lengths": segment.postings.lengths.tolist(),
        "terms": terms,
        "tokens": segment.tokens,
    }
    table = sections.array("pair_table")
    for number, term in enumerate(terms):
        rows, pairs = segment.postings.of_term(number)
        found[f"term {term!r}"] = (rows.tolist(), table[pairs].tolist())
        assert segment.postings.find(term.decode()) == number
    for name in sorted(metadata.tag_names):
        tag = metadata.tag(name)
        assert tag is not None
        found[f"tag {name}"] = [None if c == 0 else tag.values[c - 1] for c in tag.codes.tolist()]
    for name in sorted(metadata.number_names):
        number = metadata.number(name)
        assert number is not None
        found[f"number {name}"] = [None if np.isnan(n) else n for n in number.tolist()]
    sets = metadata.data_sets()
    found["data sets"] = [sets.values[code - 1] for code in sets.codes.tolist()]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_merge_is_what_would_have_been_written_at_once(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    documents = {
        key: replace(make_document(key, seed), data_set=chance.choice(("a", "b", "")))
        for key in range(chance.choice((1, 5, 150)))
    }
    keys = list(documents)
    chance.shuffle(keys)
    cuts = sorted(chance.randrange(len(keys) + 1) for _ in range(chance.randrange(1, 6)))
    groups = [keys[a:b] for a, b in zip([0, *cuts], [*cuts, len(keys)], strict=True) if a < b]
    sources, kept = [], {}
    for number, group in enumerate(groups):
        sections = sections_of(rows_of({key: documents[key] for key in group}), "en")
        path = tmp_path / f"{number}.seg"
        segment = Segment(Sections.open(path, write_sections(path, sections)), number)
        mask = np.array([chance.random() < 0.8 for _ in group])
        kept |= {int(key): documents[int(key)] for key in segment.keys[mask]}
        sources.append(Source(segment, mask, segment.slots, segment.words))
    if kept:
        assert as_values(merged(sources)) == as_values(sections_of(rows_of(kept), "en"))


def test_a_collection_ranks_by_what_is_there_however_it_is_cut() -> None:
    documents = {key: make_document(key) for key in range(120)}
    gone = set(range(0, 120, 7))
    vectors = VectorStore.of(
        np.stack([d.embedding for d in documents.values() if d.embedding is not None])
    )
    live = {key: document for key, document in documents.items() if key not in gone}
    whole = Collection.laid_out(
        1, [Part.of(Segment(sections_of(rows_of(live), "en"), 0))], vectors, None
    )
    parts = []
    for number in range(4):
        held = {key: document for key, document in documents.items() if key % 4 == number}
        segment = Segment(sections_of(rows_of(held), "en"), number)
        lost = np.flatnonzero(np.isin(segment.keys, list(gone))).astype(np.int32)
        words = [
            [t for caption in documents[int(key)].captions for t in tokens(caption)]
            for key in segment.keys[lost]
        ]
        terms = segment.postings.terms_of(lost, words).astype(np.int32)
        # Tokens that are not those of then are not believed.
        other = segment.postings.terms_of(lost, [["else"] for _ in words])
        assert sorted(terms) == sorted(other)
        parts.append(Part(segment, lost, terms, segment.slots))
    cut = Collection.laid_out(2, parts, vectors, None)
    assert (cut.documents, cut.average_length) == (whole.documents, whole.average_length)
    for words in (["dog"], ["the", "red", "dog", "dog"], ["nothing"], []):
        one = dict(zip(whole.ids(np.arange(whole.rows)), whole.bm25(words), strict=True))
        other = dict(zip(cut.ids(np.arange(cut.rows)), cut.bm25(words), strict=True))
        assert {name: score for name, score in other.items() if score} == pytest.approx(
            {name: score for name, score in one.items() if score}, abs=1e-6
        )
    filters = (TagFilter("class", ("airport",)), NumberFilter("year", low=2002))
    passing = {whole.ids(np.array([row]))[0] for row in np.flatnonzero(whole.passing(filters))}
    assert passing == {cut.ids(np.array([row]))[0] for row in np.flatnonzero(cut.passing(filters))}
    assert cut.facets("class", None) == whole.facets("class", None)
    assert dict(cut.data_sets()) == dict(whole.data_sets()) == {"": len(live)}
    names = [document.id for document in documents.values()]
    assert [cut.keys(cut.find([n]))[0] if cut.find([n])[0] >= 0 else None for n in names] == [
        key if key in live else None for key in documents
    ]


def test_ids_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch.engines.local.segments import segment as module

    monkeypatch.setattr(module, "id_hashes", lambda ids: np.zeros(len(ids), np.uint64))
    documents = {key: make_document(key) for key in range(20)}
    segment = Segment(sections_of(rows_of(documents), "en"), 0)
    ids = [documents[key].id.encode() for key in range(20)]
    found = segment.find(np.zeros(21, np.uint64), [*ids, b"nobody"])
    assert found.tolist() == [*range(20), -1]
    assert len(set(id_hashes(ids).tolist())) == 20


def test_each_part_of_a_file_is_checked_when_it_is_read(tmp_path: Path) -> None:
    arrays = {
        "small": np.arange(10, dtype=np.uint16),
        "none": np.zeros(0, np.float64),
        "large": np.arange(3 * PART_BYTES, dtype=np.uint8),
        "table": np.arange(12, dtype=np.uint32).reshape(-1, 2),
    }
    path = tmp_path / "a.seg"
    size = write_sections(path, Sections(arrays, {"é": [1]}))
    opened = Sections.open(path, size)
    assert opened.facts == {"é": [1]}
    for name, array in arrays.items():
        assert np.array_equal(opened.array(name), array) and opened.array(name).dtype == array.dtype
    data = bytearray(path.read_bytes())
    data[2 * PART_BYTES + 500] ^= 4
    path.write_bytes(data)
    opened = Sections.open(path, size)
    assert np.array_equal(opened.array("table"), arrays["table"])
    assert np.array_equal(opened.part("large", 0, 1000), arrays["large"][:1000])
    with pytest.raises(BrokenSegmentError, match=r"a\.seg: is not as it was written"):
        opened.part("large", 2 * PART_BYTES, 2 * PART_BYTES + 1000)
    with pytest.raises(BrokenSegmentError):
        Sections.open(path, size).check_all()
    with pytest.raises(BrokenSegmentError, match="is not of"):
        Sections.open(path, size + 1)


def test_merges_are_due_by_size() -> None:
    def part(rows: int, gone: int = 0) -> Part:
        part = Part.__new__(Part)
        object.__setattr__(part, "gone", np.arange(gone))
        object.__setattr__(part, "segment", type("Sized", (), {"rows": rows}))
        return part

    large = [part(SMALL * FACTOR**3) for _ in range(FACTOR - 1)]
    small = [part(1), part(5)]
    assert due(large) == [] and due([*large, small[0]]) == []
    assert due([*large, *small]) == small
    assert due([*large, part(SMALL * FACTOR**3)]) != []
    half_gone = part(1000, 500)
    assert due([*large, half_gone]) == [half_gone]
