"""Vespa's tokens by the plainest reading of its rules: the twin of `clipsearch.text` in tests.

1. Tokens: runs of characters of the categories Lu Ll Lt Lm Lo Mn Mc Nl Nd No; every So character
   is a token of its own; all else separates.
2. Then NFKC, lower case, NFD with U+0300 to U+036F dropped.
3. Then PyStemmer 2.2, English, but that a three-letter base of a, e or o and a doubled consonant
   is not undoubled: added is add, egged is egg, and upped is up.
"""

import re
import unicodedata

import Stemmer

RUN = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nl", "Nd", "No"}
KEPT_BASE = re.compile(r"([aeo]([bdfgmnprt])\2)(ed|ing)(ly)?s?")


def twin_tokens(text: str) -> list[str]:
    words = [""]
    for character in text:
        category = unicodedata.category(character)
        if category in RUN:
            words[-1] += character
        elif category == "So":
            words += [character, ""]
        else:
            words.append("")
    return [stemmed(normalized(word)) for word in words if word]


def normalized(word: str) -> str:
    lower = unicodedata.normalize("NFKC", word).lower()
    apart = unicodedata.normalize("NFD", lower)
    return "".join(character for character in apart if not 0x300 <= ord(character) <= 0x36F)


def stemmed(word: str) -> str:
    kept = KEPT_BASE.fullmatch(word)
    return kept.group(1) if kept else Stemmer.Stemmer("english").stemWord(word)
