"""The formats of a manifest as told in `--help`, in docs/feeding.md and in messages.

How each is read stands in its own file of `finetune.manifest.formats`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A format, or several that look alike.

    Attributes:
        names: What `Manifest.format` says of it; each name is of one format.
        title: For people.
        looks: What it looks like, as Markdown: what is written so stands between backquotes.
    """

    names: tuple[str, ...]
    title: str
    looks: str


FORMATS = (
    Format(
        ("csv", "tsv", "jsonl", "parquet"),
        "CSV, TSV, JSON Lines, Parquet",
        "columns `image` and `caption` (several rows an image, or a list in `captions`, also as"
        " pandas writes it); optional `id`, `split`, `embedding`; every other column is metadata",
    ),
    Format(
        ("folder",),
        "folder of images",
        "`name.jpg`, or any suffix that Pillow decodes (HEIC: the extra `heic`),"
        " with captions in `name.txt` if there are any",
    ),
    Format(
        ("imagefolder",),
        "Hugging Face imagefolder",
        "`metadata.jsonl` or `metadata.csv` with `file_name` and `text`",
    ),
    Format(("openclip",), "OpenCLIP CSV", "`filepath`, `title`"),
    Format(
        ("karpathy",),
        "Karpathy JSON",
        '`{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`: RSICD, UCM, Flickr, COCO',
    ),
    Format(
        ("coco", "roco"),
        "COCO, ROCO",
        "COCO's `captions_val2017.json`; ROCO's folder, or a `captions.txt` of it, with what lies"
        " beside that",
    ),
    Format(("flickr8k",), "Flickr8k tokens", "`name.jpg#0<TAB>caption`"),
    Format(("imageclef",), "ImageCLEF captions", "`id<TAB>caption`"),
    Format(
        ("webdataset",),
        "webdataset",
        "`shards/{000..012}.tar` with `.jpg` (`.input.jpg`) and `.txt` (`.outputs.txt`) or"
        " `.json`, whose `id` is the id",
    ),
    Format(
        ("clip-retrieval", "rclip"),
        "clip-retrieval, rclip",
        "clip-retrieval's folder (`img_emb/`, `metadata/`) and rclip's `db.sqlite3`, with their"
        " vectors",
    ),
    Format(("dataframe",), "pandas DataFrame", "columns as of CSV, in Python alone"),
)
IN_FILES = tuple(each for each in FORMATS if each.names != ("dataframe",))
