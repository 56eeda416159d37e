"""What each metadata column of a manifest holds, found while its records stream by."""

from collections.abc import Mapping, Sequence

from finetune.manifest.formats.row import MetadataValue
from finetune.text.dates import date_period
from finetune.text.numerals import exact_number, without_point_zero


class ColumnKinds:
    """Watches metadata, a column at a time without keeping a value.

    A column is "number" while every value is one without loss (`finetune.text.numerals`), else
    "date" while every value is one (`finetune.text.dates`), else "tag".
    It holds whole floats while every value is a text such as "2010.0": so a data frame writes
    whole numbers of which one is missing.
    """

    def __init__(self) -> None:
        self._all_numbers: dict[str, bool] = {}
        self._all_dates: dict[str, bool] = {}
        self._all_whole_floats: dict[str, bool] = {}

    def watch(self, metadata: Mapping[str, MetadataValue]) -> None:
        """Take in the values of one record."""
        numbers, whole, dates = self._all_numbers, self._all_whole_floats, self._all_dates
        for name, value in metadata.items():
            if numbers.get(name, True):
                numbers[name] = exact_number(value) is not None
            if dates.get(name, True):
                dates[name] = isinstance(value, str) and date_period(value) is not None
            if whole.get(name, True):
                whole[name] = isinstance(value, str) and without_point_zero(value) is not None

    def watch_all(self, metadata: Sequence[Mapping[str, MetadataValue]]) -> None:
        """Take in the values of many records: what a column has several times is looked at once."""
        if not metadata:
            return
        names = list(metadata[0])
        if all(list(each) == names for each in metadata):
            for name, values in zip(
                names, zip(*[each.values() for each in metadata], strict=True), strict=True
            ):
                for value in dict.fromkeys(values):
                    self.watch({name: value})
        else:
            for each in metadata:
                self.watch(each)

    @property
    def kinds(self) -> dict[str, str]:
        """Each column with what it holds: "number", "date" or "tag"."""
        return {
            name: "number" if all_ else "date" if self._all_dates[name] else "tag"
            for name, all_ in self._all_numbers.items()
        }

    @property
    def whole_floats(self) -> frozenset[str]:
        """The columns whose values are whole numbers again without their ".0"."""
        return frozenset(name for name, all_ in self._all_whole_floats.items() if all_)
