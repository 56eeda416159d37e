"""Documents by the id that a person gives, in whichever Unicode form it is typed."""

from collections.abc import Sequence
from dataclasses import replace

from clipsearch.documents import Document
from clipsearch.engine import Engine
from clipsearch.search.parts import Part
from clipsearch.storable import shown_id
from finetune.errors import DocumentNotFoundError
from finetune.text.composed import forms


def find_documents(
    engine: Engine, ids: Sequence[str], *, embeddings: bool = False
) -> list[Document | None]:
    """Return the documents of these ids, in their order; None where there is none in any form.

    Feeds write ids in the composed form, and an earlier clipsearch wrote them as the manifest had
    them; terminals and file managers hand over either. The very id that is asked for comes first.
    """
    found = engine.get(ids, embeddings=embeddings)
    other_forms = {
        place: forms(ids[place])[1:]
        for place, document in enumerate(found)
        if document is None and not ids[place].isascii()
    }
    asked = list(dict.fromkeys(form for others in other_forms.values() for form in others))
    by_id = dict(zip(asked, engine.get(asked, embeddings=embeddings), strict=True)) if asked else {}
    for place, others in other_forms.items():
        found[place] = next((by_id[form] for form in others if by_id[form] is not None), None)
    return found


def known_document(engine: Engine, id: str, document: Document | None) -> Document:
    """Return what was found for an id. Raises DocumentNotFoundError where nothing was."""
    if document is None:
        raise DocumentNotFoundError(
            f"no document has the id {shown_id(id)!r} in {engine.target};"
            f" ids are shown by: clipsearch list --ids"
        )
    return document


def with_known_ids(engine: Engine, parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return the parts, with ids in the Unicode form in which the index has them."""
    typed = [part for part in parts if part.kind == "id" and not str(part.value).isascii()]
    found = find_documents(engine, [str(part.value) for part in typed]) if typed else []
    known = {
        str(part.value): document.id
        for part, document in zip(typed, found, strict=True)
        if document is not None
    }
    return tuple(
        replace(part, value=known.get(str(part.value), part.value)) if part.kind == "id" else part
        for part in parts
    )
