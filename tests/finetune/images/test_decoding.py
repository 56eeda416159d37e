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
from decode_processes import workers_running
from deep_pictures import GREY, chunk, png
from PIL import Image

from finetune.cores import decoding_cores
from finetune.errors import ClipsearchError, UsageError
from finetune.images.decode import Decoded
from finetune.images.decode_workers import Decoder, decode_ahead
from finetune.images.pixels import load_pixels
from finetune.images.processor_config import preprocessing_from_config
from finetune.images.shared_pixels import SharedPixels
from finetune.images.source import ImageSource

CLIP = preprocessing_from_config(
    {"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
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


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 8, 64])
def test_all_pictures_come_in_order(images, workers, ahead):
    found = list(decode_ahead(sources(images), CLIP, workers=workers, ahead=ahead))
    assert [key for key, _ in found] == list(range(len(images)))
    for (_, decoded), path in zip(found, images, strict=True):
        assert decoded.error is None
        assert decoded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert decoded.pixels is not None and decoded.pixels.dtype == np.uint8
        np.testing.assert_array_equal(decoded.pixels, load_pixels(path, CLIP))
    assert not workers_running()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_stops_nothing(images, tmp_path, workers):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths = [images[0], broken, tmp_path / "missing.jpg", images[1]]
    found = decode_ahead(sources(paths), CLIP, workers=workers)
    first, text, missing, last = (decoded for _, decoded in found)
    assert first.error is None and last.error is None
    assert text.pixels is None
    assert text.error == f"{broken}: holds text, not a picture"
    assert text.sha256 == hashlib.sha256(b"no picture").hexdigest()
    assert missing == Decoded(None, f"{tmp_path / 'missing.jpg'}: no such file", None)


@pytest.mark.parametrize("stated", [True, False])
def test_deep_pictures_are_the_same_for_training_feed_and_query(tmp_path, stated, encoder_folder):
    from clipsearch.encoder.encoder import Encoder

    samples = np.random.default_rng(0).integers(0, 4096, (50, 60))
    bits = [chunk(b"sBIT", bytes([13]))] if stated else []
    path = tmp_path / "deep.png"
    path.write_bytes(png(samples, GREY, *bits))
    encoder = Encoder.load(encoder_folder)
    items = [(1, ImageSource(path))]
    ((_, fed),) = decode_ahead(items, encoder.preprocessing, workers=1)
    with Decoder(encoder.preprocessing, 1) as decoder:
        (trained,) = decoder.decode([ImageSource(path)])
    np.testing.assert_array_equal(fed.pixels, trained.pixels)
    assert fed.note == trained.note and (fed.note is None) == stated
    assert (100 if stated else 240) < fed.pixels.max()
    asked = encoder.encode_images([path])
    np.testing.assert_allclose(asked, encoder.encode_pixels(fed.pixels[None]), atol=1e-6)


def test_pictures_within_shards(images, tmp_path):
    shard = tmp_path / "shard.tar"
    first, second = images[0].read_bytes(), images[1].read_bytes()
    shard.write_bytes(first + second)
    items = [("b", ImageSource(shard, len(first), len(second)))]
    ((_, decoded),) = decode_ahead(items, CLIP, workers=1)
    assert decoded.sha256 == hashlib.sha256(second).hexdigest()


@pytest.mark.parametrize("ahead", [7, 50])
def test_reads_no_further_ahead_than_asked(images, ahead):
    read = 0

    def counted():
        nonlocal read
        for item in sources(images * 5):
            read += 1
            yield item

    decoded = decode_ahead(counted(), CLIP, workers=2, ahead=ahead)
    for number, _ in zip(range(1, 40), decoded, strict=False):
        assert read <= number + ahead
    decoded.close()


def test_works_from_a_thread_that_is_not_the_main_one(images):
    found: list[tuple[int, Decoded]] = []
    thread = threading.Thread(
        target=lambda: found.extend(decode_ahead(sources(images), CLIP, workers=2))
    )
    thread.start()
    thread.join(60)
    assert len(found) == len(images)


def test_numbers_out_of_range_fail_at_the_start(images):
    for options in ({"workers": -1}, {"workers": 1, "ahead": 0}):
        with pytest.raises(UsageError, match="workers="):
            decode_ahead(sources(images), CLIP, **options)


