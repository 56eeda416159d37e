"""Feed: bring an index to what a manifest says, doing only the work that is left to do.

1. Take the index's lock, then open it (or make it at the first feed) and refuse another
   encoder's vectors.
2. Compare every record with the ledger: unchanged, changed in words only, or to be encoded.
3. Decode, encode and write at the same time; the ledger follows each acknowledgement.
4. With `prune`, remove what the manifest no longer has.

Stopped at any moment, the same call goes on from there: an operation that was acknowledged but
not yet in the ledger is done once more, to the same end.
"""

import os
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from clipsearch.changes import Plan, Source, Work, compare, content_of_vector, updates
from clipsearch.columns import choose_columns
from clipsearch.documents import Embedding
from clipsearch.encoder import Encoder, available_cores
from clipsearch.engine import DOCUMENT_FORM, Engine, Operation, Outcome, Update, Upsert
from clipsearch.engines import feed_lock, is_remote
from clipsearch.indexing import FeedTarget
from clipsearch.ledger import Entry, IdSet, Ledger, check_ledger, ledger_path
from clipsearch.pipeline import (
    Picture,
    Rejection,
    Step,
    closed_after,
    encode,
    run_ahead,
    upsert_step,
)
from clipsearch.rejections import Rejections, check_report, report_path
from clipsearch.removal import prune, why_not_prune
from clipsearch.unembedded import forget_unembedded, settle_unembedded
from finetune.errors import ManifestError, UsageError
from finetune.images import ImageSource
from finetune.manifest import Manifest
from finetune.problems import OWN_RANGE
from finetune.progress import Progress
from finetune.several import check_several

# Starting worker processes takes longer than decoding this many pictures here.
FEW_PICTURES = 64
# Comparing fewer records than this is over before a line about it could be read.
MANY_RECORDS = 50_000
# The manifest's note about a ready-made vector, which is just what is wanted here.
VECTOR_ALONE = "no image file"
BLANKED = (
    "{:,} images have characters in captions, tags or paths that no index can hold (control"
    " characters, noncharacters, halves of surrogate pairs): blanks stand for them"
)
NO_IMAGE = "has no image to encode; feed ready-made vectors into an index of their own"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOptions:
    """What to feed, into what, and how.

    Attributes:
        manifest: The manifest, of any format that `Manifest.open` reads.
        index: A folder (embedded engine, made at the first feed) or an http(s) address (Vespa).
        encoder: Its folder. None takes the index's own, or feeds the manifest's ready-made
            vectors.
        images: Where relative paths are looked for last.
        splits: Of "train", "val", "test"; all where empty.
        tags, numbers: New metadata columns to keep as that kind, whatever their values suggest.
        prune: Remove documents that the manifest no longer has.
        language: Of the text analysis; None is the index's, or English for a new one.
        workers: Processes that decode pictures; None is one a core. 0 decodes in this process.
        batch_size: Pictures encoded at once.
        device: "cpu" or "cuda", for the encoder.
        report: The report file; None is in the index's folder.
        ledger: The ledger; None is `ledger_path`.
        strict: Feed nothing where the manifest has any problem.
    """

    manifest: Path
    index: str
    encoder: Path | None = None
    images: Path | None = None
    splits: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    prune: bool = False
    language: str | None = None
    workers: int | None = None
    batch_size: int = 32
    device: str = "cpu"
    report: Path | None = None
    ledger: Path | None = None
    strict: bool = False

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        for name in ("splits", "tags", "numbers"):
            check_several(getattr(self, name), f"FeedOptions.{name}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers}: must be 0 or more")


