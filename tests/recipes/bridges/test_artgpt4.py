"""ArtGPT-4: adapters that begin as nothing, against a layer written by hand; what is trained, kept and forgotten."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diptych
from diptych.core.errors import ConfigError
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.adapters import norm_gains
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel
from diptych.recipes.bridges.artgpt4 import ArtGPT4
from diptych.worlds.scenes.descriptions import descriptions
from diptych.worlds.scenes.styles import STYLES, styled, styles

DATA = descriptions(16, seed=0, detailed=8).remembering()
SMALL = replace(ArtGPT4.tiny(), small_steps=2, small_image_steps=2, batch_size=8, second_batch_size=4, steps=4)
LLAMA = {
    "model_type": "llama",
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 400, "n_embd": 32, "n_layer": 3, "n_head": 4}
RELEASED = "the released modeling_llama.py's order, a loop over layers of transformers"


def logits(language: LanguageModel, id_BL: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = language.inner(inputs_embeds=language.embed(id_BL), use_cache=False).logits
    return found


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_adapters_begin_as_nothing(config: dict[str, Any], parity: Any) -> None:
    torch.manual_seed(0)
    language, id_BL = LanguageModel(config=config).eval(), torch.randint(0, 400, (2, 9))
    before, written = logits(language, id_BL), language.inner.generate(id_BL[:1], max_new_tokens=5, do_sample=False)
    language.adapt()
    parity(
        "artgpt4",
        "logits with adapters that begin as nothing",
        "the same language model without",
        [(logits(language, id_BL), before)],
        tolerance=0,
    )
    assert torch.equal(logits(language, id_BL), before)
    assert torch.equal(language.inner.generate(id_BL[:1], max_new_tokens=5, do_sample=False), written)
    released = LanguageModel(config=config).eval()
    plain = logits(released, id_BL)
    released.adapt(zero_start=False)
    assert not torch.allclose(logits(released, id_BL), plain, atol=1e-3)


def by_hand(base: LanguageModel, adapters: nn.ModuleList, id_1L: Tensor) -> Tensor:
    """Attention, its residual, the adapter with a residual of its own, then the rest of the layer."""
    inner = base.inner.model
    h = base.embed(id_1L)
    place = torch.arange(id_1L.shape[1])[None]
    turned = inner.rotary_emb(h, place)
    hidden = torch.full((id_1L.shape[1],) * 2, float("-inf"), dtype=h.dtype).triu(1)[None, None]
    for layer, adapter in zip(inner.layers, adapters, strict=True):
        h = h + layer.self_attn(layer.input_layernorm(h), position_embeddings=turned, attention_mask=hidden)[0]
        h = adapter.up(torch.nn.functional.gelu(adapter.down(h))) + h
        h = h + layer.mlp(layer.post_attention_layernorm(h))
    found: Tensor = base.inner.lm_head(inner.norm(h))
    return found


def test_an_adapted_layer_is_the_released_one(parity: Any) -> None:
    torch.manual_seed(0)
    language = LanguageModel(config=LLAMA).double().eval()
    base = copy.deepcopy(language)
    language.adapt(zero_start=False)
    language.double()
    id_1L = torch.randint(0, 400, (1, 9))
    with torch.no_grad():
        pairs = [(logits(language, id_1L), by_hand(base, language.adapters, id_1L))]
    parity("artgpt4", "logits with adapters in every layer, float64", RELEASED, pairs, tolerance=1e-12)
    copied = copy.deepcopy(language)
    with torch.no_grad():
        for adapter in copied.adapters:
            adapter.up.weight.zero_()
            adapter.up.bias.zero_()
    assert torch.allclose(logits(copied, id_1L), logits(base, id_1L))  # a copy has hooks of its own
    assert torch.equal(logits(language, id_1L), pairs[0][0])


def test_adapters_gains_and_the_map_are_trained_and_nothing_else() -> None:
    made = replace(SMALL, zero_start=False).prepare(DATA)
    bridge = made.model()
    trained = {name for name, p in bridge.named_parameters() if p.requires_grad}
    layers = range(3)
    wanted = {f"language.adapters.{n}.{part}.{kind}" for n in layers for part in ("down", "up") for kind in ("weight", "bias")}
    wanted |= {f"language.inner.model.layers.{n}.post_attention_layernorm.weight" for n in layers}
    wanted |= {f"language.inner.model.layers.{n}.input_layernorm.weight" for n in (0, 2)}
    assert trained == wanted | {"connector.map.weight", "connector.map.bias"}
    stored = {name for name in bridge.state_dict() if made.stored(name)}
    assert trained <= stored
    assert not any(name.startswith("encoder.") or "mlp" in name for name in stored)
    plain = replace(made, adapters=False)
    assert {name for name, p in plain.model().named_parameters() if p.requires_grad} == {
        "connector.map.weight",
        "connector.map.bias",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("language")
    tokenizer = Tokenizer.train([text.string for row in range(len(DATA)) for text in DATA[row].texts], 400)
    tokenizer.save(made)
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    LanguageModel(config={**LLAMA, **ids, "vocab_size": tokenizer.vocab_size}).inner.save_pretrained(made)
    return made


@pytest.mark.parametrize("given", [True, False], ids=["folder", "small"])
def test_what_was_adapted_is_kept(given: bool, folder: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, lr=0.1, language_model=f"hf:{folder}" if given else "small")
    before = (folder / "model.safetensors").read_bytes()
    run = diptych.train(recipe, data=DATA, out=tmp_path / "run", seed=0)
    assert (folder / "model.safetensors").read_bytes() == before
    prepared = recipe.prepare(DATA)
    fresh, model = prepared.deploy(prepared.model()), diptych.load(run.path)
    texts = ["a red circle left of a blue square", "the circle is big ."]
    learned = model.text_nll(texts)
    assert np.abs(learned[:, 0] - fresh.text_nll(texts)[:, 0]).min() > 1e-3  # the language model itself has changed
    gains = norm_gains(model.bridge.language.inner).values()
    assert all(not torch.equal(gain, torch.ones_like(gain)) for gain in gains)
    model.save(tmp_path / "again")
    again = diptych.load(tmp_path / "again")
    np.testing.assert_array_equal(again.text_nll(texts), learned)
    image = DATA[0].image
    assert again.generate([image], [""], max_tokens=5) == model.generate([image], [""], max_tokens=5)


def test_the_published_sizes() -> None:
    made = ArtGPT4.paper()
    assert (made.image_tower, made.resize, made.zero_start) == ("eva_g14", "squash", False)
    config = {
        "model_type": "llama",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    }
    with torch.device("meta"):
        language = LanguageModel(config={**config, "vocab_size": 32001})
        language.adapt(ratio=made.ratio)
        spec = made.connector_spec()
        built = connector(spec.pop("kind"), 1408, 5120, **spec)
    counted = {
        trained: sum(p.numel() for module in (language, built) for p in module.parameters() if p.requires_grad == trained)
        for trained in (True, False)
    }
    bottlenecks, gains, projection = 40 * 13_113_600, (40 + 20) * 5120, 3_937_280
    assert counted == {True: bottlenecks + gains + projection, False: 13_015_874_560 - gains + 105_165_056}
    spec_first = made.stages()[0].recipe.optimiser()
    assert (spec_first.lr, spec_first.lr * spec_first.final_lr) == pytest.approx((1e-7, 8e-7))


def test_layers_of_another_form_are_refused() -> None:
    language = LanguageModel(
        config={
            "model_type": "opt",
            "vocab_size": 40,
            "hidden_size": 16,
            "ffn_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
        }
    )
    with pytest.raises(ConfigError, match="adapters do not fit the layers of 'opt'"):
        language.adapt()


def test_styles_differ_in_every_picture() -> None:
    data = styles(12, seed=0)
    assert {data[row].extras["style"] for row in range(12)} == set(STYLES)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    assert (styled(pixels, "inverted") == 255 - pixels).all()
    assert set(np.unique(styled(pixels, "dithered"))) <= {0, 255}
    assert styled(pixels, "blurred").std() < pixels.std()
