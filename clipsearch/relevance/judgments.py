"""Judgments as people have them: TREC's qrels with topics, BEIR's folder, or a CSV.

- **CSV** or TSV with the columns `query` and `id`, and `grade` where right has degrees (1 unless
  given). A row a judgment; rows of the same query text belong together.
- **TREC**: qrels with `topic iteration id grade` on each line, and topics: `topic<TAB>text` on each
  line, or the tagged form of TREC's ad hoc tracks (`<top>`, `<num>`, `<title>`).
  https://trec.nist.gov/data/qrels_eng/
- **BEIR**: a folder with `queries.jsonl` (`_id`, `text`) and `qrels/SPLIT.tsv` (a header, then
  `query-id corpus-id score`). https://github.com/beir-cellar/beir

A grade above 0 is right. A pair that is judged twice counts once, and is refused where the grades
differ.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsearch.relevance.judged_queries import JudgedQuery
from finetune.errors import UsageError
from finetune.files.regular_files import what_lies_at
from finetune.near_names import did_you_mean

QUERIES_FILE, QRELS_FOLDER = "queries.jsonl", "qrels"

_TOP = re.compile(r"<top>(.*?)</top>", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.IGNORECASE)
_TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*([^<]*)", re.IGNORECASE)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass
class Judgments:
    """What was judged, as it is read.

    Attributes:
        source: The file or folder that names the queries.
        texts: Topic to its text.
        grades: Topic to (document id to grade).
        places: (topic, id) to "FILE, line N".
        notes: Sentences for the user.
    """

    source: Path
    texts: dict[str, str] = field(default_factory=dict)
    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, topic: str, id_: str, grade: int, place: str) -> None:
        """Take in a judgment. Raises UsageError where an earlier one says another grade."""
        known = self.grades.setdefault(topic, {})
        if known.setdefault(id_, grade) != grade:
            raise UsageError(
                f"{place}: judges {id_!r} for {topic!r} with {grade}, but"
                f" {self.places[topic, id_]} with {known[id_]}; leave one of them out"
            )
        self.places.setdefault((topic, id_), place)

    @property
    def ids(self) -> list[str]:
        """Every document that is judged, once."""
        return list(dict.fromkeys(id_ for _, id_ in self.places))

    def queries(self, known: Mapping[str, str]) -> list[JudgedQuery]:
        """Return every topic that has something right, in the order of the topics.

        Args:
            known: Of `ids`, those that the index holds, with the id that it has them by.

        Raises UsageError where an id is not in the index, a topic has no text, or nothing is
        right for any.
        """
        self._check_ids(known)
        untold = [topic for topic in self.grades if topic not in self.texts]
        if untold:
            raise UsageError(
                f"{self.source}: has no text for the topic {untold[0]!r}, which"
                f" {next(iter(self._places_of(untold[0])))} judges (and {len(untold) - 1:,} more);"
                f" add its line"
            )
        found: list[JudgedQuery] = []
        for topic, text in self.texts.items():
            grades = {known[id_]: grade for id_, grade in self.grades.get(topic, {}).items()}
            if any(grade > 0 for grade in grades.values()):
                found.append(JudgedQuery(topic, text, grades, cluster=len(found)))
        left_out = len(self.texts) - len(found)
        if not found:
            raise UsageError(
                f"{self.source}: nothing is right for any query; give judgments with a grade"
                f" above 0"
            )
        if left_out:
            self.notes.append(
                f"{left_out:,} of {len(self.texts):,} queries have nothing right: left out"
            )
        return found

    def _places_of(self, topic: str) -> Iterator[str]:
        return (place for (of, _), place in self.places.items() if of == topic)

    def _check_ids(self, known: Mapping[str, str]) -> None:
        unknown = [(id_, place) for (_, id_), place in self.places.items() if id_ not in known]
        if unknown:
            (id_, place), others = unknown[0], len(unknown) - 1
            more = f" (so do {others:,} other judgments)" if others else ""
            raise UsageError(
                f"{place}: judges {id_!r}, which the index does not hold{more}; feed it, or take"
                f" the line out"
            )


def read_judgments(queries: Path, qrels: Path | None = None, split: str = "test") -> Judgments:
    """Read the judgments in whichever of the formats they are.

    Args:
        queries: A CSV or TSV file, a file of topics, or a folder like BEIR's.
        qrels: Beside a file of topics, in TREC's format.
        split: Of BEIR's folder.

    Raises UsageError, naming file and line, where something is missing or cannot be read.
    """
    judgments = Judgments(queries)
    if queries.is_dir():
        if qrels is not None:
            raise UsageError(f"--qrels {qrels}: {queries} has qrels of its own; leave one out")
        _read_beir(judgments, queries, split)
    elif qrels is not None:
        _read_topics(judgments, queries)
        _read_qrels(judgments, qrels)
    else:
        _read_table(judgments, queries)
    return judgments


def _read_table(judgments: Judgments, path: Path) -> None:
    text = _text(path)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    # A field may hold line ends.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = {"query", "id"} - set(rows.fieldnames or ())
    if missing:
        raise UsageError(
            f"{path}: has no column {' and no column '.join(sorted(missing))}; give query, id and,"
            f" if you like, grade, or topics with their --qrels FILE"
        )
    for row in _rows(rows, path):
        place = f"{path}, line {rows.line_num}"
        text, id_ = (row["query"] or "").strip(), row["id"] or ""
        if not text or not id_:
            raise UsageError(f"{place}: has no {'id' if text else 'query'}; fill it in")
        judgments.texts[text] = text
        judgments.add(text, id_, _grade(row.get("grade") or "1", place), place)


def _rows(rows: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from rows
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.line_num}: is no CSV ({error})") from error


def _read_topics(judgments: Judgments, path: Path) -> None:
    text = "\n".join(_lines(path))
    topics = _TOP.findall(text)
    if topics:
        for topic in topics:
            number, title = _NUMBER.search(topic), _TITLE.search(topic)
            if number is None or title is None or not title[1].strip():
                shown = " ".join(topic.split())[:60]
                raise UsageError(f"{path}: the topic {shown!r} has no <num> or no <title>; add it")
            _add_text(judgments, number[1], " ".join(title[1].split()), str(path))
        return
    for line_number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            topic, tab, words = line.partition("\t")
            if not tab or not words.strip():
                raise UsageError(f"{path}, line {line_number}: is no topic, tab and text")
            _add_text(judgments, topic.strip(), words.strip(), f"{path}, line {line_number}")


def _read_qrels(judgments: Judgments, path: Path) -> None:
    for line_number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}, line {line_number}"
        # An id may hold blanks: it is all between the iteration and the grade.
        head = line.split(None, 2)
        tail = head[2].rsplit(None, 1) if len(head) == 3 else []
        if len(tail) != 2:
            raise UsageError(f"{place}: is no topic, iteration, id and grade")
        judgments.add(head[0], tail[0], _grade(tail[1], place), place)


def _read_beir(judgments: Judgments, folder: Path, split: str) -> None:
    queries, qrels = folder / QUERIES_FILE, folder / QRELS_FOLDER / f"{split}.tsv"
    if not qrels.is_file():
        there = sorted(each.stem for each in (folder / QRELS_FOLDER).glob("*.tsv"))
        mend = f"there are {', '.join(there)}: choose with --split" if there else "add it"
        raise UsageError(f"{qrels}: there is no such file; {mend}")
    texts = dict(_beir_texts(queries))
    for line_number, line in enumerate(_lines(qrels), 1):
        cells = line.split("\t")
        place = f"{qrels}, line {line_number}"
        if line_number == 1 and cells[:1] == ["query-id"]:
            continue
        if len(cells) != 3:
            raise UsageError(f"{place}: is no query-id, corpus-id and score between tabs")
        if cells[0] in texts:  # queries.jsonl has those of all splits
            judgments.texts.setdefault(cells[0], texts[cells[0]])
        judgments.add(cells[0], cells[1], _grade(cells[2], place), place)


def _beir_texts(path: Path) -> Iterable[tuple[str, str]]:
    for line_number, line in enumerate(_lines(path), 1):
        try:
            values = json.loads(line)
            yield str(values["_id"]), str(values["text"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path}, line {line_number}: is no JSON object with _id and text"
            ) from error


def _add_text(judgments: Judgments, topic: str, text: str, place: str) -> None:
    if judgments.texts.setdefault(topic, text) != text:
        raise UsageError(f"{place}: the topic {topic!r} is there twice; give one another name")


def _grade(text: str, place: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value != int(value) or abs(value) > 1000:
        raise UsageError(f"{place}: {text!r} is no grade; give a whole number, 0 for wrong")
    return int(value)


def _lines(path: Path) -> Sequence[str]:
    """Read the lines of a text in UTF-8. Raises UsageError where there is none."""
    return [line.rstrip("\r") for line in _text(path).removesuffix("\n").split("\n")]


def _text(path: Path) -> str:
    if not path.is_file():
        reason = what_lies_at(path) or f"no such file{did_you_mean(path)}"
        raise UsageError(f"{path}: {reason}; name the file of queries or judgments")
    try:
        return path.read_bytes().decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8; write it in UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
