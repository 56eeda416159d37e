"""The encoder that filled an index: found, compared, loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.engine import IndexInfo
from finetune.encoder_folder import EncoderDescription, read_description
from finetune.errors import EncoderError, EncoderMismatchError

if TYPE_CHECKING:
    from clipsearch.encoder.encoder import Encoder

# As `load_encoder`: of target, what the index knows, folder and device.
EncoderLoader = Callable[[str, IndexInfo, Path | None, str], "Encoder"]


def load_encoder(target: str, info: IndexInfo, folder: Path | None, device: str) -> "Encoder":
    """Load the encoder of an index, of the folder that it names unless `folder` is given.

    Raises EncoderError where the index names none or its folder is gone, and EncoderMismatchError
    where the folder holds another one.
    """
    if folder is None:
        if info.encoder_path is None:
            raise EncoderError(
                f"{target} was fed with ready-made vectors and names no encoder:"
                f" say which one made them with --encoder FOLDER, or search for words with"
                f" --mode bm25"
            )
        folder = Path(info.encoder_path)
        if not folder.is_dir():
            raise EncoderError(
                f"the encoder of {target} is no longer at {folder}:"
                f" say where it is with --encoder FOLDER"
            )
    check_encoder(folder, read_description(folder), info)
    from clipsearch.encoder.encoder import Encoder  # light path: bm25 needs no ONNX Runtime

    return Encoder.load(folder, device=device)


def check_encoder(folder: Path, description: EncoderDescription, info: IndexInfo) -> None:
    """Raise EncoderMismatchError unless this is the encoder that filled the index."""
    if info.encoder_fingerprint not in (None, description.fingerprint):
        raise EncoderMismatchError(
            f"the index was filled by the encoder {info.encoder_name or 'without a name'}"
            f" ({str(info.encoder_fingerprint)[:12]}), but {folder} is {description.name}"
            f" ({description.fingerprint[:12]}): give the former with --encoder, or feed a new"
            f" index with the latter (a Vespa: clipsearch deploy --encoder {folder}, then feed)"
        )
    if description.dimension != info.dimension:
        raise EncoderMismatchError(
            f"{folder}: makes vectors of {description.dimension} values, but the index holds"
            f" {info.dimension}; give the encoder that filled it with --encoder"
        )
