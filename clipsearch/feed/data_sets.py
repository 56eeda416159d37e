"""Data sets: which manifest the documents of an index come from.

An index may be fed from several manifests. Each is a data set, and every document says of which it
is, so that a feed never replaces or removes what another manifest brought.

**The name** is made of the manifest's (`photos` for photos.csv, `B-photos` where that is taken),
unique in the index, and never changes: documents and ledgers know a data set by it.

**Which data set a manifest is** is found out at each feed, in this order:

1. `--data-set NAME` says it.
2. Its place is that of a data set that has documents: the path as it was named (absolute, but
   with symbolic links, so that `current.csv` stays one data set wherever it points), or the file
   that this leads to. So it does not matter whether the path is given relative, absolute or through
   a link.
3. It is at another place now: the place of a data set from the index's folder (both were moved or
   copied together), or any place where the data set's old one is gone.
4. Its place is that of a data set without documents (all were rejected, or deleted).
5. Otherwise it is a new data set. So a copy beside its original is one of its own.

Places alone may deceive: two machines have a /data/photos.csv each, and where one was deleted
another may lie. So 2 counts only if this ledger has fed the data set (it remembers from where, and
that comes first), and 3 never, unless the contents agree: of up
to 20 records whose ids the data set holds, at least half must have the image (or ready-made
vector) that the document was made from. Nothing in common is no agreement. A wrong "new data set"
loses nothing: the ids that are held are rejected, and `--data-set` mends it; a wrong "the same"
would.

**A DataFrame** lies nowhere, so its data set has to be named at each feed; a manifest that does lie
somewhere is never taken for it, unless `--data-set` says so. A data set that was fed from a file
keeps that place when it is fed from a DataFrame.

**Documents of earlier versions** have no data set. Those that the ledger knows belong to the first
data set that is fed with it and agrees with them, as above, and whose images lie where theirs
did; each other one to the first feed that holds its id, unless its image still lies elsewhere
with other bytes. A feed writes the data set into the documents of its manifest, without encoding.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import is_remote
from clipsearch.feed.contents import content_of, place_of_stamp, resolved
from clipsearch.feed.ledger.entry import Entry
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed_facts import DataSet
from finetune.errors import UsageError
from finetune.frames import FrameManifest
from finetune.manifest.added_columns import NO_COLUMNS, AddedColumns
from finetune.manifest.manifest import Manifest, Record

HELD_KIND = "id of another data set"
UNCLAIMED = ""
# Before a data set's name, in place of a path: it was fed from a DataFrame. No place of a file
# begins so, since all are absolute.
IN_MEMORY = "DataFrame:"
SAMPLE = 20

_NOT_IN_NAMES = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user says of the data set: its name, what its ids begin with; None for nothing."""

    name: str | None = None
    id_prefix: str | None = None

    def check(self) -> None:
        """Raise UsageError for a name that no data set can have."""
        if self.name is not None and (not self.name or self.name != _clean(self.name)):
            raise UsageError(
                f"--data-set {self.name!r}: a name is made of letters, digits, '.', '_', '+' and"
                f" '-', like {_clean(self.name)}"
            )


@dataclass(frozen=True, slots=True)
class ManifestPlace:
    """Where a manifest lies, by the three names of `clipsearch.feed_facts.DataSet`."""

    manifest: str
    resolved: str
    beside: str | None

    @classmethod
    def in_memory(cls, data_set: str) -> "ManifestPlace":
        """Make that of a DataFrame, which lies nowhere: the data set's name stands for it."""
        return cls(f"{IN_MEMORY}{data_set}", f"{IN_MEMORY}{data_set}", None)

    @classmethod
    def of(cls, manifest: Path, index: str) -> "ManifestPlace":
        """Make that of a manifest (file, folder or pattern of shards), for an index."""
        # normpath keeps symbolic links where there is no ".." after one.
        named = Path(os.path.normpath(manifest.expanduser().absolute()))
        real = resolved(named)
        beside = None if is_remote(index) else os.path.relpath(real, os.path.realpath(index))
        return cls(named.as_posix(), real, beside)

    def is_of(self, data_set: DataSet) -> bool:
        """Return whether the data set was fed from here."""
        here = {self.manifest, self.resolved}
        return bool(here & {data_set.manifest, data_set.resolved})

    def lies_alike(self, data_set: DataSet) -> bool:
        """Return whether it lies from the index's folder as the data set did."""
        return self.beside is not None and self.beside == data_set.beside

    def may_be_moved(self, data_set: DataSet) -> bool:
        """Return whether the data set may be here now.

        It may where nothing is left in its earlier place, or all was moved.
        """
        if data_set.manifest.startswith(IN_MEMORY):
            return False
        if self.lies_alike(data_set):
            return True
        return not any(_exists(path) for path in (data_set.manifest, data_set.resolved))


