"""Sections of a model card on the training run: data, procedure, figures, impact, machine."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from finetune.config.card_settings import CardSettings
from finetune.config.setting import plain
from finetune.config.settings import TrainConfig
from finetune.export.card_facts import NOT_GIVEN, CardFacts
from finetune.export.card_metadata import measured, pool_of, without_places
from finetune.export.card_tables import cell, count, counts, duration, figure, memory, pairs
from finetune.figures import TASKS

RECIPE_FILE = "recipe.yaml"
# What the card says in other places, and where and when a folder was replaced.
ELSEWHERE = frozenset(item.name for item in fields(CardSettings)) | {
    "out", "overwrite", "restart", "yes",
}  # fmt: skip


def report_sections(
    metrics: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    facts: CardFacts,
    *,
    citation: str | None = None,
) -> list[str]:
    """Write what is known of a run: data, procedure, figures, impact, machine, citation, contact.

    `metrics` and `recipe` are those of `finetune.export.card.model_card`, `citation` is BibTeX, the
    recipe's own unless given. What nobody has said is NOT_GIVEN. Empty sections are empty texts.
    """
    published = metrics.get("recipe") or {}
    trained = recipe is not None
    return [
        _training(metrics, recipe, facts),
        _figures(metrics, trained=trained),
        _published(published),
        _impact(metrics.get("impact") or {}) if trained else "",
        _machine(metrics.get("run") or {}),
        _citation(published.get("citation") or "" if citation is None else citation),
        f"## Model card contact\n\n{facts.contact or NOT_GIVEN}",
    ]


def _training(
    metrics: Mapping[str, Any], recipe: Mapping[str, Any] | None, facts: CardFacts
) -> str:
    if recipe is None:
        return ""
    parts = [
        "## Training details",
        _data(metrics, facts),
        _procedure(recipe, metrics.get("training") or {}),
        _speeds(metrics.get("run") or {}),
    ]
    return "\n\n".join(filter(None, parts))


def _data(metrics: Mapping[str, Any], facts: CardFacts) -> str:
    links = [f"[{name}](https://huggingface.co/datasets/{name})" for name in facts.datasets]
    parts = ["### Training data", f"On the hub: {', '.join(links) or NOT_GIVEN}."]
    if manifests := metrics.get("manifests"):
        rows = [(each["name"], _without_name(each)) for each in manifests]
        parts.append(counts("manifest", rows))
    if splits := metrics.get("data"):
        parts.append(counts("split", list(splits.items())))
    return "\n\n".join(parts)


def _without_name(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "name"}


def _procedure(recipe: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    changed = {key: without_places(value) for key, value in changed_settings(recipe).items()}
    head = (
        f"### Training procedure\n\nSettings that are not the defaults of `clipsearch finetune`;"
        f" [{RECIPE_FILE}]({RECIPE_FILE}) holds all of them, for `clipsearch finetune MANIFEST"
        f" --recipe {RECIPE_FILE}`."
    )
    return f"{head}\n\n{pairs(('setting', 'value'), changed | dict(training))}"


def changed_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that are not the defaults, those of augmentation one by one.

    What the card says elsewhere is left out; names that are no settings are kept.
    """
    defaults = {
        item.name: plain(item.default)
        for item in fields(TrainConfig)
        if item.default is not MISSING
    }
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            own = {key: item for key, item in value.items() if item != default.get(key)}
            found |= {f"{name}.{key}": item for key, item in own.items()}
        elif name not in ELSEWHERE and (name not in defaults or value != default):
            found[name] = value
    return found


def _speeds(run: Mapping[str, Any]) -> str:
    if not run:
        return ""
    rows: dict[str, object] = {"duration": duration(run["seconds"])}
    if run["pairs_per_second"]:
        rows["samples/s in the steps"] = f"{run['pairs_per_second']:,.1f}"
    rows["samples seen"] = count(run["pairs"])
    if run["interruptions"]:
        rows["interruptions"] = run["interruptions"]
    if run["gpu_bytes"]:
        rows["peak GPU memory, reserved by torch"] = memory(run["gpu_bytes"])
    if run["resident_bytes"]:
        rows["peak resident memory of the process"] = memory(run["resident_bytes"])
    notes = ["By the clock, from the first step to the last, with evaluations and checkpoints."]
    if run["interruptions"]:
        notes.append("Summed up over interruptions; what a kill took back is not counted.")
    if run["since_step"]:
        notes.append(f"Counted from step {run['since_step']:,} on.")
    if run.get("processes", 1) > 1:
        notes.append(f"Memory is that of the first of {run['processes']} processes.")
    return f"### Speeds and memory\n\n{' '.join(notes)}\n\n{pairs(('', 'measured'), rows)}"


