"""What `clipsearch finetune --find-batch-size` tells."""

from dataclasses import replace

import torch

from finetune.adapt import load_model, prepare
from finetune.batch_size import find_batch_size
from finetune.config import TrainConfig
from finetune.distributed import World
from finetune.optimization.precisions import resolve_device, resolve_precision
from finetune.step import build_backward
from finetune.training_splits import TrainingManifests


def report_largest_batch(config: TrainConfig) -> str:
    """One sentence: the largest --batch-size whose step fits in memory, with these settings.

    Raises UsageError where not even one pair fits.
    """
    device = torch.device(resolve_device(config.device, config.precision))
    # neither --batch-size nor the split val matters here, and must not stand in the way
    with TrainingManifests.open(config) as manifests:
        train = manifests.splits(replace(config, batch_size=2, eval_every="never")).train
    dual = load_model(config, train.captions).to(device)
    loss_of = prepare(dual, config)
    backward = build_backward(
        loss_of,
        World(0, 1, device),
        resolve_precision(config.precision, device.type).dtype,
        chunk_size=config.chunk_size,
        parts=config.accumulate_separate_batches,
    )
    dual.train()
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    found = find_batch_size(
        dual, lambda batch: backward(dual, batch, scaler=scaler), largest=len(train)
    )
    limit = "all images" if found == len(train) else "the largest that fits, to an eighth"
    # of the separate batches of a step each is so large, and all pixels are there together
    each = max(found // config.accumulate_separate_batches, 1)
    return f"--batch-size {each} on {device} ({limit})"
