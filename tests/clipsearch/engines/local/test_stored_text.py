"""The text of a document as the store keeps it."""

from dataclasses import replace

import numpy as np
import pytest
from local_collection import make_document

from clipsearch.document_columns import DocumentColumns
from clipsearch.engines.local.store import Stored, text_of, texts_of

HASH = "0f" * 32


@pytest.mark.parametrize("look", ["", HASH, "another", "true", "="])
@pytest.mark.parametrize("content", ["", HASH, HASH.upper(), HASH[:-2] + " 1", "é" * 64, "A" * 44])
def test_a_document_is_given_back(content: str, look: str) -> None:
    document = replace(make_document(1), embedding=None, content=content, look=look)
    parts = {name: [value] for name, value in document.parts.items()}
    columns = DocumentColumns([document.id], parts, np.zeros((1, 2), np.float32))
    assert texts_of(columns) == [text_of(document)]
    assert Stored(0, 0, 0, text_of(document).decode()).document() == document


def test_a_look_that_is_the_content_is_kept_once_and_both_are_short() -> None:
    plain = replace(make_document(1), embedding=None, content="", look="")
    hashed = replace(plain, content=HASH, look=HASH)
    assert len(text_of(hashed)) - len(text_of(plain)) < 50
    assert HASH.encode() not in text_of(hashed)
