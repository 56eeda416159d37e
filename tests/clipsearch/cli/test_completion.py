"""What the shell completes, asked as bash asks."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import CompletionItem
from clipsearch_command import CLIPSEARCH

from clipsearch import cli
from clipsearch.cli.bash_completion import JoiningBashComplete
from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.operations import Upsert

ODD = ("$(id)", "*", "R&B", "a;reboot", "b\\c", "it's", "x=")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "photos.index"
    info = IndexInfo(2, tag_columns=("class", "odd"), number_columns=("year", "clouds"))
    engine = create_engine(str(path), info)
    vector = np.array([1, 0], np.float32)
    for name in ("beach/1.jpg", "beach/2.jpg", "city/1.jpg"):
        tags = {"class": "city" if name.startswith("city") else "a b"}
        operation = Upsert(Document(name, ("x",), name, tags, {"year": 1.0}, vector))
        assert all(outcome.error is None for outcome in engine.feed([operation]))
    for number, odd in enumerate((*ODD, "a\nplain,$(id)")):
        operation = Upsert(Document(f"odd/{number}", tags={"odd": odd}, embedding=vector))
        assert all(outcome.error is None for outcome in engine.feed([operation]))
    engine.close()
    return path


def completed(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_CLIPSEARCH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        cli._run([], debug=False)
    lines = capsys.readouterr().out.splitlines()
    return [line.split(",", 1)[1] for line in lines if line]


def test_ids_columns_and_modes_are_completed(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPSEARCH_INDEX", raising=False)

    def after(line: str) -> list[str]:
        return completed(line, monkeypatch, capsys)

    assert "query" in after("clipsearch que")
    assert "hybrid-rrf" in after("clipsearch query x --mode hybrid-r")
    assert after(f"clipsearch get --index {index} bea") == ["beach/1.jpg", "beach/2.jpg"]
    assert after(f"clipsearch query x --index {index} --filter c") == ["class=", "clouds="]
    assert after("clipsearch similar city") == []
    monkeypatch.setenv("CLIPSEARCH_INDEX", str(index))
    assert after("clipsearch similar city") == ["city/1.jpg"]
    assert after("clipsearch query x --facet cl") == ["class"]
    monkeypatch.delenv("CLIPSEARCH_INDEX")
    (tmp_path / "clipsearch.toml").write_text(f'index = "{index}"\n')
    assert after("clipsearch delete city") == ["city/1.jpg"]
    assert after("clipsearch get --index nowhere.index x") == []
    assert after("clipsearch query x --filter class=") == [
        "'a b'",
        "city",
    ]  # bash has class= already
    assert after("clipsearch query x --filter class!=CI") == ["city"]
    assert after("clipsearch query x --filter class=zz") == []
    assert after("clipsearch query x --sort ye") == ["year"]
    assert after("clipsearch update x --tag cla") == ["class="]
    assert after("clipsearch update x --tag class=c") == ["city"]
    assert after("clipsearch classify a.jpg --labels cl") == ["cl", "class"]
    assert after("clipsearch query x --index http://127.0.0.1:1 --filter c") == []


@pytest.mark.parametrize("value", [*ODD, "a b", "~", "`id`", "!!", "#", "ü", "it's="])
def test_a_shell_takes_a_completion_for_the_word_that_it_is(value: str) -> None:
    shell = JoiningBashComplete(cli.cli, {}, "clipsearch", "_CLIPSEARCH_COMPLETE")
    kind, _, written = shell.format_completion(CompletionItem(value)).partition(",")
    assert kind == "plain" and shlex.split(written) == [value]
    assert written.endswith("=") == value.endswith("=")
    assert not re.search(r"[;&$*`~!#\\ ]", re.sub("'[^']*'", "", written))


def test_what_clipsearch_knows_is_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def after(line: str) -> list[str]:
        return completed(line, monkeypatch, capsys)

    assert after("clipsearch finetune --recipe ar") == ["ar", "article"]
    assert after("clipsearch feed x --language p") == ["pt"]
    assert after("clipsearch encoder get google/siglip-") == ["google/siglip-base-patch16-224"]
    assert after("clipsearch feed x --encoder Xenova/s")[1:] == ["Xenova/siglip-base-patch16-224"]


SINGLE = """'it'"'"'s'"""
SHELL = """
source <(_CLIPSEARCH_COMPLETE=bash_source {command})
clipsearch() {{ :; }}
env() {{ command env "${{@:1:$#-1}}" {command}; }}  # in place of the installed command
IFS=$' '
COMP_WORDS=({words}); COMP_CWORD=$(({count} - 1))
_clipsearch_completion clipsearch
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("--filter class = ci", ["city"]),
        ("--filter class =", ["'a b'", "city"]),
        ("--filter = class = ci", ["city"]),
        ("--mode = hybrid-r", ["hybrid-rrf"]),
        ("--filter class = city --facet cl", ["class"]),
        ("--filter odd =", ["'$(id)'", "'*'", "'R&B'", "'a;reboot'", r"'b\c'", SINGLE, "x="]),
    ],
)
def test_bash_which_cuts_words_at_equals_signs_completes_what_follows(
    index: Path, words: str, completions: list[str]
) -> None:
    line = f"clipsearch query x --index {index} {words}"
    script = SHELL.format(command=shlex.join(CLIPSEARCH), words=line, count=len(line.split()))
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.splitlines(), done.stderr) == (completions, "")
