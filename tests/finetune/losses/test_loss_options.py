"""The sigmoid loss and the contrastive loss's options, against their formulas written out."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from transformers import SiglipConfig, SiglipModel

from finetune.errors import UsageError
from finetune.losses import LOSSES, build_loss
from finetune.losses.contrastive import contrastive_loss
from finetune.losses.sigmoid import sigmoid_loss
from finetune.models.dual_encoder import DualEncoder
from finetune.models.tiny import TinySize, tiny_clip

SMALL = TinySize(image_size=32, width=16, mlp_width=32, heads=2, projection=8, max_tokens=12)


def unit(rows: int, seed: int, dimension: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64))


def some_positives(rows: int, columns: int, seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    found = torch.rand(rows, columns, generator=chance) < 0.25
    return found | torch.eye(rows, columns, dtype=torch.bool)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def tiny_dual() -> DualEncoder:
    built = tiny_clip(["a red square", "a blue circle"], size=SMALL)
    return DualEncoder(
        built.model, built.tokenizer, built.preprocessing, max_tokens=12, base_model="tiny"
    )


def sigmoid_written_out(images, texts, log_scale, bias, positives) -> float:
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            sign = 1 if positives[i, j] else -1
            logit = math.exp(log_scale) * float(torch.dot(image, text)) + bias
            total += -math.log(1 / (1 + math.exp(-sign * logit)))
    return total / len(texts)


def contrastive_written_out(images, texts, log_scale, positives, smoothing, beta) -> float:
    """Each positive among all negatives of its anchor is one classification."""
    scale = math.exp(log_scale)

    def one_way(anchors, others, is_positive) -> float:
        losses = []
        for i, anchor in enumerate(anchors):
            logits = [scale * float(torch.dot(anchor, other)) for other in others]
            negatives = [logits[j] for j in range(len(others)) if not is_positive(i, j)]
            weights = [math.exp(beta * s) for s in negatives]
            mean_weight = sum(weights) / len(weights) if weights else 1.0
            below = sum(
                w / mean_weight * math.exp(s) for w, s in zip(weights, negatives, strict=True)
            )
            terms = []
            for j in range(len(others)):
                if is_positive(i, j):
                    log_partition = math.log(math.exp(logits[j]) + below)
                    even = smoothing / (1 + len(negatives))
                    term = (1 - smoothing + even) * (log_partition - logits[j])
                    term += sum(even * (log_partition - s) for s in negatives)
                    terms.append(term)
            if terms:
                losses.append(sum(terms) / len(terms))
        return sum(losses) / len(losses)

    forth = one_way(images, texts, lambda i, j: bool(positives[i, j]))
    back = one_way(texts, images, lambda j, i: bool(positives[i, j]))
    return (forth + back) / 2


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 7), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_sigmoid_equals_the_formula_written_out(rows: int, columns: int, seed: int) -> None:
    images, texts = unit(rows, seed), unit(columns, seed + 50)
    positives = some_positives(rows, columns, seed)
    loss = sigmoid_loss(images, texts, number(1.2), positives, logit_bias=number(-3.0))
    expected = sigmoid_written_out(images, texts, 1.2, -3.0, positives)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_sigmoid_with_one_positive_each_is_what_transformers_has() -> None:
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {"vocab_size": 20, "max_position_embeddings": 8, "projection_size": 16}
    vision = {"image_size": 16, "patch_size": 16}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=tower | text, vision_config=tower | vision))
    torch.nn.init.constant_(model.logit_scale, 2.0)
    torch.nn.init.constant_(model.logit_bias, -4.0)
    with torch.no_grad():
        out = model(
            input_ids=torch.randint(0, 20, (5, 8)),
            pixel_values=torch.randn(5, 3, 16, 16),
            return_loss=True,
        )
        loss = sigmoid_loss(
            out.image_embeds, out.text_embeds, model.logit_scale, torch.eye(5, dtype=torch.bool),
            logit_bias=model.logit_bias,
        )  # fmt: skip
    torch.testing.assert_close(loss, out.loss)


@pytest.mark.parametrize(("smoothing", "beta"), [(0.0, 0.4), (0.1, 0.0), (0.3, 1.5), (0.0, 0.0)])
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_contrastive_options_equal_the_formula_written_out(
    smoothing: float, beta: float, rows: int, columns: int, seed: int
) -> None:
    images, texts = unit(rows, seed), unit(columns, seed + 50)
    positives = some_positives(rows, columns, seed)
    loss = contrastive_loss(
        images, texts, number(1.7), positives, label_smoothing=smoothing, hard_negative_beta=beta
    )
    expected = contrastive_written_out(images, texts, 1.7, positives, smoothing, beta)
    assert loss.item() == pytest.approx(expected, rel=1e-7)


def test_smoothing_with_one_positive_each_is_torchs() -> None:
    images, texts, scale = unit(8, 1), unit(8, 2), number(2.0)
    logits = scale.exp() * images @ texts.T
    target = torch.arange(8)
    expected = (
        F.cross_entropy(logits, target, label_smoothing=0.2)
        + F.cross_entropy(logits.T, target, label_smoothing=0.2)
    ) / 2
    pairs = torch.eye(8, dtype=torch.bool)
    torch.testing.assert_close(
        contrastive_loss(images, texts, scale, pairs, label_smoothing=0.2), expected
    )


def test_beta_pushes_near_negatives_harder() -> None:
    """The share of the push that goes to the nearest negative grows with beta."""
    images, texts = unit(1, 1), unit(6, 2)
    positives = torch.tensor([[True] + [False] * 5])

    def nearest_share(beta: float) -> float:
        cosines = (images @ texts.T).clone().requires_grad_()
        loss = contrastive_loss(
            cosines, torch.eye(6, dtype=torch.float64), number(1.0), positives,
            hard_negative_beta=beta,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, cosines)
        negatives = gradient[0, 1:]
        return (negatives[cosines[0, 1:].argmax()] / negatives.sum()).item()

    shares = [nearest_share(beta) for beta in (0.0, 0.5, 2.0)]
    assert shares == sorted(shares)
    assert shares[-1] > 1.2 * shares[0]


@pytest.mark.parametrize(
    "loss_of",
    [
        contrastive_loss,
        partial(contrastive_loss, label_smoothing=0.1),
        partial(contrastive_loss, hard_negative_beta=0.7),
        partial(contrastive_loss, label_smoothing=0.2, hard_negative_beta=1.3),
    ],
)
def test_gradients_of_the_contrastive_loss(loss_of) -> None:
    images, texts = unit(4, 1).requires_grad_(), unit(5, 2).requires_grad_()
    scale = number(1.0).requires_grad_()
    positives = some_positives(4, 5, 3)
    # rows with every kind: no positive, no negative
    positives[0], positives[1] = False, True

    assert torch.autograd.gradcheck(lambda i, t, s: loss_of(i, t, s, positives),
                                    (images, texts, scale))  # fmt: skip


def test_gradients_of_the_sigmoid_loss() -> None:
    images, texts = unit(4, 1).requires_grad_(), unit(5, 2).requires_grad_()
    scale, bias = number(1.0).requires_grad_(), number(-2.0).requires_grad_()
    positives = some_positives(4, 5, 3)
    assert torch.autograd.gradcheck(
        lambda i, t, s, b: sigmoid_loss(i, t, s, positives, logit_bias=b),
        (images, texts, scale, bias),
    )


@pytest.mark.parametrize("options", [{"hard_negative_beta": 2.0}, {"label_smoothing": 0.1}, {}])
def test_only_positives_gives_zero_loss_and_finite_gradients(options) -> None:
    """In float32 at CLIP's largest scale, where a wrong mask shows as inf or nan."""
    images, texts = unit(3, 1).float().requires_grad_(), unit(3, 2).float()
    loss = contrastive_loss(
        images, texts, torch.tensor(4.6), torch.ones(3, 3, dtype=torch.bool), **options
    )
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_half_precision_is_scored_in_single() -> None:
    images, texts = unit(6, 1), unit(6, 2)
    pairs, bias = torch.eye(6, dtype=torch.bool), torch.tensor(-10.0)
    exact = sigmoid_loss(
        images.bfloat16().float(), texts.bfloat16().float(), torch.tensor(4.6), pairs,
        logit_bias=bias,
    )  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        half = sigmoid_loss(
            images.bfloat16(), texts.bfloat16(), torch.tensor(4.6), pairs, logit_bias=bias
        )
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact)


