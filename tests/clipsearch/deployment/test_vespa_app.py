"""The application package: filled in strictly, well formed, and as a real Vespa took it."""

import importlib.resources
import io
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from datetime import date
from pathlib import Path

import pytest

from clipsearch.deployment.package import (
    EMBEDDING_PROFILES,
    Package,
    PackageValues,
    fill,
    md5_of,
    render,
    templates,
    write_folder,
    write_zip,
)
from clipsearch.engine import RERANK_COUNT
from clipsearch.engines.vespa.queries import BY_NUMBER, BY_NUMBER_NEAR, EXPLORE_ADDITIONAL_HITS
from clipsearch.modes import MODES, RANKINGS, RRF_K, ranking_of
from clipsearch.search.limits import MAX_HITS
from finetune.errors import EncoderError, UsageError


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "text.onnx").write_bytes(b"tower" * 1000)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def text_of(package: Package, path: str) -> str:
    content = package[path]
    assert isinstance(content, bytes)
    return content.decode()


def parsed(package: Package, path: str) -> ElementTree.Element:
    return ElementTree.fromstring(text_of(package, path))


def test_all_values_are_filled_in(encoder: Path) -> None:
    values = PackageValues(
        dimension=96,
        language="fr",
        bm25_weight=1e-7,
        vector_weight=2,
        encoder=encoder,
        max_tokens=64,
    )
    package = render(values)
    texts = {path: data.decode() for path, data in package.items() if isinstance(data, bytes)}
    assert not [path for path, text in texts.items() if "{{" in text or "}}" in text]
    assert "tensor<float>(x[96])" in texts["schemas/image.sd"]
    assert "query(q) tensor<float>(x[96])" in texts["schemas/image/vector.profile"]
    assert '"fr" | set_language' in texts["schemas/image.sd"]
    assert "query(bm25_weight): 0.0000001\n" in texts["schemas/image/hybrid.profile"]
    assert "query(vector_weight): 2.0\n" in texts["schemas/image/hybrid.profile"]
    default = parsed(package, "search/query-profiles/default.xml")
    assert {one.get("name"): one.text for one in default}["language"] == "fr"
    assert package["models/text.onnx"] == encoder / "onnx" / "text.onnx"
    assert package["models/tokenizer.json"] == encoder / "tokenizer.json"


def test_every_file_of_the_folder_is_used(encoder: Path) -> None:
    root = importlib.resources.files("vespa_app")
    on_disk = {
        path.relative_to(str(root)).as_posix()
        for path in Path(str(root)).rglob("*")
        if path.is_file() and "__" not in path.name + path.parent.name and path.suffix != ".md"
    }
    package = render(PackageValues(dimension=8, encoder=encoder))
    assert set(package) == on_disk | {"models/text.onnx", "models/tokenizer.json"}


def test_the_embedder(encoder: Path) -> None:
    services = parsed(render(PackageValues(8, encoder=encoder, max_tokens=64)), "services.xml")
    embedder = services.find("container/component")
    assert embedder is not None and embedder.get("type") == "hugging-face-embedder"
    assert {one.tag: one.text or one.get("path") for one in embedder} == {
        "transformer-model": "models/text.onnx",
        "tokenizer-model": "models/tokenizer.json",
        "max-tokens": "64",
        "transformer-output": "text_embeds",
        "pooling-strategy": "none",
        "normalize": "true",
    }


def test_without_an_encoder_nothing_embeds() -> None:
    package = render(PackageValues(dimension=8))
    assert parsed(package, "services.xml").find("container/component") is None
    for path in package:
        if path.endswith(".xml"):
            root = parsed(package, path)
            assert "embed(" not in "".join(root.itertext()), path
    profiles = {path.split("/")[-1] for path in package if "query-profiles" in path}
    assert profiles == {"default.xml", "bm25.xml", "vector-raw.xml", "hybrid-raw.xml"}
    assert not [path for path in package if path.startswith("models/")]


def test_self_hosted_and_cloud_name_their_nodes() -> None:
    own = parsed(render(PackageValues(dimension=8)), "services.xml")
    assert [one.get("hostalias") for one in own.iter("node")] == ["node1", "node1"]
    cloud = parsed(render(PackageValues(dimension=8, cloud=True)), "services.xml")
    assert list(cloud.iter("node")) == []
    assert [one.get("count") for one in cloud.iter("nodes")] == ["1", "1"]


