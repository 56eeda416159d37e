"""Writing what a feed has planned: into the engine, with the ledger behind each acknowledgement."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import TextIO

import numpy as np

from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import ContentTable
from clipsearch.feed.pipeline import PlannedImage, Rejection, Step, StepMany, encode
from clipsearch.feed.plan import DocumentSource, Plan, Work, updates
from clipsearch.feed.report import Rejections
from clipsearch.feed.reuse import reused
from clipsearch.feed.target import FeedTarget
from clipsearch.operations import Operation, Outcome, Upsert
from finetune.console import Progress
from finetune.cores import available_cores
from finetune.images.source import ImageSource
from finetune.manifest.problems import OWN_RANGE
from finetune.read_ahead import closed_after, read_ahead

NO_IMAGE = "has no image to encode; feed ready-made vectors into an index of their own"

Steps = Iterator[Step | Rejection]
Passing = Step | StepMany | Rejection


@dataclass
class Tally:
    """What a feed has done so far.

    Attributes:
        fed: New documents.
        updated: Documents that were there before and have changed.
        reused: Of both, those whose embedding came out of the index.
        whole: Documents written whole, whose embedding did not.
        removed: Documents.
        notes: Sentences for the user.
    """

    fed: int = 0
    updated: int = 0
    reused: int = 0
    whole: int = 0
    removed: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How images are encoded; see `clipsearch.feed.options.FeedOptions`.

    Attributes:
        workers: Processes that decode; None chooses.
        batch_size: Images that are encoded at once, by all threads together.
        threads: That encode.
        device: Where.
    """

    workers: int | None
    batch_size: int
    threads: int
    device: str

    @classmethod
    def of(cls, workers: int | None, batch_size: int | None, device: str) -> "Encoding":
        """Choose as many threads as there are cores, which share a batch; on a GPU two with one
        each.
        """
        if device == "cpu":
            return cls(workers, batch_size or 32, available_cores(), device)
        # One's images are on their way while the other's are encoded.
        return cls(workers, 2 * (batch_size or 256), 2, device)


