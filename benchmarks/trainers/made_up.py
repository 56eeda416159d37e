"""Made-up images with captions, and models of random weights; made once, and kept."""

import io
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from preprocessing import made_up_photograph
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from finetune.cores import available_cores
from finetune.models.tiny import caption_tokenizer

SIZE = (640, 480)
# Images are parts of a few large ones: to make one up takes 20 times as long as to cut one out.
CANVAS, CANVASES = (1920, 1440), 8
WORDS = (
    "red blue small old wooden bright two three dog cat horse boat street house tree river table"
    " man woman child plane bridge field snow sits stands runs near under beside with and the a of"
)
# CLIPConfig's defaults are the sizes of CLIP ViT-B/32; "small" has 14 million parameters.
TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
TOWER |= {"num_attention_heads": 4}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2}
SIDES = {"mid": 224, "vit-b-32": 224, "small": 96, "tiny": 32}
MODELS = {"mid": TOWER, "vit-b-32": {}, "small": TOWER, "tiny": TINY}


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made by `make` where an earlier run has not left it whole."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        make(partial)
        try:
            partial.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(partial)
    return folder


def images(kept: Path, count: int) -> Path:
    """A manifest with `count` images beside it, three JPEGs to one PNG, all different."""
    made = made_once(kept / f"images-{count}", lambda folder: write_images(folder, count))
    return made / "captions.csv"


def write_images(folder: Path, count: int) -> None:
    """Write them into `folder`, on all cores."""
    with ThreadPoolExecutor(available_cores()) as pool:
        canvases = list(pool.map(_canvas, range(CANVASES)))

        def write(number: int) -> None:
            chance = random.Random(number)
            canvas = canvases[number % CANVASES]
            left = chance.randrange(canvas.width - SIZE[0])
            top = chance.randrange(canvas.height - SIZE[1])
            image = canvas.crop((left, top, left + SIZE[0], top + SIZE[1]))
            if number % 4 == 3:
                image.save(folder / f"{number:05}.png", compress_level=1)
            else:
                image.save(folder / f"{number:05}.jpg", quality=90)

        list(pool.map(write, range(count)))
    chance = random.Random(0)
    rows = ["image,caption,split"]
    for number in range(count):
        caption = " ".join(chance.choices(WORDS.split(), k=chance.randint(6, 14)))
        rows.append(f"{number:05}.{'png' if number % 4 == 3 else 'jpg'},{caption} {number},train")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _canvas(seed: int) -> Image.Image:
    with Image.open(io.BytesIO(made_up_photograph(CANVAS, seed))) as image:
        return image.convert("RGB")


def model(kept: Path, name: str, captions: Sequence[str]) -> Path:
    """A checkpoint of one of MODELS, for these captions."""
    folder = kept / f"{name}-{len(captions)}"
    return made_once(folder, lambda partial: write_model(partial, name, captions))


def write_model(folder: Path, name: str, captions: Sequence[str]) -> None:
    """A CLIP of random weights with tokenizer and image processor, as the hub has them."""
    tokenizer = caption_tokenizer(captions)
    side = SIDES[name]
    text = MODELS[name] | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = MODELS[name] | {"image_size": side}
    if side < 224:
        vision |= {"patch_size": 16}
        text |= {"vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
