"""Decoding ahead in worker processes: order, bounds, and what happens when something dies."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from deep_pictures import GREY, chunk, png
from PIL import Image

from finetune.errors import ClipsearchError, UsageError
from finetune.images.decode_ahead import Decoded, decode_ahead
from finetune.images.pixels import load_pixels
from finetune.images.processor_config import preprocessing_from_config
from finetune.images.source import ImageSource

CLIP = preprocessing_from_config(
    {"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(30):
        size = (int(rng.integers(20, 300)), int(rng.integers(20, 300)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        paths.append(folder / f"{number:02d}.png")
        Image.new("RGB", size, colour).save(paths[-1])
    return paths


def sources(paths: list[Path]) -> Iterator[tuple[int, ImageSource]]:
    return ((number, ImageSource(path)) for number, path in enumerate(paths))


def children() -> list[psutil.Process]:
    """The workers of this process."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "finetune.images.decode_worker" in " ".join(child.cmdline())
    ]


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 8])
def test_all_pictures_come_in_order(pictures, workers, ahead):
    found = list(decode_ahead(sources(pictures), CLIP, workers=workers, ahead=ahead))
    assert [decoded.key for decoded in found] == list(range(len(pictures)))
    for decoded, path in zip(found, pictures, strict=True):
        assert decoded.error is None
        assert decoded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert decoded.pixels is not None and decoded.pixels.dtype == np.uint8
        np.testing.assert_array_equal(decoded.pixels, load_pixels(path, CLIP))
    assert not children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_stops_nothing(pictures, tmp_path, workers):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths = [pictures[0], broken, tmp_path / "missing.jpg", pictures[1]]
    first, text, missing, last = decode_ahead(sources(paths), CLIP, workers=workers)
    assert first.error is None and last.error is None
    assert text.pixels is None
    assert text.error == f"{broken}: holds text, not a picture"
    assert text.sha256 == hashlib.sha256(b"no picture").hexdigest()
    assert missing == Decoded(2, None, f"{tmp_path / 'missing.jpg'}: no such file", None)


@pytest.mark.parametrize("stated", [True, False])
def test_deep_pictures_are_the_same_for_training_feed_and_query(tmp_path, stated, encoder_folder):
    from clipsearch.encoder.encoder import Encoder
    from finetune.images.decode_workers import Decoder

    samples = np.random.default_rng(0).integers(0, 4096, (50, 60))
    bits = [chunk(b"sBIT", bytes([13]))] if stated else []
    path = tmp_path / "deep.png"
    path.write_bytes(png(samples, GREY, *bits))
    encoder = Encoder.load(encoder_folder)
    items = [(1, ImageSource(path))]
    (fed,) = decode_ahead(items, encoder.preprocessing, workers=1)
    with Decoder(encoder.preprocessing, 1) as decoder:
        (trained,) = decoder.decode([ImageSource(path)])
    np.testing.assert_array_equal(fed.pixels, trained.pixels)
    assert fed.note == trained.note and (fed.note is None) == stated
    assert (100 if stated else 240) < fed.pixels.max()
    asked = encoder.encode_images([path])
    np.testing.assert_allclose(asked, encoder.encode_pixels(fed.pixels[None]), atol=1e-6)


def test_pictures_within_shards(pictures, tmp_path):
    shard = tmp_path / "shard.tar"
    first, second = pictures[0].read_bytes(), pictures[1].read_bytes()
    shard.write_bytes(first + second)
    items = [("b", ImageSource(shard, len(first), len(second)))]
    (decoded,) = decode_ahead(items, CLIP, workers=1)
    assert decoded.sha256 == hashlib.sha256(second).hexdigest()


def test_reads_no_further_ahead_than_asked(pictures):
    read = 0

    def counted():
        nonlocal read
        for item in sources(pictures * 5):
            read += 1
            yield item

    decoded = decode_ahead(counted(), CLIP, workers=2, ahead=7)
    for number, _ in zip(range(1, 40), decoded, strict=False):
        assert read <= number + 7
    decoded.close()


