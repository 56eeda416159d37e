"""Images that rows name by address, fetched several at a time before the rows go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from finetune.images.addresses import AddressBook, is_address
from finetune.manifest.formats.row import ManifestSource, Row
from finetune.manifest.formats.wrapped import WrappedSource
from finetune.manifest.problems import Problems

ROWS_AHEAD = 64


def with_addresses_ahead(source: ManifestSource, addresses: AddressBook) -> ManifestSource:
    """Return the source whose rows come when the images of their addresses are fetched.

    Those of rows with a vector are not: nobody looks at them.
    """
    return _AddressesAhead(source, addresses)


@dataclass(frozen=True)
class _AddressesAhead(WrappedSource):
    addresses: AddressBook

    def rows(self, problems: Problems) -> Iterator[Row]:
        rows = self.source.rows(problems)
        for row in rows:
            if not is_address(row.image) or row.embedding is not None:
                yield row
                continue
            ahead = [row, *islice(rows, ROWS_AHEAD - 1)]
            self.addresses.fetch(
                each.image for each in ahead if is_address(each.image) and each.embedding is None
            )
            yield from ahead
