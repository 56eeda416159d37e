"""Class prompts against CLIP's formula written out, and where classes come from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import ClipsearchError, ManifestError, UsageError
from finetune.evaluation.zero_shot import average_prompts, class_prompts, class_ranks, zero_shot
from finetune.manifest.class_labels import read_class_labels
from finetune.manifest.manifest import Manifest


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_prompts_are_written_as_people_would() -> None:
    templates = ("An aerial photograph of {category}", "{category}, {category}.")
    assert class_prompts(["tennis_court", "beach"], templates) == [
        "An aerial photograph of tennis court",
        "tennis court, tennis court.",
        "An aerial photograph of beach",
        "beach, beach.",
    ]
    assert class_prompts(["cat {0} %s"], ["a {category}"]) == ["a cat {0} %s"]


def test_a_list_that_ships_is_found_by_name_behind_a_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("airport_1.png", "beach_2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "m.csv").write_text("image,caption\nairport_1.png,a\nbeach_2.png,b\n")
    monkeypatch.chdir(tmp_path)
    with Manifest.open("m.csv") as manifest:
        labels = read_class_labels(manifest, "rsicd-classes.txt")
        assert len(labels.names) == 30
        assert {labels.names[row] for row in labels.of_image.values()} == {"airport", "beach"}
        (tmp_path / "rsicd-classes.txt").write_text("airport\nbeach\n")
        assert len(read_class_labels(manifest, "rsicd-classes.txt").names) == 2
        with pytest.raises(UsageError, match=r"lists of classes that ship are rsicd-classes\.txt"):
            read_class_labels(manifest, "classes.txt")


@pytest.mark.parametrize(
    ("templates", "said"),
    [((), "at least one template"), (("a {category}", "a photo"), 'template "a photo" has no')],
)
def test_templates_without_a_category_are_refused(templates, said) -> None:
    with pytest.raises(UsageError, match=said):
        class_prompts(["beach"], templates)


def test_templates_are_averaged_as_clip_does() -> None:
    prompts = unit(12, 0)
    found = average_prompts(prompts, 3)
    assert (found.shape, found.dtype) == ((4, 8), np.float32)
    for row in range(4):
        mean = prompts[3 * row : 3 * row + 3].mean(axis=0)
        np.testing.assert_allclose(found[row], mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_allclose(average_prompts(prompts, 1), prompts, rtol=1e-6)
    with pytest.raises(ValueError, match="12 prompts are not 5 of each"):
        average_prompts(prompts, 5)
    with pytest.raises(ClipsearchError, match="cancel each other out"):
        average_prompts(np.stack([prompts[0], -prompts[0]]), 2)


def test_hits_equal_a_sorted_twin() -> None:
    images, classes = unit(200, 1), unit(12, 2)
    owners = np.random.default_rng(3).integers(0, 12, size=200)
    order = np.argsort(-(images @ classes.T), axis=1)
    ranks = 1 + np.argmax(order == owners[:, np.newaxis], axis=1)
    assert class_ranks(images, classes, owners).tolist() == ranks.tolist()
    found = zero_shot(images, classes, owners)
    hits = {f"hits@{k}": np.mean(ranks <= k) for k in (1, 3, 5, 10)}
    assert {name: found[name] for name in hits} == pytest.approx(hits)
    assert found["mrr"] == pytest.approx(np.mean(1 / ranks))
    assert (found.pool, found.queries) == (12, 200)
    assert found.as_flat_dict()["hits@3"] == found["hits@3"]


def test_a_perfect_and_a_constant_encoder() -> None:
    classes = np.eye(5, dtype=np.float32)
    owners = np.arange(20) % 5
    assert zero_shot(classes[owners], classes, owners)["hits@1"] == 1
    same = np.ones((5, 4), np.float32) / 2
    found = zero_shot(same[owners], same, owners)
    assert (found["hits@1"], found["hits@3"], found["mean_rank"]) == (0, 0, 5)


def test_nothing_to_choose_is_an_error() -> None:
    with pytest.raises(ClipsearchError, match="single class"):
        class_ranks(unit(3, 0), unit(1, 1), np.zeros(3, np.int64))
    with pytest.raises(ClipsearchError, match="no image with a class"):
        class_ranks(unit(0, 0), unit(2, 1), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="none of the 2 rows"):
        class_ranks(unit(3, 0), unit(2, 1), np.array([0, 1, 2]))


@pytest.fixture
def manifest(tmp_path: Path):
    """Six pictures in two folders: class by column, and by file name."""
    rows = ["image,caption,scene,year,same"]
    for number, (folder, name) in enumerate(
        [("beach", "a"), ("beach", "b"), ("Base Ball-Field", "c"), ("x", "airport_12"),
         ("x", "airport-3"), ("x", "airportal_1")]
    ):  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number * 40, 0, 0)).save(tmp_path / folder / f"{name}.png")
        scene = "" if number == 5 else f" scene {number % 2} "
        rows.append(f"{folder}/{name}.png,caption {number},{scene},{2000 + number % 3},1")
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    with Manifest.open(tmp_path / "photos.csv") as opened:
        yield opened


def labelled(manifest: Manifest, source: Path | str) -> dict[str, str]:
    labels = read_class_labels(manifest, str(source))
    assert list(labels.names) == sorted(labels.names)
    return {id: labels.names[row] for id, row in labels.of_image.items()}


def test_classes_from_a_column(manifest: Manifest) -> None:
    found = labelled(manifest, "scene")
    assert found["beach/a.png"] == "scene 0"
    assert found["beach/b.png"] == "scene 1"
    assert len(found) == 5, "an empty cell is no class"
    assert set(labelled(manifest, "year").values()) == {"2000", "2001", "2002"}


def test_classes_from_a_table(manifest: Manifest, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text(
        '\ufeffImage,Category\nbeach/a.png,sand\nb.png,"sand, wet"\nnot-there.png,moon\n'
    )
    assert labelled(manifest, table) == {"beach/a.png": "sand", "beach/b.png": "sand, wet"}
    assert read_class_labels(manifest, str(table)).names == ("moon", "sand", "sand, wet")
    table.write_text("id\tlabel\nbeach\\a.png\tsand\nc.png\tfield\n")
    assert labelled(manifest, table) == {"beach/a.png": "sand", "Base Ball-Field/c.png": "field"}


def test_classes_from_folder_and_file_names(manifest: Manifest, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("beach\nbaseball field\n\nairport\nharbour\n")
    assert labelled(manifest, names) == {
        "beach/a.png": "beach",
        "beach/b.png": "beach",
        "Base Ball-Field/c.png": "baseball field",
        "x/airport_12.png": "airport",
        "x/airport-3.png": "airport",
    }
    assert "harbour" in read_class_labels(manifest, str(names)).names


def test_classes_from_a_folder_of_lists(manifest: Manifest, tmp_path: Path) -> None:
    lists = tmp_path / "txtclasses"
    lists.mkdir()
    (lists / "sand.txt").write_text("a.png\nb.png\n")
    (lists / "runway.txt").write_text("airport_12.png\n")
    assert labelled(manifest, lists) == {
        "beach/a.png": "sand",
        "beach/b.png": "sand",
        "x/airport_12.png": "runway",
    }


def test_what_names_no_classes_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"colour is neither a column .* same, scene, year"):
        read_class_labels(manifest, "colour")
    with pytest.raises(ManifestError, match="every image has the class 1"):
        read_class_labels(manifest, "same")
    bad = tmp_path / "bad.csv"
    for text, said in (
        ("picture,kind\na.png,x\n", "its first line is 'picture,kind'"),
        ("image,class\na.png,x\na.png,y\n", "a.png has two classes, x and y"),
        ("image,class\nzzz.png,x\nyyy.png,y\n", "names the class of no image"),
        ("", "names the class of no image"),
    ):
        bad.write_text(text)
        with pytest.raises(ManifestError, match=said):
            read_class_labels(manifest, str(bad))
    bad.write_bytes(b"beach\n\xff\xfe\n")
    with pytest.raises(ManifestError, match="cannot be read as UTF-8"):
        read_class_labels(manifest, str(bad))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"no \.txt files"):
        read_class_labels(manifest, str(tmp_path / "empty"))
