"""What a deployment would change, and what that costs: said before anything is made."""

from collections.abc import Mapping
from dataclasses import dataclass

from clipsearch.engine import IndexInfo
from clipsearch.vespa.config_server import Action, Prepared
from clipsearch.vespa.package import HOSTS_FILE, OVERRIDES_FILE, PARTS, Package, md5_of


@dataclass(frozen=True, slots=True)
class Changes:
    """What an activation would change.

    Attributes:
        first: Nothing is deployed there yet.
        differences: Sentences for people.
        files: Path to "new", "changed" or "gone"; None where what runs now cannot be read.
        actions: What must follow for the change to take effect.
        warnings: Of the validation, in Vespa's words.
        costs: Why the change is not to be made without asking; empty where it is free.
    """

    first: bool
    differences: tuple[str, ...]
    files: Mapping[str, str] | None
    actions: tuple[Action, ...] = ()
    warnings: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()


def compare(
    deployed: Mapping[str, str] | None,
    package: Package,
    before: IndexInfo | None,
    after: IndexInfo,
    documents: int,
    prepared: Prepared,
) -> Changes:
    """What activating `prepared` would change, and what it would cost.

    `deployed` is path to md5 of what runs now; `documents` how many the index holds.
    """
    files = None if deployed is None else _file_changes(deployed, package)
    differences = [] if before is None else _info_changes(before, after)
    costs = [_action_sentence(action) for action in prepared.actions]
    if before is not None and documents and before.encoder_fingerprint != after.encoder_fingerprint:
        costs.append(
            f"{documents:,} documents hold embeddings of the encoder before;"
            f" searches by vector are wrong until all are fed again"
        )
    return Changes(
        first=deployed == {},
        differences=tuple(differences),
        files=files,
        actions=prepared.actions,
        warnings=prepared.warnings,
        costs=tuple(costs),
    )


def describe(changes: Changes) -> list[str]:
    """The changes in lines for people."""
    lines = [f"Vespa says {warning}" for warning in changes.warnings]
    if changes.first:
        return [*lines, "first deployment: nothing runs there yet"]
    lines += changes.differences
    if changes.files is None:
        lines.append("what runs there now cannot be read, so files are not compared")
    elif changes.files:
        for state in ("new", "changed", "gone"):
            paths = [path for path, found in changes.files.items() if found == state]
            if paths:
                lines.append(f"{state}: {', '.join(paths)}")
    elif not changes.differences:
        lines.append("nothing changes: the same package runs there already")
    return [*lines, *(f"this costs: {cost}" for cost in changes.costs)]


def _file_changes(deployed: Mapping[str, str], package: Package) -> dict[str, str]:
    roots = (*PARTS, "models", OVERRIDES_FILE, HOSTS_FILE)
    ours = {path: md5_of(file) for path, file in package.items()}
    changes = {}
    for path in sorted({*ours, *deployed}):
        if path.split("/", 1)[0] not in roots:
            continue  # what the config server keeps for itself
        if path not in deployed:
            changes[path] = "new"
        elif path not in ours:
            changes[path] = "gone"
        elif ours[path] != deployed[path]:
            changes[path] = "changed"
    return changes


def _info_changes(before: IndexInfo, after: IndexInfo) -> list[str]:
    lines = []
    if before.encoder_fingerprint != after.encoder_fingerprint:
        lines.append(f"encoder: {_encoder(before)} → {_encoder(after)}")
    if before.dimension != after.dimension:
        lines.append(f"dimension: {before.dimension} → {after.dimension}")
    if before.precision != after.precision:
        lines.append(f"precision: {before.precision} → {after.precision}")
    if before.language != after.language:
        lines.append(f"language: {before.language} → {after.language}")
    old = (before.bm25_weight, before.vector_weight)
    new = (after.bm25_weight, after.vector_weight)
    if old != new:
        lines.append(f"weights (bm25, vector): {old[0]:g}, {old[1]:g} → {new[0]:g}, {new[1]:g}")
    return lines


def _encoder(info: IndexInfo) -> str:
    if info.encoder_fingerprint is None:
        return "none (ready-made vectors)"
    return f"{info.encoder_name} ({info.encoder_fingerprint[:12]})"


def _action_sentence(action: Action) -> str:
    what = "; ".join(action.messages)
    if action.kind == "restart":
        return f"restart of {', '.join(action.services) or action.cluster}, by you: {what}"
    if action.kind == "reindex":
        return f"re-indexing of {action.document_type} in {action.cluster}: {what}"
    return f"feeding {action.document_type} in {action.cluster} anew: {what}"