def test_both_document_types_are_in_the_cluster() -> None:
    services = parsed(render(PackageValues(dimension=8)), "services.xml")
    content = services.find("content")
    assert content is not None and content.get("id") == "images"
    assert [one.get("type") for one in content.iter("document")] == ["image", "index_info"]


def query_profiles(package: Package) -> dict[str, dict[str, str]]:
    """Every query profile with what it inherits, as Vespa resolves it."""
    roots = {
        path.split("/")[-1].removesuffix(".xml"): parsed(package, path)
        for path in package
        if path.startswith("search/query-profiles/")
    }

    def resolve(name: str) -> dict[str, str]:
        root = roots[name]
        assert root.get("id") == name
        inherited = root.get("inherits")
        own = {str(one.get("name")): str(one.text) for one in root}
        return {**(resolve(inherited) if inherited else {}), **own}

    return {name: resolve(name) for name in roots}


def test_query_profiles(encoder: Path) -> None:
    profiles = query_profiles(render(PackageValues(dimension=8, encoder=encoder)))
    assert set(profiles) == {*MODES, "default", "vector-raw", "hybrid-raw"}
    for mode in MODES:
        profile = profiles[mode]
        assert profile["ranking.profile"] == mode
        words = '{grammar:"linguistics"}userInput(@text)' in profile["yql"]
        assert words == RANKINGS[mode].uses_words
        by_vector = RANKINGS[mode].needs_vector
        assert ("nearestNeighbor" in profile["yql"]) == by_vector
        assert profile.get("input.query(q)") == ("embed(@text)" if by_vector else None)
        assert (mode in EMBEDDING_PROFILES) == by_vector
    for name, profile in profiles.items():
        assert int(profile["maxHits"]) >= MAX_HITS
        assert not [one for one in profile if "weight" in one], "a request could not change them"
        if name.endswith("-raw"):
            assert "input.query(q)" not in profile, "a request could not bring its own"
        if "nearestNeighbor" in profile.get("yql", ""):
            assert f"hnsw.exploreAdditionalHits:{EXPLORE_ADDITIONAL_HITS}" in profile["yql"]


def rank_profiles(package: Package) -> dict[str, tuple[str | None, str]]:
    """Name to what it inherits and its text without comments."""
    found = {}
    for path in package:
        if path.endswith(".profile"):
            text = re.sub(r"#.*", "", text_of(package, path))
            # A real Vespa refuses the file otherwise, be it for a comment or an empty line.
            assert text_of(package, path).startswith("rank-profile "), path
            head = re.match(r"rank-profile (\S+)(?: inherits (\S+))? \{", text)
            assert head is not None
            assert path == f"schemas/image/{head.group(1)}.profile"
            assert text.count("{") == text.count("}")
            found[head.group(1)] = (head.group(2), text)
    return found


def steps_below(profiles: dict[str, tuple[str | None, str]], name: str) -> list[str]:
    """What a rank profile inherits, the lowest step last."""
    below: list[str] = []
    while (inherited := profiles[below[-1] if below else name][0]) is not None:
        assert inherited not in (name, *below), "a circle"
        below.append(inherited)
    return below


def test_rank_profiles_are_a_ladder() -> None:
    profiles = rank_profiles(render(PackageValues(dimension=8)))
    assert set(profiles) == {*MODES, BY_NUMBER, BY_NUMBER_NEAR}
    for name, parent in ((BY_NUMBER, "bm25"), (BY_NUMBER_NEAR, "vector")):
        inherited, text = profiles.pop(name)
        assert inherited == parent and "sum(attribute(sortable) * query(by))" in text
    for name, (inherited, text) in profiles.items():
        ranking, below = ranking_of(name), steps_below(profiles, name)
        assert [name, *below][-1] == "bm25"
        assert ranking.needs_vector == ("vector" in (name, *below)), name
        if ranking.reranks is not None:
            assert inherited == ranking.reranks
            assert f"rerank-count: {RERANK_COUNT}" in text
    assert f"reciprocal_rank(cosine, {RRF_K})" in profiles["hybrid-rrf"][1]
    for feature in ("lexical", "cosine", "closeness(field, embedding)"):
        assert feature in profiles["hybrid-sum"][1].partition("match-features:")[2]


def _without_comments(text: str) -> list[str]:
    """Statements of a schema: one a line, spaces made even."""
    text = re.sub(r"#.*", "", text)
    text = re.sub(r"\s+", " ", text.replace("{", " {\n").replace("}", "\n}\n"))
    return text.split()


