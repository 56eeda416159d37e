"""Vespa's search by brute force, for the queries that clipsearch sends: the twin in the stub.

bm25 as in https://docs.vespa.ai/en/reference/bm25.html; the rest as ../recorded/rankings.jsonl has
it. Statements are read by a small parser of the YQL that clipsearch writes, nothing more.

An approximate search takes its candidates among what a pre-filter lets pass, as the real one was
recorded to (../recorded/filters/answers.jsonl): of a sameElement only that each of its conditions
holds for some entry of the map, and of a negated one everything. What fails the whole filter is
dropped afterwards. An exact search takes them among what passes.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from clipsearch.text import tokens

Found = set[int]


@lru_cache(maxsize=100_000)
def _words(text: str, language: str) -> tuple[str, ...]:
    return tuple(tokens(text, language))


@lru_cache(maxsize=100_000)
def _counts(captions: tuple[str, ...], language: str) -> Counter[str]:
    """How often each word is in them; not to be changed."""
    return Counter(word for text in captions for word in _words(text, language))


_PIECES = re.compile(
    r"\s*(?:(?P<nearest>\(?\{(?P<settings>[^}]*)\}nearestNeighbor\(embedding, q\)\)?)"
    r"|captions contains \(\{stem:false, normalizeCase:false, accentDrop:false\}"
    r"(?:@(?P<word>\w+)|phrase\((?P<phrase>[@\w,]+)\))\)"
    r"|words contains \(\{prefix:true\}@(?P<prefix>\w+)\)"
    r"|words contains \(\{maxEditDistance:(?P<edits>\d)\}fuzzy\(@(?P<fuzzy>\w+)\)\)"
    r"|tag_values contains (?P<tag>@\w+|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<field>[a-z_]+) contains @(?P<value>\w+)"
    r"|range\(number_keys, (?P<least>\d+)L, (?P<greatest>\d+)L\)"
    r"|(?P<map>tags|numbers) contains sameElement\(key contains (?P<key>@\w+|\"[^\"]*\"),"
    r" (?P<test>(?:[^()]|\([^()]*\))*)\)"
    r"|(?P<true>true)|(?P<op>and\b|or\b|rank\(|!|\(|\)|,))"
)


def answer_search(
    images: Sequence[Mapping[str, Any]],
    body: Mapping[str, Any],
    language: str,
    found_share: float = 1.0,
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a search over `images`, the fields of each.

    An approximate search finds `found_share` of its candidates, as one that stops early.
    """
    statement = re.fullmatch(
        r"select (.*) from image where (.*?)(?: order by (\w+)( desc)?)?( \| .*)?",
        body["yql"],
        re.DOTALL,
    )
    assert statement is not None, body["yql"]
    search = _Search(images, body, language, found_share)
    found = search.find(statement.group(2))
    ranked = search.rank(found, str(body["ranking.profile"]))
    found = {number for number, _, _ in ranked}
    if statement.group(3):
        name = statement.group(3)
        ranked.sort(key=lambda row: images[row[0]].get(name, ""), reverse=bool(statement.group(4)))
        ranked = [(number, 0.0, features) for number, _, features in ranked]
    hits, offset = int(body.get("hits", 10)), int(body.get("offset", 0))
    names = statement.group(1).split(", ")
    children = [_entry(images, names, *row) for row in ranked[offset : offset + hits]]
    if statement.group(5):
        children.append(_groups(images, found, statement.group(5)))
        if "group(look)" in statement.group(5):
            entries = [_entry(images, names, *row) for row in ranked]
            looks = [images[number]["look"] for number, _, _ in ranked]
            children[-1]["children"].append(_one_of_each(looks, entries, statement.group(5)))
    coverage = {"coverage": 100, "documents": len(images), "full": True, "nodes": 1}
    root = {"id": "toplevel", "fields": {"totalCount": len(found)}, "coverage": coverage}
    if children:
        root["children"] = children
    return 200, {"root": root}


def _entry(
    images: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    number: int,
    score: float,
    features: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "id": f"index:images/0/{number}",
        "relevance": score,
        "source": "images",
        "fields": {
            "matchfeatures": features,
            **{name: images[number][name] for name in names if images[number].get(name)},
        },
    }


