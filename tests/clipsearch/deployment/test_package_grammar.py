"""Every file of every package that we render, held to what a real Vespa was seen to want."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from package_grammar import complaints

from clipsearch.deployment.package import PackageValues, render
from clipsearch.engine import EMBEDDING_PRECISIONS
from clipsearch.text import LANGUAGES

SEVERAL = Path(__file__).resolve().parents[3] / "deploy" / "several-nodes"
RRF = "schemas/image/hybrid-rrf.profile"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "text.onnx").write_bytes(b"tower")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def files(values: PackageValues) -> dict[str, bytes]:
    return {
        path: file if isinstance(file, bytes) else file.read_bytes()
        for path, file in render(values).items()
    }


def every_package(encoder: Path) -> Iterator[PackageValues]:
    places = ({}, {"nodes": SEVERAL}, {"cloud": True})
    for place, held, precision, language in itertools.product(
        places, (None, encoder), EMBEDDING_PRECISIONS, LANGUAGES
    ):
        values = PackageValues(
            dimension=512, precision=precision, language=language, encoder=held, **place
        )
        yield values
    yield replace(values, bm25_weight=1e-9, vector_weight=1e9, max_tokens=64)
    yield replace(values, allowed=("field-type-change", "indexing-change"))


def test_nothing_is_wrong_with_any_package_that_is_rendered(encoder: Path) -> None:
    rendered = list(every_package(encoder))
    assert len(rendered) == 3 * 2 * len(EMBEDDING_PRECISIONS) * len(LANGUAGES) + 2
    found = {str(values): complaints(files(values)) for values in rendered}
    assert not {values: wrong for values, wrong in found.items() if wrong}


# (file, what stands there, what is put in its place, the complaint)
MUTATIONS = [
    (RRF, "rank-profile hybrid-rrf", "# why\nrank-profile hybrid-rrf", "must begin with rank-prof"),
    (RRF, "rank-profile hybrid-rrf", "\nrank-profile hybrid-rrf", "must begin with rank-profile"),
    (RRF, "rank-profile hybrid-rrf", "\ufeffrank-profile hybrid-rrf", "must begin with rank-prof"),
    (RRF, "rank-profile hybrid-rrf", "rank-profile fused", "rank profile of another name"),
    (RRF, "inherits hybrid ", "inherits hybird ", "inherits hybird, which is not found"),
    (RRF, "    }\n}", "    }\n", "the brace of 'rank-profile hybrid-rrf inherits hybrid' is not"),
    (RRF, "    }\n}", "    }\n}\n}", "a brace is closed that was not opened"),
    (RRF, "(lexical, 60)", "(lexicl, 60)", "invalid rank feature lexicl: unknown basename"),
    (RRF, "rerank-count", "rerank-cuont", "'rerank-cuont' is no word"),
    ("schemas/image/bm25.profile", "bm25(captions)", "bm25(caption)", "the field caption, which"),
    ("schemas/image/bm25.profile", "bm25(captions)", "bm52(captions)", "invalid rank feature bm52"),
    ("schemas/image/bm25.profile", "match-features: lexical", "match-features: word", "word: unk"),
    ("schemas/image/vector.profile", "attribute(embedding)", "attribute(vector)", "field vector"),
    ("schemas/image/vector.profile", "(field, embedding)", "(field, vector)", "field vector"),
    ("schemas/image/vector.profile", "query(q) tensor", "query(v) tensor", "query(q) is not among"),
    ("schemas/image/hybrid.profile", "query(bm25_weight):", "query(bm25):", "bm25_weight) is not"),
    ("schemas/image.sd", "summary path {}", "summary paths {}", "summary paths has no field"),
    ("schemas/image.sd", "fields: captions", "fields: caption", "names the field caption"),
    ("schemas/image.sd", "fieldset default", "fieldset words", "fieldset default, which is not"),
    ("schemas/image.sd", "enable-bm25", "enable-bm52", "'enable-bm52' is no word"),
    ("schemas/image.sd", "document image {", "document picture {", "the schema of its own name"),
    ("schemas/image.sd", "x[512]", "x[{{dimension}}]", "a template mark is left over"),
    ("schemas/index_info.sd", "index_info::index", "{{id}}", "a template mark is left over"),
    ("schemas/index_info.sd", "summary\n        }", "summary\n", "is not closed"),
    ("services.xml", "</container>", "", "is not well formed"),
    ("services.xml", "</services>", "{{/cloud}}\n</services>", "a template mark is left over"),
    ("services.xml", 'type="index_info"', 'type="info"', "document type info has no schema"),
    ("services.xml", "models/text.onnx", "models/texts.onnx", "texts.onnx (No such file"),
    ("search/query-profiles/hybrid.xml", 'inherits="hybrid-raw"', 'inherits="raw"', "inherits raw"),
    ("search/query-profiles/hybrid.xml", 'id="hybrid"', 'id="mixed"', "query profile mixed"),
    ("search/query-profiles/hybrid.xml", "input.query(q)", "input.query(v)", "sets query(v)"),
    ("search/query-profiles/hybrid.xml", "</field>", "", "is not well formed"),
    ("search/query-profiles/vector-raw.xml", "(embedding, q)", "(vector, q)", "the field vector"),
    ("search/query-profiles/vector-raw.xml", "(embedding, q)", "(captions, q)", "is no tensor"),
    ("search/query-profiles/vector-raw.xml", "(embedding, q)", "(embedding, v)", "query(v)"),
    ("search/query-profiles/vector-raw.xml", "from image", "from picture", "a schema that is not"),
    ("search/query-profiles/bm25.xml", ">bm25<", ">bm52<", "the rank profile bm52, which is not"),
    (
        "search/query-profiles/bm25.xml", "userInput(@text)",
        'userInput(@text) and kind contains "a"', "names the field kind",
    ),
    (
        "search/query-profiles/bm25.xml", "</query-profile>",
        '<field name="presentation.summary">tiny</field></query-profile>', "the summary tiny",
    ),
    ("hosts.xml", "<alias>content3</alias>", "<alias>content4</alias>", "host content3 is not in"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "old", "new", "complaint"), MUTATIONS)
def test_a_broken_package_is_found_out(
    encoder: Path, path: str, old: str, new: str, complaint: str
) -> None:
    package = files(PackageValues(512, encoder=encoder, nodes=SEVERAL))
    text = package[path].decode()
    assert old in text
    broken = complaints({**package, path: text.replace(old, new).encode()})
    assert any(complaint in one for one in broken), broken


@pytest.mark.parametrize(
    ("gone", "complaint"),
    [
        ("services.xml", "services.xml: does not exist"),
        ("models/text.onnx", "models/text.onnx (No such file or directory)"),
        ("schemas/index_info.sd", "index_info has no schema"),
        ("schemas/image/hybrid.profile", "inherits hybrid, which is not found"),
        ("search/query-profiles/default.xml", "inherits default, which is not there"),
    ],
)
def test_a_file_that_is_missing_is_found_out(encoder: Path, gone: str, complaint: str) -> None:
    package = files(PackageValues(512, encoder=encoder))
    del package[gone]
    assert any(complaint in one for one in complaints(package))


def test_the_package_that_was_recorded_has_nothing_wrong(recorded: Path) -> None:
    """A real Vespa took it: what is complained of there would be an invention of ours."""
    root = recorded / "app"
    package = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    assert complaints(package) == []
