"""A model folder runs no code: not what its settings name, not what its weights pickle."""

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clipsearch_command import CODE
from tiny_checkpoints import save_clip
from tiny_marian import save_tiny_marian

from finetune.config.settings import TrainConfig
from finetune.data.back_translation import Translator
from finetune.errors import ClipsearchError, EncoderError, TrainingError
from finetune.models.dual_encoder import load_dual_encoder
from finetune.training.checkpoint import WorkFolder

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = sorted(
    path
    for room in ("clipsearch", "finetune", "benchmarks")
    for path in (REPOSITORY / room).rglob("*.py")
)
# What reads a checkpoint, and what must be said each time.
LOADERS = {
    "from_pretrained": ("trust_remote_code", False),
    "from_config": ("trust_remote_code", False),
}
READERS = {"torch.load": ("weights_only", True)}
EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
raise SystemExit("ran")
"""


def calls(path: Path) -> Iterator[ast.Call]:
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in (*LOADERS, *READERS, "np.load", "numpy.load")):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield node


def says(call: ast.Call, name: str, value: object) -> bool:
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def unguarded(path: Path) -> list[str]:
    found = []
    for call in calls(path):
        what = ast.unparse(call.func)
        last = what.rpartition(".")[2]
        wanted = LOADERS.get(last) or READERS.get(what)
        if what in ("np.load", "numpy.load") and any(
            word.arg == "allow_pickle" and not says(call, "allow_pickle", False)
            for word in call.keywords
        ):
            found.append(f"{path.name}:{call.lineno}: {what} with allow_pickle")
        if wanted is not None and not says(call, *wanted):
            found.append(f"{path.name}:{call.lineno}: {what} without {wanted[0]}={wanted[1]}")
    return found


def test_every_load_says_that_no_code_runs() -> None:
    assert [place for path in SOURCES for place in unguarded(path)] == []
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert text.count(".from_pretrained(") > 8, "they are looked for in the right place"


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=trusted)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_a_load_that_does_not_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "new.py").write_text(line)
    assert len(unguarded(tmp_path / "new.py")) == 1


def trap(folder: Path, file: str, **settings: object) -> Path:
    """Let a settings file name code that leaves a mark; returns the mark."""
    marker = folder.parent / "code-ran"
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    path = folder / file
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(held | settings))
    return marker


TRAPS = {
    "a config of an unknown kind": (
        "config.json",
        {
            "model_type": "evil",
            "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"},
        },
    ),
    "a config of a known kind": (
        "config.json",
        {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}},
    ),
    "a tokenizer": (
        "tokenizer_config.json",
        {
            "tokenizer_class": "EvilTokenizer",
            "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]},
        },
    ),
    "a processor": (
        "preprocessor_config.json",
        {
            "image_processor_type": "EvilProcessor",
            "auto_map": {"AutoImageProcessor": "evil.EvilProcessor", "AutoProcessor": "evil.P"},
        },
    ),
}


# Where transformers would copy code to is read from the environment when it is imported.
LOAD_EACH = """
import sys
from transformers import dynamic_module_utils
assert dynamic_module_utils.HF_MODULES_CACHE
dynamic_module_utils.HF_MODULES_CACHE = sys.argv.pop(1)
from finetune.training.checkpoint import WorkFolder
from finetune.config.settings import TrainConfig
from finetune.errors import ClipsearchError
from finetune.models.dual_encoder import load_dual_encoder
for folder in sys.argv[1:]:
    try:
        load_dual_encoder(folder)
        print("loaded")
    except ClipsearchError as error:
        print(error)
"""


def test_code_that_a_folder_names_is_not_run(tmp_path: Path) -> None:
    folders, markers = [], []
    for place, (file, settings) in enumerate(TRAPS.values()):
        folder = tmp_path / str(place) / "model"
        save_clip(folder)
        markers.append(trap(folder, file, **settings))
        folders.append(str(folder))
    done = subprocess.run(
        [*CODE, LOAD_EACH, str(tmp_path / "cache"), *folders],
        input="yes\n" * 100,  # as `yes |` does
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not [marker for marker in markers if marker.exists()]
    assert not list(tmp_path.rglob("ran")), "nor a copy of it in the cache"
    answers = done.stdout.splitlines()
    assert len(answers) == len(TRAPS), "one sentence each"
    assert "does not run; take a checkpoint" in answers[0]
    assert "trust_remote_code" not in done.stdout, "no advice to run it"


def test_a_kernel_of_the_hub_is_not_fetched(tmp_path: Path) -> None:
    save_clip(tmp_path / "model")
    trap(tmp_path / "model", "config.json", attn_implementation="somebody/kernel")
    with pytest.raises(EncoderError, match="does not run"):
        load_dual_encoder(tmp_path / "model")


def test_a_translator_of_a_folder_runs_no_code(tmp_path: Path) -> None:
    save_tiny_marian(tmp_path / "model", ["two dogs on a beach", "a red car", "a blue square"] * 9)
    marker = trap(
        tmp_path / "model",
        "config.json",
        auto_map={"AutoConfig": "evil.C", "AutoModelForSeq2SeqLM": "evil.M"},
    )
    Translator.load(str(tmp_path / "model"))
    assert not marker.exists()


class Bomb:
    """What an attacker puts into pickled weights."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    save_clip(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    marker = tmp_path / "code-ran"
    torch.save({"logit_scale": Bomb(marker)}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ClipsearchError) as caught:
        load_dual_encoder(tmp_path / "model")
    assert not marker.exists()
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_runs_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "code-ran"
    config = TrainConfig(manifest="photos.csv", model="tiny", out=tmp_path / "encoder")
    with WorkFolder.open(config.work_folder, config.as_dict()) as work:
        torch.save({"step": Bomb(marker)}, work.checkpoint)
        with pytest.raises(TrainingError, match="start anew with --restart") as caught:
            work.load()
    assert not marker.exists() and "\n" not in str(caught.value)
