from pathlib import Path

import numpy as np
import pytest
from captions_of_images import image_to_text

from finetune.data.captioned_images import captioned_images
from finetune.evaluation.metrics import text_to_image
from finetune.evaluation.pool import pool_figures, pool_of, pool_ranks
from finetune.images.source import ImageSource


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def images_with(captions: list[list[str]]):
    return captioned_images((str(i), ImageSource(Path(str(i))), c) for i, c in enumerate(captions))


def test_without_shared_captions_the_figures_are_the_plain_ones() -> None:
    data = images_with([[f"caption {i} {j}" for j in range(1 + i % 3)] for i in range(50)])
    texts, images = unit(len(data.captions), 1), unit(50, 2)
    pool = pool_of(data)
    found = pool_figures(pool, pool_ranks(pool, texts[pool.captions], images))
    assert found[0] == text_to_image(texts, images, data.image_of_caption)
    assert found[1] == image_to_text(texts, images, data.image_of_caption)


def test_a_shared_caption_finds_any_of_its_images() -> None:
    captions = [["dog", "pet"], ["Dog"], ["cat", "pet"], ["bird"]]
    data = images_with(captions)
    pool = pool_of(data)
    words = [data.captions[i].lower() for i in pool.captions]
    assert sorted(words) == ["bird", "cat", "dog", "pet"]
    texts, images = unit(4, 3), unit(4, 4)
    t2i, i2t = pool_figures(pool, pool_ranks(pool, texts, images))
    scores = texts @ images.T
    ranks = []
    for text, word in enumerate(words):
        own = [i for i, those in enumerate(captions) if word in [c.lower() for c in those]]
        best = max(scores[text, own])
        ranks.append(1 + sum(scores[text, i] > best for i in range(4) if i not in own))
    assert t2i["mean_rank"] == pytest.approx(np.mean(ranks))
    assert t2i.queries == 4
    ranks = []
    for image, those in enumerate(captions):
        own = [words.index(caption.lower()) for caption in those]
        best = max(scores[own, image])
        ranks.append(1 + sum(scores[t, image] > best for t in range(4) if t not in own))
    assert i2t["mean_rank"] == pytest.approx(np.mean(ranks))
    assert i2t.pool == 4