def _one_of_each(
    looks: Sequence[str], entries: Sequence[dict[str, Any]], grouping: str
) -> dict[str, Any]:
    """The best entry of each look, as recorded; entries come best first."""
    most = re.search(r"group\(look\) max\((\d+)\) order\(-max\(relevance\(\)\)\)", grouping)
    assert most is not None, grouping
    first: dict[str, dict[str, Any]] = {}
    for look, entry in zip(looks, entries, strict=True):
        first.setdefault(look, entry)
    counts = Counter(looks)
    groups = [
        {
            "id": f"group:string:{look}",
            "relevance": 1.0,
            "value": look,
            "fields": {"count()": counts[look]},
            "children": [{"id": "hitlist:hits", "label": "hits", "children": [entry]}],
        }
        for look, entry in list(first.items())[: int(most.group(1))]
    ]
    return {"id": "grouplist:look", "relevance": 1.0, "label": "look", "children": groups}


@dataclass(frozen=True)
class _Passing:
    """What passes a clause, and what the pre-filter of a search for the nearest lets pass.

    `known` says whether both are the same by nature.
    """

    whole: Found
    before: Found
    known: bool

    @classmethod
    def exactly(cls, found: Found) -> "_Passing":
        return cls(found, found, known=True)

    def __or__(self, other: "_Passing") -> "_Passing":
        known = self.known and other.known
        return _Passing(self.whole | other.whole, self.before | other.before, known)

    def __and__(self, other: "_Passing") -> "_Passing":
        known = self.known and other.known
        return _Passing(self.whole & other.whole, self.before & other.before, known)

    def negated(self, everything: Found) -> "_Passing":
        before = everything - self.before if self.known else everything
        return _Passing(everything - self.whole, before, self.known)


def _compares(operator: str, bound: float, value: float) -> bool:
    return {
        ">=": value >= bound,
        ">": value > bound,
        "<=": value <= bound,
        "<": value < bound,
    }[operator]


def edits(one: str, other: str) -> int:
    """Levenshtein's distance, letter by letter."""
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for column, its in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != its)))
        before = now
    return before[-1]