def test_closing_early_leaves_no_process_and_no_thread(images):
    decoded = decode_ahead(sources(images), CLIP, workers=2)
    next(decoded)
    assert workers_running()
    decoded.close()
    assert not workers_running()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("clipsearch-decode") for name in names)


def test_an_error_of_the_callers_items_comes_through_and_leaves_no_process(images):
    def failing():
        yield from sources(images[:3])
        raise OSError("the manifest broke off")

    with pytest.raises(OSError, match="broke off"):
        list(decode_ahead(failing(), CLIP, workers=2))
    assert not workers_running()


@pytest.mark.parametrize("ahead", [4, 128])
def test_a_killed_worker_is_one_clear_error(images, ahead):
    decoded = decode_ahead(sources(images * 20), CLIP, workers=1, ahead=ahead)
    next(decoded)
    (worker,) = workers_running()
    worker.kill()
    with pytest.raises(ClipsearchError, match=r"\.png: the process .*SIGKILL.*memory") as caught:
        list(decoded)
    assert "use fewer with --workers" in str(caught.value)
    assert not workers_running()


def test_so_is_one_that_is_killed_in_training(images):
    with Decoder(CLIP, 1) as decoder:
        decoded = decoder.decode([ImageSource(path) for path in images * 20])
        next(decoded)
        (worker,) = workers_running()
        worker.kill()
        with pytest.raises(ClipsearchError, match=r"SIGKILL.*use fewer with --workers"):
            list(decoded)
    assert not workers_running()


DEADLY = """
import os, signal
from finetune.images.source import ImageSource

def read(source, whole=ImageSource.read):
    if source.path.name == "17.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(source)

ImageSource.read = read
"""


def test_of_pictures_asked_for_at_once_the_deadly_one_is_named(images, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClipsearchError, match=r"/17\.png: the process that decoded it was killed"):
        list(decode_ahead(sources(images), CLIP, workers=1, ahead=64))


