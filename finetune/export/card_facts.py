"""What a model card says and nobody can measure: license, languages, data, contact."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

# As the card says what nobody has said yet.
NOT_GIVEN = "not given"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """As the user gave them; None and empty ones are NOT_GIVEN in the card.

    Attributes:
        license: Of the weights, as the hub writes it ("mit"). It follows from base model and data,
            so it is never guessed.
        language: Codes of the captions' languages.
        datasets: Ids of the training data on the hub.
        contact: A name, an address.
    """

    license: str | None = None
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    contact: str | None = None

    @classmethod
    def of(cls, recipe: Mapping[str, Any] | None) -> "CardFacts":
        """Make them from the settings of a run, as recipe.yaml holds them."""
        known = recipe or {}
        values = {item.name: known.get(item.name) for item in fields(cls)}
        return cls(
            license=values["license"],
            language=tuple(values["language"] or ()),
            datasets=tuple(values["datasets"] or ()),
            contact=values["contact"],
        )

    def over(self, others: "CardFacts") -> "CardFacts":
        """Return the others with those of these that are given in their place."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(others, **{name: value for name, value in given.items() if value})

    def metadata(self) -> dict[str, Any]:
        """Return the keys of the hub's metadata block, without what is not given."""
        block: dict[str, Any] = {}
        if self.language:
            block["language"] = list(dict.fromkeys(self.language))
        if self.license:
            block["license"] = self.license
        if self.datasets:
            block["datasets"] = list(dict.fromkeys(self.datasets))
        return block
