"""No library that we use reports home, unless the user says so.

A variable that is set already stays as it is: `ORT_DISABLE_TELEMETRY=0` turns ONNX Runtime's on
again. `finetune` calls `silence` before anything else is imported, as the libraries look once.
"""

import os

# What each library reads, before its first use.
SILENT = {
    # Looks up its maker's host, and keeps an identifier of the machine in the user's cache.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # transformers asks a server to convert a model of the hub that has only pickled weights.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Reports of errors; runs go to Weights & Biases only with --trackers wandb.
    "WANDB_ERROR_REPORTING": "false",
}


def silence() -> None:
    """Set the variables that the user has not set."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
