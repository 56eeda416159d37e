"""Near duplicates: against a naive twin, on images saved anew, and marked for collapsing."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from local_collection import DIMENSION, make_document
from PIL import Image, ImageDraw

from clipsearch.cli.duplicates import _MIN_COSINE, _REASONS, duplicates
from clipsearch.documents import Document
from clipsearch.duplicates import grouping
from clipsearch.duplicates.grouping import MIN_COSINE, REASONS, duplicate_groups
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.operations import Upsert
from finetune.errors import UsageError
from finetune.images.perceptual_hash import perceptual_hash


def _documents(count: int = 60) -> list[Document]:
    random = np.random.default_rng(3)
    made = []
    for place in range(count):
        vector = random.standard_normal(DIMENSION)
        if place % 3 == 0 and place:  # near an earlier one
            earlier = made[random.integers(len(made))].embedding
            vector = earlier + random.standard_normal(DIMENSION) * random.choice([0.01, 0.05])
        made.append(
            Document(
                f"{place:03}.jpg",
                embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
                content=f"c{place % 29}" if place % 2 else "",
                look=f"l{place % 25}" if place % 5 == 0 else "",
            )
        )
    return made


def _naive(documents: list[Document], min_cosine: float) -> list[set[str]]:
    """Equal ones first, then stars of those that stand for them, each by its neighbours' number."""
    equal = [{document.id} for document in documents]
    near = {document.id: set[str]() for document in documents}
    for one, other in combinations(documents, 2):
        if float(one.embedding @ other.embedding) >= min_cosine:
            near[one.id].add(other.id)
            near[other.id].add(one.id)
        same = one.content and one.content == other.content
        first, second = (next(g for g in equal if each.id in g) for each in (one, other))
        if (same or (one.look and one.look == other.look)) and first is not second:
            first |= second
            equal.remove(second)
    turns = sorted(near, key=lambda id: (-len(near[id]), id))
    of_first = {min(each, key=turns.index): each for each in equal}
    groups: list[set[str]] = []
    for first in sorted(of_first, key=turns.index):
        if first in of_first:
            group = of_first.pop(first)
            for other in near[first] & of_first.keys():
                group |= of_first.pop(other)
            groups.append(group)
    return sorted((group for group in groups if len(group) > 1), key=lambda g: (-len(g), min(g)))


@pytest.mark.parametrize("min_cosine", [0.9, 0.99])
def test_groups_are_those_of_a_naive_twin(
    min_cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "_BLOCK", 7)
    documents = _documents()
    found = duplicate_groups(documents[::-1], min_cosine=min_cosine)
    names = [{member.document.id for member in group.members} for group in found]
    assert sorted(map(sorted, names)) == sorted(map(sorted, _naive(documents, min_cosine)))
    assert [len(each) for each in names] == sorted(map(len, names), reverse=True)
    assert {reason for group in found for reason in group.reasons} == set(REASONS)
    for group in found:
        assert group.members[0].cosine == pytest.approx(1, abs=1e-5)
    (only,) = {g.reasons for g in duplicate_groups(documents, reasons=("content",))}
    assert only == ("content",)


def test_a_chain_is_no_group_and_no_member_is_far_from_the_first() -> None:
    angles = np.linspace(0, np.pi / 2, 40)
    chain = [
        Document(f"{n:02}.jpg", embedding=np.array([np.cos(a), np.sin(a)], np.float32))
        for n, a in enumerate(angles)
    ]
    groups = duplicate_groups(chain, min_cosine=0.99)
    assert len(groups) > 3
    for group in groups:
        assert all(member.cosine >= 0.99 - 1e-6 for member in group.members)
        pairs = combinations([member.document.embedding for member in group.members], 2)
        assert all(one @ other >= 2 * 0.99**2 - 1 - 1e-6 for one, other in pairs)
        cosines = [member.cosine for member in group.members]
        assert cosines == sorted(cosines, reverse=True)
    firsts = [group.members[0].document.embedding for group in groups]
    assert all(one @ other < 0.99 for one, other in combinations(firsts, 2))


def test_a_large_group_is_cut_and_told_of(tmp_path: Path) -> None:
    engine = LocalEngine.create(tmp_path / "i", IndexInfo(2))
    same = [Document(f"{n}.jpg", embedding=np.array([1, 0], np.float32)) for n in range(120)]
    list(engine.feed(map(Upsert, same)))
    engine.finish_feed()
    engine.close()
    done = CliRunner().invoke(duplicates, ["--index", str(tmp_path / "i")])
    assert "and 70 more (--json has them all)" in done.stdout
    assert "the largest group holds 120 of 120 pictures: a higher --min-cosine" in done.stderr


def test_a_bound_that_all_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "MOST_PAIRS", 100)
    with pytest.raises(UsageError, match="higher --min-cosine"):
        duplicate_groups([make_document(0)] * 20, min_cosine=0.5)
    with pytest.raises(UsageError, match="above 0"):
        duplicate_groups([], min_cosine=0.0)


