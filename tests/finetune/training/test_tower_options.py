"""Gradient checkpointing and compiled layers: really on, and without effect on gradients."""

import io
from dataclasses import replace
from functools import partial

import pytest
import torch
from random_batch import assert_close, gradients, random_batch, small_dual
from squares import write_squares
from steps_alone import leave_out_what_follows
from tiny_checkpoints import save_clip, save_roberta
from transformers import SiglipConfig, SiglipModel

from finetune.config.settings import TrainConfig
from finetune.data.world import World
from finetune.errors import UsageError
from finetune.losses.contrastive import contrastive_loss
from finetune.models.dual_encoder import DualEncoder, load_two_towers
from finetune.models.layers import layer_stack
from finetune.models.speed import checkpointed_layers, enable_gradient_checkpointing
from finetune.training.checks import check_config
from finetune.training.gradients.backward import whole_backward
from finetune.training.gradients.compilation import Compilation, compile_layers
from finetune.training.step import build_backward
from finetune.training.train import train


def small_siglip() -> DualEncoder:
    """With CLIP's tokenizer, which its text tower does not mind."""
    clip = small_dual()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    text = {"vocab_size": len(clip.tokenizer), "max_position_embeddings": 16,
            "projection_size": 32}  # fmt: skip
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=tower | text, vision_config=tower | {"image_size": 32, "patch_size": 16}
    )
    model = SiglipModel(config)
    return DualEncoder(
        model, clip.tokenizer, clip.preprocessing, max_tokens=16, base_model="siglip"
    ).train()


@pytest.fixture(params=["clip", "siglip", "vision-text"])
def dual(request, tmp_path) -> DualEncoder:
    if request.param == "vision-text":
        save_clip(tmp_path / "clip")
        save_roberta(tmp_path / "roberta")
        dual = load_two_towers(tmp_path / "clip", tmp_path / "roberta", projection=16)
        for module in dual.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # its noise would be other noise in the second pass
        return dual.train()
    return {"clip": small_dual, "siglip": small_siglip}[request.param]()


def count_passes(dual: DualEncoder, monkeypatch) -> list[str]:
    """Appends a tower layer's name each time it computes."""
    passes: list[str] = []
    for tower in ("vision_model", "text_model"):
        stack, layers = layer_stack(dual, tower.removesuffix("_model").replace("vision", "image"))
        for number in range(layers):
            layer = dual.model.get_submodule(f"{stack}.{number}")
            part = layer.mlp if hasattr(layer, "mlp") else layer.intermediate

            def mlp(*args, _plain=part.forward, _name=f"{tower} {number}"):
                passes.append(_name)
                return _plain(*args)

            monkeypatch.setattr(part, "forward", mlp)
    return passes


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_are_recomputed_with_the_same_gradients(dual, frozen: bool, monkeypatch) -> None:
    if frozen:  # what re-entrant checkpoints do not survive
        for name, parameter in dual.named_parameters():
            parameter.requires_grad = "layers.1." in name or "layer.1." in name
    batch = random_batch(dual, 6)
    passes = count_passes(dual, monkeypatch)
    whole_backward(dual, batch, contrastive_loss)
    expected = gradients(dual)
    assert len(passes) == 4

    enable_gradient_checkpointing(dual)
    assert checkpointed_layers(dual.model.vision_model) >= 2
    assert checkpointed_layers(dual.model.text_model) >= 2
    passes.clear()
    whole_backward(dual, batch, contrastive_loss)
    assert_close(gradients(dual), expected, 1e-6)
    # nothing is to be recomputed in a layer where nothing is trained
    assert len(passes) == (6 if frozen else 8)

    dual.eval()
    passes.clear()
    whole_backward(dual, batch, contrastive_loss)
    assert len(passes) == 4


def test_a_model_without_it_is_named(dual, monkeypatch) -> None:
    for part in (dual.model, dual.model.text_model):
        monkeypatch.setattr(type(part), "supports_gradient_checkpointing", False)
    with pytest.raises(UsageError, match="--gradient-checkpointing does not work with"):
        enable_gradient_checkpointing(dual)


def test_a_tower_that_goes_on_keeping_all_is_named(dual, monkeypatch) -> None:
    """transformers is content if any module takes part; both towers have to."""
    for module in dual.model.text_model.modules():
        monkeypatch.setattr(module, "gradient_checkpointing", False, raising=False)
    dual.model.text_model.activation_checkpointing_enable = lambda options: None
    dual.model.activation_checkpointing_enable = (
        dual.model.vision_model.activation_checkpointing_enable
    )
    with pytest.raises(UsageError, match="--chunk-size"):
        enable_gradient_checkpointing(dual)


def check_compiled(dual: DualEncoder, backend: str, tolerance: float) -> None:
    names = list(dual.state_dict())
    batches = [random_batch(dual, size) for size in (6, 7)]
    expected = []
    for batch in batches:
        whole_backward(dual, batch, contrastive_loss)
        expected.append(gradients(dual))
    torch._dynamo.reset()
    assert compile_layers(dual, backend=backend).layers == 4
    for batch, wanted in zip(batches, expected, strict=True):
        whole_backward(dual, batch, contrastive_loss)
        assert_close(gradients(dual), wanted, tolerance)
    assert list(dual.state_dict()) == names
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


@pytest.mark.parametrize(
    "dual",
    ["clip", pytest.param("siglip", marks=pytest.mark.slow), "vision-text"],
    indirect=True,
)
def test_compiled_layers_have_the_same_gradients_and_names(dual) -> None:
    """SigLIP's layers are CLIP's, with another mask."""
    check_compiled(dual, "eager", 1e-5)


