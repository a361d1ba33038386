"""Modality calibration against the released module and a naive pass, and what the layers of a language model make of picture and words."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diptych
from diptych.core.contracts import LayerReader
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.layout import Layout, lay_out
from diptych.data.text.prompts.template import Template
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.calibration import Calibration
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.towers import image_tower
from diptych.recipes.bridges.artgpt4 import ArtGPT4
from diptych.recipes.bridges.limber import LiMBeR
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parents[2] / "parity/released/mir_released.json").read_text())["moca"]
TOKENIZER = Tokenizer.train(["a red circle left of a blue square", "what colour is it ?", "green ring"] * 3, 320)
VOCABULARY = LanguageVocabulary(TOKENIZER)
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": TOKENIZER.vocab_size}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "opt": {
        "model_type": "opt",
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    },
}


def language(kind: str = "llama", std: float | None = 0.5) -> LanguageModel:
    torch.manual_seed(0)
    made = LanguageModel(config={**KINDS[kind], **IDS})
    if std is not None:
        made.calibrate(std=std)
    return made.eval()


def rows(side: Any = "right") -> Layout:
    asked = (("what colour is it ?", " red"), ("green ring", " a blue square"))
    return lay_out([Template("Q: {image} {prompt}").pieces(4, *one) for one in asked], VOCABULARY, side=side)


def given(layout: Layout, width: int = 32) -> Tensor:
    return torch.randn(*layout.id_BL.shape, width, generator=torch.Generator().manual_seed(1))


class Naive(nn.Module):
    """A layer with the formula of the release behind it."""

    def __init__(self, layer: nn.Module, calibration: Any, mask_BL1: Tensor) -> None:
        super().__init__()
        self.layer, self.scale, self.shift, self.mask_BL1 = layer, calibration.scale, calibration.shift, mask_BL1

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **named: Any) -> Any:
        answer = self.layer(*args, **named)
        state_BLD = answer if isinstance(answer, Tensor) else answer[0]
        changed = (1 - self.mask_BL1) * state_BLD + self.mask_BL1 * (self.scale * state_BLD + self.shift)
        return changed if isinstance(answer, Tensor) else (changed, *answer[1:])


def test_a_layers_calibration_is_the_released_one(parity: Any) -> None:
    made = Calibration(4)
    with torch.no_grad():
        made.scale.copy_(torch.tensor(RELEASED["scale"]))
        made.shift.copy_(torch.tensor(RELEASED["shift"]))
    made.slot_BL = torch.tensor(RELEASED["mask"]).bool()
    found = made.change(made, (), torch.tensor(RELEASED["given"]))
    pairs = [(found, torch.tensor(RELEASED["answer"]))]
    parity("mir", "states behind a layer's calibration", "LlamaMoCa of 07070b9", pairs, tolerance=1e-6)


def test_half_precision_is_calibrated_in_single() -> None:
    """As released, whose layer casts the states to float32 and back."""
    made = Calibration(3).to(torch.bfloat16)
    with torch.no_grad():
        made.scale.copy_(torch.tensor([1.0078125, 2.0, 0.5]))
        made.shift.copy_(torch.tensor([-1.0, 0.0078125, 3.0]))
    made.slot_BL = torch.tensor([[True, True]])
    given = torch.tensor([[[1.0234375, 1.0078125, 257.0], [3.015625, 100.5, 0.1]]]).to(torch.bfloat16)
    expected = (made.scale.float() * given.float() + made.shift.float()).to(torch.bfloat16)
    found = made.change(made, (), given)
    assert torch.equal(found, expected)
    assert not torch.equal(found, made.scale * given + made.shift)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_states_are_those_of_a_naive_pass(kind: str, parity: Any) -> None:
    made, plain, layout = language(kind), language(kind, std=None), rows()
    layers = next(m for m in plain.inner.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    mask_BL1 = layout.slot_BL.float()[..., None]
    for place in range(3):
        layers[place] = Naive(layers[place], made.calibrations[place], mask_BL1)
    seen: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda m, g, answer: seen.append(answer if isinstance(answer, Tensor) else answer[0]))
    theirs, target_A, row_A = plain.answers(given(layout), layout)
    ours, ours_target_A, ours_row_A = made.answers(given(layout), layout)
    assert target_A.tolist() == ours_target_A.tolist()
    assert row_A.tolist() == ours_row_A.tolist()
    parity("mir", "logits of the answer with calibration", "layers by hand, transformers", [(ours, theirs)], tolerance=2e-6)
    states, mask_BL = made.states(given(layout), layout), layout.mask_BL
    parity("mir", "states of the layers", "layers by hand, transformers",
           [(mine[mask_BL], other[mask_BL]) for mine, other in zip(states[:-1], seen[:2], strict=True)], tolerance=2e-6)  # fmt: skip
    last_BLD = states[-1]
    head = made.inner.get_output_embeddings()
    chosen = head(last_BLD)[:, :-1][layout.answer_BL[:, 1:]]
    torch.testing.assert_close(chosen, ours, atol=2e-6, rtol=1e-5)  # the last one is behind the final norm


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_that_transformers_gives(kind: str) -> None:
    made, layout = language(kind, std=None), rows()
    theirs = made.inner(
        inputs_embeds=given(layout), attention_mask=layout.mask_BL.long(), output_hidden_states=True
    ).hidden_states[1:]
    assert made.depth == len(theirs) == 3
    for mine, other in zip(made.states(given(layout), layout), theirs, strict=True):
        torch.testing.assert_close(mine[layout.mask_BL], other[layout.mask_BL], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_model_that_was(kind: str) -> None:
    plain, made, layout = language(kind, std=None), language(kind, std=0.0), rows()
    assert torch.equal(plain.answers(given(layout), layout)[0], made.answers(given(layout), layout)[0])
    far, calibrated = language(kind, std=0.5), language(kind, std=None).answers(given(layout), layout)[0]
    assert not torch.allclose(far.answers(given(layout), layout)[0], calibrated, atol=1e-5)
    assert all(calibration.slot_BL is None for calibration in far.calibrations)  # nothing is left over


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_written_is_that_of_whole_passes(kind: str, beams: int) -> None:
    """Pictures are calibrated once, when they are read; words that are written are not. Rows of unequal length, padded on the left."""
    made, layout = language(kind), rows("left")
    with torch.no_grad():
        made.inner.get_output_embeddings().weight.mul_(20)  # so that no two words are nearly as likely
    embed_BLD = made.embed(layout.id_BL) + 3 * layout.slot_BL[..., None] * given(layout)
    written = made.write(embed_BLD, layout, VOCABULARY, max_tokens=4, num_beams=beams)
    uncached = made.write(embed_BLD, layout, VOCABULARY, max_tokens=4, num_beams=beams, use_cache=False)
    if beams == 1:
        assert written == [_whole_passes(made, embed_BLD[row], layout, row) for row in range(2)]
    assert len(written) == len(uncached) == 2
    alone = []
    for row in range(2):
        keep = layout.mask_BL[row]
        one = Layout(*(part[row : row + 1, keep] for part in (layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL)))
        alone += made.write(embed_BLD[row : row + 1, keep], one, VOCABULARY, max_tokens=4, num_beams=beams)
    assert written == alone


def _whole_passes(made: LanguageModel, embed_LD: Tensor, layout: Layout, row: int) -> str:
    keep = layout.mask_BL[row]
    embed_LD, slot_L, ids = embed_LD[keep], layout.slot_BL[row, keep], list[int]()
    for _ in range(4):
        words_TD = made.embed(torch.tensor([ids], dtype=torch.int64))[0]
        slot_BL = torch.cat([slot_L, torch.zeros(len(ids), dtype=torch.bool)])[None]
        whole = Layout(torch.zeros(slot_BL.shape, dtype=torch.int64), slot_BL, torch.ones_like(slot_BL), slot_BL)
        last_BLD = made.states(torch.cat([embed_LD, words_TD])[None], whole)[-1]
        ids.append(int(made.inner.get_output_embeddings()(last_BLD)[0, -1].argmax()))
        if ids[-1] == VOCABULARY.end_id:
            break
    return VOCABULARY.decode(ids)


def test_an_encoder_decoder_has_no_such_layers() -> None:
    t5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    with pytest.raises(ConfigError, match="'t5' has no layers that read picture and words in a row"):
        LanguageModel(config={**t5, **IDS}).calibrate()


# ---------------------------------------------------------------- with a bridge


def writer(std: float | None = 0.5, *, length: int = 64) -> BridgeGenerator:
    made = language("gpt2", std)
    encoder = image_tower("vit_micro")
    bridge = Bridge(encoder, connector("linear", encoder.token_width, made.width), made).eval()
    return BridgeGenerator(
        bridge, Preprocess(48), VOCABULARY, Template("Q: {image} A:"), "w", connector={"kind": "linear"}, length=length
    )


def images(count: int) -> list[ArrayImage]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), f"u{n}") for n in range(count)]


def test_a_row_is_parted_into_picture_and_what_stands_behind() -> None:
    made = writer()
    assert isinstance(made, LayerReader)
    texts = ["a red circle", "green ring left of a blue square"]
    found = list(made.read_layers(images(2), texts, layers=[3, 1], batch_size=2))
    for row, text in enumerate(texts):
        (alone,) = made.read_layers(images(2)[row : row + 1], [text], layers=[1, 2, 3])
        behind = [*VOCABULARY.pieces(" A:"), *VOCABULARY.pieces(" " + text), VOCABULARY.end_id]
        assert found[row].visual_EKD.shape == (2, 9, 32)
        assert found[row].text_ETD.shape == (2, len(behind), 32)
        np.testing.assert_allclose(found[row].visual_EKD, alone.visual_EKD[[2, 0]], atol=2e-5)
        np.testing.assert_allclose(found[row].text_ETD, alone.text_ETD[[2, 0]], atol=2e-5)
    (other,) = made.read_layers(images(1), texts[:1], layers=[1], template="{image}\n")
    assert other.text_ETD.shape[1] == len([*VOCABULARY.pieces("\n"), *VOCABULARY.pieces(" " + texts[0])]) + 1
    (cut,) = made.read_layers(images(1), ["green ring " * 40], layers=[1])
    assert cut.text_ETD.shape[1] + 9 + 1 + len(VOCABULARY.pieces("Q: ")) == 64
    with pytest.raises(ConfigError, match="1 texts for 2 images"):
        next(made.read_layers(images(2), ["a"], layers=[1]))


def test_mir_of_a_bridge_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.cli import main

    writer().save(tmp_path / "model")
    words = ["eval", str(tmp_path / "model"), "mir", "--data", "world:scenes?n=6&test=6", "--split", "test", "--samples", "4"]
    assert main([*words, "--words", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["test"]
    assert np.isfinite(result["metrics"]["mir"]["value"])
    assert list(result["notes"]["layers"]) == ["1", "2", "3"]
    assert result["n_items"] == 4


@pytest.mark.parametrize("away", [False, True])
def test_a_folder_gives_calibrations_back(away: bool, tmp_path: Path) -> None:
    made = writer()
    if away:
        plain = language("gpt2", None)
        plain.inner.save_pretrained(tmp_path / "language")
        made.folder = str(tmp_path / "language")
    made.save(tmp_path / "model")
    again = BridgeGenerator.load(tmp_path / "model")
    assert again.fingerprint == made.fingerprint
    assert again.bridge.language.calibrated
    assert not BridgeGenerator.load(_saved(writer(None), tmp_path / "plain")).bridge.language.calibrated
    both = [model.read_layers(images(2), ["a", "b"], layers=[3]) for model in (made, again)]
    for mine, other in zip(*both, strict=True):
        np.testing.assert_array_equal(mine.visual_EKD, other.visual_EKD)


def _saved(made: BridgeGenerator, folder: Path) -> Path:
    made.save(folder)
    return folder


def test_copies_calibrate_by_themselves() -> None:
    made, layout = language(), rows()
    other = copy.deepcopy(made)
    with torch.no_grad():
        for calibration in other.calibrations.children():
            calibration.shift.add_(1.0)
    assert not torch.allclose(made.answers(given(layout), layout)[0], other.answers(given(layout), layout)[0], atol=1e-5)


DATA = scenes(16, seed=0, lengths=("short",), negatives=False)


@pytest.mark.parametrize("kind", [LiMBeR, ArtGPT4])
def test_a_recipe_learns_them_beside_its_connector(kind: Any, tmp_path: Path) -> None:
    """Also where the language model does not learn; a run that was stopped goes on with them."""
    language("gpt2", None).inner.save_pretrained(tmp_path / "language")
    TOKENIZER.save(tmp_path / "language")
    small: dict[str, Any] = {
        "image_tower": "vit_micro",
        "image_size": 48,
        "batch_size": 8,
        "image_weights": "",
        "language_model": f"hf:{tmp_path / 'language'}",
    }
    if kind is ArtGPT4:
        small["image_size"] = 64  # 16 patches, taken four at a time
    made = replace(kind.tiny(), **small, moca=True)
    prepared = made.prepare(DATA)
    model = prepared.model()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = {f"language.calibrations.{n}.{part}" for n in range(3) for part in ("scale", "shift")}
    assert wanted <= learning
    assert not any(parameter.requires_grad for parameter in model.language.inner.parameters()) or kind is ArtGPT4
    assert all(prepared.stored(name) for name in wanted)
    assert not wanted & {name for name, _ in replace(kind.tiny(), **small).prepare(DATA).model().named_parameters()}
    if kind is ArtGPT4:  # whose second stage has other data
        return
    run = diptych.train(made, data=DATA, out=tmp_path / "run", steps=3, seed=0)
    loaded: Any = diptych.load(run.path)
    moved = [float((calibration.scale.detach() - 1).abs().max()) for calibration in loaded.bridge.language.calibrations]
    assert min(moved) > 0


def test_the_published_size() -> None:
    """Vicuna-7B has 32 layers of 4,096 numbers."""
    vicuna = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    with torch.device("meta"):
        made = LanguageModel(config={"model_type": "llama", **vicuna, **IDS, "vocab_size": 32000})
        made.calibrate()
    assert sum(parameter.numel() for parameter in made.calibrations.parameters()) == 262_144
