"""What to install where a package is missing, in one sentence."""

from finetune.installing import install_command

# By package as it is imported, the extra that brings it; see pyproject.toml.
EXTRAS = {
    **dict.fromkeys(
        (
            "torch", "transformers", "huggingface_hub", "kornia", "matplotlib", "onnx", "peft",
            "safetensors",
        ),
        "finetune",
    ),
    **dict.fromkeys(("docker", "vespa", "vespacli"), "vespa"),
    **dict.fromkeys(("fastapi", "uvicorn", "jinja2"), "serve"),
    **dict.fromkeys(("tensorboard", "wandb", "mlflow", "codecarbon"), "trackers"),
    "sentencepiece": "backtranslate",
    "pillow_heif": "heic",
    "pandas": "pandas",
}  # fmt: skip


def missing_package(error: ModuleNotFoundError) -> str:
    """Return a sentence that names the package and the extra that brings it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return f"the package {package or error} is missing; install clipsearch again"
    return (
        f"this needs {package}, which is not installed; install it with: {install_command(extra)}"
    )
