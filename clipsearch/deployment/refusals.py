"""What Vespa refuses: by which option it goes on, and what that costs.

https://docs.vespa.ai/en/reference/applications/validation-overrides.html
"""

import re
from dataclasses import dataclass

from clipsearch.engines.vespa.operations import DOCUMENT_TYPE

REFERENCE = "https://docs.vespa.ai/en/reference/applications/validation-overrides.html"

_ALLOW = re.compile(r"<allow until='[^']*'>([a-z0-9-]+)</allow>")
_NAMED_FIELD = re.compile(r"Field '([^']+)' changed")
_NAMED_TYPE = re.compile(r"Document type '([^']+)'")
_TAKEN_HOST = re.compile(r"host '([^']+)', but the host is already taken by '([^']+)'")
_ACTIVE_CHANGED = re.compile(r"currently active session|active session .* has changed")

# What these change is only of documents that are there.
_FREE_WITHOUT_DOCUMENTS = frozenset(
    {"field-type-change", "hnsw-settings-change", "indexing-change"}
)

_FIELD_CHANGES = ("field-type-change", "tensor-type-change")
_COSTS = {
    "hnsw-settings-change": "as the content nodes start, the graph of all embeddings is built anew,"
    " which may take long ({documents})",
    "indexing-change": "{documents} are indexed anew, which deploy starts; until that is through,"
    " searches mix old and new",
    "indexing-mode-change": "{documents} are indexed anew, and not found until that is through",
    "schema-removal": "all documents of the removed type are deleted",
    "content-type-removal": "all documents of the removed type are deleted",
    "content-cluster-removal": "all documents of the removed cluster are deleted",
    "redundancy-increase": "content nodes hold more copies, and stop taking documents where their"
    " disk or memory is then too full",
    "redundancy-one": "with one copy of each document, a content node that is lost takes its"
    " documents with it",
    "resources-reduction": "content nodes stop taking documents where what is left is too little",
    "paged-setting-removal": "all values of the attribute go into memory, which may run out",
}


@dataclass(frozen=True, slots=True)
class Documents:
    """How many images an index holds.

    Attributes:
        count: None where they could not be counted.
        reason: Why not; "" where they were.
    """

    count: int | None
    reason: str = ""

    def __str__(self) -> str:
        """Return it for the middle of a sentence."""
        if self.count is None:
            return f"its documents (which could not be counted: {self.reason})"
        return f"{self.count:,} document{'' if self.count == 1 else 's'}"


def validation_ids(message: str) -> tuple[str, ...]:
    """Return the ids of validation overrides that Vespa's refusal names."""
    return tuple(dict.fromkeys(_ALLOW.findall(message)))


def free_overrides(message: str, documents: Documents) -> tuple[str, ...]:
    """Return the overrides that a refusal asks for, where they cost nothing.

    That is so where the index was counted and holds no document; () otherwise.
    """
    ids = validation_ids(message)
    types = set(_NAMED_TYPE.findall(message))
    free = _FREE_WITHOUT_DOCUMENTS.issuperset(ids) and types <= {DOCUMENT_TYPE}
    return ids if documents.count == 0 and free else ()


def explain(message: str, documents: Documents, other: str | None) -> str:
    """Return Vespa's refusal as it is, with what can be done about it where that is known.

    `other` names the application that runs there, where it is not ours.
    """
    ids = validation_ids(message)
    taken = _TAKEN_HOST.search(message)
    if other is not None and ids:
        return (
            f"{whose(other)}; Vespa says: {message}\nDeploy to another Vespa. Or give that"
            f" application up for good, with {_options(ids)}: {_costs(message, documents)}"
        )
    if ids:
        return f"{message}\nTo go on, add {_options(ids)}. It costs: {_costs(message, documents)}"
    if taken:
        name = re.split(r"[.:]", taken.group(2))
        return (
            f"{message}\n{whose(name[1] if len(name) > 1 else name[0])}, on {taken.group(1)};"
            f" deploy to another Vespa, or remove that application from this one first"
        )
    if _ACTIVE_CHANGED.search(message):
        return f"{message}\nSomeone else deployed meanwhile: run the same command again"
    return message


def whose(other: str) -> str:
    """Say that another application runs there, by name."""
    return f"the application {other}, with documents of its own, runs there"


def _costs(message: str, documents: Documents) -> str:
    """Return what the overrides that a refusal asks for cost, in the middle of a sentence."""
    unknown = f"what it does to documents, {REFERENCE} says"
    told = [
        _lost_with_the_field(message, documents)
        if one in _FIELD_CHANGES
        else _COSTS.get(one, unknown).format(documents=documents)
        for one in validation_ids(message)
    ]
    return "; ".join(dict.fromkeys(told))


def _lost_with_the_field(message: str, documents: Documents) -> str:
    fields = set(_NAMED_FIELD.findall(message))
    if fields == {"embedding"}:
        return (
            f"{documents} lose their embeddings, and are found by words alone until they are fed"
            f" again (captions, tags and numbers stay)"
        )
    held = " and ".join(sorted(fields)) or "the field"
    return f"{documents} lose what {held} held, until they are fed again (the rest stays)"


def _options(ids: tuple[str, ...]) -> str:
    return " ".join(f"--allow {one}" for one in ids)