def settle_data_set(
    engine: Engine,
    ledger: Ledger,
    manifest: Manifest,
    place: ManifestPlace,
    wish: Wish,
    *,
    encoded: bool,
    images: Path | None = None,
    added: AddedColumns = NO_COLUMNS,
    exclude: tuple[str, ...] = (),
) -> DataSet:
    """Return the data set that the manifest is, written into what the index knows.

    Args:
        engine: The index.
        ledger: That says what the index holds.
        manifest: That is fed.
        place: Where that lies.
        wish: What the user says.
        encoded: Whether its images are encoded, or else ready-made vectors fed.
        images: The folder of images that the feed was given; the next one need not be.
        added: The columns that images bring themselves, which the next feed takes too.
        exclude: Patterns of what is left out, by the next feed too.
    """
    known = _known(engine.info, ledger)
    found = fed_from(place, ledger, wish)
    # One that all was rejected of may lie in its original's place by now.
    if found is None or (wish.name is None and not ledger.has_data_set(found)):
        found = _find(known, ledger, manifest, place, encoded=encoded)
    first = not known

    def registered(info: IndexInfo) -> IndexInfo:
        nonlocal found
        sets = {each.name: each for each in _known(info, ledger)}
        if found is None:
            found = _new_name(place, sets)
        old = sets.get(found)
        prefix = wish.id_prefix
        if prefix is None:
            prefix = "" if old is None else old.id_prefix
        where = place
        if old is not None and old.manifest and place.manifest.startswith(IN_MEMORY):
            where = ManifestPlace(old.manifest, old.resolved, old.beside)
        folder = "" if old is None else old.images
        if images is not None:
            folder = images.absolute().as_posix()
        sets[found] = DataSet(
            found, where.manifest, where.resolved, where.beside, prefix, folder,
            added.folders, added.exif, exclude,
            keeps_split=manifest.names_splits or (old is not None and old.keeps_split),
        )  # fmt: skip
        return replace(info, data_sets=tuple(sets.values()))

    info = engine.change_info(registered)
    settled = next(each for each in info.data_sets if each.name == found)
    ledger.remember_place(settled.name, (settled.manifest, settled.resolved))
    if first or wish.name is not None:
        _adopt(ledger, manifest, settled, encoded=encoded, asked=wish.name is not None)
    return settled


def remembered(
    info: IndexInfo, manifest: str | Path | FrameManifest, index: str, wish: Wish
) -> DataSet | None:
    """Return the data set that a manifest was at its last feed; None where it was not fed yet.

    Of several, one that was fed from the same place comes before one that lay as the manifest does
    from the index's folder.
    """
    if wish.name is not None:
        return next((each for each in info.data_sets if each.name == wish.name), None)
    if isinstance(manifest, FrameManifest):
        return None
    place = ManifestPlace.of(Path(manifest), index)
    here = [each for each in info.data_sets if place.is_of(each)]
    beside = [each for each in info.data_sets if place.lies_alike(each)]
    return next(iter(here + beside), None)


def settle_place(engine: Engine, ledger: Ledger, place: ManifestPlace) -> DataSet:
    """Return the data set of a place that no manifest lies at; written into what the index knows.

    Args:
        engine: The index.
        ledger: Of it.
        place: A folder, say, of images that come one by one.
    """
    found = None

    def registered(info: IndexInfo) -> IndexInfo:
        nonlocal found
        sets = {each.name: each for each in _known(info, ledger)}
        found = next((each for each in sets.values() if place.is_of(each)), None)
        if found is not None:
            return info
        name = _new_name(place, sets)
        found = sets[name] = DataSet(
            name, place.manifest, place.resolved, place.beside, keeps_split=False
        )
        return replace(info, data_sets=tuple(sets.values()))

    engine.change_info(registered)
    assert found is not None
    return found


def fed_from(place: ManifestPlace, ledger: Ledger, wish: Wish) -> str | None:
    """Return the data set that this ledger has fed from here; None where it has fed none."""
    if wish.name is not None:
        return wish.name
    lay = ledger.places_fed
    for path in (place.manifest, place.resolved):
        for name, paths in lay.items():
            if path in paths:
                return name
    return None


def about_data_set(
    data_set: DataSet, known: Mapping[str, DataSet], *, has_documents: bool
) -> list[str]:
    """Return what a user should know of the data set that a manifest was found to be."""
    before = known.get(data_set.name)
    if before is None:
        if not known:
            return []
        return [
            f"this manifest is a data set of its own, {data_set.name}, beside {', '.join(known)}"
        ]
    notes = []
    if before.manifest and data_set.manifest != before.manifest:
        notes.append(
            f"this manifest is the data set {data_set.name}, fed from {before.manifest} before"
        )
    if has_documents and data_set.id_prefix != before.id_prefix:
        notes.append(
            f"the ids of {data_set.name} began with {before.id_prefix!r} before: documents under"
            f" those stay until a feed with --prune"
        )
    return notes