@dataclass(frozen=True, slots=True)
class FeedReport:
    """What a feed did.

    Attributes:
        fed: Documents written whole, their picture encoded.
        updated: Documents of which only captions, path, tags or numbers changed.
        unchanged: Documents that were as the manifest says already.
        removed: Documents that the manifest no longer has.
        rejected: Records that did not reach the index as they are.
        problems: Of the manifest, by kind.
        blanked: Records with characters that no index can hold in captions, tags or path: they are
            in the index with blanks in their place.
        seconds: From start to end.
        images_per_second: Documents written whole, over the time of that stage alone.
        report_path: With a row for each rejection, problem and note; None where there is none.
        notes: Sentences for the user.
    """

    fed: int
    updated: int
    unchanged: int
    removed: int
    rejected: int
    problems: Mapping[str, int]
    blanked: int
    seconds: float
    images_per_second: float
    report_path: Path | None
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything in the manifest reached the index."""
        return not self.rejected and not self.problems


@dataclass
class _Tally:
    fed: int = 0
    updated: int = 0
    removed: int = 0
    notes: list[str] = field(default_factory=list)


def feed(options: FeedOptions, progress_stream: TextIO | None = None) -> FeedReport:
    """Bring the index to what the manifest says; see the module's page.

    Args:
        options: What to feed.
        progress_stream: Standard error where None.

    Raises:
        EncoderMismatchError: The index was filled by another encoder, or by ready-made vectors.
        ManifestError: No manifest, none of a known format, without records, or with `strict`
            one with problems.
        EngineError: The index cannot be opened or written. What was acknowledged is kept.
    """
    options.check()
    check_report(options.report or report_path(options.index), [options.manifest, options.encoder])
    ledger_file = options.ledger or ledger_path(options.index)
    check_ledger(ledger_file)
    started = time.monotonic()
    with feed_lock(options.index, "feed"), ExitStack() as stack:
        ledger: Ledger | None = None
        if is_remote(options.index):
            # It stands for the lock, so it comes before anything is read of the index.
            ledger = stack.enter_context(Ledger.open(ledger_file))
        target = stack.enter_context(
            FeedTarget.open(options.index, options.encoder, options.language, options.device)
        )
        manifest = stack.enter_context(
            Manifest.open(options.manifest, images=options.images, strict=options.strict)
        )
        if not len(manifest):
            raise ManifestError(f"{options.manifest}: has no images to feed")
        source = _prepare(options, target, manifest)
        # In the folder of an index that may have been made just now.
        if ledger is None:
            ledger = stack.enter_context(Ledger.open(ledger_file))
        return _feed_manifest(options, target, source, ledger, started, progress_stream)


def _feed_manifest(
    options: FeedOptions,
    target: FeedTarget,
    source: Source,
    ledger: Ledger,
    started: float,
    stream: TextIO | None,
) -> FeedReport:
    manifest, engine = source.manifest, target.engine
    report_file = options.report or report_path(options.index)
    tally = _Tally(notes=_upgrade(engine, stream))
    with Rejections(report_file) as rejections:
        tally.notes += _trust(ledger, engine)
        unembedded = forget_unembedded(ledger, engine)
        _add_problems(manifest, rejections, tally)
        problems = rejections.count
        seen = ledger.id_set() if options.prune else None
        quiet = len(manifest) < MANY_RECORDS
        with Progress("compare", len(manifest), stream=stream, quiet=quiet) as progress:
            plan = compare(source, ledger, rejections, progress, seen)
        if plan.blanked:
            tally.notes.append(BLANKED.format(plan.blanked))
        written = time.monotonic()
        _write(options, target, source, plan, ledger, rejections, tally, stream)
        writing_seconds = max(time.monotonic() - written, 1e-9)
        if seen is not None:
            _prune(target, manifest, ledger, seen, rejections, tally)
        engine.finish_feed()
        if rejections.note_count:
            tally.notes.append(
                f"{rejections.note_count:,} pictures use a part of their range of samples alone"
                f" and were stretched to it (see the report)"
            )
        tally.notes += settle_unembedded(engine, unembedded)
        return FeedReport(
            fed=tally.fed,
            updated=tally.updated,
            unchanged=plan.count(Work.UNCHANGED),
            removed=tally.removed,
            rejected=rejections.count - problems,
            problems=dict(manifest.problems.counts),
            blanked=plan.blanked,
            seconds=time.monotonic() - started,
            images_per_second=tally.fed / writing_seconds,
            report_path=rejections.path if rejections.count or rejections.note_count else None,
            notes=tuple(tally.notes),
        )


def _upgrade(engine: Engine, stream: TextIO | None) -> list[str]:
    """Bring what an earlier version wrote to today's form; a sentence where there was any."""
    if engine.info.document_form == DOCUMENT_FORM:
        return []
    with Progress("upgrade", engine.count(), unit="documents", stream=stream) as progress:
        changed = engine.upgrade(progress.advance)
    return [
        f"an earlier version fed this index: {changed:,} documents were given the fields by which"
        f" filters find all, and nothing was encoded for it"
    ]