@pytest.mark.slow
def test_compiled_backward_passes_too(dual) -> None:
    check_compiled(dual, "aot_eager", 1e-5)


@pytest.mark.slow
def test_compiled_with_inductor(dual) -> None:
    check_compiled(dual, "inductor", 1e-4)


@pytest.mark.slow
def test_compiled_and_recomputed_together(dual) -> None:
    enable_gradient_checkpointing(dual)
    check_compiled(dual, "aot_eager", 1e-5)


def test_where_nothing_can_be_compiled_a_run_says_so_once_and_goes_on(
    tmp_path, monkeypatch
) -> None:
    manifest = write_squares(tmp_path / "squares", train=16, val=8)
    leave_out_what_follows(monkeypatch)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    config = TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path / "a", batch_size=8, epochs=1
    )
    plain = train(config, quiet=True)
    told = io.StringIO()
    compiled = train(replace(config, out=tmp_path / "b", compile=True), stream=told)
    assert told.getvalue().count("--compile does not work here") == 1
    assert "no-compiler" in told.getvalue()
    assert compiled.history == plain.history


def no_backward(graph, inputs):
    """A backend whose code for backward passes cannot be made, which is found out late."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.exc import InductorError

    def fail(graph, inputs):
        raise InductorError(RuntimeError("no Triton"), None)

    forward = aot_autograd(fw_compiler=lambda made, _: make_boxed_func(made), bw_compiler=fail)
    return forward(graph, inputs)


@pytest.mark.slow
def test_where_a_backward_pass_cannot_be_compiled_no_step_is_lost(tmp_path, monkeypatch) -> None:
    manifest = write_squares(tmp_path / "squares", train=16, val=8)
    leave_out_what_follows(monkeypatch)
    monkeypatch.setattr(
        "finetune.training.prepare.compile_layers", partial(compile_layers, backend=no_backward)
    )
    torch._dynamo.reset()
    config = TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path / "a", batch_size=8, epochs=2
    )
    plain = train(config, quiet=True)
    told = io.StringIO()
    compiled = train(replace(config, out=tmp_path / "b", compile=True), stream=told)
    assert told.getvalue().count("--compile does not work here") == 1
    assert "no Triton" in told.getvalue()
    assert (compiled.steps, compiled.history) == (plain.steps, plain.history)


@pytest.mark.parametrize(
    ("dtype", "chunk_size"),
    [pytest.param(torch.float32, None, marks=pytest.mark.slow), (torch.bfloat16, 3)],
)
def test_gradients_are_taken_again_from_the_same_random_state(dtype, chunk_size, tmp_path) -> None:
    save_clip(tmp_path / "clip")
    save_roberta(tmp_path / "roberta")
    dual = load_two_towers(tmp_path / "clip", tmp_path / "roberta", projection=16).train()
    assert any(isinstance(each, torch.nn.Dropout) and each.p for each in dual.modules())
    batch, alone = random_batch(dual, 6), World(0, 1, torch.device("cpu"))

    def taken(compilation: Compilation | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(1)
        backward = build_backward(
            contrastive_loss, alone, dtype, chunk_size=chunk_size, compilation=compilation
        )
        backward(dual, batch)
        return gradients(dual), torch.get_rng_state()

    expected, state = taken(None)
    torch._dynamo.reset()
    told: list[str] = []
    compilation = compile_layers(dual, told.append, backend=no_backward)
    found, after = taken(compilation)
    assert compilation.is_over and len(told) == 1
    assert torch.equal(state, after)
    assert_close(found, expected, 0)


def test_what_graphs_fail_with_is_told_from_what_a_batch_fails_with(tmp_path) -> None:
    graphed, plain = (Compilation(print, mode) for mode in ("reduce-overhead", "default"))
    error = RuntimeError("Error: accessing tensor output of CUDAGraphs that has been overwritten")
    assert graphed.has_failed(error) and not plain.has_failed(error)
    assert not graphed.has_failed(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": False}, "is of --compile; give that too"),
        ({"chunk_size": 4}, "--chunk-size takes it in several"),
        ({"accumulate_separate_batches": 2}, "--accumulate-separate-batches takes it in several"),
        ({"gradient_checkpointing": True}, "--gradient-checkpointing takes it in several"),
    ],
)
def test_graphs_are_of_steps_in_one_pass(settings, message) -> None:
    config = TrainConfig(
        manifest="a.csv",
        model="tiny",
        compile_mode="reduce-overhead",
        **{"compile": True} | settings,
    )
    with pytest.raises(UsageError, match=message):
        check_config(config, with_device=False, writes=False)


def test_weights_that_are_copied_each_step_do_not_compile_again() -> None:
    dual = small_dual()
    torch._dynamo.reset()
    compile_layers(dual, backend="eager")
    backward = build_backward(
        contrastive_loss, World(0, 1, torch.device("cpu")), torch.bfloat16, chunk_size=4
    )
    batch = random_batch(dual, 8)
    expected = None
    frames = []
    for _ in range(3):
        backward(dual, batch)
        found = gradients(dual)
        assert expected is None or all(torch.equal(found[name], expected[name]) for name in found)
        expected = found
        frames.append(torch._dynamo.utils.counters["frames"]["ok"])
    assert frames[1] == frames[2]


def test_unknown_layers_are_named(dual) -> None:
    dual.model.text_model = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="--compile does not know the layers of"):
        compile_layers(dual)
