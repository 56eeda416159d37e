"""Recipes: the settings of published systems, as commented YAML files in `finetune/config/recipes`.

A recipe file holds `description`, `source` (addresses), `published` (figures), `expects` (the data
that it is for), `citation` (BibTeX) and `settings`, a mapping of `TrainConfig`'s fields. A plain
mapping of fields, as `--print-config` writes it, is a recipe too. Imports without torch.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from finetune.config.settings import SETTINGS
from finetune.errors import UsageError
from finetune.files import bounded_yaml
from finetune.near_names import did_you_mean, near_name, near_or_known

FOLDER = Path(__file__).with_name("recipes")
SUFFIXES = (".yaml", ".yml")
KEYS = ("description", "source", "published", "expects", "citation", "settings")
_NUMBERS = ("manifests", "images", "captions", "classes")
# Settings that may name a file which lies beside the recipe.
FILE_SETTINGS = ("zero_shot_classes",)

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFigure:
    """A figure of the publication.

    Attributes:
        figure: Named as ours: "mrr@10 in batches of 64", "hits@1".
        run: Of the publication's several runs the one that it is of, where that is not the one
            whose settings the recipe has; ours is not put beside it.
        direction: "text-to-image", "image-to-text" or "zero-shot".
        before, after: Without and with fine-tuning, 0 to 1; None where it is not told.
        pool: Candidates that every query ranked; None where it is not told.
        note: What makes it comparable with ours, or not.
    """

    figure: str
    direction: str
    before: float | None = None
    after: float | None = None
    pool: int | None = None
    note: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedData:
    """The data that a recipe's settings were made for; None stands for what is not known.

    Attributes:
        manifests: How many there are.
        images, captions: Of all splits, captions as often as the manifest gives them.
        captions_an_image: Fewest and most.
        splits: Images of each.
        classes: For the zero-shot figures.
        note: What else to know.
    """

    manifests: int | None = None
    images: int | None = None
    captions: int | None = None
    captions_an_image: tuple[int, int] | None = None
    splits: Mapping[str, int] | None = None
    classes: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a published system.

    Attributes:
        name: Of a packaged recipe; else the file's name, or the name that `--print-config` wrote.
        description: One sentence.
        source: Addresses of papers, code and model cards.
        published: Figures to compare with; may be empty.
        settings: Of `TrainConfig`, by field, as YAML holds them; `finetune.config.mapping` makes
            the configuration.
        expects: The data that they are for.
        citation: Of the publication, in BibTeX; may be empty.
    """

    name: str
    description: str
    source: tuple[str, ...]
    published: tuple[PublishedFigure, ...]
    settings: Mapping[str, object]
    expects: ExpectedData = ExpectedData()
    citation: str = ""


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def packaged_recipe(name: str | None) -> Recipe | None:
    """Return the packaged recipe of this name, None where there is none."""
    return load_recipe(name) if name in recipe_names() and name is not None else None


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a packaged recipe by name, or one from a YAML file.

    Raises UsageError where it is neither, is no readable YAML, or has a key or a setting that does
    not exist.
    """
    known = recipe_names()
    if str(name_or_path) in known:
        path = FOLDER / f"{name_or_path}.yaml"
        return _recipe(path, _read(path), str(name_or_path))
    path = Path(name_or_path)
    if not path.is_file():
        raise UsageError(_not_found(str(name_or_path), known))
    return _recipe(path, _read(path), path.name)


def recipe_report(
    name: str | None, before: Iterable[Figures], after: Iterable[Figures]
) -> dict[str, Any]:
    """Return what metrics.json and the model card tell of the packaged recipe of this name.

    These are `name`, `description`, `source`, `citation` and `published`, rows of
    `published_beside`; nothing where there is none.
    """
    recipe = packaged_recipe(name)
    if recipe is None:
        return {}
    return {
        "name": recipe.name,
        "description": recipe.description,
        "source": list(recipe.source),
        "citation": recipe.citation,
        "published": published_beside(recipe, before, after),
    }


def published_beside(
    recipe: Recipe, before: Iterable[Figures], after: Iterable[Figures]
) -> list[dict[str, str | int | float | None]]:
    """Put each published figure beside ours, as metrics.json and the model card hold it.

    Args:
        recipe: The recipe.
        before, after: Our figures without and with fine-tuning, mappings as
            `Measurement.as_flat_dict()` gives them: direction, pool and, by name, the figures.

    Returns rows with the keys of PublishedFigure, its figures as `published before` and `published
    after` and its pool as `published pool`, and ours as `before`, `after` and `pool`; None stands
    for what was not measured.
    """
    ours = {"before": list(before), "after": list(after)}
    rows: list[dict[str, str | int | float | None]] = []
    for published in recipe.published:
        found = {
            when: next((each for each in figures if _measures(each, published)), None)
            if not published.run
            else None
            for when, figures in ours.items()
        }
        pools = [each["pool"] for each in (found["after"], found["before"]) if each is not None]
        rows.append(
            {
                "figure": published.figure,
                "direction": published.direction,
                "published before": published.before,
                "published after": published.after,
                "published pool": published.pool,
                **{
                    when: None if each is None else each[published.figure]
                    for when, each in found.items()
                },
                "pool": pools[0] if pools else None,
                "note": published.note,
                "run": published.run,
            }
        )
    return rows


def _measures(figures: Figures, published: PublishedFigure) -> bool:
    return figures.get("direction") == published.direction and published.figure in figures


def _not_found(name: str, known: list[str]) -> str:
    if Path(name).suffix in SUFFIXES or "/" in name:
        meant = did_you_mean(name)
        return f"--recipe {name}: no such file{meant}; packaged recipes are {', '.join(known)}"
    near = near_name(name, known)
    nearest = f"did you mean {near}? Known" if near else "known"
    return f"--recipe {name}: there is no such recipe; {nearest} are {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name} is there twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.load(bounded_yaml.read_text(path), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{where}: no recipe in YAML ({error.problem})") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
        raise UsageError(f"{path}: a recipe is a mapping of names and values, such as epochs: 3")
    return document


def _recipe(path: Path, document: Mapping[str, Any], name: str) -> Recipe:
    if not any(key in KEYS for key in document):
        settings = dict(document)
        # a run from --print-config's file is still one of that recipe
        return Recipe(str(settings.get("recipe") or name), "", (), (), _settings(path, settings))
    _check_names(path, "key", document, KEYS)
    given = document.get("settings")
    if not isinstance(given, Mapping):
        raise UsageError(f"{path}: has no settings; write settings: and below it, epochs: 3")
    return Recipe(
        name,
        str(document.get("description") or ""),
        tuple(_list_of(path, document, "source", str)),
        tuple(_published(path, each) for each in _list_of(path, document, "published", dict)),
        _settings(path, given),
        _expected(path, document.get("expects") or {}),
        str(document.get("citation") or "").strip(),
    )


def _expected(path: Path, given: object) -> ExpectedData:
    if not isinstance(given, Mapping):
        raise UsageError(f"{path}: expects is a mapping, such as images: 13634")
    _check_names(path, "expectation", given, [item.name for item in fields(ExpectedData)])
    values = dict(given)
    bounds = values.get("captions_an_image")
    splits = values.get("splits")
    numbers = [value for name, value in values.items() if name in _NUMBERS]
    if isinstance(bounds, int):
        bounds = [bounds, bounds]
    if bounds is not None:
        values["captions_an_image"] = tuple(bounds) if isinstance(bounds, list) else bounds
        numbers += bounds if isinstance(bounds, list) and len(bounds) == 2 else [None]
    if splits is not None:
        numbers += list(splits.values()) if isinstance(splits, Mapping) else [None]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise UsageError(
            f"{path}: expects holds whole numbers: images, captions, manifests, classes,"
            f" captions_an_image (one number, or fewest and most) and those of splits, not {given}"
        )
    return ExpectedData(**values)


def _settings(path: Path, given: Mapping[str, object]) -> Mapping[str, object]:
    _check_names(path, "setting", given, SETTINGS)
    settings = {name: value for name, value in given.items() if name != "recipe"}
    for name in FILE_SETTINGS:
        value = settings.get(name)
        if isinstance(value, str) and (path.parent / value).is_file():
            settings[name] = str(path.parent / value)
    return settings


def _published(path: Path, values: Mapping[str, Any]) -> PublishedFigure:
    _check_names(path, "key", values, [item.name for item in fields(PublishedFigure)])
    try:
        return PublishedFigure(**values)
    except TypeError as error:
        raise UsageError(
            f"{path}: each of published has at least a figure and a direction, not {dict(values)}"
        ) from error


def _list_of(path: Path, document: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = document.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        what = "addresses" if kind is str else "mappings with figure, direction, before and after"
        raise UsageError(f"{path}: {key} is a list of {what}, not {values}")
    return values


def _check_names(path: Path, what: str, given: Iterable[object], known: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            mend = near_or_known(str(name), known)
            raise UsageError(f"{path}: there is no {what} {name}; {mend}")
