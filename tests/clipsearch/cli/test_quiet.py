"""`--quiet` in every command that answers: results and errors, and no note."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipsearch
from clipsearch import cli

COMMANDS = Path(clipsearch.__file__).parent / "cli"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands on an index of two ready-made vectors, of which a third document is gone."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli._run([*arguments], debug=False)
        return code, *capsys.readouterr()

    for count in (3, 2):
        rows = "".join(f"{number}.jpg,a dog {number}\n" for number in range(count))
        Path("v.csv").write_text(f"image,caption\n{rows}")
        np.save("v.npy", np.eye(3, 8, dtype=np.float32)[:count])
        if count == 3:
            assert command("feed", "v.csv", "--index", "v.index")[0] == 0
    return command


FEED = ("feed", "v.csv", "--index", "v.index")


@pytest.mark.parametrize(
    "arguments",
    [
        FEED,
        ("query", "dog", "--index", "v.index"),
        ("query", "zebra", "--mode", "bm25", "--index", "v.index"),
        ("list", "--index", "v.index", "--sort", "path"),
        ("similar", "0.jpg", "--index", "v.index"),
        ("duplicates", "--index", "v.index"),
        ("evaluate", "--index", "v.index", "--split", "all", "--resamples", "100"),
        ("status", "--index", "v.index", "--verify"),
        ("update", "0.jpg", "--caption", "a cat", "--index", "v.index"),
        ("delete", "0.jpg", "--yes", "--index", "v.index"),
        ("manifest", "check", "v.csv"),
        ("copy", "v.index", "copied.index"),
        ("get", "0.jpg", "--index", "v.index"),
    ],
)
def test_nothing_but_results_is_printed(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments, "--quiet")
    assert code in (0, 3) and err == ""
    assert "Note" not in out and (out or "zebra" in arguments)


def test_without_it_the_notes_are_on_standard_error(run: Run) -> None:
    code, out, err = run(*FEED)
    assert code == 0 and out.startswith("fed 0") and "Note: 1 document stays that v.csv" in err
    code, out, err = run("evaluate", "--index", "v.index", "--split", "all", "--resamples", "100")
    assert "Note: 3 of 3 captions are the only one" in err and "Note" not in out


def test_every_command_tells_its_notes_in_the_one_way_that_quiet_knows() -> None:
    found = [
        f"{file.name}:{node.lineno}"
        for file in sorted(COMMANDS.glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).startswith("Note: ")
    ]
    assert len(found) == 1 and found[0].startswith("messages.py:"), "use clipsearch.cli.messages"