class _Search:
    def __init__(
        self,
        images: Sequence[Mapping[str, Any]],
        body: Mapping[str, Any],
        language: str,
        found_share: float,
    ) -> None:
        self.images = images
        self.found_share = found_share
        self.body = body
        self.words = [_counts(tuple(image.get("captions") or ()), language) for image in images]
        self.lengths = [words.total() for words in self.words]
        self.average = sum(self.lengths) / max(len(images), 1) or 1.0
        self._idfs: dict[str, float] = {}
        self.everything = set(range(len(images)))
        self.language = language
        self.terms: list[tuple[str, ...]] = []
        self.cosines: list[float] | None = None
        query = body.get("input.query(q)")
        self.embedded = {number for number in self.everything if "embedding" in images[number]}
        if query is not None and images:
            # Without an embedding a document ranks as if it were all zeros.
            zeros = [0.0] * len(query)
            vectors = [image.get("embedding", {}).get("values", zeros) for image in images]
            self.cosines = (np.asarray(vectors) @ np.asarray(query)).tolist()

    def find(self, where: str) -> Found:
        """The documents that the where clause matches."""
        self._nearest: Found | None = None
        self.terms = []
        passing = self._parse(where)
        found = re.search(r"\{targetHits:(\d+), ([^}]*)\}", where)
        if found is None:
            return passing.whole
        assert self.cosines is not None or not self.images
        target, settings = int(found.group(1)), found.group(2)
        cosines = self.cosines or []
        exact = "approximate:false" in settings
        near = self.embedded & (passing.whole if exact else passing.before)
        threshold = re.search(r"distanceThreshold:(-?[\d.]+)", settings)
        if threshold is not None:
            near = {n for n in near if 1 - cosines[n] <= float(threshold.group(1))}
        # A real one matches some documents beyond the target where it compares all of them.
        target = target * 3 // 2 if exact else target
        best = sorted(near, key=lambda number: -cosines[number])[:target]
        self._nearest = set(best if exact else best[: math.ceil(self.found_share * len(best))])
        self.terms = []
        return self._parse(where).whole

    def _parse(self, where: str) -> "_Passing":
        self._pieces = []
        place = 0
        while place < len(where):
            piece = _PIECES.match(where, place)
            assert piece is not None, f"cannot read: {where[place:]}"
            # The closing bracket of a nearestNeighbor that had no opening one belongs outside.
            place = piece.end()
            self._pieces.append(piece)
        self._at = 0
        found = self._either()
        assert self._at == len(self._pieces), where
        return found

    def _either(self) -> "_Passing":
        found = self._all()
        while self._next("or"):
            found = found | self._all()
        return found

    def _all(self) -> "_Passing":
        found = self._one()
        while self._next("and"):
            found = found & self._one()
        return found

    def _one(self) -> "_Passing":
        if self._next("!"):
            terms = list(self.terms)
            passing = self._one().negated(self.everything)
            self.terms = terms  # what is left out counts nowhere
            return passing
        if self._next("rank("):
            # The first alone matches; all count.
            found = self._either()
            while self._next(","):
                self._either()
            assert self._next(")")
            return found
        if self._next("("):
            found = self._either()
            assert self._next(")")
            return found
        piece = self._pieces[self._at]
        self._at += 1
        if piece["phrase"]:
            return self._phrase([self.body[name[1:]] for name in piece["phrase"].split(",")])
        if piece["map"]:
            return self._same_element(piece["map"], self._text(piece["key"]), piece["test"])
        return _Passing.exactly(self._known_beforehand(piece))

    def _known_beforehand(self, piece: re.Match[str]) -> Found:
        if piece["nearest"]:
            return self.everything if self._nearest is None else self._nearest
        if piece["word"]:
            term = self.body[piece["word"]]
            self.terms.append((term,))
            return {number for number in self.everything if term in self.words[number]}
        if piece["fuzzy"]:
            wanted, most = self.body[piece["fuzzy"]], int(piece["edits"])
            return self._where(
                lambda image: any(edits(wanted, word) <= most for word in image.get("words") or ())
            )
        if piece["prefix"]:
            beginning = self.body[piece["prefix"]]
            return self._where(
                lambda image: any(word.startswith(beginning) for word in image.get("words") or ())
            )
        if piece["field"]:
            name, wanted = piece["field"], self.body[piece["value"]]
            return self._where(lambda image: image.get(name) == wanted)
        if piece["tag"]:
            wanted = self._text(piece["tag"])
            return self._where(lambda image: wanted in (image.get("tag_values") or ()))
        if piece["least"]:
            least, greatest = int(piece["least"]), int(piece["greatest"])
            return self._where(
                lambda image: any(
                    least <= key <= greatest for key in image.get("number_keys") or ()
                )
            )
        assert piece["true"]
        return self.everything

    def _phrase(self, words: Sequence[str]) -> "_Passing":
        """A phrase, of which the pre-filter knows no more than that its words are there."""
        self.terms.append(tuple(words))
        near = {n for n in self.everything if all(word in self.words[n] for word in words)}
        return _Passing({n for n in near if self._frequency(n, tuple(words))}, near, known=False)

    def _frequency(self, number: int, term: tuple[str, ...]) -> int:
        if len(term) == 1:
            return self.words[number][term[0]]
        captions = self.images[number].get("captions") or ()
        cut = [_words(text, self.language) for text in captions]
        return sum(
            caption[start : start + len(term)] == term
            for caption in cut
            for start in range(len(caption))
        )

    def _where(self, holds: Callable[[Mapping[str, Any]], bool]) -> Found:
        return {number for number in self.everything if holds(self.images[number])}

    def _text(self, operand: str) -> str:
        """A parameter, or a string of the statement."""
        if operand.startswith("@"):
            return str(self.body[operand[1:]])
        return str(json.loads(operand))

    def _next(self, operator: str) -> bool:
        if self._at < len(self._pieces) and self._pieces[self._at]["op"] == operator:
            self._at += 1
            return True
        return False

    def _same_element(self, name: str, key: str, test: str) -> "_Passing":
        bounds = re.findall(r"value (>=|>|<=|<) (-?[\d.]+(?:e\d+)?)", test)
        wanted = [self._text(one).lower() for one in re.findall(r'@\w+|"[^"]*"', test)]
        assert bounds or wanted, test

        def holds(value: Any) -> bool:
            if name == "tags":
                return str(value).lower() in wanted
            # Both ends of a range are one condition, as recorded.
            return all(_compares(operator, float(bound), value) for operator, bound in bounds)

        def entries(image: Mapping[str, Any]) -> list[tuple[str, Any]]:
            return list((image.get(name) or {}).items())

        def whole(image: Mapping[str, Any]) -> bool:
            return any(
                held.lower() == key.lower() and holds(value) for held, value in entries(image)
            )

        def before(image: Mapping[str, Any]) -> bool:
            return any(held.lower() == key.lower() for held, _ in entries(image)) and any(
                holds(value) for _, value in entries(image)
            )

        return _Passing(self._where(whole), self._where(before), known=False)

    def rank(self, found: Found, profile: str) -> list[tuple[int, float, dict[str, float]]]:
        """(document, score, match features), best first, in Vespa's arbitrary order of ties."""
        rows = []
        for number in sorted(found):
            lexical = self._bm25(number)
            cosine = self.cosines[number] if self.cosines else 0.0
            rows.append((number, lexical, cosine, 1 / (2 - cosine)))
        bm25_weight = self.body.get("input.query(bm25_weight)", 0.1)
        vector_weight = self.body.get("input.query(vector_weight)", 1.0)

        def weighted(row: tuple[int, float, float, float]) -> float:
            return bm25_weight * row[1] + vector_weight * row[2]

        def numbered(row: tuple[int, float, float, float]) -> float:
            held = self.images[row[0]].get("sortable", {}).get("cells", {})
            by = self.body["input.query(by)"]
            return sum(held.get(column, 0.0) * sign for column, sign in by.items())

        first = {
            "unranked": lambda row: 0.0,
            "bm25": lambda row: row[1],
            "vector": lambda row: row[3],
            "hybrid-sum": lambda row: row[1] + row[3],
            "hybrid": weighted,
            "hybrid-rrf": weighted,
            "hybrid-normalized": weighted,
            "by_number": numbered,
            "by_number_near": numbered,
        }[profile]
        # It looks at the first phase alone.
        limit = self.body.get("ranking.rankScoreDropLimit", -math.inf)
        rows = [row for row in rows if first(row) > limit]
        rows.sort(key=lambda row: -first(row))
        scores = [first(row) for row in rows]
        if profile in ("hybrid-rrf", "hybrid-normalized"):
            parts = [self._fused([row[place] for row in rows[:1000]], profile) for place in (1, 2)]
            weights = (1, 1) if profile == "hybrid-rrf" else (bm25_weight, vector_weight)
            scores[:1000] = [
                weights[0] * lexical + weights[1] * cosine
                for lexical, cosine in zip(*parts, strict=True)
            ]
        order = sorted(range(len(rows)), key=lambda place: (place >= 1000, -scores[place]))
        return [(rows[i][0], scores[i], _features(profile, *rows[i][1:])) for i in order]

    @staticmethod
    def _fused(values: list[float], profile: str) -> list[float]:
        if profile == "hybrid-normalized":
            low, high = min(values, default=0), max(values, default=0)
            return [(value - low) / (high - low) if high > low else 0.5 for value in values]
        order = sorted(range(len(values)), key=lambda place: -values[place])
        ranks = {place: rank for rank, place in enumerate(order, start=1)}
        return [1 / (60 + ranks[place]) for place in range(len(values))]

    def _bm25(self, number: int) -> float:
        score = 0.0
        for term in self.terms:
            frequency = self._frequency(number, term)
            norm = 1.2 * (1 - 0.75 + 0.75 * self.lengths[number] / self.average)
            score += max(map(self._idf, term)) * frequency * 2.2 / (frequency + norm)
        return score

    def _idf(self, term: str) -> float:
        if term not in self._idfs:
            having = sum(term in words for words in self.words)
            self._idfs[term] = math.log(1 + (len(self.words) - having + 0.5) / (having + 0.5))
        return self._idfs[term]


