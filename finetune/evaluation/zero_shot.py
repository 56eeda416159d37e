"""Classify images by prompts: the class whose description lies nearest is the answer.

A prompt is a template with the class in it, "An aerial photograph of {category}". Of several
templates the embeddings are averaged, as CLIP does (Radford et al. 2021, arXiv:2103.00020,
section 3.1.4). Imports without torch, and works on embeddings alone:

>>> classes = ["airport", "beach"]
>>> embeds = average_prompts(encode_texts(class_prompts(classes, TEMPLATES)), len(TEMPLATES))
>>> zero_shot(image_embeds, embeds, class_of_image)["hits@1"]
0.97
"""

from collections.abc import Sequence

import numpy as np

from finetune.arrays import Float32, Float64, Int64
from finetune.errors import ClipsearchError, UsageError
from finetune.evaluation.metrics import best_ranks
from finetune.figures import CLASS_CUTOFFS, MEAN_RANK, ZERO_SHOT, Measurement
from finetune.manifest.class_labels import class_words
from finetune.several import check_several

PLACEHOLDER = "{category}"
TEMPLATES = (f"a photo of a {PLACEHOLDER}",)


def class_prompts(classes: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Return every class in every template: all c * t prompts, class after class.

    Underscores of a class's name become blanks: "tennis_court" is written as people would.

    Raises UsageError for a template without {category}, or where there is none.
    """
    check_templates(templates)
    names = [class_words(name) for name in classes]
    return [template.replace(PLACEHOLDER, name) for name in names for template in templates]


def check_templates(templates: Sequence[str]) -> None:
    """Raise UsageError for a template without {category}, or where there is none."""
    check_several(templates, "the templates")
    if not templates:
        raise UsageError(f'give at least one template, such as "{TEMPLATES[0]}"')
    for template in templates:
        if PLACEHOLDER not in template:
            raise UsageError(
                f'the template "{template}" has no {PLACEHOLDER}, so every class would have the'
                f' same prompt; write it where the class belongs: "{TEMPLATES[0]}"'
            )


def average_prompts(prompt_embeds: Float32, templates: int) -> Float32:
    """Return one embedding a class, float32[c, d], unit length, from those of its prompts.

    Args:
        prompt_embeds: Of `class_prompts`, float32[c * templates, d], unit length.
        templates: Prompts of a class.
    """
    count, dimension = prompt_embeds.shape
    if templates < 1 or count % templates:
        raise ValueError(f"{count} prompts are not {templates} of each class")
    means = prompt_embeds.reshape(count // templates, templates, dimension).mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ClipsearchError("the prompts of a class cancel each other out; use fewer templates")
    averaged: Float32 = (means / lengths).astype(np.float32)
    return averaged


def class_probabilities(
    image_embeds: Float32, class_embeds: Float32, logit_scale: float
) -> Float64:
    """Return how likely each class is for each image, float64[n, c]: each row sums to 1.

    The softmax of the cosines times `logit_scale`, which is what CLIP's loss taught the encoder.

    Args:
        image_embeds: float32[n, d], unit length.
        class_embeds: float32[c, d], unit length.
        logit_scale: Above 0: exp of the encoder's own parameter.
    """
    logits = logit_scale * (image_embeds.astype(np.float64) @ class_embeds.astype(np.float64).T)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float64 = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def class_ranks(image_embeds: Float32, class_embeds: Float32, class_of_image: Int64) -> Int64:
    """Return rank, from 1, of each image's own class: int64[n]. Ties count against it.

    Args:
        image_embeds: float32[n, d], unit length.
        class_embeds: float32[c, d], unit length.
        class_of_image: int64[n], rows of `class_embeds`.

    Raises ClipsearchError where there is nothing to rank or a vector is not finite.
    """
    owners = np.asarray(class_of_image, dtype=np.int64)
    if len(owners) != len(image_embeds):
        raise ValueError(f"{len(image_embeds)} images, but {len(owners)} classes of theirs")
    if not len(owners):
        raise ClipsearchError("there is no image with a class to evaluate with")
    if len(class_embeds) < 2:
        raise ClipsearchError("with a single class there is nothing to choose; give at least two")
    if owners.min() < 0 or owners.max() >= len(class_embeds):
        raise ValueError(f"an image's class is none of the {len(class_embeds)} rows")
    indptr = np.arange(len(owners) + 1, dtype=np.int64)
    return best_ranks(image_embeds, class_embeds, (indptr, owners))


def class_figures(ranks: Int64, ks: Sequence[int] = CLASS_CUTOFFS) -> dict[str, Float64]:
    """Return what each image counts for in the means of a measurement: float64[n] by figure.

    hits@k is 1 where the image's class is among the first k; where k is not below the number of
    classes, that is so whatever the encoder. mrr is 1 / rank.

    Args:
        ranks: Of `class_ranks`, int64[n].
        ks: Cutoffs.
    """
    return {f"hits@{k}": (ranks <= k).astype(np.float64) for k in ks} | {"mrr": 1.0 / ranks}


def zero_shot(
    image_embeds: Float32,
    class_embeds: Float32,
    class_of_image: Int64,
    ks: Sequence[int] = CLASS_CUTOFFS,
) -> Measurement:
    """Return the figures of every image choosing among all classes; see `class_ranks`."""
    ranks = class_ranks(image_embeds, class_embeds, class_of_image)
    values = {name: float(each.mean()) for name, each in class_figures(ranks, ks).items()}
    values[MEAN_RANK] = float(ranks.mean())
    return Measurement.of(ZERO_SHOT, len(class_embeds), len(ranks), values)