def _prepare(options: FeedOptions, target: FeedTarget, manifest: Manifest) -> Source:
    """Settle columns and paths with the index, making it at the first feed."""
    columns = choose_columns(
        manifest.columns(), target.columns, tags=options.tags, numbers=options.numbers
    )
    vector = None if target.fingerprint else _first_vector(manifest)
    if not target.fingerprint and vector is None:
        mend = "name the encoder with --encoder"
        if not target.is_new:
            mend = f"{options.index} takes no others: give some, or feed a new index with --encoder"
        raise UsageError(
            f"{options.manifest}: has no ready-made vectors (a column named embedding), so {mend}"
        )
    root = None if manifest.root is None else os.fspath(manifest.root.absolute())
    absolute_paths = target.settle(columns, root, None if vector is None else vector.size)
    return Source(manifest, columns, target.fingerprint, frozenset(options.splits), absolute_paths)


def _first_vector(manifest: Manifest) -> Embedding | None:
    with closed_after(manifest.records()) as records:
        return next(records).embedding


def _trust(ledger: Ledger, engine: Engine) -> list[str]:
    """Make the ledger claim nothing that the index does not hold; sentences about what it forgot.

    An index made anew has another id. Fewer documents than the ledger knows have been deleted
    without it.
    """
    if ledger.index_id != engine.info.index_id:
        notes = []
        if len(ledger):
            notes.append(f"{ledger.path} was about another index, so everything is fed anew")
        ledger.start_over(engine.info.index_id)
        return notes
    if engine.count() < len(ledger):
        forgotten = ledger.keep_only(document.id for document in engine.visit())
        return [f"{forgotten:,} documents had gone from the index and are fed anew"]
    return []


def _add_problems(manifest: Manifest, rejections: Rejections, tally: _Tally) -> None:
    """Copy the manifest's problems into the report; its notes are named in a sentence."""
    problems = manifest.problems
    for problem in problems if problems.counts else ():
        if problem.kind in problems.counts:
            rejections.add(problem.where, problem.kind, problem.reason)
    notes = {kind: count for kind, count in problems.notes.items() if kind != VECTOR_ALONE}
    if notes:
        listed = ", ".join(f"{kind} {count:,}" for kind, count in notes.items())
        tally.notes.append(f"clipsearch manifest check has notes about the manifest ({listed})")


def _write(
    options: FeedOptions,
    target: FeedTarget,
    source: Source,
    plan: Plan,
    ledger: Ledger,
    rejections: Rejections,
    tally: _Tally,
    stream: TextIO | None,
) -> None:
    """Run the pipeline into the engine; the ledger follows each acknowledgement."""
    total = plan.count(Work.EMBED) + plan.count(Work.UPDATE)
    if not total:
        return
    if target.fingerprint:
        embedded = _encoded_steps(options, target, source, plan)
    else:
        embedded = _vector_steps(source, plan)
    steps = _in_turn(updates(plan, source, ledger), embedded, ahead=2 * options.batch_size)
    pending: dict[str, Entry] = {}

    with Progress("feed", total, unit="images", stream=stream) as progress:

        def operations() -> Generator[Operation, None, None]:
            with closing(steps):
                for step in steps:
                    if isinstance(step, Rejection):
                        rejections.add(step.id, step.kind, step.reason)
                        progress.advance()
                    else:
                        if step.note is not None:
                            rejections.note(step.operation.id, OWN_RANGE, step.note)
                        pending[step.operation.id] = step.entry
                        yield step.operation

        with closing(operations()) as running:
            try:
                for outcome in target.engine.feed(running):
                    _settle(outcome, pending.pop(outcome.operation.id), ledger, rejections, tally)
                    progress.advance()
            except KeyboardInterrupt:
                kept = tally.fed + tally.updated
                progress.message(f"{kept:,} documents are kept; the same command goes on from here")
                raise