def test_works_from_a_thread_that_is_not_the_main_one(pictures):
    found: list[Decoded[int]] = []
    thread = threading.Thread(
        target=lambda: found.extend(decode_ahead(sources(pictures), CLIP, workers=2))
    )
    thread.start()
    thread.join(60)
    assert len(found) == len(pictures)


def test_numbers_out_of_range_fail_at_the_start(pictures):
    for options in ({"workers": -1}, {"workers": 1, "ahead": 0}):
        with pytest.raises(UsageError, match="workers="):
            decode_ahead(sources(pictures), CLIP, **options)


def test_closing_early_leaves_no_process_and_no_thread(pictures):
    decoded = decode_ahead(sources(pictures), CLIP, workers=2)
    next(decoded)
    assert children()
    decoded.close()
    assert not children()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("clipsearch-decode") for name in names)


def test_an_error_of_the_callers_items_comes_through_and_leaves_no_process(pictures):
    def failing():
        yield from sources(pictures[:3])
        raise OSError("the manifest broke off")

    with pytest.raises(OSError, match="broke off"):
        list(decode_ahead(failing(), CLIP, workers=2))
    assert not children()


def test_a_killed_worker_is_one_clear_error(pictures):
    decoded = decode_ahead(sources(pictures * 20), CLIP, workers=1, ahead=4)
    next(decoded)
    (worker,) = children()
    worker.kill()
    with pytest.raises(ClipsearchError, match=r"\.png: the process .*SIGKILL.*memory") as caught:
        list(decoded)
    assert "--workers" in str(caught.value)
    assert not children()


def test_a_worker_that_crashes_is_one_clear_error(pictures):
    decoded = decode_ahead(sources([pictures[0], *pictures]), CLIP, workers=1, ahead=1)
    next(decoded)
    (worker,) = children()
    worker.suspend()
    threading.Timer(0.3, worker.send_signal, [signal.SIGSEGV]).start()
    threading.Timer(0.4, worker.resume).start()
    with pytest.raises(ClipsearchError, match="SIGSEGV"):
        next(decoded)


ENDLESS = """
import itertools, sys
from pathlib import Path
from finetune.images.decode_ahead import decode_ahead
from finetune.images.processor_config import preprocessing_from_config
from finetune.images.source import ImageSource

path = Path(sys.argv[1])
clip = preprocessing_from_config({"image_processor_type": "CLIPImageProcessor"})
items = ((n, ImageSource(path)) for n in itertools.count())
for decoded in decode_ahead(items, clip, workers=2):
    if decoded.key == 20:
        print("running", flush=True)
"""


def endless(path: Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_no_worker_outlives_a_killed_parent(pictures):
    parent = endless(pictures[0])
    assert parent.stdout.readline() == "running\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    parent.kill()
    _, errors = parent.communicate(timeout=20)
    assert wait_for(lambda: not any(worker.is_running() for worker in workers))
    assert errors == ""


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_ctrl_c_ends_everything_and_only_the_parent_says_so(pictures, delay):
    # As from a terminal: to every process of the group.
    parent = endless(pictures[0], start_new_session=True)
    assert parent.stdout.readline() == "running\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    time.sleep(delay)
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=20)
    assert parent.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert not any(worker.is_running() for worker in workers)


def test_workers_import_little():
    code = "import sys, finetune.images.decode_worker; print(len(sys.modules), [name for name in ("
    code += "'torch', 'onnxruntime', 'lancedb', 'pandas', 'pyarrow', 'tokenizers')"
    code += " if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert int(count) < 400


def test_a_script_needs_no_guard_around_its_main_part(pictures, tmp_path):
    # With multiprocessing's forkserver and spawn, the workers would run the script again.
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from finetune.images.decode_ahead import decode_ahead\n"
        "from finetune.images.processor_config import preprocessing_from_config\n"
        "from finetune.images.source import ImageSource\n"
        "print('begin')\n"
        "clip = preprocessing_from_config({'image_processor_type': 'CLIPImageProcessor'})\n"
        f"items = [(0, ImageSource(Path({str(pictures[0])!r})))]\n"
        "print([decoded.error for decoded in decode_ahead(items, clip, workers=1)])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["begin", "[None]"]