@dataclass(frozen=True)
class Writing:
    """One feed's way from the plan into the index.

    `steps` are those of ready-made vectors, which are compared as they pass; None plans first.
    """

    target: FeedTarget
    source: DocumentSource
    plan: Plan
    ledger: Ledger
    contents: ContentTable
    rejections: Rejections
    tally: Tally
    encoding: Encoding
    steps: Iterator[Passing] | None = None

    def run(self, stream: TextIO | None) -> None:
        """Do all that is planned.

        Updates and reused embeddings come first: they are quick, and read the ledger, which the
        thread that encodes must not. Duplicates come last, when what they equal is in the index.
        """
        plan = self.plan
        if self.steps is not None:
            with Progress("feed", len(plan.looked_at), unit="images", stream=stream) as progress:
                self._feed(self._passing(self.steps, progress), progress)
            return
        total = plan.count(Work.UPDATE, Work.EMBED, Work.REUSE, Work.DUPLICATE)
        with Progress("feed", total, unit="images", stream=stream) as progress:
            first = chain(updates(plan, self.source, self.ledger), self._reused(Work.REUSE))
            self._feed(self._in_turn(first), progress)
            if plan.count(Work.DUPLICATE):
                for number, work in enumerate(plan.works):
                    if work in (Work.UPDATE, Work.REUSE, Work.EMBED):
                        plan.works[number] = Work.DONE
                self._feed(self._in_turn(self._reused(Work.DUPLICATE)), progress)

    def _passing(
        self, steps: Iterator[Passing], progress: Progress
    ) -> Generator[Passing, None, None]:
        """Yield steps of records that are compared as they pass: what needs none has passed too."""
        with closed_after(steps) as passing:
            for step in passing:
                yield step
                progress.advance(self.plan.passed - progress.done)
        progress.advance(self.plan.passed - progress.done)

    def _reused(self, work: Work) -> Iterator[Step]:
        return reused(self.plan, self.source, self.ledger, self.target.engine, self.contents, work)

    def _in_turn(self, first: Iterator[Step | Rejection]) -> Generator[Passing, None, None]:
        yield from first
        # Only now is it known what is left to be encoded.
        with closing(read_ahead(self._encoded(), 2 * self.encoding.batch_size)) as produced:
            yield from produced

    def _feed(self, steps: Generator[Passing, None, None], progress: Progress) -> None:
        pending: dict[str, Step | StepMany] = {}
        takes_many = self.target.engine.takes_many

        def operations() -> Generator[Operation, None, None]:
            with closing(steps):
                for step in steps:
                    if isinstance(step, Rejection):
                        self.rejections.add(step.id, step.kind, step.reason)
                        if self.steps is None:
                            progress.advance()
                    elif isinstance(step, StepMany):
                        for each in [step] if takes_many else step.steps():
                            pending[each.operation.id] = each
                            yield each.operation
                    else:
                        if step.note is not None:
                            self.rejections.note(step.operation.id, OWN_RANGE, step.note)
                        pending[step.operation.id] = step
                        yield step.operation

        with closing(operations()) as running:
            try:
                for outcome in self.target.engine.feed(running):
                    self._settle(outcome, pending.pop(outcome.operation.id))
                    if self.steps is None:
                        progress.advance()
            except KeyboardInterrupt:
                kept = self.tally.fed + self.tally.updated
                progress.message(f"{kept:,} documents are kept; the same command goes on from here")
                raise

    def _settle(self, outcome: Outcome, step: Step | StepMany) -> None:
        if isinstance(step, StepMany):
            self._settle_many(outcome, step)
            return
        entry, tally = step.entry, self.tally
        if outcome.error is not None:
            # Whatever the index holds of it now, the next feed writes it whole.
            self.ledger.doubt([entry.id])
            self.rejections.add(entry.id, "rejected document", outcome.error)
            return
        known = self.ledger.get(entry.id) if step.known is ... else step.known
        was_there = known is not None and bool(known.fields)
        self.ledger.put(entry, known)
        if step.place is not None:
            self.plan.works[step.place] = Work.HELD
        tally.updated += was_there
        tally.fed += not was_there
        tally.reused += step.reused
        tally.whole += isinstance(outcome.operation, Upsert) and not step.reused

    def _settle_many(self, outcome: Outcome, step: StepMany) -> None:
        documents, refused = step.operation.documents, outcome.refused
        kept = np.array([id not in refused for id in documents.ids], bool)
        for id, reason in refused.items():
            self.ledger.doubt([id])
            self.rejections.add(id, "rejected document", reason)
        self.ledger.put_new(
            list(compress(documents.ids, kept)),
            compress(step.contents, kept),
            compress(step.fields, kept),
            self.source.data_set.name,
        )
        works = np.frombuffer(self.plan.works, np.uint8)
        works[step.places[kept]] = Work.HELD
        self.tally.fed += int(kept.sum())
        self.tally.whole += int(kept.sum())

    def _encoded(self) -> Steps:
        if not self.plan.count(Work.EMBED):
            return iter(())
        encoder = self.target.load_encoder()
        without_image: list[Rejection] = []

        def images() -> Iterator[tuple[PlannedImage, ImageSource]]:
            with closed_after(self.plan.numbered(self.source.manifest, Work.EMBED)) as records:
                for place, record in records:
                    if record.image is None:
                        identity = self.source.id_of(record)
                        without_image.append(Rejection(identity, "no image", NO_IMAGE))
                    else:
                        yield self.source.image(record, place), record.image

        def steps() -> Steps:
            with closed_after(images()) as found:
                yield from encode(
                    found,
                    encoder,
                    workers=self.encoding.workers,
                    batch_size=self.encoding.batch_size,
                    threads=self.encoding.threads,
                    device=self.encoding.device,
                )
            if encoder.note is not None:
                self.tally.notes.append(encoder.note)
            yield from without_image

        return steps()
