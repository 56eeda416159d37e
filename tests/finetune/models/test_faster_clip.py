import copy

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    RobertaConfig,
    RobertaModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)
from transformers.activations import QuickGELUActivation

from finetune.config.run_parts import Preparation
from finetune.config.settings import TrainConfig
from finetune.models.dual_encoder import load_dual_encoder
from finetune.models.speed import QuickGELU, speed_up
from finetune.training.prepare import prepare

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
IMAGES = {"image_size": 48, "patch_size": 16, "hidden_act": "quick_gelu"}


def clip() -> CLIPModel:
    text = {"vocab_size": 100, "eos_token_id": 99, "hidden_act": "quick_gelu"}
    config = CLIPConfig(text_config=SMALL | text, vision_config=SMALL | IMAGES)
    return CLIPModel(config)


def two_towers() -> VisionTextDualEncoderModel:
    vision = CLIPVisionModel(CLIPVisionConfig(**SMALL, **IMAGES))
    text = RobertaModel(RobertaConfig(**SMALL, vocab_size=100))
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text.config)
    return VisionTextDualEncoderModel(config, vision, text)


def step(model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Loss and gradients of one batch."""
    torch.manual_seed(1)
    ids = torch.randint(3, 98, (5, 7))
    ids[:, -1] = 99
    given = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.randn(5, 3, 48, 48, dtype=torch.float64),
        return_loss=True,
    )
    given.loss.backward()
    return given.loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("build", [clip, two_towers])
@pytest.mark.parametrize("training", [True, False])
def test_loss_and_gradients_are_those_of_transformers(build, training):
    torch.manual_seed(0)
    plain = build().double().train(training)
    fast = copy.deepcopy(plain)
    speed_up(fast)
    torch.manual_seed(2)
    loss, gradients = step(plain)
    torch.manual_seed(2)
    fast_loss, fast_gradients = step(fast)

    assert torch.allclose(fast_loss, loss, rtol=1e-12)
    assert gradients.keys() == fast_gradients.keys()
    for name, gradient in gradients.items():
        if gradient is None:
            assert fast_gradients[name] is None, name
        else:
            assert torch.allclose(fast_gradients[name], gradient, rtol=1e-9, atol=1e-14), name


def test_towers_are_changed_and_the_last_mlp_sees_one_token():
    model = clip()
    speed_up(model)
    assert not any(isinstance(module, QuickGELUActivation) for module in model.modules())
    seen = {}
    for number, layer in enumerate(model.vision_model.encoder.layers):
        layer.mlp.fc1.register_forward_hook(
            lambda module, given, out, number=number: seen.update({number: out.shape[1]})
        )
    model.get_image_features(pixel_values=torch.randn(2, 3, 48, 48))
    assert seen == {0: 10, 1: 10, 2: 1}


def test_a_run_trains_the_faster_towers():
    dual = load_dual_encoder("tiny", ["a red square", "a blue circle"])
    prepare(dual, Preparation.of(TrainConfig(manifest="captions.csv", model="tiny")))
    fc1 = dual.model.vision_model.encoder.layers[-1].mlp.fc1
    seen = []
    fc1.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    dual.embed_images(torch.randn(2, 3, 64, 64))
    assert seen == [1]


def test_copies_and_weights_are_interchangeable():
    plain = clip().eval()
    fast = copy.deepcopy(plain)
    speed_up(fast)
    other = copy.deepcopy(fast)
    other.load_state_dict(plain.state_dict())
    pixels = torch.randn(2, 3, 48, 48)
    expected = plain.get_image_features(pixel_values=pixels).pooler_output
    for model in (fast, other):
        with torch.no_grad():
            found = model.get_image_features(pixel_values=pixels).pooler_output
        assert torch.allclose(found, expected, atol=1e-6)


def test_quick_gelu_has_its_own_derivative():
    torch.manual_seed(0)
    x = (3 * torch.randn(40, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(QuickGELU(), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quick_gelu_has_the_values_of_transformers_bit_by_bit(dtype):
    x = torch.linspace(-12, 12, 4001).to(dtype).requires_grad_()
    expected = QuickGELUActivation()(x)
    assert torch.equal(QuickGELU()(x), expected)
    with torch.no_grad():
        assert torch.equal(QuickGELU()(x), expected)


def test_quick_gelu_has_a_gradient_as_exact_in_half_precision():
    x = torch.linspace(-12, 12, 4001).bfloat16()
    exact = gradient(QuickGELUActivation(), x.double())

    def error(activation: torch.nn.Module) -> float:
        return float((gradient(activation, x).double() - exact).abs().max())

    assert error(QuickGELU()) <= error(QuickGELUActivation())


def gradient(activation: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    activation(x).sum().backward()
    assert x.grad is not None
    return x.grad
