"""What an index knows about its feeds: the manifests that it was fed, and the feeds under way."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataSet:
    """A manifest that documents of an index come from; see `clipsearch.feed.data_sets`.

    Attributes:
        name: Unique in the index and never changed: its documents carry it.
        manifest: Where it lay at its last feed, as it was named; absolute.
        resolved: The same with symbolic links followed.
        beside: The same from the index's folder; None for an index on a Vespa.
        id_prefix: What the ids of its documents begin with.
        images: The folder of images that a feed of it was given, absolute; empty for none.
        folder_tags: As its last feed took them, see `finetune.manifest.added_columns`; empty where
            an earlier version fed it.
        exif: Whether its last feed read EXIF.
        exclude: Patterns of what its last feed left out, see `finetune.manifest.exclusion`.
        keeps_split: Whether its documents have their split as a tag: a manifest of it has named
            splits, or an earlier version has fed it.
    """

    name: str
    manifest: str
    resolved: str
    beside: str | None = None
    id_prefix: str = ""
    images: str = ""
    folder_tags: str = ""
    exif: bool = False
    exclude: tuple[str, ...] = ()
    keeps_split: bool = True


@dataclass(frozen=True, slots=True)
class OpenFeed:
    """A feed that has begun and not said that it ended: it is at work, or was killed.

    Attributes:
        token: Random.
        began: Seconds since 1970.
        after: Token of the feed that had begun last before.
    """

    token: str
    began: float
    after: str = ""
