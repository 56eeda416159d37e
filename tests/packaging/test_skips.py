"""A test that cannot run says so; one that must run does not skip."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
OURS = ("clipsearch", "finetune", "vespa_app")
# Tests of data that is not in the repository, and what each is without it, in the same file.
TWINS = {
    "test_english_captions_equal_vespa": "test_made_up_captions_equal_the_rules",
    "test_real_data_against_pandas": "test_made_up_data_against_pandas",
    "test_draft_mode_hardly_moves_the_embedding_of_real_pictures": (
        "test_draft_mode_hardly_moves_the_embedding"
    ),
}


def trees(word: str) -> Iterator[tuple[Path, ast.Module]]:
    """Those of the files with a word in them."""
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if word in text:
            yield path, ast.parse(text)


def test_what_is_ours_is_imported_and_never_skipped_for() -> None:
    found = []
    for path, tree in trees("importorskip"):
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("importorskip"):
                wanted = call.args[0]
                name = str(wanted.value) if isinstance(wanted, ast.Constant) else ""
                if name.partition(".")[0] in OURS:
                    found.append(f"{path.name}:{call.lineno}")
    assert found == []


def test_what_needs_data_from_elsewhere_has_a_twin_that_does_not() -> None:
    needing = set()
    for path, tree in trees("shared"):
        functions = {
            function.name: [argument.arg for argument in function.args.args]
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
        }
        for name, arguments in functions.items():
            if "shared" in arguments:
                needing.add(name)
                assert "shared" not in functions.get(TWINS.get(name, ""), ["shared"]), (
                    f"{path.name}: {name} needs a twin that runs anywhere"
                )
    assert needing == set(TWINS)
