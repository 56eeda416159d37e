"""What `clipsearch finetune --find-batch-size` tells."""

import torch

from finetune.adapt import load_model, prepare
from finetune.batch_size import find_batch_size
from finetune.config import TrainConfig
from finetune.distributed import World
from finetune.step import build_backward
from finetune.training_splits import TrainingManifests


def report_largest_batch(config: TrainConfig) -> str:
    """One sentence: the largest --batch-size whose step fits in memory, with these settings.

    Raises UsageError where not even one pair fits.
    """
    device = torch.device(config.resolve_device())
    with TrainingManifests.open(config) as manifests:
        captions = manifests.splits(config).train.captions
    dual = load_model(config, captions).to(device)
    loss_of = prepare(dual, config)
    backward = build_backward(config, loss_of, World(0, 1, device))
    dual.train()
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    found = find_batch_size(
        dual, lambda batch: backward(dual, batch, scaler=scaler), largest=len(captions)
    )
    limit = "all images" if found == len(captions) else "the largest that fits, to an eighth"
    return f"--batch-size {found} on {device} ({limit})"
