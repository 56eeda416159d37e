"""The arrows between the rooms: data goes up, and nothing reaches back."""

from pathlib import Path

from import_graph import REPOSITORY, Imports, graph, modules, second_homes

# From below to above: a room imports rooms to its left, and itself.
FINETUNE = [
    "errors",
    "installing",
    "cores",
    "public_names",
    "several",
    "memory",
    "telemetry",
    "deadline",
    "ranges",
    "split_shares",
    "arrays",
    "towers",
    "figures",
    "frames",
    "text",
    "files",
    "console",
    "near_names",
    "read_ahead",
    "losses",
    "optimization",
    "trackers",
    "images",
    "config",
    "encoder_folder",
    "manifest",
    "models",
    "data",
    "evaluation",
    "metrics",
    "export",
    "training",
]
CLIPSEARCH = [
    "version",
    "text",
    "phrases",
    "folding",
    "storable",
    "document_fields",
    "json_records",
    "documents",
    "document_columns",
    "operations",
    "modes",
    "sorting",
    "filtering",
    "geography",
    "cutoffs",
    "collapsing",
    "terms",
    "feed_facts",
    "function_words",
    "vocabulary",
    "ranking",
    "weighing",
    "reordering",
    "explanation",
    "engine",
    "encoder",
    "hub",
    "localization",
    "engines",
    "search",
    "recognition",
    "deployment",
    "feed",
    "doctor",
    "evaluation",
    "relevance",
    "duplicates",
    "client",
    "server",
    "demo",
    "cli",
    "__main__",
]


def circle(arrows: Imports) -> list[str]:
    """Modules of which each imports the next, and the last the first; empty if there are none."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            found = search(other, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := search(name, []))), [])


def upward(arrows: Imports, package: str, order: list[str]) -> list[str]:
    """The arrows within a package from a room to one above it."""
    wrong = []
    for name, others in arrows.items():
        for other in others:
            rooms = [each.split(".")[1:2] for each in (name, other)]
            if all(each.startswith(package + ".") for each in (name, other)):
                here, there = (order.index(room[0]) for room in rooms)
                if there > here:
                    wrong.append(f"{name} -> {other}")
    return sorted(wrong)


def test_the_trainer_knows_nothing_of_the_search() -> None:
    arrows = graph()
    assert not [
        f"{name} -> {other}"
        for name, others in arrows.items()
        for other in others
        if name.startswith("finetune") and other.startswith("clipsearch")
    ]


def test_no_room_imports_one_above_it() -> None:
    arrows = graph()
    assert upward(arrows, "finetune", FINETUNE) == []
    assert upward(arrows, "clipsearch", CLIPSEARCH) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(graph()) == []


# What other projects import, which is not where it is defined.
FACES = {"clipsearch", "finetune", "finetune.images", "finetune.manifest", "finetune.metrics"}


def test_every_name_has_one_home() -> None:
    known = modules()
    folders = [REPOSITORY / each for each in ("tests", "benchmarks", "deploy")]
    files = [*known.values(), *(path for each in folders for path in each.rglob("*.py"))]
    assert [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in files
        for name in second_homes(path, known)
        if name.rpartition(".")[0] not in FACES
    ] == []


def test_only_the_public_faces_list_what_they_give() -> None:
    listing = {name for name, path in modules().items() if "__all__" in path.read_text()}
    assert listing == FACES


def test_a_second_home_is_found(tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text("from finetune.errors import UsageError as here, Path\n")
    assert list(second_homes(tmp_path / "far.py", modules())) == ["finetune.errors.Path"]


def test_wrong_arrows_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b"}, "b": set()}) == []
    arrows = {"finetune.images.open": {"finetune.training.loop"}}
    assert upward(arrows, "finetune", FINETUNE) == [
        "finetune.images.open -> finetune.training.loop"
    ]


def test_no_room_is_crowded_and_no_file_long() -> None:
    files = modules().values()
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not [path for path, count in lines.items() if count > 450]
