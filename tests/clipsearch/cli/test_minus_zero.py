"""A cosine just below 0 is shown as 0: the sign of what was rounded away tells nothing."""

from clipsearch.cli.listing import block, score_text
from clipsearch.documents import Document
from clipsearch.engine import Hit, IndexInfo, Page
from clipsearch.relevance.report import interval_text
from clipsearch.search.answer import Answer, answer_json, json_text
from clipsearch.search.images import ImageFolders
from clipsearch.search.query_terms import QueryTerms
from finetune.figures import Estimate


def test_no_number_is_minus_zero() -> None:
    info = IndexInfo(2)
    hit = Hit(Document("a", (), "a.jpg"), score=-1e-6, bm25=None, cosine=-1e-6)
    answer = Answer(Page((hit,), 1, 0, {}), {}, "", QueryTerms(), info, 1)
    lines = block(1, hit, answer, ImageFolders(info, None), width=80, color=False)
    assert "0.0000  cosine 0.0000" in next(lines).plain
    assert score_text(hit, answer) == "0.0000"
    assert interval_text(Estimate(-1e-6, -0.2, -1e-9), sign="+") == "+0.000 [-0.200, +0.000]"
    exact = Answer(
        Page((Hit(hit.document, -0.0, None, -0.0),), 1, 0, {}), {}, "", QueryTerms(), info, 1
    )
    assert "-0" not in json_text(answer_json(exact))
