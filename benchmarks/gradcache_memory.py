"""Peak memory and time of one step against the batch size, with and without GradCache.

    python benchmarks/gradcache_memory.py                          # a small ViT, on the CPU
    python benchmarks/gradcache_memory.py --device cuda --model vit-b-32 --precision bf16 \\
        --sizes 256 1024 4096 --chunk-size 256 --methods GradCache

Each step (forward, backward, AdamW) of a batch of noise runs in a process of its own, after one
step of two pairs that sets up what lasts: weights, gradients, optimizer. On the CPU the peak is
the system's own count of resident memory (VmHWM), on a GPU torch's (max_memory_allocated).
"activations" is the growth over what was there before the step, pixels of the batch included;
these (float32 here; a run keeps bytes) are all that GradCache leaves to grow. The last columns are
"activations", and the time a pair, against those of the smallest batch with the same method: flat
is 1, and 1.6 of the time a pair is wanted at most of GradCache. A batch that is no larger than a
chunk goes the plain way. On two cores that other work shared (so not s/step):

    small, fp32, cpu, 1 threads, chunks of 64; MB
    method      batch   before  activations   s/step   ratio
    whole          64      470          615     8.78   1.00x
    whole         128      470         1223    15.51   1.99x
    whole         256      470         2451    18.59   3.99x
    whole         512      470         4888    48.61   7.95x
    whole        1024      468         8996    88.39  14.63x
    GradCache      64      470          615     5.01   1.00x
    GradCache     128      470          471    11.67   0.77x
    GradCache     256      469          500    25.08   0.81x
    GradCache     512      470          547    91.34   0.89x
    GradCache    1024      470          606   103.06   0.99x
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import torch
from transformers import CLIPConfig, CLIPModel

from finetune.data.world import World
from finetune.losses.contrastive import contrastive_loss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.tiny import TinySize, tiny_clip
from finetune.training.batch_size import cpu_peak, cuda_peak, made_up_batch, process_memory
from finetune.training.step import build_backward

MEGABYTE = 1 << 20
METHODS = ("whole", "GradCache")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A step on the CPU takes long; on a GPU the first of a size also picks kernels.
REPEATS = {"cpu": 1, "cuda": 4}
SMALL = TinySize(image_size=96, width=192, mlp_width=768, layers=6, heads=4, projection=128)


@dataclass(frozen=True)
class Measured:
    """One step in a process of its own; bytes and seconds."""

    before: int
    growth: int
    seconds: float


def load(name: str) -> DualEncoder:
    """A checkpoint, "tiny", "small", or "vit-b-32": CLIP ViT-B/32 with random weights."""
    if name not in ("tiny", "small", "vit-b-32"):
        return load_dual_encoder(name)
    built = tiny_clip(["a made-up caption"], size=TinySize() if name == "tiny" else SMALL)
    model, preprocessing = built.model, built.preprocessing
    if name == "vit-b-32":
        # CLIPConfig's defaults are that model's sizes
        model = CLIPModel(CLIPConfig(text_config={"eos_token_id": 2}))
        preprocessing = replace(preprocessing, height=224, width=224, resize_to=224)
    return DualEncoder(model, built.tokenizer, preprocessing, max_tokens=77, base_model=name)


def measure(options: argparse.Namespace) -> Measured:
    """One step of `options.child` pairs."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    dual = load(options.model).to(device).train()
    optimizer = torch.optim.AdamW(dual.parameters(), lr=1e-6, fused=True)
    backward = build_backward(
        contrastive_loss,
        World(0, 1, device),
        PRECISIONS[options.precision],
        chunk_size=options.chunk_size or None,
    )

    def step(size: int) -> None:
        backward(dual, made_up_batch(dual, size), scaler=None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    step(2)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        growth = cuda_peak(device, step, options.child)
    else:
        before = process_memory("VmRSS")
        growth = cpu_peak(before, step, options.child)
    seconds = []
    for _ in range(REPEATS[device.type]):
        begin = time.perf_counter()
        step(options.child)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return Measured(before, growth, min(seconds))


def in_a_process(options: argparse.Namespace, size: int, chunk_size: int) -> Measured | None:
    """None where the memory was full."""
    command = [
        sys.executable, __file__, "--child", str(size), "--chunk-size", str(chunk_size),
        "--device", options.device, "--model", options.model, "--threads", str(options.threads),
        "--precision", options.precision,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        # -9: the system's own way to say it
        if "OutOfMemoryError" in done.stderr or done.returncode == -9:
            return None
        raise SystemExit(done.stderr)
    return Measured(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small", help="id, folder, tiny, small or vit-b-32")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(vars(measure(options))))
        return
    print(
        f"{options.model}, {options.precision}, {options.device}, {options.threads} threads,"
        f" chunks of {options.chunk_size}; MB\n"
    )
    print(
        f"{'method':10} {'batch':>6} {'before':>8} {'activations':>12} {'s/step':>8} {'ratio':>7}"
        f" {'a pair':>7}"
    )
    for method in options.methods:
        chunk_size = options.chunk_size if method == "GradCache" else 0
        smallest, least = 0, 0.0
        for size in options.sizes:
            found = in_a_process(options, size, chunk_size)
            if found is None:
                print(f"{method:10} {size:6}   out of memory", flush=True)
                break
            a_pair = found.seconds / size
            smallest, least = (smallest, least) if smallest else (found.growth, a_pair)
            print(
                f"{method:10} {size:6} {found.before / MEGABYTE:8.0f}"
                f" {found.growth / MEGABYTE:12.0f} {found.seconds:8.2f}"
                f" {found.growth / smallest:6.2f}x {a_pair / least:6.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
