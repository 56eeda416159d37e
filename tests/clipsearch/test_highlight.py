from hypothesis import given
from hypothesis import strategies as st

from clipsearch.highlight import MarkedCaption, best_caption, match_spans
from clipsearch.text import tokens
from finetune.spans import pieces


def marked(caption: str, query: str) -> str:
    cut = pieces(caption, match_spans(caption, set(tokens(query))))
    return "".join(f"[{piece}]" if match else piece for piece, match in cut)


def test_marks_words_of_the_same_stem() -> None:
    assert marked("Two dogs, and a DOG; no doghouse.", "dog") == (
        "Two [dogs], and a [DOG]; no doghouse."
    )
    assert marked("Running with runners", "runs") == "[Running] with runners"
    assert marked("Un café au lait", "CAFE") == "Un [café] au lait"
    assert marked("ﬁne ☂ weather", "fine ☂") == "[ﬁne] [☂] weather"
    assert marked("nothing here", "!!!") == "nothing here"


def test_prefers_different_words_then_many_then_the_first() -> None:
    captions = ["a cat", "dogs dogs dogs", "a dog on a beach", "beach dog"]
    words = set(tokens("dog beach"))
    assert best_caption(captions, words).caption == "a dog on a beach"
    assert best_caption(captions[:2], words) == MarkedCaption(
        "dogs dogs dogs", ((0, 4), (5, 9), (10, 14))
    )
    assert best_caption(captions, set()) == MarkedCaption("a cat")
    assert best_caption([], words) == MarkedCaption("")


@given(st.text(), st.text())
def test_pieces_join_to_the_text_and_matches_are_matches(caption: str, query: str) -> None:
    words = set(tokens(query))
    cut = pieces(caption, match_spans(caption, words))
    assert "".join(piece for piece, _ in cut) == caption
    assert all(set(tokens(piece)) <= words for piece, match in cut if match)
    found = sum(token in words for token in tokens(caption))
    assert sum(match for _, match in cut) == found
