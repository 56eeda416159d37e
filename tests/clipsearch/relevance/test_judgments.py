"""Judgments in every form they come in, and what is wrong with them in a sentence."""

import json
from pathlib import Path

import pytest

from clipsearch.relevance.judgments import read_judgments
from finetune.errors import UsageError

IDS = ("a.jpg", "b c.jpg", "d.jpg")
KNOWN = {id_: id_ for id_ in IDS}
QRELS = "1 0 a.jpg 2\n1 0 b c.jpg 1\n2 0 d.jpg 1\n2 0 a.jpg 0\n3 0 a.jpg 0\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def as_csv(folder: Path) -> tuple[Path, None]:
    rows = 'query,id,grade\n"two dogs, and a cat",a.jpg,2\n"two dogs, and a cat",b c.jpg,\n'
    return write(folder / "q.csv", f"\ufeff{rows}snow,d.jpg,1\nsnow,a.jpg,0\nnone,a.jpg,0\n"), None


def as_tsv(folder: Path) -> tuple[Path, None]:
    text = "id\tquery\tgrade\na.jpg\ttwo dogs, and a cat\t2\nb c.jpg\ttwo dogs, and a cat\t1\n"
    return write(folder / "q.tsv", f"{text}d.jpg\tsnow\t1\na.jpg\tsnow\t0\na.jpg\tnone\t0\n"), None


def as_topics(folder: Path) -> tuple[Path, Path]:
    topics = write(folder / "topics.tsv", "1\ttwo dogs, and a cat\n2\tsnow\n\n3\tnone\r\n")
    return topics, write(folder / "qrels.txt", QRELS)


def as_tagged_topics(folder: Path) -> tuple[Path, Path]:
    topics = (
        "<top>\n<num> Number: 1\n<title> Topic: two dogs,\n and a cat\n<desc> More.\n</top>\n"
        "<top><num>2</num><title>snow</title></top>\n<TOP><num> 3 <title> none </TOP>\n"
    )
    return write(folder / "topics", topics), write(folder / "qrels", QRELS)


def as_beir(folder: Path) -> tuple[Path, None]:
    texts = {"1": "two dogs, and a cat", "2": "snow", "3": "none", "9": "of another split"}
    lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
    write(folder / "queries.jsonl", "\n".join(lines) + "\n")
    rows = "1\ta.jpg\t2\n1\tb c.jpg\t1\n2\td.jpg\t1\n2\ta.jpg\t0\n3\ta.jpg\t0\n"
    write(folder / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\n{rows}")
    return folder, None


@pytest.mark.parametrize("form", [as_csv, as_tsv, as_topics, as_tagged_topics, as_beir])
def test_all_forms_say_the_same(form, tmp_path: Path) -> None:
    judgments = read_judgments(*form(tmp_path))
    assert sorted(judgments.ids) == sorted(IDS)
    first, second = judgments.queries(KNOWN)
    assert (first.text, second.text) == ("two dogs, and a cat", "snow")
    assert first.grades == {"a.jpg": 2, "b c.jpg": 1}
    assert first.right == ("a.jpg", "b c.jpg")
    assert second.grades == {"d.jpg": 1, "a.jpg": 0}
    assert second.right == ("d.jpg",)
    assert judgments.notes == ["1 of 3 queries have nothing right: left out"]


FAULTS = {
    "unknown id": ("query,id\nsnow,d.jpg\nsnow,z.jpg\nr,y.jpg\n", r"line 3: judges 'z.jpg', which"
        r" the index does not hold \(so do 1 other judgments\); feed it, or take the line out"),
    "no column": ("text,id\nsnow,d.jpg\n", "has no column query; give query, id and"),
    "empty file": ("", "has no column id and no column query"),
    "no grade": ("query,id,grade\nsnow,d.jpg,high\n", "line 2: 'high' is no grade; give a whole"),
    "half a grade": ("query,id,grade\nsnow,d.jpg,0.5\n", "line 2: '0.5' is no grade"),
    "nan": ("query,id,grade\nsnow,d.jpg,nan\n", "line 2: 'nan' is no grade"),
    "two grades": ("query,id,grade\nsnow,d.jpg,1\nsnow,d.jpg,2\n",
        "line 3: judges 'd.jpg' for 'snow' with 2, but .*line 2 with 1; leave one of them out"),
    "no query": ("query,id\n ,d.jpg\n", "line 2: has no query; fill it in"),
    "nothing right": ("query,id,grade\nsnow,d.jpg,0\n", "nothing is right for any query"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named(fault: str, tmp_path: Path) -> None:
    text, sentence = FAULTS[fault]
    path = write(tmp_path / "q.csv", text)
    with pytest.raises(UsageError, match=sentence) as error:
        read_judgments(path).queries(KNOWN)
    assert str(error.value).startswith(str(path))


def test_what_is_wrong_with_topics_is_named(tmp_path: Path) -> None:
    topics = write(tmp_path / "topics", "1\tsnow\n")
    cases = {
        "1 0 a.jpg\n": "line 1: is no topic, iteration, id and grade",
        "1 0 a.jpg 1\n2 0 d.jpg 1\n": "has no text for the topic '2', which .*line 2 judges",
    }
    for qrels, sentence in cases.items():
        with pytest.raises(UsageError, match=sentence):
            read_judgments(topics, write(tmp_path / "qrels", qrels)).queries(KNOWN)
    for text, sentence in {
        "1 snow\n": "line 1: is no topic, tab and text",
        "1\tsnow\n1\train\n": "line 2: the topic '1' is there twice",
        "<top><num>1</top>": "has no <num> or no <title>",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            read_judgments(write(topics, text), tmp_path / "qrels")


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    folder, _ = as_beir(tmp_path / "beir")
    with pytest.raises(UsageError, match="no such file; there are test: choose with --split"):
        read_judgments(folder, split="dev")
    with pytest.raises(UsageError, match="has qrels of its own"):
        read_judgments(folder, tmp_path / "qrels")
    write(folder / "queries.jsonl", '{"_id": "1"}\n')
    with pytest.raises(UsageError, match="line 1: is no JSON object with _id and text"):
        read_judgments(folder)
    with pytest.raises(UsageError, match="no such file"):
        read_judgments(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes("query,id\nschön,d.jpg\n".encode("latin-1"))
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_judgments(tmp_path / "latin.csv")