def _settle(
    outcome: Outcome, entry: Entry, ledger: Ledger, rejections: Rejections, tally: _Tally
) -> None:
    if outcome.error is not None:
        # Whatever the index holds of it now, the next feed writes it whole.
        ledger.forget([entry.id])
        rejections.add(entry.id, "rejected document", outcome.error)
        return
    ledger.put(entry)
    tally.fed += isinstance(outcome.operation, Upsert)
    tally.updated += isinstance(outcome.operation, Update)


def _in_turn(
    first: Iterator[Step | Rejection], then: Iterator[Step | Rejection], *, ahead: int
) -> Generator[Step | Rejection, None, None]:
    # The updates are quick, and read the ledger, which the thread of `run_ahead` must not.
    yield from first
    with closing(run_ahead(then, ahead)) as produced:
        yield from produced


def _encoded_steps(
    options: FeedOptions, target: FeedTarget, source: Source, plan: Plan
) -> Iterator[Step | Rejection]:
    to_embed = plan.count(Work.EMBED)
    if not to_embed:
        return iter(())
    encoder: Encoder = target.load_encoder()
    workers = options.workers
    if workers is None:
        workers = 0 if to_embed < FEW_PICTURES else available_cores()
    return _encode(options, source, plan, encoder, workers)


def _encode(
    options: FeedOptions, source: Source, plan: Plan, encoder: Encoder, workers: int
) -> Iterator[Step | Rejection]:
    without_image: list[Rejection] = []

    def pictures() -> Iterator[tuple[Picture, ImageSource]]:
        with closed_after(plan.records(source.manifest, Work.EMBED)) as records:
            for record in records:
                if record.image is None:
                    without_image.append(Rejection(record.id, "no image", NO_IMAGE))
                else:
                    yield source.picture(record), record.image

    # A GPU takes one batch at a time.
    threads = available_cores() if options.device == "cpu" else 1
    with closed_after(pictures()) as found:
        yield from encode(
            found, encoder, workers=workers, batch_size=options.batch_size, threads=threads
        )
    yield from without_image


def _vector_steps(source: Source, plan: Plan) -> Iterator[Step | Rejection]:
    """Ready-made vectors, brought to unit length."""
    with closed_after(plan.records(source.manifest, Work.EMBED)) as records:
        for record in records:
            vector = record.embedding
            length = 0.0 if vector is None else float(np.linalg.norm(vector.astype(np.float64)))
            if vector is None:
                yield Rejection(record.id, "rejected document", "has no embedding")
            elif length == 0:
                yield Rejection(record.id, "rejected document", "its embedding is all zeros")
            else:
                unit = (vector / length).astype(np.float32)
                yield upsert_step(source.picture(record), unit, content_of_vector(vector))


def _prune(
    target: FeedTarget,
    manifest: Manifest,
    ledger: Ledger,
    manifest_ids: IdSet,
    rejections: Rejections,
    tally: _Tally,
) -> None:
    reason = why_not_prune(manifest.problems.counts)
    if reason is not None:
        tally.notes.append(reason)
        return
    for outcome in prune(target.engine, ledger, manifest_ids):
        if outcome.error is None:
            tally.removed += 1
        else:
            rejections.add(outcome.operation.id, "not removed", outcome.error)
