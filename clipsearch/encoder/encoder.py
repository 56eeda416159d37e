"""Turn texts and images into embeddings with an exported encoder, without torch.

>>> encoder = Encoder.load("encoder")
>>> encoder.encode_texts(["two dogs on a beach"]).shape
(1, 512)
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.encoder.logit_scale import read_logit_scale
from clipsearch.encoder.verification import verify as verify_files
from finetune.arrays import Float32, Int64
from finetune.cores import available_cores
from finetune.data.tokenized_captions import TokenizedCaptions, tokenized
from finetune.encoder_folder import (
    PATCH_TOWER,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    EncoderDescription,
    read_description,
)
from finetune.errors import EncoderError, UsageError
from finetune.images.pixels import load_pixels, resize_and_crop
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource
from finetune.memory import raise_too_little
from finetune.several import check_several
from finetune.text.composed import composed
from finetune.towers import AUTO_DEVICE, DEVICE_FORMS, ENCODING_PRECISIONS, FP32, is_device

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# The checkpoint without a GPU: for comparisons, so no option takes it.
_TORCH_ON_CPU = "torch-cpu"
# An embedding's length may be off by so much before it is taken for a fault of the tower.
LENGTH_TOLERANCE = 1e-3

ImageInput = ImageSource | Path | str | bytes | Image.Image


class Towers(Protocol):
    """What computes embeddings: ONNX Runtime or torch."""

    def texts(self, input_ids: Int64, attention_mask: Int64) -> Float32:
        """Encode int64[n, t] and int64[n, t] as float32[n, d], unit length."""
        ...

    def images(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Encode uint8[n, h, w, 3] as float32[n, d], unit length."""
        ...

    @property
    def gives_patches(self) -> bool:
        """Whether `patches` works."""
        ...

    def patches(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Encode uint8[n, h, w, 3] as float32[n, rows, columns, d], each of unit length."""
        ...

    @property
    def note(self) -> str | None:
        """A sentence for the user about how they ran; None where there is nothing to say."""
        ...


class Encoder:
    """An encoder folder, ready to embed.

    Each tower is loaded when it is first used. May be used by several threads.

    Attributes:
        folder: The encoder folder.
        description: The content of its encoder.json.
    """

    def __init__(self, folder: Path, description: EncoderDescription, towers: Towers) -> None:
        self.folder = folder
        self.description = description
        self._towers = towers
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        verify: bool = True,
        precision: str = FP32,
    ) -> "Encoder":
        """Open an encoder folder.

        Args:
            folder: Written by `clipsearch finetune` or `clipsearch export`.
            device: "cpu" runs the ONNX towers; "cuda" or "cuda:N" runs the checkpoint on torch,
                which needs the extra finetune; "auto" is as `encoding_device` finds.
            threads: Of one tower's computation; None takes every core of this process.
            verify: Check that no file changed since the export (see
                clipsearch.encoder.verification).
            precision: Of the image tower on "cuda": "fp32", or "bf16" where that leaves each of
                the first images within a cosine of 0.9999, which `note` tells.

        Raises EncoderError for an incomplete or changed folder, UsageError for a device that is
        not there, or cannot have the precision.
        """
        folder = Path(folder)
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}: take at least 1")
        description = read_description(folder)
        if verify:
            verify_files(folder, description)
        threads = threads or available_cores()
        return cls(folder, description, _towers(folder, description, device, threads, precision))

    @property
    def towers(self) -> Towers:
        """What computes the embeddings."""
        return self._towers

    @property
    def dimension(self) -> int:
        """Values in an embedding."""
        return self.description.dimension

    @property
    def fingerprint(self) -> str:
        """Names the encoder to the byte: embeddings of equal fingerprints can be compared."""
        return self.description.fingerprint

    @property
    def name(self) -> str:
        """The encoder's name, for people."""
        return self.description.name

    @property
    def note(self) -> str | None:
        """A sentence for the user about how embeddings were made; None for most."""
        return self._towers.note

    @property
    def preprocessing(self) -> Preprocessing:
        """From decoded images to pixels."""
        return self.description.preprocessing

    @property
    def logit_scale(self) -> float | None:
        """The factor on cosines before a softmax, as it was trained; None without a checkpoint.

        Raises EncoderError for a checkpoint that cannot be read.
        """
        return read_logit_scale(self.folder)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Float32:
        """Embed texts; what is longer than the tower's limit of tokens is cut.

        Returns:
            float32[n, d], unit length.
        """
        check_several(texts, "encode_texts")
        embeddings = np.empty((len(texts), self.dimension), np.float32)
        for chosen, found in self.encoded_batches(texts, batch_size):
            embeddings[chosen] = found
        return embeddings

    def encoded_batches(
        self, texts: Sequence[str], batch_size: int
    ) -> Iterator[tuple[list[int], Float32]]:
        """Embed texts batch by batch, for who has a use for the first before the last is done.

        Yields the places of a batch's texts, the shortest texts first, and their embeddings as
        `encode_texts` gives them.
        """
        tokens = self._tokens(texts)
        # Texts of like length together, since each batch is padded to its longest.
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = self._pad([tokens[index] for index in chosen])
            yield chosen, self._checked(self._towers.texts(ids, mask), "text", len(chosen))

    def tokenize(self, texts: Sequence[str]) -> TokenizedCaptions:
        """Return the tokens that the text tower sees, and how many of the texts are cut."""
        encodings = self._encodings(texts)
        return tokenized(
            [encoding.ids for encoding in encodings],
            pad_token_id=self.description.pad_token_id,
            pad_to=self.description.max_tokens if self.description.pad_to_max else None,
            cut=sum(bool(encoding.overflowing) for encoding in encodings),
        )

    def encode_images(self, images: Iterable[ImageInput], *, batch_size: int = 32) -> Float32:
        """Embed images (files, bytes or Pillow images), decoding them in this process.

        Returns:
            float32[n, d], unit length.

        Raises ImageError for the first image that cannot be read.
        """
        remaining = iter(images)
        batches = []
        while batch := list(islice(remaining, batch_size)):
            pixels = np.stack([self._pixels(image) for image in batch])
            batches.append(self.encode_pixels(pixels))
        return np.concatenate(batches) if batches else np.empty((0, self.dimension), np.float32)

    def encode_pixels(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Embed images that are already resized and cropped, in one batch.

        Args:
            pixels: uint8[n, height, width, 3], as finetune.images.load_pixels makes them.

        Returns:
            float32[n, d], unit length.
        """
        self._check_pixels(pixels)
        if len(pixels) == 0:
            return np.empty((0, self.dimension), np.float32)
        return self._checked(self._towers.images(pixels), "image", len(pixels))

    @property
    def gives_patches(self) -> bool:
        """Whether `encode_patches` works: CLIP's and SigLIP's image towers."""
        return self._towers.gives_patches

    def encode_patches(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Embed the patches of images that are already resized and cropped, in one batch.

        What the image shows at a patch, in the space of texts: see `finetune.models.patches`.

        Args:
            pixels: uint8[n, height, width, 3], n at least 1.

        Returns:
            float32[n, rows, columns, d], each of unit length.

        Raises EncoderError where `gives_patches` is false.
        """
        if not self.gives_patches:
            raise EncoderError(
                f"{self.folder}: has no {PATCH_TOWER}, as an earlier clipsearch exports it, or one"
                f" whose image tower is neither a CLIP's nor a SigLIP's; take --method windows, or"
                f" export such a tower again with: clipsearch export {self.folder} --out NEW"
            )
        self._check_pixels(pixels)
        found = self._towers.patches(pixels)
        if found.ndim != 4 or found.shape[0] != len(pixels):
            raise EncoderError(
                f"{self.folder / PATCH_TOWER}: gives {list(found.shape)}, but patches are"
                f" [{len(pixels)}, rows, columns, {self.dimension}]; export the encoder again"
            )
        patches = found.reshape(-1, found.shape[-1])
        return self._checked(patches, "patch", len(patches)).reshape(found.shape)

    def _check_pixels(self, pixels: npt.NDArray[np.uint8]) -> None:
        expected = (self.preprocessing.height, self.preprocessing.width, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.uint8:
            raise UsageError(
                f"pixels are {pixels.dtype}{list(pixels.shape)}, but {self.name} takes"
                f" uint8[n, {expected[0]}, {expected[1]}, 3]"
            )

    def _pixels(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        if isinstance(image, Image.Image):
            return resize_and_crop(image, self.preprocessing)
        source = Path(image) if isinstance(image, str) else image
        return load_pixels(source, self.preprocessing)

    def knows_word(self, word: str) -> bool:
        """Return whether the tokenizer has the word as one token, as it has of common words."""
        (encoding,) = self._encodings([word])
        marks = encoding.special_tokens_mask
        own = [text for text, mark in zip(encoding.tokens, marks, strict=True) if not mark]
        # As BPE, byte-level BPE and SentencePiece mark where a word begins or ends.
        return len(own) == 1 and own[0].removesuffix("</w>").lstrip("Ġ▁") == word

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encodings(texts)]

    def _encodings(self, texts: Sequence[str]) -> "list[Encoding]":
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.folder, self.description.max_tokens)
        # Half of a surrogate pair, as in file names that are not UTF-8, cannot be encoded.
        clean = [composed(text).encode("utf-8", "replace").decode("utf-8") for text in texts]
        try:
            encodings: list[Encoding] = self._tokenizer.encode_batch(clean)
        except BaseException as error:
            # A panic of the Rust library is no Exception: where it can start no thread, say.
            if type(error).__name__ != "PanicException":
                raise
            raise_too_little(error, str(self.folder / TOKENIZER_FILE))
            raise EncoderError(f"{self.folder / TOKENIZER_FILE}: failed ({error})") from error
        return encodings

    def _pad(self, tokens: Sequence[Sequence[int]]) -> tuple[Int64, Int64]:
        """Return token ids and mask, int64[n, t].

        t is the longest text's length, or the maximum.
        """
        longest = max(1, *(len(ids) for ids in tokens))
        length = self.description.max_tokens if self.description.pad_to_max else longest
        ids = np.full((len(tokens), length), self.description.pad_token_id, np.int64)
        mask = np.zeros((len(tokens), length), np.int64)
        # Attention over nothing is not a number: a text without any token is one padding token.
        mask[:, 0] = 1
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return ids, mask

    def _checked(self, embeddings: Float32, tower: str, count: int) -> Float32:
        if embeddings.shape != (count, self.dimension):
            raise EncoderError(
                f"{self.folder}: the {tower} tower gives {list(embeddings.shape)}, but"
                f" encoder.json says [{count}, {self.dimension}]; export the encoder again"
            )
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not np.all(np.abs(lengths - 1) <= LENGTH_TOLERANCE):
            worst = lengths.flat[np.argmax(np.nan_to_num(np.abs(lengths - 1), nan=np.inf))]
            raise EncoderError(
                f"{self.folder}: the {tower} tower gives an embedding of length {worst:.4g}, not 1;"
                f" its weights are broken, so train or export the encoder again"
            )
        normalized: Float32 = (embeddings / lengths).astype(np.float32)
        return normalized


def encoding_device(folder: Path | None, device: str) -> str:
    """Return the device that "auto" means for an encoder folder; any other name as it is.

    It is "cuda" where the folder has weights of torch and torch finds a GPU, else "cpu".
    """
    if device != AUTO_DEVICE:
        return device
    if folder is None or not (folder / WEIGHTS_FILE).is_file():
        return "cpu"
    try:
        import torch  # the extra may be missing; and it takes seconds
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_precision(device: str, precision: str) -> None:
    """Raise UsageError for a precision that is unknown, or that the device does not compute in."""
    if precision not in ENCODING_PRECISIONS:
        raise UsageError(
            f"precision {precision!r} is not known; take {' or '.join(ENCODING_PRECISIONS)}"
        )
    if device == "cpu" and precision != FP32:
        raise UsageError(
            f"--precision {precision} needs --device cuda; on the CPU the ONNX towers compute"
            f" as they were exported"
        )


def _towers(
    folder: Path, description: EncoderDescription, device: str, threads: int, precision: str
) -> Towers:
    device = encoding_device(folder, device)
    check_precision(device, precision)
    # Either runtime takes a while to import, and each is needed only for its device.
    if device == "cpu":
        from clipsearch.encoder.onnx_towers import OnnxTowers

        return OnnxTowers(folder, description, threads)
    if is_device(device) or device == _TORCH_ON_CPU:
        if not (folder / WEIGHTS_FILE).is_file():
            raise EncoderError(
                f"{folder}: has ONNX towers alone, as fetched from the hub, and --device {device}"
                f" needs weights of torch; take --device cpu, or make a folder with weights of the"
                f" original: clipsearch export ID --out NEW"
            )
        from clipsearch.encoder.torch_towers import TorchTowers

        return TorchTowers(folder, "cpu" if device == _TORCH_ON_CPU else device, precision)
    forms = DEVICE_FORMS.replace("|", ", ")
    raise UsageError(f"device {device!r} is not known; take one of {forms}")


def load_tokenizer(folder: Path, max_tokens: int) -> "Tokenizer":
    """Return the tokenizer of an encoder folder, which cuts texts. Raises EncoderError."""
    from tokenizers import Tokenizer  # a query by image needs none

    path = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises plain Exception.
        raise_too_little(error, str(path))
        raise EncoderError(f"{path}: cannot be read ({error}); export the encoder again") from error
    # What the checkpoint's own tokenizer.json cuts and pads may be made for something else.
    tokenizer.no_padding()
    # Cuts the words, and keeps the tokens that mark begin and end.
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer
