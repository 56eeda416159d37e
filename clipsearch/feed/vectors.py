"""Ready-made vectors on their way from the manifest to the engine, compared as they pass.

No image is looked at, so that nothing has to be planned: a record is read once, compared with the
ledger, and written where it is new or has changed.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from clipsearch.documents import Embedding
from clipsearch.feed.contents import content_of
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.feed.pipeline import Rejection, Step, upsert_step
from clipsearch.feed.plan import DocumentSource, Looked, Plan, Work, look, records_at, update_step
from clipsearch.feed.report import Rejections
from finetune.manifest.manifest import Manifest
from finetune.read_ahead import closed_after

RECORDS_AT_ONCE = 256


def vector_steps(
    plan: Plan, source: DocumentSource, ledger: Ledger, rejections: Rejections, seen: IdSet | None
) -> Iterator[Step | Rejection]:
    """Yield a step for each record looked at that needs one; note all works in `plan`."""
    with closed_after(records_at(source.manifest, plan.looked_at)) as records:
        while group := list(islice(records, RECORDS_AT_ONCE)):
            ledger.read_ahead([source.id_of(record) for _, record in group])
            waiting = []
            for place, record in group:
                looked = look(plan, place, record, source, ledger, rejections, seen)
                plan.works[place] = looked.work
                if looked.work == Work.EMBED:
                    waiting.append(looked)
                elif looked.work == Work.UPDATE and looked.image and looked.known:
                    yield update_step(looked.image, looked.known)
            yield from _upserts(waiting)


def _upserts(waiting: list[Looked]) -> Iterator[Step | Rejection]:
    given = [each.record.embedding for each in waiting]
    units = iter(unit_vectors([vector for vector in given if vector is not None]))
    for looked, vector in zip(waiting, given, strict=True):
        image = looked.image
        assert image is not None  # of a record to be written
        unit = None if vector is None else next(units)
        if unit is None:
            reason = "has no embedding" if vector is None else "its embedding is all zeros"
            yield Rejection(image.document.id, "rejected document", reason)
        else:
            content = content_of(looked.record, encoded=False) or ""
            yield upsert_step(image, unit, content, looked.known)


def unit_vectors(vectors: list[Embedding]) -> list[Embedding | None]:
    """Scale each to unit length, float32[d]; None for one that is all zeros."""
    if not vectors:
        return []
    block = np.stack(vectors)
    lengths = np.linalg.norm(block.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):  # what is not finite the engine refuses, with a reason
        units = block / np.where(lengths == 0, 1, lengths).astype(np.float32)[:, None]
    return [unit if length else None for unit, length in zip(units, lengths.tolist(), strict=True)]


def both(first: Step, rest: Iterator[Step | Rejection]) -> Iterator[Step | Rejection]:
    """Yield the first step, taken out to see whether there is any, and then the others."""
    with closed_after(rest):
        yield first
        yield from rest


def first_vector(manifest: Manifest) -> Embedding | None:
    """Return the ready-made vector of a manifest's first record, None where it has none."""
    with closed_after(manifest.records()) as records:
        return next(records).embedding
