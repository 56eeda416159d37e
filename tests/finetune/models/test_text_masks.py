import pytest
import torch
import transformers
from tiny_checkpoints import TOWER, save_clip, save_roberta, save_siglip
from transformers.masking_utils import create_bidirectional_mask

from finetune.models.dual_encoder import (
    TAKE_MADE_MASKS,
    DualEncoder,
    load_dual_encoder,
    load_two_towers,
)

TEXTS = ["a red car", "dogs", "two red circles", "a blue car"]
# Of each type of text towers that takes a made mask; RoBERTa's positions count from the padding.
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "mpnet": "MPNet",
    "albert": "Albert",
}


def clip(folder) -> DualEncoder:
    save_clip(folder)
    return load_dual_encoder(folder)


def siglip(folder) -> DualEncoder:
    save_siglip(folder)
    return load_dual_encoder(folder)


def two_towers(folder) -> DualEncoder:
    save_clip(folder / "clip")
    save_roberta(folder / "roberta")
    return load_two_towers(folder / "clip", folder / "roberta", projection=8)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("build", [clip, siglip, two_towers])
def test_texts_embed_to_the_same_bits_as_with_the_plain_mask(build, training, tmp_path) -> None:
    dual = build(tmp_path).train(training)
    for texts in (TEXTS, TEXTS[:1], ["a red car", "a red car"], ["", "word " * 40]):
        ids, mask = dual.tokenize(texts)
        embedded = []
        for given in (mask, dual.mask_on_host(ids, mask)):
            torch.manual_seed(0)  # of dropout
            embedded.append(dual.embed_texts(ids, given))
        assert torch.equal(*embedded)


def test_clip_and_siglip_need_no_mask_and_others_where_texts_differ_in_length(tmp_path) -> None:
    for build in (clip, siglip):
        dual = build(tmp_path / build.__name__)
        assert dual.mask_on_host(*dual.tokenize(TEXTS)) is None
    dual = two_towers(tmp_path)
    assert dual.mask_on_host(*dual.tokenize(TEXTS[:1])) is None
    ids, mask = dual.tokenize(TEXTS)
    made = dual.mask_on_host(ids, mask)
    assert made.shape == (4, 1, ids.shape[1], ids.shape[1])
    assert torch.equal(made[:, 0, 0], mask.bool())


def test_short_texts_of_siglip_keep_their_mask_until_they_are_filled_up(tmp_path) -> None:
    dual = siglip(tmp_path)
    ids, mask = dual.tokenize(TEXTS)
    short = ids[:, :8], mask[:, :8]
    assert dual.mask_on_host(*short) is not None
    alike = dual.embed_texts(*short[:1], dual.mask_on_host(*short))
    assert torch.equal(alike, dual.embed_texts(*short))


def test_a_text_tower_of_another_type_keeps_the_plain_mask(tmp_path) -> None:
    dual = two_towers(tmp_path)
    dual.model.text_model.config.is_decoder = True
    ids, mask = dual.tokenize(TEXTS)
    assert dual.mask_on_host(ids, mask) is mask


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(TAKE_MADE_MASKS))
def test_each_type_takes_a_made_mask_for_the_same_bits(kind, attention) -> None:
    name = CLASSES[kind]
    settings = TOWER | {"vocab_size": 60, "max_position_embeddings": 24}
    config = getattr(transformers, f"{name}Config")(**settings)
    assert config.model_type == kind
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    if kind != "mpnet":  # has one kind alone
        model.set_attn_implementation(attention)
    ids = torch.randint(5, 60, (4, 9))
    lengths = torch.tensor([9, 3, 1, 6])[:, None]
    mask = (torch.arange(9) < lengths).long()
    ids[mask == 0] = config.pad_token_id
    made = create_bidirectional_mask(config, torch.empty(4, 9, 1), mask)
    plain = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(model(input_ids=ids, attention_mask=made).last_hidden_state, plain)
    assert not torch.equal(model(input_ids=ids).last_hidden_state, plain)
