"""PTP from published weights: DeiT's image tower, BERT's text transformer, BLIP's own files, and a run of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from diptych.api import load, train
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.models.blip.blip_model import BlipModel
from diptych.models.blip.released import from_released, is_released
from diptych.recipes.grounding.ptp import PTP
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import small_pairs

SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "image_size": 48, "width": 16, "text_width": 32, "text_layers": 1, "pieces": 320, "batch_size": 8,
    "queue": 20, "steps": 2, "warmup": 0.0,
}  # fmt: skip


def small(**changes: Any) -> PTP:
    return replace(PTP.tiny(), **{**SMALL, **changes})


@pytest.fixture(scope="module")
def data() -> Pool:
    return small_pairs(16, regions=True).to_pool()


@pytest.fixture(scope="module")
def deit() -> VisionTransformer:
    """DeiT's network at the size of vit_micro."""
    torch.manual_seed(1)
    options = _spec()
    net = VisionTransformer(
        img_size=48, patch_size=options["patch"], embed_dim=options["width"], depth=options["layers"], num_heads=options["heads"],
        mlp_ratio=options["mlp_ratio"], num_classes=5,
    )  # fmt: skip
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def _spec() -> dict[str, Any]:
    from diptych.models.towers.towers import image_tower

    tower: Any = image_tower("vit_micro", image_size=48)
    spec = tower.spec
    first = tower.transformer.blocks[0]
    return {
        "patch": spec["patch"], "width": tower.width, "layers": len(tower.transformer.blocks), "heads": first.attention.heads,
        "mlp_ratio": first.mlp_in.out_features / tower.width,
    }  # fmt: skip


def bert(vocab: int) -> Any:
    import transformers

    torch.manual_seed(2)
    settings = transformers.BertConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=32, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    made = transformers.BertForMaskedLM(settings).eval()
    made.bert.embeddings.token_type_embeddings.weight.data.zero_()  # BLIP's text transformer has none
    made.cls.predictions.bias.data.normal_()
    return made


def test_it_starts_as_deit_and_bert(data: Pool, deit: VisionTransformer, tmp_path: Path, parity: Any) -> None:
    ready = small().prepare(data)
    theirs = bert(ready.words().vocab_size)
    torch.save({"model": deit.state_dict()}, tmp_path / "deit.pth")
    theirs.save_pretrained(tmp_path / "bert")
    made = replace(ready, image_weights=str(tmp_path / "deit.pth"), text_weights=str(tmp_path / "bert")).model()
    model, copy = made.eval().blip, made.momentum["copy"]
    image_BCHW, ids_BL = torch.randn(2, 3, 48, 48), torch.randint(3, 300, (2, 9))
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    with torch.no_grad():
        read = theirs(input_ids=ids_BL, output_hidden_states=True)
        hidden_BLD = model.text.read(ids_BL, mask_BL)
        words = F.linear(model.text.head_norm(F.gelu(model.text.head(hidden_BLD))), model.text.words.weight, model.text.bias_V)
        found = [(model.image_tokens(image_BCHW), deit.forward_features(image_BCHW)), (hidden_BLD, read.hidden_states[-1])]
        parity(
            "ptp",
            "pictures and texts as DeiT and BERT read them",
            "timm's VisionTransformer, transformers' BertForMaskedLM",
            [*found, (words[..., :-2], read.logits)],
            tolerance=1e-4,
        )
    for block in model.text.blocks:
        assert torch.equal(block.reading.query.weight, block.writing.query.weight)
    assert all(torch.equal(tensor, copy.state_dict()[name]) for name, tensor in model.state_dict().items()), (
        "the copy starts alike"
    )


def test_weights_of_another_size_are_refused(data: Pool, deit: VisionTransformer, tmp_path: Path) -> None:
    ready = small().prepare(data)
    save_file(deit.state_dict(), tmp_path / "deit.safetensors")
    with pytest.raises(DataError, match=r"weights for the image tower have \[10, 64\] for position_PD"):
        replace(ready, image_size=32, image_weights=str(tmp_path / "deit.safetensors")).model()
    bert(ready.words().vocab_size + 7).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match=r"weights for the text transformer have .* for bias_V"):
        replace(ready, text_weights=str(tmp_path / "bert")).model()
    with pytest.raises(DataError, match=r"weights for the text transformer have nothing for .*"):
        replace(ready, text_weights=str(tmp_path / "deit.safetensors")).model()
    with pytest.raises(DataError, match="no weights"):
        replace(ready, text_weights=str(tmp_path / "nothing")).model()


