from hypothesis import given
from hypothesis import strategies as st

from clipsearch.search.highlight import MarkedCaption, best_caption, match_spans
from clipsearch.text import tokens
from finetune.console import pieces


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


def test_an_excerpt_shows_the_first_match() -> None:
    caption = "word " * 1000 + "a dog " + "word " * 1000
    whole = best_caption([caption], {"dog"})
    cut = whole.excerpt(100)
    assert len(cut.caption) == 102
    assert cut.caption.startswith("…") and cut.caption.endswith("…")
    assert [cut.caption[start:end] for start, end in cut.spans] == ["dog"]
    assert whole.excerpt(len(caption)) == whole
    last = best_caption(["word " * 50 + "dog"], {"dog"}).excerpt(30)
    assert last.caption.endswith("word dog") and len(last.caption) == 31


@given(st.text(), st.text(), st.integers(1, 40))
def test_the_marks_of_an_excerpt_are_marks_of_the_whole(
    caption: str, query: str, length: int
) -> None:
    words = set(tokens(query))
    whole = best_caption([caption], words)
    cut = whole.excerpt(length)
    assert cut.caption.strip("…") in caption or cut == whole
    marks = {whole.caption[start:end] for start, end in whole.spans}
    assert {cut.caption[start:end] for start, end in cut.spans} <= marks
    assert len(cut.caption) <= length + 2


@given(st.text(), st.text())
def test_pieces_join_to_the_text_and_matches_are_matches(caption: str, query: str) -> None:
    words = set(tokens(query))
    cut = pieces(caption, match_spans(caption, words))
    assert "".join(piece for piece, _ in cut) == caption
    assert all(set(tokens(piece)) <= words for piece, match in cut if match)
    found = sum(token in words for token in tokens(caption))
    assert sum(match for _, match in cut) == found
