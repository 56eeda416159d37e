"""Answers over a pool against naive loops, and the sheet of the queries that changed most."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.evaluation.before_after import (
    Answers,
    best_positives,
    nearest,
    sample_batch,
    sample_positives,
)
from finetune.evaluation.comparison_sheet import changed_most, write_run_comparison
from finetune.evaluation.pool import pool_of, pool_ranks
from finetune.images.source import ImageSource
from finetune.training.finish import draw_outcome, lay_beside

CAPTIONS = (["a dog", "the beach"], ["A  dog"], ["a cat", "two cats", "cats"], ["snow"], ["a car"])


def unit(rows: int, seed: int, d: int = 4) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, d)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture
def data(tmp_path) -> CaptionedImages:
    """Five pictures of one colour each; two share a caption."""
    rows = []
    for number, captions in enumerate(CAPTIONS):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 30), (50 * number, 10, 10)).save(path)
        rows.append((f"image {number}", ImageSource(path), captions))
    return captioned_images(rows)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_nearest_equals_a_sort_of_everything(queries, gallery, count, seed, has_ties) -> None:
    texts, images = unit(queries, seed), unit(gallery, seed + 1)
    if has_ties:  # whole numbers, so that equal scores are exactly equal
        texts, images = np.round(3 * texts), np.round(3 * images)
    scores = texts @ images.T
    expected = [
        sorted(range(gallery), key=lambda image: (-scores[query, image], image))[:count]
        for query in range(queries)
    ]
    assert nearest(texts, images, count).tolist() == expected


def test_nearest_in_blocks(monkeypatch) -> None:
    texts, images = unit(50, 0), unit(30, 1)
    whole = nearest(texts, images, 3)
    monkeypatch.setattr("finetune.evaluation.before_after.BLOCK", 100)
    assert np.array_equal(nearest(texts, images, 3), whole)


def test_answers_of_a_pool_with_shared_captions(data) -> None:
    pool = pool_of(data)
    assert len(pool.captions) == 7  # "a dog" belongs to two images
    texts, images = unit(7, 2), unit(5, 3)
    answers = Answers.of(pool, texts, images)
    by_text, by_image = pool_ranks(pool, texts, images)
    assert np.array_equal(answers.text_ranks, by_text[:, 0])
    assert np.array_equal(answers.image_ranks, by_image[:, 0])
    indptr, owners = pool.text_positives
    for query in range(7):
        own = owners[indptr[query] : indptr[query + 1]].tolist()
        best = max(own, key=lambda image, query=query: float(texts[query] @ images[image]))
        assert answers.wanted[query] == best
        # the first result is right exactly where the rank is 1
        assert (answers.found[query, 0] in own) == (answers.text_ranks[query] == 1)
    again = Answers.of(pool, texts, images, ranks=(by_text, by_image))
    stored = Answers.from_arrays(answers.as_arrays())
    for name, values in answers.as_arrays().items():
        assert np.array_equal(values, getattr(again, name))
        assert np.array_equal(values, getattr(stored, name))


def test_best_positives_in_blocks(data, monkeypatch) -> None:
    pool, texts, images = pool_of(data), unit(7, 2), unit(5, 3)
    whole = best_positives(pool, texts, images)
    monkeypatch.setattr("finetune.evaluation.before_after.BLOCK", 8)
    assert np.array_equal(best_positives(pool, texts, images), whole)


def test_the_sample_marks_who_belongs_to_whom(data) -> None:
    pool = pool_of(data)
    images, captions = sample_batch(pool)
    assert images.tolist() == [0, 1, 2, 3, 4]
    assert len(captions) == len(set(captions.tolist()))
    positives = sample_positives(pool)
    keys = data.keys
    for row, image in enumerate(images):
        own = set(keys[data.starts[image] : data.starts[image + 1]].tolist())
        for column, caption in enumerate(captions):
            assert positives[row, column] == (keys[pool.captions[caption]] in own)
    assert positives.any(axis=1).all()


def test_the_sample_is_spread_over_a_large_pool() -> None:
    rows = [(str(i), ImageSource(None), [f"caption {i}"]) for i in range(1000)]
    images, captions = sample_batch(pool_of(captioned_images(rows)))
    assert len(images) == len(captions) == 32
    assert images[0] == 0 and images[-1] == 999


def test_the_queries_that_changed_most() -> None:
    after, before = np.array([[1, 100, 5, 7, 2, 1], [2, 200, 5, 3, 1, 50]])
    improved, worse = changed_most(before, after)
    assert improved.tolist() == [5, 0, 1]
    assert worse.tolist() == [4, 3]
    improved, worse = changed_most(before, after, 1)
    assert (improved.tolist(), worse.tolist()) == ([5], [4])


def test_the_sheet_shows_both_answers(data, tmp_path) -> None:
    pool = pool_of(data)
    # Each caption finds its image after, and the next one's before; "a dog" is right both times.
    axes = np.eye(5, dtype=np.float32)
    owner = {text: image for image, texts in enumerate(CAPTIONS) for text in texts}
    texts = np.stack([axes[owner[data.captions[i]]] for i in pool.captions])
    before = Answers.of(pool, texts, np.roll(axes, 1, axis=0))
    after = Answers.of(pool, texts, axes)
    for name in ("changes.html", "changes.png"):
        write_run_comparison(tmp_path / name, data, pool, before, after)
    with Image.open(tmp_path / "changes.png") as sheet:
        assert sheet.width > 7 * 240
    page = (tmp_path / "changes.html").read_text()
    assert "among 5 images, 6 rank better, 0 worse, 1 the same" in page
    titles, texts = re.findall(r"<b>(.*?)</b>(.*?)</figcaption>", page), []
    assert len(titles) == page.count("<img") == 6 * 7
    for row in range(6):
        (wanted, text), *others = titles[7 * row : 7 * row + 7]
        image = owner[text]
        assert re.fullmatch(rf"rank [2-5] → 1: image {image}", wanted)
        shown = [title for title, _ in others]
        assert [title.split(":")[0].rstrip(" ✓") for title in shown] == [
            f"{when} {place}" for when in ("before", "after") for place in (1, 2, 3)
        ]
        assert shown[0] == f"before 1: image {(image + 1) % 5}"
        assert shown[3] == f"after 1 ✓: image {image}"
        texts.append(text)
    assert sorted(texts) == sorted(set(owner) - {"a dog", "A  dog"})


def test_a_pool_of_fewer_pictures_than_a_row_shows(data, tmp_path) -> None:
    two = data.without([2, 3, 4])
    pool = pool_of(two)
    images = unit(2, 0)
    texts = images[[1] * len(pool.captions)]
    before, after = Answers.of(pool, texts, images[::-1]), Answers.of(pool, texts, images)
    write_run_comparison(tmp_path / "changes.html", two, pool, before, after)
    assert "no more pictures" in (tmp_path / "changes.html").read_text()


def test_where_nothing_changed_the_sheet_says_so(data, tmp_path) -> None:
    pool = pool_of(data)
    same = Answers.of(pool, unit(7, 0), unit(5, 1))
    for name in ("changes.html", "changes.png"):
        write_run_comparison(tmp_path / name, data, pool, same, same)
    assert "7 the same. Nothing changed" in (tmp_path / "changes.html").read_text()
    with Image.open(tmp_path / "changes.png") as sheet:
        sheet.load()


def test_sheets_lie_beside_the_folder_and_replace_only_our_own(data, tmp_path) -> None:
    pool = pool_of(data)
    same = Answers.of(pool, unit(7, 0), unit(5, 1))
    (tmp_path / "work").mkdir()
    sheet = tmp_path / "work" / "changes.html"
    write_run_comparison(sheet, data, pool, same, same)
    told: list[str] = []
    for _ in range(2):
        lay_beside(tmp_path / "encoder", [sheet], told.append)
    beside = tmp_path / "encoder.changes.html"
    assert beside.read_bytes() == sheet.read_bytes()
    beside.write_text("mine")
    lay_beside(tmp_path / "encoder", [sheet], told.append)
    assert beside.read_text() == "mine"
    assert len(told) == 1 and str(beside) in told[0]


@pytest.mark.parametrize("is_compared", [True, False])
def test_all_pictures_of_an_outcome(data, tmp_path, is_compared) -> None:
    pool = pool_of(data)
    before, after = (Answers.of(pool, unit(7, seed), unit(5, seed + 1)) for seed in (0, 5))
    paths = draw_outcome(tmp_path, data, pool, before if is_compared else None, after)
    names = ["ranks.png", "similarity.png", "changes.html", "changes.png"]
    assert [path.name for path in paths] == names[: 4 if is_compared else 2]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