def test_what_blip_publishes_has_its_places(deit: VisionTransformer) -> None:
    """In the names of BLIP's files: every tensor of ours gets one, and reads as transformers' BLIP does."""
    import transformers

    torch.manual_seed(3)
    settings = transformers.BlipTextConfig(
        vocab_size=322, hidden_size=32, encoder_hidden_size=deit.embed_dim, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=32, initializer_range=0.3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    reader = transformers.BlipTextModel(settings, add_pooling_layer=False).eval()
    writer = transformers.models.blip.modeling_blip_text.BlipTextLMHeadModel(settings).eval()
    for name, parameter in writer.bert.named_parameters():
        if ".attention." not in name:
            parameter.data.copy_(reader.get_parameter(name).data)
    writer.cls.predictions.decoder.weight = writer.bert.embeddings.word_embeddings.weight
    heads = {"vision_proj": (16, deit.embed_dim), "text_proj": (16, 32), "itm_head": (2, 32)}
    tensors = {f"visual_encoder.{name}": tensor for name, tensor in deit.state_dict().items()}
    tensors |= {f"text_encoder.{name}": tensor for name, tensor in reader.state_dict().items()}
    tensors |= {f"text_decoder.{name}": tensor for name, tensor in writer.state_dict().items()}
    for name, shape in heads.items():
        tensors |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}
    tensors |= {"temp": torch.tensor(0.07), "image_queue": torch.zeros(16, 4), "vision_proj_m.weight": torch.zeros(2)}
    assert is_released(tensors)
    recipe = replace(small(), tokenizer="weights", vocabulary="-")
    model = _blip(recipe, vocab=320)
    model.load_state_dict(from_released(tensors))
    given = recipe.fitted(tensors)
    assert {"blip.fits.bias", "momentum.copy.fits.bias"} <= set(given)
    ids_BL = torch.randint(3, 300, (2, 7))
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    begun, marked = ids_BL.clone(), ids_BL.clone()
    begun[:, 0], marked[:, 0] = 320, 321
    with torch.no_grad():
        image_BPD = model.image_tokens(torch.randn(2, 3, 48, 48))
        told = {"attention_mask": mask_BL.long(), "encoder_hidden_states": image_BPD}
        assert torch.allclose(
            model.text.read(ids_BL, mask_BL, image_BPD), reader(input_ids=marked, **told).last_hidden_state, atol=1e-4
        )
        written = writer(input_ids=begun, is_decoder=True, **told).logits
        assert torch.allclose(model.text.write(ids_BL, mask_BL, image_BPD), written, atol=1e-4)


def _blip(recipe: PTP, *, vocab: int) -> Any:
    from diptych.models.blip.blip import Blip
    from diptych.models.blip.text import BlipText
    from diptych.models.towers.towers import image_tower

    tower = image_tower("vit_micro", image_size=48, pre_norm=False, eps=1e-6, patch_bias=True)
    text = BlipText(vocab_size=vocab, image_width=tower.token_width, length=32, width=32, layers=1, heads=4, dropout=0.0)
    return Blip(tower, text, width=recipe.width).eval()


def test_a_run_starts_from_a_run(data: Pool, tmp_path: Path) -> None:
    options = TrainOptions(seed=1, progress=False)
    first = train(small(), data=data, out=tmp_path / "first", options=options)
    recipe = replace(small(lr=0.0, weight_decay=0.0), prompts="none")
    again = train(recipe, data=data, out=tmp_path / "again", options=options, init=tmp_path / "first")
    start, end = load(first.path), load(again.path)
    assert isinstance(end, BlipModel)
    assert end.tokenizer.to_json() == start.tokenizer.to_json()
    one, two = (load_file(run.path / "model" / "model.safetensors") for run in (first, again))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    with pytest.raises(ConfigError, match=r"object .*is not a BLIP"):
        small().started(object())