def test_workers_stay_from_one_call_to_the_next_and_share_a_batch(images):
    batch = [ImageSource(path) for path in images]
    with Decoder(CLIP, 3) as decoder:
        (first,) = decoder.decode_batches([batch], 1)
        workers = workers_running()
        assert len(workers) == 3
        second = list(decoder.decode_batches([batch[:2], [], batch[2:]], 4))
        assert workers_running() == workers
    assert [len(part) for part in second] == [2, 0, 28]
    for one, other in zip(first, [each for part in second for each in part], strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert not workers_running()


@pytest.mark.parametrize("left_at", [1, 3])
def test_batches_are_read_no_further_ahead_than_asked(images, left_at):
    read = 0

    def counted():
        nonlocal read
        for path in images:
            read += 1
            yield [ImageSource(path)] * 5

    with Decoder(CLIP, 2) as decoder:
        for number, _ in enumerate(decoder.decode_batches(counted(), 4), 1):
            assert read <= number + 4
            if number == left_at:
                break
        # What was left in the middle holds up nothing of what follows.
        (decoded,) = decoder.decode([ImageSource(images[0])])
    np.testing.assert_array_equal(decoded.pixels, load_pixels(images[0], CLIP))


def test_a_worker_that_crashes_is_one_clear_error(images):
    decoded = decode_ahead(sources([images[0], *images]), CLIP, workers=1, ahead=1)
    next(decoded)
    (worker,) = workers_running()
    worker.suspend()
    threading.Timer(0.3, worker.send_signal, [signal.SIGSEGV]).start()
    threading.Timer(0.4, worker.resume).start()
    with pytest.raises(ClipsearchError, match="SIGSEGV"):
        next(decoded)


ENDLESS = """
import itertools, sys
from pathlib import Path
from finetune.images.decode_workers import decode_ahead
from finetune.images.processor_config import preprocessing_from_config
from finetune.images.shared_pixels import SharedPixels
from finetune.images.source import ImageSource

path = Path(sys.argv[1])
clip = preprocessing_from_config({"image_processor_type": "CLIPImageProcessor"})
items = ((n, ImageSource(path)) for n in itertools.count())
for number, _ in decode_ahead(items, clip, workers=2):
    if number == 20:
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


def test_no_worker_outlives_a_killed_parent(images):
    parent = endless(images[0])
    assert parent.stdout.readline() == "running\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    parent.kill()
    _, errors = parent.communicate(timeout=20)
    assert wait_for(lambda: not any(worker.is_running() for worker in workers))
    assert errors == ""


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_ctrl_c_ends_everything_and_only_the_parent_says_so(images, delay):
    # As from a terminal: to every process of the group.
    parent = endless(images[0], start_new_session=True)
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


def test_a_script_needs_no_guard_around_its_main_part(images, tmp_path):
    # With multiprocessing's forkserver and spawn, the workers would run the script again.
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from finetune.images.decode_workers import decode_ahead\n"
        "from finetune.images.processor_config import preprocessing_from_config\n"
        "from finetune.images.source import ImageSource\n"
        "print('begin')\n"
        "clip = preprocessing_from_config({'image_processor_type': 'CLIPImageProcessor'})\n"
        f"items = [(0, ImageSource(Path({str(images[0])!r})))]\n"
        "print([decoded.error for _, decoded in decode_ahead(items, clip, workers=1)])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["begin", "[None]"]


def test_pixels_come_by_shared_memory_where_the_system_has_it_and_else_by_the_pipe(
    images, monkeypatch
):
    expected = [load_pixels(path, CLIP) for path in images]
    made = []
    make = SharedPixels.make

    def watched(*values):
        made.append(make(*values))
        return made[-1]

    monkeypatch.setattr(SharedPixels, "make", watched)
    for gone in (False, True):
        if gone:
            monkeypatch.delattr(os, "memfd_create", raising=False)
        found = list(decode_ahead(sources(images * 3), CLIP, workers=2, ahead=64))
        for (_, decoded), pixels in zip(found, expected * 3, strict=True):
            np.testing.assert_array_equal(decoded.pixels, pixels)
        assert all((one is None) == (gone or sys.platform != "linux") for one in made)
        assert made
        made.clear()


def test_a_full_memory_for_pixels_leaves_the_pipe(images, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = psutil.Process().num_fds()
    found = list(decode_ahead(sources(images), CLIP, workers=1))
    assert all(decoded.pixels is not None for _, decoded in found)
    assert psutil.Process().num_fds() == before


def test_no_descriptor_and_no_memory_is_left_behind(images):
    def shared() -> int:
        return sum(
            "clipsearch-pixels" in each.path for each in psutil.Process().memory_maps(grouped=False)
        )

    before = psutil.Process().num_fds()
    decoded = decode_ahead(sources(images * 5), CLIP, workers=2)
    kept = [next(decoded)[1].pixels for _ in range(20)]
    assert shared() == 2
    decoded.close()
    assert not shared()
    for pixels, path in zip(kept, images, strict=False):
        np.testing.assert_array_equal(pixels, load_pixels(path, CLIP))
    assert psutil.Process().num_fds() == before


def large(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    path = folder / f"{size[0]}.jpg"
    Image.new("RGB", size, (9, 90, 200)).save(path)
    return [path] * count


@pytest.mark.parametrize(
    ("size", "count", "has_workers"),
    [
        ((640, 480), 63, False),
        ((640, 480), 64, True),
        ((3000, 2000), 3, False),
        ((3000, 2000), 4, True),
        ((1, 1), 500, True),
    ],
)
def test_workers_are_chosen_by_pixels_as_well_as_by_number(tmp_path, size, count, has_workers):
    decoded = decode_ahead(sources(large(tmp_path, size, count)), CLIP, workers=None)
    next(decoded)
    assert bool(workers_running()) == has_workers
    decoded.close()


def test_images_that_cannot_be_read_count_no_pixels(tmp_path):
    missing = [tmp_path / f"{number}.jpg" for number in range(10)]
    found = list(decode_ahead(sources(missing), CLIP, workers=None))
    assert len(found) == 10 and all(decoded.error for _, decoded in found)


def test_cores_are_shared_with_a_gpu_and_with_other_processes_of_a_run(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("finetune.cores.available_cores", lambda: 16)
    assert (decoding_cores(), decoding_cores("cuda"), decoding_cores("cuda:1")) == (16, 14, 14)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (decoding_cores(), decoding_cores("cuda")) == (4, 2)
    monkeypatch.setattr("finetune.cores.available_cores", lambda: 2)
    assert (decoding_cores(), decoding_cores("cuda")) == (1, 1)
