"""TrainConfig from a mapping: what a recipe, --print-config and the command line hold."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import SETTINGS, TrainConfig, option
from finetune.errors import UsageError
from finetune.near_names import near_or_known

# How the command line says that there is none, where a recipe has one.
NONE = "none"


def config_from_mapping(values: Mapping[str, object]) -> TrainConfig:
    """Make a configuration of `values`, with the defaults in its other fields.

    `config_check` has not checked it yet.

    Args:
        values: By field name. Numbers may be written as text ("5e-6" is text in YAML), and tuples
            as lists or as text with commas. "none" is None where a field may be that, and an
            empty tuple. `augment` and `caption_augment` are mappings.

    Raises UsageError for an unknown name, a value of another type, or where the manifest or the
    model is missing.
    """
    hints = get_type_hints(TrainConfig)
    known = {item.name: item for item in fields(TrainConfig)}
    for name in values:
        if name not in known:
            raise UsageError(f"there is no setting {name}; {near_or_known(name, known)}")
    coerced: dict[str, Any] = {}
    for name, value in values.items():
        if name == "augment" and isinstance(value, Mapping):
            coerced[name] = AugmentConfig.from_mapping(value)
        elif name == "caption_augment" and isinstance(value, Mapping):
            coerced[name] = CaptionAugmentConfig.from_mapping(value)
        else:
            coerced[name] = _coerced(name, value, hints[name])
    for name, item in known.items():
        is_needed = item.default is MISSING and item.default_factory is MISSING
        if is_needed and coerced.get(name) is None:
            raise UsageError(
                "give a MANIFEST of captioned images"
                if name == "manifest"
                else f"give {option(name)}: a Hugging Face id, a folder, or tiny"
            )
    return TrainConfig(**coerced)


def _coerced(name: str, value: object, hint: Any) -> object:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None or (value == NONE and NoneType in kinds):
        if NoneType in kinds:
            return None
        raise _wrong(name, value, "something")
    for kind in kinds:
        if get_origin(kind) is tuple:
            return _items(name, value, get_args(kind)[0])
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return value
    if isinstance(value, list | tuple | Mapping | bool):
        raise _wrong(name, value, _wanted(kinds))
    for kind in (int, float, Path, str):
        if kind in kinds:
            try:
                return kind(str(value))
            except ValueError:
                continue
    raise _wrong(name, value, _wanted(kinds))


def _items(name: str, value: object, kind: Any) -> tuple[object, ...]:
    if value == NONE:
        return ()
    if isinstance(value, str) and not SETTINGS[name].repeated:
        parts: list[object] = [part.strip() for part in value.split(",") if part.strip()]
    else:
        parts = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(_coerced(name, part, kind) for part in parts)


def _wanted(kinds: tuple[Any, ...]) -> str:
    if bool in kinds:
        return "true or false"
    if int in kinds and str not in kinds:
        return "a whole number"
    return "a number" if float in kinds else "a text"


def _wrong(name: str, value: object, wanted: str) -> UsageError:
    return UsageError(f"{option(name)} takes {wanted}, not {value}")
