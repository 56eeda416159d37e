"""The settings of what the model card says and no run can measure. Imports without torch."""
# what these calls give is a field

from dataclasses import dataclass
from functools import partial

from finetune.config.setting import Group, setting

in_card = partial(setting, Group.CARD, operational=True)


# Without slots, as TrainConfig has two bases, of which one may have them.
@dataclass(frozen=True, kw_only=True)
class CardSettings:
    """What only the user knows of weights, data and machine; what is not given, the card says."""

    license: str | None = in_card(
        None, "Of the weights, as the hub writes it: mit.", metavar="NAME"
    )
    language: tuple[str, ...] = in_card(
        (), "Languages of the captions, as codes.", metavar="en,de,…"
    )
    datasets: tuple[str, ...] = in_card(
        (), "Ids of the training data on the Hugging Face hub.", metavar="OWNER/NAME,…"
    )
    contact: str | None = in_card(
        None, "Who answers questions about the model: a name, an address.", metavar="TEXT"
    )
    power: float | None = in_card(
        None,
        "Mean power of the machine in training, to estimate its energy where codecarbon (--trackers"
        " carbon) measures none.",
        metavar="WATTS",
        above=0,
    )
    carbon_intensity: float | None = in_card(
        None,
        "Grams of CO2 equivalent a kWh of its electricity, for that estimate.",
        metavar="GRAMS",
        least=0,
    )
    carbon_region: str | None = in_card(
        None, "Where that electricity comes from.", otherwise="as codecarbon finds", metavar="TEXT"
    )