def _features(profile: str, lexical: float, cosine: float, closeness: float) -> dict[str, float]:
    if profile == "unranked":
        return {}
    if profile in ("bm25", "by_number"):
        return {"lexical": lexical}
    features = {"cosine": cosine, "closeness(field,embedding)": closeness}
    return features if profile == "vector" else {"lexical": lexical, **features}


def _groups(images: Sequence[Mapping[str, Any]], found: Found, grouping: str) -> dict[str, Any]:
    lists = []
    for name, most in re.findall(r'group\(tags\{"(.*?)"\}\) max\((\d+)\)', grouping):
        column = re.sub(r"\\(.)", r"\1", name)
        counts = Counter((images[number].get("tags") or {}).get(column, "") for number in found)
        children = [
            {"id": f"group:string:{value}", "value": value, "fields": {"count()": count}}
            for value, count in counts.most_common(int(most))
        ]
        more = {"next": "BGAAABEBGBC"} if len(counts) > int(most) else {}
        lists.append({"label": f'tags{{"{name}"}}', "continuation": more, "children": children})
    found_words = re.search(r"group\(words\) max\((\d+)\)", grouping)
    if found_words:
        counts = Counter(word for n in found for word in set(images[n].get("words") or ()))
        children = [
            {"id": f"group:string:{word}", "value": word, "fields": {"count()": count}}
            for word, count in counts.most_common(int(found_words.group(1)))
        ]
        lists.append({"label": "words", "continuation": {}, "children": children})
    if "group(data_set)" in grouping:
        counts = Counter(images[number].get("data_set", "") for number in found)
        children = [
            {"id": f"group:string:{value}", "value": value, "fields": {"count()": count}}
            for value, count in counts.most_common()
        ]
        lists.append({"label": "data_set", "continuation": {}, "children": children})
    return {"id": "group:root:0", "relevance": 1.0, "continuation": {"this": ""}, "children": lists}