def test_the_schema_holds_what_the_recorded_one_had(recorded: Path) -> None:
    """Every word of the schema that a real Vespa took is in ours, in its order."""
    probe = _without_comments((recorded / "app" / "schemas" / "image.sd").read_text())
    ours = _without_comments(text_of(render(PackageValues(dimension=64)), "schemas/image.sd"))
    rest = iter(ours)
    assert all(word in rest for word in probe)
    theirs = ElementTree.fromstring((recorded / "app" / "services.xml").read_text())
    mine = parsed(render(PackageValues(dimension=64)), "services.xml")
    for path in ("container/config", "container/search", "container/document-api"):
        one, other = theirs.find(path), mine.find(path)
        assert one is not None and other is not None and one.attrib == other.attrib


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x {{dimensions}}", "unknown value 'dimensions'"),
        ("<!-- {{#gpu}} -->\nx\n<!-- {{/gpu}} -->\n", "unknown section 'gpu'"),
        ("<!-- {{#cloud}} -->\nx\n", "left over"),
        ("{{ dimension }}", "left over"),
    ],
)
def test_filling_in_is_strict(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"x.sd: .*{reason}"):
        fill(text, {"dimension": "8"}, set(), "x.sd")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (PackageValues(dimension=0), "at least 1"),
        (PackageValues(dimension=8, language="de"), "unknown language 'de'"),
        (PackageValues(dimension=8, bm25_weight=float("nan")), "not a finite number"),
        (PackageValues(dimension=8, allowed=("<x>",)), "no validation id"),
    ],
)
def test_values_that_cannot_be(values: PackageValues, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        render(values)


def test_an_encoder_without_its_text_tower(encoder: Path) -> None:
    (encoder / "onnx" / "text.onnx").unlink()
    with pytest.raises(EncoderError, match=r"text\.onnx is missing"):
        render(PackageValues(dimension=8, encoder=encoder))


def test_validation_overrides() -> None:
    values = PackageValues(dimension=8, allowed=("indexing-change", "field-type-change"))
    package = render(values, today=date(2026, 12, 28))
    root = parsed(package, "validation-overrides.xml")
    assert [(one.get("until"), one.text) for one in root] == [
        ("2027-01-04", "indexing-change"),
        ("2027-01-04", "field-type-change"),
    ]


def test_the_zip_and_the_folder_hold_the_package(encoder: Path, tmp_path: Path) -> None:
    package = render(PackageValues(dimension=8, encoder=encoder))
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    write_zip(package, first)
    write_zip(package, second)
    assert first.read_bytes() == second.read_bytes()
    folder = tmp_path / "package"
    write_folder(package, folder)
    with zipfile.ZipFile(io.BytesIO(first.read_bytes())) as archive:
        assert archive.namelist() == list(package)
        for name in package:
            assert archive.read(name) == (folder / name).read_bytes()
            assert md5_of(package[name]) == md5_of((folder / name).read_bytes())


def test_a_package_is_written_over_an_older_one_only(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    write_folder(render(PackageValues(dimension=8, encoder=encoder)), folder)
    (folder / "hosts.xml").write_text("<hosts/>")
    write_folder(render(PackageValues(dimension=8)), folder)
    assert not (folder / "models" / "text.onnx").exists()
    assert not (folder / "search" / "query-profiles" / "hybrid.xml").exists()
    assert (folder / "hosts.xml").exists(), "the user's own"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").touch()
    with pytest.raises(UsageError, match="no application package"):
        write_folder(render(PackageValues(dimension=8)), other)


def test_templates_name_their_files() -> None:
    assert {path for path, _ in templates()} >= {"services.xml", "schemas/image.sd"}


def test_precision_is_of_the_embedding_alone() -> None:
    values = PackageValues(dimension=8, precision="bfloat16")
    package = render(values)
    schema = text_of(package, "schemas/image.sd")
    assert "field embedding type tensor<bfloat16>(x[8])" in schema
    assert "query(q) tensor<float>(x[8])" in text_of(package, "schemas/image/vector.profile")
    changed = {path for path in package if package[path] != render(PackageValues(8))[path]}
    assert changed == {"schemas/image.sd"}
    with pytest.raises(UsageError, match="unknown precision 'int8'"):
        render(PackageValues(dimension=8, precision="int8"))  # type: ignore[arg-type]


def test_nodes_need_both_files(tmp_path: Path) -> None:
    (tmp_path / "services.xml").write_text("<services/>")
    with pytest.raises(UsageError, match=r"hosts\.xml: no such file"):
        render(PackageValues(dimension=8, nodes=tmp_path))