def _figures(metrics: Mapping[str, Any], *, trained: bool) -> str:
    after = measured(metrics, "after")
    if not after:
        return "## Evaluation\n\nNothing was measured." if trained else ""
    before = {pool_of(each): each.values() for each in measured(metrics, "before")}
    split = metrics.get("split")
    where = f" on the split `{split}`, which was not trained on" if split else ""
    if split == "val":
        where += " but by which the best weights were chosen"
    parts = [
        f"## Evaluation\n\nMeasured{where}. Equal scores count against the encoder; figures of"
        f" pools of different sizes cannot be compared."
    ]
    for each in after:
        rows = [
            f"| {name} | {figure(before.get(pool_of(each), {}).get(name))} | {figure(value)} |"
            for name, value in each.values().items()
        ]
        parts.append(
            f"**{each.task}**, {each.scope}, pool of {each.pool:,} {TASKS[each.task].candidates},"
            f" {each.queries:,} queries\n\n"
            "| figure | before | after |\n|---|---:|---:|\n" + "\n".join(rows)
        )
    return "\n\n".join(parts)


def _published(recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return ""
    parts = [f"### Recipe\n\n`{recipe['name']}`: {recipe.get('description', '')}".rstrip(": ")]
    if source := recipe.get("source"):
        parts.append("\n".join(f"- <{address}>" for address in source))
    rows = recipe.get("published")
    if not rows:
        parts.append("Published figures: none; the sources give none.")
    if rows:
        parts.append(
            "Published figures beside those measured here, each with its pool. Unless the pictures"
            " are the same, compare before with after, not published with here.\n\n"
            "| figure | published before | published after | pool | here before | here after"
            " | pool | note |\n|---|---:|---:|---:|---:|---:|---:|---|\n"
            + "\n".join(map(_published_row, rows))
        )
    return "\n\n".join(parts)


def _published_row(row: Mapping[str, Any]) -> str:
    run = f" of {row['run']}" if row.get("run") else ""
    cells = [
        cell(f"{row['direction']} {row['figure']}{run}"),
        figure(row.get("published before")),
        figure(row.get("published after")),
        count(row.get("published pool")),
        figure(row.get("before")),
        figure(row.get("after")),
        count(row.get("pool")),
        cell(row.get("note") or ""),
    ]
    return f"| {' | '.join(cells)} |"


def _impact(impact: Mapping[str, Any]) -> str:
    head = "## Environmental impact\n\n"
    if "kwh" not in impact:
        return (
            f"{head}Energy and emissions were not measured (`--trackers carbon` measures them,"
            f" `--power` and `--carbon-intensity` give an estimate)."
        )
    emitted = (
        f"This run emitted {impact['kg_co2eq']:.3g} kg of CO₂ equivalent: it"
        if "kg_co2eq" in impact
        else "Emissions were not measured; this run"
    )
    where = f" Region: {cell(impact.get('region') or NOT_GIVEN)}."
    used = f"{emitted} used {impact['kwh']:.3g} kWh in {duration(impact['seconds'])},"
    if "watts" in impact:
        intensity = impact.get("grams_a_kwh")
        by = "" if intensity is None else f" and {intensity:g} g a kWh"
        source = (
            f" estimated from a mean power of {impact['watts']:g} W{by}, as the user gave them."
        )
    else:
        source = (
            " as [codecarbon](https://codecarbon.io) estimates from the power of the machine and"
            " the electricity of its region."
        )
    return f"{head}{used}{source}{where} Runs that were tried before it are not counted."


def _machine(run: Mapping[str, Any]) -> str:
    if not run:
        return ""
    rows = {"hardware": run.get("hardware"), "processes": run.get("processes")}
    rows |= run.get("versions") or {}
    return f"## Compute infrastructure\n\n{pairs(('', 'of the training run'), rows)}"


def _citation(bibtex: str) -> str:
    return f"## Citation\n\n```bibtex\n{bibtex}\n```" if bibtex else ""
