"""Words of the index to suggest, counted by Vespa over the words of the documents.

Groups are over all words of the documents that match, so that those which do not are dropped here.
"""

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.caption_words import WORDS, WORDS_FORM
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.operations import DOCUMENT_TYPE
from clipsearch.vocabulary import most_edits
from finetune.errors import EngineError

# Of the 10,000 groups that Vespa allows by default.
MOST_WORDS = 9_000


def check_words(info: IndexInfo, target: str) -> None:
    """Raise EngineError where the documents of the index have no words."""
    if info.document_form < WORDS_FORM:
        raise EngineError(
            f"{target}: was fed by an earlier version, and its documents have no words to suggest:"
            f" run clipsearch deploy, and then clipsearch feed"
        )


def beginning_body(prefix: str, timeout: float) -> dict[str, Json]:
    """Return the JSON of a search that counts the words of documents with one that begins so."""
    return _counting(f"{WORDS} contains ({{prefix:true}}@w)", prefix, timeout)


def spelled_body(word: str, timeout: float) -> dict[str, Json]:
    """Return the JSON of a search that counts the words of documents with one spelled alike."""
    fuzzy = f"{{maxEditDistance:{most_edits(word)}}}fuzzy(@w)"
    return _counting(f"{WORDS} contains ({fuzzy})", word, timeout)


def _counting(where: str, word: str, timeout: float) -> dict[str, Json]:
    groups = f"all(group({WORDS}) max({MOST_WORDS}) order(-count()) each(output(count())))"
    return {
        "yql": f"select id from {DOCUMENT_TYPE} where {where} | {groups}",
        "w": word,
        "hits": 0,
        "ranking.profile": "unranked",
        "timeout": f"{timeout:g}s",
    }
