"""Feed: bring an index to what a manifest says, doing only the work that is left to do.

1. Take the index's lock, then open it (or make it at the first feed) and refuse another
   encoder's vectors.
2. Bring the ledger to what the index holds, where others may have fed it (`feed_mark`), and find
   out which data set the manifest is (`data_sets`).
3. Compare every record with the ledger: unchanged, changed in words only, or of an image whose
   embedding is there already (`reuse`), or is to be made.
4. Decode, encode and write at the same time; the ledger follows each acknowledgement.
5. With `prune`, remove what the manifest no longer has of its data set.

Stopped at any moment, the same call goes on from there: an operation that was acknowledged but
not yet in the ledger is done once more, to the same end.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from clipsearch.engines import feed_lock, is_remote
from clipsearch.feed.columns import MetadataColumns
from clipsearch.feed.comparison import Comparison
from clipsearch.feed.data_sets import (
    Wish,
    about_data_set,
    fed_from,
    remembered,
    settle_data_set,
)
from clipsearch.feed.ledger.check import reconcile
from clipsearch.feed.ledger.file import check_ledger, ledger_path
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.mark import FeedMark
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.pipeline import Rejection
from clipsearch.feed.plan import DocumentSource, Plan, Work, compare
from clipsearch.feed.preparation import prepare, tell_new, tell_unknown_vectors
from clipsearch.feed.removal import (
    Hidden,
    about_left,
    about_still_meant,
    delete,
    gone_from,
    why_not_prune,
)
from clipsearch.feed.report import (
    FeedReport,
    Rejections,
    about_left_out,
    check_report,
    manifest_notes,
    report_path,
)
from clipsearch.feed.reuse import plan_reuse
from clipsearch.feed.target import FeedTarget
from clipsearch.feed.unchanged import Asked, Unchanged
from clipsearch.feed.unembedded import forget_unembedded, settle_unembedded
from clipsearch.feed.upgrade import upgraded
from clipsearch.feed.vectors import VectorSteps, both
from clipsearch.feed.writing import Encoding, Tally, Writing
from clipsearch.feed_facts import DataSet
from finetune.console import Progress
from finetune.errors import ManifestError
from finetune.frames import FrameManifest, as_manifest
from finetune.manifest.manifest import Manifest
from finetune.manifest.problems import LEFT_OUT

WRITTEN = (Work.UPDATE, Work.EMBED, Work.REUSE, Work.DUPLICATE)
# Comparing fewer records than this is over before a line about it could be read.
MANY_RECORDS = 50_000
BLANKED = (
    "{:,} images have characters in captions, tags or paths that no index can hold (control"
    " characters, noncharacters, halves of surrogate pairs): blanks stand for them"
)


# Asked before documents are removed: how many, and of which data set.
Consent = Callable[[int, str], bool]


def feed(
    options: FeedOptions,
    progress_stream: TextIO | None = None,
    *,
    consent: Consent | None = None,
) -> FeedReport:
    """Bring the index to what the manifest says; see the module's page.

    Args:
        options: What to feed.
        progress_stream: Standard error where None.
        consent: Asked by `prune` before it removes anything; None for yes.

    Raises:
        EncoderMismatchError: The index was filled by another encoder, or by ready-made vectors.
        ManifestError: No manifest, none of a known format, without records, or with `strict`
            one with problems.
        EngineError: The index cannot be opened or written. What was acknowledged is kept.
    """
    options.check()
    given = as_manifest(options.manifest)
    options = replace(options, manifest=given)
    check_report(
        options.report or report_path(options.index), [given, options.encoder or options.vectors_of]
    )
    ledger_file = options.ledger or ledger_path(options.index)
    check_ledger(ledger_file)
    started = time.monotonic()
    with feed_lock(options.index, "feed"), ExitStack() as stack:
        ledger: Ledger | None = None
        if is_remote(options.index):
            # It stands for the lock, so it comes before anything is read of the index.
            ledger = stack.enter_context(Ledger.open(ledger_file))
        target = stack.enter_context(
            FeedTarget.open(
                options.index,
                options.encoder or options.vectors_of,
                options.language,
                options.device,
                options.precision,
                takes_vectors=options.vectors_of is not None,
            )
        )
        tell_new(target, options.index, progress_stream)
        if ledger is None and not target.is_new and ledger_file.exists():
            ledger = stack.enter_context(Ledger.open(ledger_file))
        if not target.is_new:
            wish = Wish(options.data_set)
            last = remembered(target.engine.info, given, options.index, wish)
            options = options if last is None else options.after(last)
        asked = stack.enter_context(_asked(options, given))
        if ledger is not None and not target.is_new:
            unchanged = asked.unchanged(target, ledger)
            if unchanged is not None:
                Rejections(options.report or report_path(options.index))
                return _nothing_changed(unchanged, started)
        manifest = stack.enter_context(
            Manifest.open(
                options.manifest,
                images=options.images,
                strict=options.strict,
                digests=True,
                columns=options.columns,
                added=options.added,
                addresses=options.addresses,
                exclude=options.exclude or (),
            )
        )
        if not len(manifest):
            raise ManifestError(f"{options.manifest}: has no images to feed")
        is_new = target.is_new
        columns, absolute_paths = prepare(
            target, manifest, tags=options.tags, numbers=options.numbers, dates=options.dates
        )
        if is_new:
            tell_unknown_vectors(target, progress_stream)
        # In the folder of an index that may have been made just now.
        if ledger is None:
            ledger = stack.enter_context(Ledger.open(ledger_file))
        rejections = stack.enter_context(Rejections(options.report or report_path(options.index)))
        run = _Feed(options, target, manifest, ledger, rejections, progress_stream, consent, asked)
        run.manifest_into_index(columns, absolute_paths)
        return run.report(started)


@dataclass
class _Feed:
    """One feed, once everything is open."""

    options: FeedOptions
    target: FeedTarget
    manifest: Manifest
    ledger: Ledger
    rejections: Rejections
    stream: TextIO | None
    consent: Consent | None
    asked: Asked
    tally: Tally = field(default_factory=Tally)
    plan: Plan = field(default_factory=lambda: Plan.over(0))
    lasting_notes: list[str] = field(default_factory=list)
    problem_count: int = 0
    writing_seconds: float = 0.0

    def manifest_into_index(self, columns: MetadataColumns, absolute_paths: bool) -> None:
        """Do everything from the comparison to the last mark."""
        options, engine, ledger = self.options, self.target.engine, self.ledger
        notes = self.tally.notes
        notes += upgraded(engine, self.stream)
        mark = FeedMark(engine, ledger, alone=not is_remote(options.index))
        source = self._source(mark, columns, absolute_paths)
        unembedded = forget_unembedded(ledger, engine)
        self._add_problems()
        comparison = Comparison.of(source, ledger, prune=options.prune)
        self.plan = Plan.over(len(self.manifest), comparison.looked_at)
        seen = ledger.id_set() if options.prune and comparison.gone is None else None
        writing = self._compared(source, seen)
        started = time.monotonic()
        if writing is not None:
            mark.begin(source.data_set.name)
            writing.run(self.stream)
        self.writing_seconds = max(time.monotonic() - started, 1e-9)
        if self.plan.blanked:
            self.lasting_notes.append(BLANKED.format(self.plan.blanked))
        if not options.prune and (left := comparison.left(self.plan, ledger)):
            hidden = Hidden.by(self.manifest.problems, source.data_set.id_prefix)
            if hidden.knows_ids:
                left = sum(not hidden.holds(id) for id in comparison.lacking(self.plan, ledger))
            shown = self.manifest.path.name or str(self.manifest.path)
            self.lasting_notes += about_left(left, shown, hidden)
        notes += self.lasting_notes
        if options.prune:
            self._prune(source.data_set, comparison.gone, seen, mark)
        engine.finish_feed()
        comparison.remember(self.plan, ledger, self.tally.removed)
        self._remember_manifest(source.data_set.name)
        mark.end()
        if self.rejections.note_count:
            notes.append(
                f"{self.rejections.note_count:,} pictures use a part of their range of samples"
                f" alone and were stretched to it (see the report)"
            )
        notes += settle_unembedded(engine, unembedded)

    def report(self, started: float) -> FeedReport:
        """Report what was done since `started`, by the monotonic clock."""
        tally, rejections = self.tally, self.rejections
        return FeedReport(
            fed=tally.fed,
            updated=tally.updated,
            reused=tally.reused,
            unchanged=self.plan.count(Work.UNCHANGED),
            removed=tally.removed,
            rejected=rejections.count - self.problem_count,
            problems=dict(self.manifest.problems.counts),
            blanked=self.plan.blanked,
            seconds=time.monotonic() - started,
            images_per_second=tally.whole / self.writing_seconds,
            report_path=rejections.path if rejections.count or rejections.note_count else None,
            notes=tuple(tally.notes),
            first_reasons=tuple(rejections.first_reasons),
        )

    def _source(
        self, mark: FeedMark, columns: MetadataColumns, absolute_paths: bool
    ) -> DocumentSource:
        """Make the ledger say what the index holds, and find out which data set this is."""
        options, engine, ledger = self.options, self.target.engine, self.ledger
        wish, place = self.asked.wish, self.asked.place
        fed_before = fed_from(place, ledger, wish)
        self.tally.notes += reconcile(ledger, engine, mark, fed_before)
        known = {each.name: each for each in engine.info.data_sets}
        encoded = bool(self.target.fingerprint)
        data_set = settle_data_set(
            engine, ledger, self.manifest, place, wish, encoded=encoded,
            images=options.images, added=options.added, exclude=tuple(options.exclude or ()),
        )  # fmt: skip
        self.tally.notes += about_data_set(
            data_set, known, has_documents=ledger.has_data_set(data_set.name)
        )
        return DocumentSource(
            self.manifest,
            replace(columns, keep_split=data_set.keeps_split),
            self.target.fingerprint,
            data_set,
            {each.name: each.manifest for each in engine.info.data_sets},
            claims_all=options.data_set is not None,
            splits=frozenset(options.splits),
            absolute_paths=absolute_paths,
            made_by=self.target.made_by,
        )

    def _add_problems(self) -> None:
        """Copy the manifest's problems into the report; its notes are named in a sentence."""
        problems = self.manifest.problems
        for problem in problems if problems.counts else ():
            if problem.kind in problems.counts:
                self.rejections.add(problem.where, problem.kind, problem.reason)
        self.problem_count = self.rejections.count
        self.lasting_notes += manifest_notes(problems, str(self.options.manifest))
        if self.options.exclude:
            count = problems.notes.get(LEFT_OUT, 0)
            self.lasting_notes.append(about_left_out(self.options.exclude, count))

    def _compared(self, source: DocumentSource, seen: IdSet | None) -> Writing | None:
        """Return what there is to write, of the records looked at; None for nothing."""
        plan, ledger, rejections = self.plan, self.ledger, self.rejections
        options = self.options
        contents = ledger.content_table()
        writing = Writing(
            self.target, source, plan, ledger, contents, rejections, self.tally,
            Encoding.of(options.workers, options.batch_size, self.target.device),
        )  # fmt: skip
        if not source.encoder:
            steps = VectorSteps(plan, source, ledger, rejections, seen).all()
            for step in steps:
                if not isinstance(step, Rejection):
                    return replace(writing, steps=both(step, steps))
                rejections.add(step.id, step.kind, step.reason)
            return None
        count = len(plan.looked_at)
        quiet = count < MANY_RECORDS
        with Progress("compare", count, stream=self.stream, quiet=quiet) as progress:
            compare(plan, source, ledger, rejections, progress, seen)
        count = plan.count(Work.EMBED)
        quiet = count < MANY_RECORDS
        with Progress("look up", count, stream=self.stream, quiet=quiet) as progress:
            plan_reuse(plan, source, ledger, contents, progress)
        return writing if plan.count(*WRITTEN) else None

    def _remember_manifest(self, data_set: str) -> None:
        """Remember the manifest, so that the same one need not be read the next time."""
        whole = not (self.rejections.count or self.rejections.note_count)
        if whole and not self.manifest.problems.counts and not self.options.splits:
            said = Unchanged(len(self.manifest), self.plan.blanked, tuple(self.lasting_notes))
            self.asked.remember(self.target, self.ledger, data_set, self.manifest, said)

    def _prune(
        self, fed: DataSet, known: list[str] | None, manifest_ids: IdSet | None, mark: FeedMark
    ) -> None:
        """Remove what the manifest no longer has: `known`, or else what `manifest_ids` lacks."""
        tally, engine = self.tally, self.target.engine
        data_set, hidden = fed.name, Hidden.by(self.manifest.problems, fed.id_prefix)
        if hidden.anything:
            tally.notes.append(why_not_prune(hidden))
            return
        kept = set(self.plan.by_earlier_id.values())
        gone, unclaimed = [id for id in known or () if id not in kept], 0
        if manifest_ids is not None:
            gone, unclaimed = gone_from(data_set, engine, self.ledger, manifest_ids)
        if unclaimed:
            tally.notes.append(
                f"{unclaimed:,} documents of an earlier version are of no data set that is known,"
                f" and stay: clipsearch delete removes them"
            )
        still_meant = [id for id in gone if hidden.holds(id)]
        if still_meant:
            tally.notes.append(about_still_meant(len(still_meant), self.manifest.problems.counts))
            gone = [id for id in gone if not hidden.holds(id)]
        if not gone:
            return
        if self.consent is not None and not self.consent(len(gone), data_set):
            tally.notes.append(f"{len(gone):,} documents stay that the manifest no longer has")
            return
        mark.begin(data_set)
        for outcome in delete(engine, self.ledger, gone):
            if outcome.error is None:
                tally.removed += 1
            else:
                self.rejections.add(outcome.operation.id, "not removed", outcome.error)


def _asked(options: FeedOptions, given: str | Path | FrameManifest) -> Asked:
    wish = Wish(options.data_set, options.id_prefix)
    kinds = (options.tags, options.numbers, options.dates)
    read = (options.images, options.splits, options.columns, options.added, options.strict)
    left_out = (tuple(options.exclude),) if options.exclude else ()
    return Asked.of(given, options.index, wish, (kinds, *read, *left_out), prune=options.prune)


def _nothing_changed(found: Unchanged, started: float) -> FeedReport:
    return FeedReport(
        fed=0, updated=0, reused=0, unchanged=found.records, removed=0, rejected=0, problems={},
        blanked=found.blanked, seconds=time.monotonic() - started, images_per_second=0.0,
        report_path=None, notes=found.notes,
    )  # fmt: skip
