"""What training would see: images beside their first variations, with captions, on one sheet."""

from pathlib import Path

import numpy as np
from PIL import Image

from finetune.arrays import Pixels
from finetune.config.caption_augmentation import CaptionAugmentConfig, augment_caption
from finetune.config.image_augmentation import AugmentConfig
from finetune.data.captioned_images import CaptionedImages
from finetune.data.cropped_pixels import draw_crops
from finetune.data.samples import sample_captions
from finetune.errors import ImageError, UsageError
from finetune.images.contact_sheet import write_sheet
from finetune.images.pixels import load_image, load_pixels
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource
from finetune.images.thumbnails import Cell

IMAGES = 6
VARIANTS = 5


def write_augmentation_sheet(
    path: Path,
    data: CaptionedImages,
    preprocessing: Preprocessing,
    augment: AugmentConfig,
    captions: CaptionAugmentConfig,
    *,
    seed: int = 0,
    images: int = IMAGES,
    variants: int = VARIANTS,
) -> None:
    """Write a sheet, .png or .html: a row an image, first as it is, then its variations.

    Under variation v stands the caption that training shows the image with in epoch v, varied
    as there. An image that cannot be read has a row that says why.

    Args:
        path: Of the sheet.
        data: Training images with captions, back-translated ones among them where asked for;
            at most `images` of them are taken by chance.
        preprocessing: Of the model.
        augment, captions: What is varied, checked.
        seed: Of the run.
        images, variants: Rows, and variations in each.

    Raises UsageError where nothing is varied and for a wrong name of the sheet, ClipsearchError
    where the disk refuses.
    """
    if not (augment.is_on or captions.is_on or len(data.captions) > len(data)):
        raise UsageError(
            "--show-augmentation has nothing to show: no augmentation is on, and no image has"
            " several captions; give --augment horizontal_flip=0.5, say"
        )
    chance = np.random.default_rng(seed)
    chosen = np.sort(chance.permutation(len(data))[:images])
    rows: list[list[Cell]] = []
    shown: list[Pixels] = []
    readable: list[int] = []
    sources: list[ImageSource] = []
    for row, image in enumerate(chosen):
        caption = data.captions[data.starts[image]]
        try:
            pixels = load_pixels(data.sources[image], preprocessing)
        except ImageError as error:
            rows.append([Cell(None, data.ids[image], caption, missing=str(error))])
            rows[-1] += [Cell(None, f"variation {v + 1}", missing="") for v in range(variants)]
        else:
            rows.append([Cell(Image.fromarray(pixels), data.ids[image], caption)])
            shown.append(pixels)
            sources.append(data.sources[image])
            readable.append(row)
    if shown:
        for epoch in range(variants):
            texts = sample_captions(data, seed=seed, epoch=epoch)[chosen]
            if augment.crops_originals:
                crops = draw_crops(augment, len(shown), seed, epoch)
                shown = [
                    load_image(source, preprocessing, crop=crop)[0]
                    for source, crop in zip(sources, crops, strict=True)
                ]
            varied = _varied(np.stack(shown), augment, seed, epoch)
            for row, pixels in zip(readable, varied, strict=True):
                index = int(texts[row])
                text = augment_caption(
                    data.captions[index], captions, seed=seed, epoch=epoch, index=index
                )
                rows[row].append(Cell(Image.fromarray(pixels), f"variation {epoch + 1}", text))
    cells = [cell for row in rows for cell in row]
    write_sheet(path, cells, _heading(augment, captions), columns=1 + variants)


def _varied(pixels: Pixels, augment: AugmentConfig, seed: int, step: int) -> Pixels:
    """Return uint8[n, h, w, 3], varied as the batch of a step would be."""
    if not augment.is_on:
        return pixels
    import torch  # seconds, and only where pixels change

    from finetune.data.image_augmentation import ImageAugmentation

    moved = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    varied = ImageAugmentation(augment, seed)(moved, step).permute(0, 2, 3, 1)
    bytes_: Pixels = varied.mul(255).round().to(torch.uint8).numpy()
    return bytes_


def _heading(augment: AugmentConfig, captions: CaptionAugmentConfig) -> str:
    """Return the settings that differ from off, as one would write them."""
    settings: list[str] = []
    for config, off in ((augment, AugmentConfig()), (captions, CaptionAugmentConfig())):
        for name in off.__slots__:
            value = getattr(config, name)
            if value != getattr(off, name):
                parts = value if isinstance(value, tuple) else (value,)
                shown = (f"{p:g}" if type(p) in (int, float) else str(p).lower() for p in parts)
                settings.append(f"{name}=" + ",".join(shown))
    return "Augmentation: " + (" ".join(settings) or "none, only several captions an image")