def held_sentence(holder: str, fed: DataSet, manifests: Mapping[str, str]) -> str:
    """Return why a record is rejected whose id another data set or a file holds, and the mend."""
    if holder in manifests:
        whose = f"the data set {holder} ({manifests[holder]})"
        take_over = f"--data-set {holder}"
    else:
        whose = f"a manifest that an earlier version fed (its picture is {holder})"
        take_over = f"--data-set {fed.name}"
    return (
        f"a document of {whose} has this id: feed with --id-prefix {fed.name}/ to keep both, or"
        f" with {take_over} if this manifest takes the place of that one"
    )


def _known(info: IndexInfo, ledger: Ledger) -> list[DataSet]:
    """Return the data sets of the index.

    An earlier version may have dropped what it does not know.
    """
    listed = {each.name for each in info.data_sets}
    lost = sorted(ledger.counts().by_data_set.keys() - listed - {UNCLAIMED})
    return [*info.data_sets, *(DataSet(name, "", "") for name in lost)]


def _find(
    known: Iterable[DataSet],
    ledger: Ledger,
    manifest: Manifest,
    place: ManifestPlace,
    *,
    encoded: bool,
) -> str | None:
    here = [each for each in known if place.is_of(each)]
    for each in here:
        if each.name in ledger.places_fed and ledger.has_data_set(each.name):
            return each.name
    candidates = here + [each for each in known if each not in here and place.may_be_moved(each)]
    prefixes = {each.name: each.id_prefix for each in candidates}
    agreed = _agreements(manifest, ledger, prefixes, encoded=encoded)
    # On equal counts, the one that lies here, then the first that was fed.
    best = max(candidates, key=lambda each: agreed.get(each.name, 0), default=None)
    if best is not None and agreed.get(best.name):
        return best.name
    return next((each.name for each in here if not ledger.has_data_set(each.name)), None)


def _agreements(
    manifest: Manifest, ledger: Ledger, prefixes: Mapping[str, str], *, encoded: bool
) -> dict[str, int]:
    """Return the data sets that agree with the manifest, and in how many records.

    See the module's page.
    """
    held: dict[str, int] = dict.fromkeys(prefixes, 0)
    equal: dict[str, int] = dict.fromkeys(prefixes, 0)
    for record in _records(manifest):
        for name, prefix in prefixes.items():
            entry = _entry(ledger, prefix, record) if held[name] < SAMPLE else None
            if entry is not None and entry.data_set == name:
                held[name] += 1
                equal[name] += _is_equal(record, entry, encoded=encoded)
        if all(count >= SAMPLE for count in held.values()):
            break
    return {name: equal[name] for name in prefixes if equal[name] and 2 * equal[name] >= held[name]}


def _entry(ledger: Ledger, prefix: str, record: Record) -> Entry | None:
    entry = ledger.get(prefix + record.id)
    if entry is None and record.earlier_id is not None:
        entry = ledger.get(prefix + record.earlier_id)
    return entry


def _is_equal(record: Record, entry: Entry, *, encoded: bool) -> bool:
    return bool(entry.content) and content_of(record, encoded=encoded) == entry.content


def _records(manifest: Manifest) -> Iterator[Record]:
    records = manifest.records()
    try:
        yield from records
    finally:
        records.close()  # type: ignore[attr-defined]


def _adopt(
    ledger: Ledger, manifest: Manifest, data_set: DataSet, *, encoded: bool, asked: bool
) -> None:
    """Give the data set what the ledger knows from earlier versions, where that is its own."""
    if not ledger.has_data_set(UNCLAIMED):
        return
    if not asked and not _agreements(manifest, ledger, {UNCLAIMED: ""}, encoded=encoded):
        return
    root = manifest.root

    def lies_there(stamp: str) -> bool:
        place = place_of_stamp(stamp)
        if place is None or asked or root is None:
            return True
        path, _ = place
        return path.is_relative_to(root) or not path.exists()

    ledger.adopt(data_set.name, lies_there)


def _new_name(place: ManifestPlace, taken: Mapping[str, DataSet]) -> str:
    path = Path(place.manifest)
    stem = _clean(path.stem if path.suffix and not path.is_dir() else path.name)
    names = [stem, _clean(f"{path.parent.name}-{stem}")]
    number = 2
    while True:
        for name in names:
            if name not in taken:
                return name
        names = [f"{stem}-{number}"]
        number += 1


def _clean(name: str) -> str:
    return _NOT_IN_NAMES.sub("-", name).strip("-.") or "data"


def _exists(path: str) -> bool:
    if not path:
        return False
    # A pattern of shards is there as long as its folder is.
    return Path(path).exists() or (
        any(sign in path for sign in "{*?[") and Path(path).parent.is_dir()
    )