def test_registry_builds_each_loss_for_a_model() -> None:
    dual = tiny_dual()
    images, texts, pairs = unit(4, 1).float(), unit(4, 2).float(), torch.eye(4, dtype=torch.bool)
    scale = torch.tensor(1.0)
    for name in LOSSES:
        assert build_loss(name, dual)(images, texts, scale, pairs).isfinite()
    plain = build_loss("contrastive", dual)(images, texts, scale, pairs)
    assert torch.equal(plain, contrastive_loss(images, texts, scale, pairs))
    smoothed = build_loss("contrastive", dual, label_smoothing=0.2)(images, texts, scale, pairs)
    assert smoothed != plain


def test_sigmoid_gives_a_clip_a_bias_that_trains_and_is_saved() -> None:
    dual = tiny_dual()
    assert dual.logit_bias is None
    before = set(dual.state_dict())
    loss = build_loss("sigmoid", dual)(
        unit(3, 1).float(), unit(3, 2).float(), dual.logit_scale, torch.eye(3, dtype=torch.bool)
    )
    bias = dual.logit_bias
    assert bias is not None and bias.item() == -10
    assert dual.logit_scale.exp().item() == pytest.approx(10)
    loss.backward()
    assert bias.grad is not None and bias.grad.item() != 0
    assert any(parameter is bias for parameter in dual.parameters())
    assert set(dual.state_dict()) - before == {"added_logit_bias"}
    # asking twice changes nothing
    torch.nn.init.constant_(bias, -7)
    assert dual.ensure_logit_bias() is bias
    assert bias.item() == -7


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("triplet", {}, "--loss must be one of contrastive, sigmoid"),
        ("contrastive", {"label_smoothing": 1.0}, "--label-smoothing"),
        ("contrastive", {"hard_negative_beta": -0.1}, "--hard-negative-beta"),
        ("contrastive", {"hard_negative_beta": float("nan")}, "--hard-negative-beta"),
        ("sigmoid", {"label_smoothing": 0.1}, "--loss contrastive"),
        ("sigmoid", {"hard_negative_beta": 1.0}, "--loss contrastive"),
    ],
)
def test_refuses(name: str, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_loss(name, tiny_dual(), **options)
