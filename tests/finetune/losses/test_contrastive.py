import math

import pytest
import torch
import torch.nn.functional as F

from finetune.losses.contrastive import contrastive_loss


def unit(rows: int, seed: int, dimension: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64))


def written_out(images, texts, log_scale, positives) -> float:
    """The formula of the module's docstring, one number at a time."""
    scale = math.exp(log_scale)

    def one_way(anchors, others, is_positive) -> float:
        losses = []
        for i, anchor in enumerate(anchors):
            logits = [scale * float(torch.dot(anchor, other)) for other in others]
            negatives = [logits[j] for j in range(len(others)) if not is_positive(i, j)]
            terms = [
                -math.log(
                    math.exp(logits[j]) / (math.exp(logits[j]) + sum(map(math.exp, negatives)))
                )
                for j in range(len(others))
                if is_positive(i, j)
            ]
            if terms:
                losses.append(sum(terms) / len(terms))
        return sum(losses) / len(losses)

    forth = one_way(images, texts, lambda i, j: bool(positives[i, j]))
    back = one_way(texts, images, lambda j, i: bool(positives[i, j]))
    return (forth + back) / 2


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 7)])
def test_equals_the_formula_written_out(seed: int, rows: int, columns: int) -> None:
    images, texts = unit(rows, seed), unit(columns, seed + 100)
    chance = torch.Generator().manual_seed(seed)
    positives = torch.rand(rows, columns, generator=chance) < 0.3
    positives |= torch.eye(rows, columns, dtype=torch.bool)
    log_scale = torch.tensor(1.7, dtype=torch.float64)
    loss = contrastive_loss(images, texts, log_scale, positives)
    assert loss.item() == pytest.approx(written_out(images, texts, 1.7, positives), rel=1e-7)


def test_with_one_positive_each_it_is_clips_loss() -> None:
    images, texts, log_scale = unit(8, 1), unit(8, 2), torch.tensor(2.0, dtype=torch.float64)
    logits = log_scale.exp() * images @ texts.T
    target = torch.arange(8)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    loss = contrastive_loss(images, texts, log_scale, torch.eye(8, dtype=torch.bool))
    torch.testing.assert_close(loss, expected)


def test_a_positive_is_never_pushed_away() -> None:
    # One positive is far nearer than the others: SupCon would push it back.
    texts = unit(4, 3)
    images = texts.clone().requires_grad_()
    cosines = images @ texts.T
    cosines.retain_grad()
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[:3, :3] = True
    positives[3, 3] = True
    # Embeddings of which the products are the cosines themselves.
    loss = contrastive_loss(
        cosines, torch.eye(4, dtype=torch.float64), torch.tensor(3.0).double(), positives
    )
    loss.backward()
    assert cosines.grad is not None
    assert (cosines.grad[positives] <= 0).all()
    assert (cosines.grad[~positives] > 0).all()


def test_nothing_but_positives_gives_zero_and_no_nan() -> None:
    images = unit(3, 4).requires_grad_()
    loss = contrastive_loss(
        images, unit(3, 5), torch.tensor(4.6).double(), torch.ones(3, 3, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0
    assert images.grad is not None
    assert torch.equal(images.grad, torch.zeros_like(images))


def test_half_precision_embeddings_are_scored_in_float32() -> None:
    images, texts, pairs = unit(16, 6), unit(16, 7), torch.eye(16, dtype=torch.bool)
    scale = torch.tensor(math.log(100))
    exact = contrastive_loss(images.half().double(), texts.half().double(), scale.double(), pairs)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(images.half(), texts.half(), scale, pairs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
