"""What an export starts from: a checkpoint, two of one modality each, or an encoder folder, which
may be mixed with the model that its training started from.

Settings, figures and plots of an encoder's training go along; figures only where embeddings stay
what was measured.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.config.settings import TINY
from finetune.encoder_folder import DESCRIPTION_FILE, HISTORY_FILE, read_description
from finetune.errors import EncoderError, UsageError
from finetune.files import bounded_json, bounded_yaml
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.wise_ft import check_alpha, interpolate_with_base
from finetune.towers import TWO_TOWERS


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A model with what is known of its training.

    Attributes:
        dual: The model; its `base_model` is what training started from.
        recipe: The run's settings; None where it was not trained here.
        metrics: The run's figures; None where there are none of these very embeddings.
        files: history.csv and plots of the run.
    """

    dual: DualEncoder
    recipe: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()


def load_source(
    model: str,
    *,
    text_model: str | None = None,
    max_tokens: int | None = None,
    wise_ft: float | None = None,
    base: str | None = None,
) -> ExportSource:
    """Load `model` and, where asked for, join or mix it with a second one.

    Args:
        model: Id or folder of a checkpoint; an encoder folder too.
        text_model: Id or folder of a text model, to which `model` is then the image tower.
        max_tokens: Cut texts earlier than the model does.
        wise_ft: Weight of `model` in 0..1 against `base`; None mixes nothing.
        base: Id or folder; None is what an encoder folder says that its training started from.

    Raises UsageError where a model is not there, is of no use or does not fit the other, and
    EncoderError where one is incomplete.
    """
    if text_model is not None:
        return ExportSource(load_two_towers(model, text_model, max_tokens=max_tokens))
    is_encoder = (Path(model) / DESCRIPTION_FILE).is_file()
    if wise_ft is not None:
        check_alpha(wise_ft)
        base = base or base_of(model)
    dual = load_dual_encoder(model, max_tokens=max_tokens)
    if is_encoder:
        description = read_description(Path(model))
        dual.base_model = description.base_model
        is_cut = dual.max_tokens != description.max_tokens
        source = _with_reports(dual, Path(model), with_figures=wise_ft is None and not is_cut)
    else:
        source = ExportSource(dual)
    if wise_ft is None or base is None:
        return source
    interpolate_with_base(dual, load_dual_encoder(base), wise_ft)
    dual.base_model = base
    return ExportSource(dual, {**(source.recipe or {}), "wise_ft": wise_ft})


def base_of(model: str) -> str:
    """Return the model that an encoder's training started from.

    Raises UsageError where there is none that can be loaded again: `model` is no encoder folder,
    or began from scratch, or from two towers, whose projections were random.
    """
    if not (Path(model) / DESCRIPTION_FILE).is_file():
        raise UsageError(
            f"--wise-ft: {model} is no encoder folder, which would say what its training started"
            f" from; name the model to mix with by --base"
        )
    base = read_description(Path(model)).base_model
    if base in ("", TINY) or TWO_TOWERS in base:
        raise UsageError(
            f"--wise-ft: the training of {model} started from {base or 'an unknown model'}, which"
            f" cannot be loaded again as it was; name the model to mix with by --base"
        )
    return base


def _with_reports(dual: DualEncoder, folder: Path, *, with_figures: bool) -> ExportSource:
    recipe = _read(folder / "recipe.yaml")
    if not with_figures:
        return ExportSource(dual, recipe)
    history = folder / HISTORY_FILE
    files = [history] if history.is_file() else []
    files += sorted(folder.glob("*.png"))
    return ExportSource(dual, recipe, _read(folder / "metrics.json"), tuple(files))


def _read(path: Path) -> dict[str, Any] | None:
    """Return a mapping; None where there is no file."""
    if not path.is_file():
        return None
    try:
        if path.suffix == ".json":
            value = bounded_json.read(path)
        else:
            value = yaml.safe_load(bounded_yaml.read_text(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(f"{path}: cannot be read ({reason}); mend it or remove it") from error
    if not isinstance(value, dict):
        raise EncoderError(f"{path}: holds no mapping of names to values; mend it or remove it")
    return value