def test_the_command_knows_the_defaults() -> None:
    assert (_REASONS, _MIN_COSINE) == (REASONS, MIN_COSINE)


def test_a_copy_has_the_same_hash_and_another_picture_has_not(tmp_path: Path) -> None:
    def drawn(seed: int) -> Image.Image:
        image = Image.new("RGB", (200, 160), "white")
        for x, y, size, *color in np.random.default_rng(seed).integers(0, 150, (8, 6)):
            ImageDraw.Draw(image).ellipse([x, y, x + size, y + size], fill=tuple(color))
        return image

    def saved(image: Image.Image, name: str, **options: int) -> np.ndarray:
        image.save(tmp_path / name, **options)
        opened = Image.open(tmp_path / name).convert("RGB").resize((64, 64))
        return np.asarray(opened)

    hashes = [perceptual_hash(saved(drawn(seed), "a.png")) for seed in range(20)]
    assert len(set(hashes)) == 20 and {len(each) for each in hashes} == {9}
    again = [
        perceptual_hash(saved(drawn(seed).resize((100, 80)), "a.jpg", quality=90))
        for seed in range(20)
    ]
    # Mostly: a value beside the median may cross it.
    assert sum(one == other for one, other in zip(hashes, again, strict=True)) >= 16


def test_groups_are_shown_and_marked(tmp_path: Path) -> None:
    index = tmp_path / "photos.index"
    engine = LocalEngine.create(index, IndexInfo(DIMENSION))
    documents = _documents(30)
    assert all(one.error is None for one in engine.feed(map(Upsert, documents)))
    engine.finish_feed()
    before = {document.id: document.look for document in engine.visit()}
    run = CliRunner()
    shown = run.invoke(duplicates, ["--index", str(index), "--json", "--min-cosine", "0.9"])
    groups = json.loads(shown.stdout)["groups"]
    shown_groups = [sorted(each["id"] for each in group["documents"]) for group in groups]
    assert sorted(shown_groups) == sorted(map(sorted, _naive(documents, 0.9)))
    assert {document.id: document.look for document in engine.visit()} == before
    sheet = tmp_path / "same.html"
    marked = run.invoke(
        duplicates,
        ["--index", str(index), "--mark", "--min-cosine", "0.9", "--sheet", str(sheet)],
        catch_exceptions=False,
    )
    assert marked.exit_code == 0 and "marked" in marked.stdout and sheet.exists()
    vector = documents[0].embedding
    page = engine.search(EngineQuery("vector", vector=vector, k=30, collapse=True))
    held = sum(len(group["documents"]) for group in groups)
    assert len(page.hits) == 30 - held + len(groups)
    assert sum(hit.more for hit in page.hits) == held - len(groups)
    again = run.invoke(duplicates, ["--index", str(index), "--mark", "--min-cosine", "0.9"])
    assert "marked 0 documents" in again.stdout
    engine.close()


def test_what_an_earlier_version_marked_as_one_chain_is_taken_apart(tmp_path: Path) -> None:
    angles = np.linspace(0, np.pi / 2, 40)
    chain = [
        Document(
            f"{n:02}.jpg",
            embedding=np.array([np.cos(angle), np.sin(angle)], np.float32),
            content=f"c{n}" if n % 2 else "",
            look="00.jpg",
        )
        for n, angle in enumerate(angles[angles < 1])
    ]
    apart = Document("apart.jpg", embedding=np.array([-1, 0], np.float32), look="00.jpg")
    engine = LocalEngine.create(tmp_path / "i", IndexInfo(2))
    list(engine.feed(map(Upsert, [*chain, apart])))
    engine.finish_feed()

    def marked(*options: str) -> tuple[int, list[set[str]]]:
        asked = ["--index", str(tmp_path / "i"), "--mark", "--json", *options]
        shown = json.loads(CliRunner().invoke(duplicates, asked, catch_exceptions=False).stdout)
        groups = [{each["id"] for each in group["documents"]} for group in shown["groups"]]
        alike: dict[str, set[str]] = {}
        for document in engine.visit():
            alike.setdefault(document.look, set()).add(document.id)
        held = [sorted(each) for each in alike.values() if len(each) > 1]
        assert sorted(held) == sorted(map(sorted, groups))
        return shown["marked"], groups

    assert len(marked("--min-cosine", "0.999")[1]) == 1, "by look, they are one group"
    for min_cosine in ("0.99", "0.999", "0.99"):
        changed, groups = marked("--by", "embedding", "--min-cosine", min_cosine)
        assert changed > 0 and len(groups) > 2
        assert marked("--by", "embedding", "--min-cosine", min_cosine) == (0, groups)
        assert marked("--min-cosine", min_cosine)[1] == groups
    page = engine.search(EngineQuery("vector", vector=apart.embedding, k=50, collapse=True))
    alone = len(chain) + 1 - sum(map(len, groups))
    assert len(page.hits) == len(groups) + alone
    engine.close()
