"""The whole road on made-up images: render, fine-tune, export, feed, search.

Each step is the command that a user would type, shown before it runs.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clipsearch.demo.shapes import write_shapes
from clipsearch.demo.whole import ENCODER, INDEX, KIND
from clipsearch.encoder.encoder import Encoder
from clipsearch.engines.local.folder import INDEX_FOLDER
from clipsearch.modes import MODES
from finetune.arrays import Float32
from finetune.encoder_folder import ENCODER_FOLDER
from finetune.errors import ClipsearchError, UsageError
from finetune.evaluation.metrics import text_to_image
from finetune.figures import MEDIAN_RANK, Measurement
from finetune.files.ownership import FolderKind, check_replaceable, claim, read_mark, remove, seal
from finetune.images.pixels import load_pixels, normalize
from finetune.manifest.manifest import Manifest
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.text.strict_json import dumps
from finetune.training.checkpoint import TRAINING_FOLDER

# What earlier versions left in its place.
OLD_MARKER = "made-by-clipsearch-demo"
DEMO_FOLDER = FolderKind(
    KIND,
    (
        OLD_MARKER, "captions.csv", "images/*.png", "metrics.json", "contact-sheet.png",
        "by-picture.png", *ENCODER_FOLDER.below(ENCODER), *INDEX_FOLDER.below(INDEX),
        *ENCODER_FOLDER.below(f".{ENCODER}.partial"), *ENCODER_FOLDER.below(f".{ENCODER}.old"),
        *TRAINING_FOLDER.below(f"{ENCODER}.training"),
    ),
)  # fmt: skip
EPOCHS = 12
BATCH_SIZE = 128


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        before, after: Text to image over the held-out combinations, with an untrained encoder of
            the same make and with the exported one.
        seconds: All in all.
    """

    before: Measurement
    after: Measurement
    seconds: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The test split: the first caption of each image, each caption different.

    Attributes:
        ids: Of the images.
        captions: In the order of `pixels`.
        pixels: uint8[n, h, w, 3], as the encoder takes them.
    """

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    pixels: npt.NDArray[np.uint8]

    def rank(self, text_embeds: Float32, image_embeds: Float32) -> Measurement:
        """Let each caption look for its image among all of them."""
        return text_to_image(text_embeds, image_embeds, np.arange(len(self.captions)))


def run_demo(
    folder: Path,
    command: Callable[[Sequence[str]], object],
    echo: Callable[[str], None],
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    yes: bool = False,
) -> DemoResult:
    """Walk the road in `folder`, which is made, or replaced if an earlier demo made it.

    Args:
        folder: Where images, encoder, index and contact sheets go.
        command: Runs one `clipsearch` command, given as its arguments.
        echo: Prints a line.
        seed: Of the images, the held-out combinations and the training.
        epochs: Of the training; fewer for a quick look.
        yes: Replace a demo of an earlier version, which has no list of its files, too.

    Raises UsageError where `folder` holds anything else, and whatever the commands raise.
    """
    start = time.monotonic()
    make_folder(folder, yes=yes)
    manifest, encoder, index = folder / "captions.csv", folder / ENCODER, folder / INDEX

    def run(*arguments: str | Path) -> None:
        words = [str(argument) for argument in arguments]
        echo(f"\n$ clipsearch {shlex.join(words)}")
        command(words)

    echo(f"Rendering captioned pictures into {folder} ...")
    write_shapes(folder, seed)
    run("manifest", "check", manifest)
    run(
        *("finetune", manifest, "--model", "tiny", "--out", encoder, "--epochs", str(epochs)),
        *("--batch-size", str(BATCH_SIZE), "--seed", str(seed), "--patience", "0"),
    )
    before, after, wanted = compare(manifest, encoder, seed)
    report(before, after, echo)
    run("feed", manifest, "--encoder", encoder, "--index", index)
    search(wanted, folder, index, run)
    seconds = time.monotonic() - start
    (folder / "metrics.json").write_text(
        dumps({"before": before.as_flat_dict(), "after": after.as_flat_dict()}, indent=2) + "\n"
    )
    seal(folder, DEMO_FOLDER)
    echo(f"\nDone in {seconds:.0f} s. Look at {folder / 'contact-sheet.png'}, or ask for more:")
    echo(f'$ clipsearch query "three green stars" --index {shlex.quote(str(index))}')
    echo(f"$ clipsearch serve --index {shlex.quote(str(index))}    # a page in your browser")
    return DemoResult(before, after, seconds)


def make_folder(folder: Path, *, yes: bool = False) -> None:
    """Make an empty folder for the demo; raises UsageError where that would lose files.

    An earlier demo is removed where nothing in it was added or changed; see `run_demo` for `yes`.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / OLD_MARKER).is_file() and read_mark(folder) is None:
            raise UsageError(f"--out {folder} has other files in it; give a new folder")
        held = check_replaceable(folder, DEMO_FOLDER, f"--out {folder}", yes=yes)
        remove(folder, held.ours)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder, DEMO_FOLDER)
    except OSError as error:
        raise ClipsearchError(f"--out {folder} cannot be written ({error.strerror})") from error


