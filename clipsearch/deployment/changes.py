"""What a deployment would change, and what that costs: said before anything is made."""

from collections.abc import Mapping
from dataclasses import dataclass

from clipsearch.deployment.config_server import Action, Prepared, Running
from clipsearch.deployment.deployed import other_application
from clipsearch.deployment.package import HOSTS_FILE, OVERRIDES_FILE, PARTS, Package, md5_of
from clipsearch.deployment.refusals import Documents, whose
from clipsearch.engine import IndexInfo
from clipsearch.modes import Weights
from clipsearch.weighing import weighted_sum_told


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
        unread: Why what runs now cannot be read; "" where it was.
    """

    first: bool
    differences: tuple[str, ...]
    files: Mapping[str, str] | None
    actions: tuple[Action, ...] = ()
    warnings: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    unread: str = ""


def compare(
    running: Running,
    package: Package,
    before: IndexInfo | None,
    after: IndexInfo,
    documents: Documents,
    prepared: Prepared,
    *,
    allowed: tuple[str, ...] = (),
    unknown: str = "",
) -> Changes:
    """Return what activating `prepared` would change, and what it would cost.

    `documents` are those that the index holds, `allowed` the validation overrides that were given;
    `unknown` says why `before` is not what the index itself says.
    """
    differences = [] if before is None else info_changes(before, after)
    costs = [_action_sentence(action) for action in prepared.actions]
    other = other_application(running.files)
    if other is not None:
        # With an override, the removal of what it holds was said to be wanted.
        (differences if allowed else costs).append(f"{whose(other)}: it goes, and they with it")
    elif running.files != {}:
        if unknown:
            differences.append(f"what the index knows about itself cannot be read ({unknown})")
        if before is None and documents.count != 0:
            costs.append(
                f"{documents} may be of another precision, language or weights than those of a new"
                f" index, which are taken where options do not say others"
            )
        differences += _emptied(before, after, documents)
        costs += encoder_costs(before, after, documents)
    return Changes(
        first=running.files == {},
        differences=tuple(differences),
        files=None if running.files is None else _file_changes(running.files, package),
        actions=prepared.actions,
        warnings=prepared.warnings,
        costs=tuple(costs),
        unread=running.reason,
    )


def same_field(before: IndexInfo, after: IndexInfo) -> bool:
    """Return whether embeddings stay what they are; Vespa drops those of another type."""
    return (before.precision, before.dimension) == (after.precision, after.dimension)


def encoder_costs(
    before: IndexInfo | None, after: IndexInfo, documents: Documents
) -> tuple[str, ...]:
    """Return what another encoder costs where there are documents, or may be."""
    if before is None or documents.count == 0 or not same_field(before, after):
        return ()
    if before.encoder_fingerprint == after.encoder_fingerprint:
        return ()
    hold = "holds an embedding" if documents.count == 1 else "hold embeddings"
    return (
        f"{documents} {hold} of the encoder before;"
        f" searches by vector are wrong until all are fed again",
    )


def _emptied(before: IndexInfo | None, after: IndexInfo, documents: Documents) -> tuple[str, ...]:
    if before is None or documents.count == 0 or same_field(before, after):
        return ()
    return (f"{documents}: found by words alone until fed again",)


def describe(changes: Changes) -> list[str]:
    """Return the changes in lines for people."""
    lines = [f"Vespa says {warning}" for warning in changes.warnings]
    if changes.first:
        return [*lines, "first deployment: nothing runs there yet"]
    lines += changes.differences
    if changes.files is None:
        lines.append(
            f"what runs there now cannot be read ({changes.unread}), so files are not compared"
        )
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


def info_changes(before: IndexInfo, after: IndexInfo) -> list[str]:
    """Return, in lines, what the index would know that it does not know now."""
    lines = []
    if before.encoder_fingerprint != after.encoder_fingerprint:
        lines.append(f"encoder: {_encoder(before)} → {_encoder(after)}")
    if before.dimension != after.dimension:
        lines.append(f"dimension: {before.dimension} → {after.dimension}")
    if before.precision != after.precision:
        lines.append(f"precision: {before.precision} → {after.precision}")
    if before.language != after.language:
        lines.append(f"language: {before.language} → {after.language}")
    old = Weights(before.bm25_weight, before.vector_weight)
    new = Weights(after.bm25_weight, after.vector_weight)
    if old != new:
        lines.append(f"weights: {weighted_sum_told(old)} → {weighted_sum_told(new)}")
    if before.rrf_k != after.rrf_k:
        lines.append(f"k of hybrid-rrf: {before.rrf_k} → {after.rrf_k}")
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
