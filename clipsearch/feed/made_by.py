"""Whether ready-made vectors are of the encoder that is said to have made them."""

from itertools import islice

import numpy as np

from clipsearch.encoder.encoder import Encoder
from finetune.errors import EncoderMismatchError, ImageError
from finetune.manifest.manifest import Manifest
from finetune.read_ahead import closed_after

SAMPLE = 8
# Another program crops, scales and rounds a little otherwise; another encoder's vectors have a
# cosine of about 0.
LEAST_COSINE = 0.9


def check_made_by(encoder: Encoder, manifest: Manifest) -> None:
    """Compare the first vectors whose images are there with what the encoder makes of these.

    Raises EncoderMismatchError where the median cosine is below LEAST_COSINE. Nothing is known
    where no image is there.
    """
    cosines = _cosines(encoder, manifest)
    if cosines and float(np.median(cosines)) < LEAST_COSINE:
        raise EncoderMismatchError(
            f"--vectors-of {encoder.folder}: did not make the vectors of {manifest.path}: those of"
            f" its first {len(cosines)} images have a cosine of {float(np.median(cosines)):.2f} to"
            f" what it makes of them; name the encoder that did, or feed the images with --encoder"
        )


def _cosines(encoder: Encoder, manifest: Manifest) -> list[float]:
    cosines = []
    with closed_after(manifest.records()) as records:
        there = (each for each in records if each.image is not None and each.embedding is not None)
        for record in islice(there, SAMPLE):
            assert record.image is not None and record.embedding is not None
            if record.embedding.size != encoder.dimension:
                continue
            try:
                made = encoder.encode_images([record.image])[0]
            except ImageError:
                continue
            length = float(np.linalg.norm(record.embedding))
            cosines.append(float(made @ record.embedding) / length if length else 0.0)
    return cosines