def compare(manifest: Path, encoder: Path, seed: int) -> tuple[Measurement, Measurement, str]:
    """Compare figures before and after training on the held-out split.

    Returns them, and a caption of the split to search.
    """
    loaded = Encoder.load(encoder)
    with Manifest.open(manifest) as opened:
        seen = [caption for record in opened.records("train") for caption in record.captions]
        held_out = read_held_out(opened, loaded)
    untrained = load_dual_encoder("tiny", seen, seed=seed)
    before = held_out.rank(*embed_untrained(untrained, held_out))
    after = held_out.rank(
        loaded.encode_texts(held_out.captions), loaded.encode_pixels(held_out.pixels)
    )
    return before, after, next(text for text in held_out.captions if text.startswith("two"))


def read_held_out(manifest: Manifest, encoder: Encoder) -> HeldOut:
    """Decode the test split."""
    records = list(manifest.records("test"))
    return HeldOut(
        ids=tuple(record.id for record in records),
        captions=tuple(record.captions[0] for record in records),
        pixels=np.stack(
            [load_pixels(record.image, encoder.preprocessing) for record in records if record.image]
        ),
    )


@torch.no_grad()
def embed_untrained(dual: DualEncoder, held_out: HeldOut) -> tuple[Float32, Float32]:
    """Return text and image embeddings, float32[n, d] each, of the model as it starts."""
    dual.eval()
    texts = dual.embed_texts(*dual.tokenize(held_out.captions))
    images = dual.embed_images(torch.from_numpy(normalize(held_out.pixels, dual.preprocessing)))
    return texts.numpy(), images.numpy()


def report(before: Measurement, after: Measurement, echo: Callable[[str], None]) -> None:
    """Print the figures side by side."""
    echo("\nShapes and colours that were never seen together in training, text to image,")
    echo(f"global, pool of {after.pool} pictures, {after.queries} captions:")
    echo(f"  {'':12}{'untrained':>10}{'fine-tuned':>12}")
    for name in ("mrr@10", "recall@1", "recall@5", "recall@10"):
        shown = name.replace("mrr", "MRR")
        echo(f"  {shown:12}{before[name]:>10.3f}{after[name]:>12.3f}")
    echo(f"  {'median rank':12}{before[MEDIAN_RANK]:>10.0f}{after[MEDIAN_RANK]:>12.0f}")


def search(wanted: str, folder: Path, index: Path, run: Callable[..., None]) -> None:
    """Ask one query in each mode, one with filter and facet, and one by image.

    Writes a contact sheet of words and one of an image.
    """
    for mode in MODES:
        run("query", wanted, "--mode", mode, "-k", "3", "--index", index)
    run(
        *("query", wanted, "-k", "3", "--filter", "split=test", "--filter", "count>=2"),
        *("--facet", "shape", "--index", index),
    )
    run("query", wanted, "-k", "12", "--index", index, "--sheet", folder / "contact-sheet.png")
    image = sorted((folder / "images").glob("red-star-*"))[0]
    by_image = folder / "by-picture.png"
    run("query", "--image", image, "-k", "12", "--index", index, "--sheet", by_image)
