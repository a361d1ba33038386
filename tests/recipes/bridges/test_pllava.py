"""PLLaVA: rows of the released code, pooling behind the projector, images that stay apart, and the strength of adapters after training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from llama_words import llama_tokenizer, vocabulary
from safetensors.torch import save_file

import diptych
from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.clip import rounded_places, spared_places
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from diptych.data.text.prompts.layout import lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.llava_weights import targets
from diptych.models.bridges.splice import norm_kurtosis
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower
from diptych.models.towers.video.frame_sequence import FrameSequenceTower
from diptych.recipes._shared.language.clip_frames import read_frames
from diptych.recipes.bridges.pllava import PLLaVA
from diptych.worlds.clips import clips

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "pllava_rows.json").read_text(encoding="utf-8"))
"""Ids, -200 for a clip, and labels, of `process_qa` and `preprocess` of PLLaVA at 6f49fd2, also with the roles and ends of its
configuration for Yi ("chatml"); which of three frames stand for four."""
TURNS = [[("What is it?", "a cat"), ("Is it red?", "A dog (brown) on a sofa! It looks at us.")], [("Is it red?", "no")]]


def asked(sample: Sample) -> Sample:
    question = {"question": "which way ?", "answer": str(sample.extras["label"])}
    return replace(sample, extras={**sample.extras, "questions": [question]})


WORLD = clips(8, seed=0, length=8)
DATA = Pool.from_samples([asked(WORLD[row]) for row in range(8)], name="asked clips")
SMALL: dict[str, Any] = {
    "image_weights": "",
    "image_tower": "vit_micro",
    "image_size": 48,
    "small_steps": 2,
    "batch_size": 4,
    "steps": 2,
}
SMALL |= {"frames": 4, "pool": (4, 2, 2)}


def test_rows_and_labels_are_those_of_the_release(monkeypatch: Any, parity: Any) -> None:
    words = vocabulary("legacy")
    monkeypatch.setattr(PLLaVA, "words", lambda self: words)
    made, wrong = replace(PLLaVA.paper(), slots=1), 0
    for turns, (ids, labels) in zip(TURNS, RELEASED["rows"], strict=True):
        questions = [{"question": question, "answer": answer} for question, answer in turns]
        row, _ = made.dialogue_row(Draw(Sample("a", extras={"questions": questions}), np.random.default_rng(0)))
        layout = lay_out([row], words)
        wrong += layout.id_BL.masked_fill(layout.slot_BL, -200)[0].tolist() != ids
        wrong += layout.id_BL.masked_fill(~layout.answer_BL, -100)[0].tolist() != labels
    parity(
        "pllava",
        "rows and labels",
        "process_qa and preprocess of PLLaVA at 6f49fd2",
        [(np.array(wrong), np.array(0))],
        tolerance=0,
    )


def test_rows_of_the_34b_are_in_chatml(monkeypatch: Any, parity: Any) -> None:
    inner = llama_tokenizer("legacy")
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    words = LanguageVocabulary(Tokenizer(inner, pad_id=0, prefix=(1,), suffix=(2,)))
    monkeypatch.setattr(PLLaVA, "words", lambda self: words)
    made, pairs = replace(PLLaVA.preset("paper_34b"), slots=1), []
    for turns, (ids, labels) in zip(TURNS, RELEASED["chatml"], strict=True):
        questions = [{"question": question, "answer": answer} for question, answer in turns]
        row, _ = made.dialogue_row(Draw(Sample("a", extras={"questions": questions}), np.random.default_rng(0)))
        layout = lay_out([row], words)
        pairs.append((layout.id_BL.masked_fill(layout.slot_BL, -200)[0], torch.tensor(ids)))
        pairs.append((layout.id_BL.masked_fill(~layout.answer_BL, -100)[0], torch.tensor(labels)))
    against = "process_qa and preprocess of PLLaVA at 6f49fd2, config_pllava_nframe_yiprompt"
    parity("pllava", "rows and labels of the 34B", against, pairs, tolerance=0)
    assert (made.crop, made.flip, made.released_normalisation) == ((1.0, 1.0), False, False)


PLACES = {
    (100, 16): [3, 9, 15, 22, 28, 34, 40, 46, 53, 59, 65, 71, 77, 83, 90, 96],
    (20, 16): [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 17, 18],
    (57, 8): [3, 10, 17, 24, 31, 38, 45, 52],
    (5, 8): [0, 0, 1, 2, 2, 2, 3, 4],
    (1, 4): [0, 0, 0, 0],
}
"""Frames of `EvalDataset.get_index` of PLLaVA at 6f49fd2, by those of a clip and those that are read."""
DRAWN = {
    (100, 16): [(0, 4), (6, 10), (12, 16), (18, 23), (25, 29), (31, 35), (37, 41), (43, 48)],
    (40, 16): [(0, 0), (2, 3), (5, 5), (7, 8), (10, 10), (12, 13), (15, 15), (17, 18)],
    (7, 3): [(0, 0), (2, 2), (4, 5)],
    (7, 4): [(0, 3), (1, 4), (2, 5), (3, 6)],
    (5, 8): [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (4, 4), (4, 4), (4, 4)],
}
"""The first and the last of those that its `get_frame_indices` draws for each place, of the first eight places."""


def test_frames_are_those_of_the_release(parity: Any) -> None:
    pairs = [(rounded_places(*key), np.array(frames)) for key, frames in PLACES.items()]
    rng = np.random.default_rng(0)
    for (count, frames), spans in DRAWN.items():
        drawn = np.stack([spared_places(count, frames, rng) for _ in range(1000)])[:, :8]
        pairs.append((np.stack([drawn.min(0), drawn.max(0)], 1), np.array(spans)))
    against = "get_frame_indices and get_index of PLLaVA at 6f49fd2"
    parity("pllava", "frames that are read", against, pairs, tolerance=0)
    world = clips(1, seed=0, length=8)[0]
    every = read_frames(world, "clip", 8, None)
    read = read_frames(world, "clip", 4, rng, released=True)
    assert np.array_equal(read, every[[0, 2, 4, 6]]), "of two frames never the second"


def test_the_connector_is_llavas_projector_and_then_a_pool(parity: Any) -> None:
    """`LlavaForConditionalGeneration`'s projector on every frame, its tokens pooled by torch in three dimensions."""
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(hidden_size=24, num_attention_heads=2),
        text_config=transformers.LlamaConfig(hidden_size=32, num_attention_heads=2),
    )
    theirs = transformers.models.llava.modeling_llava.LlavaMultiModalProjector(config)
    made: Any = connector("pooled", 24, 32, size=(2, 3, 3), frames=4)
    made.load_state_dict(theirs.state_dict())
    feature = torch.randn(2, 4 * 25, 24)
    with torch.no_grad():
        volume = theirs(feature).transpose(1, 2).unflatten(2, (4, 5, 5))
        expected = torch.nn.AdaptiveAvgPool3d((2, 3, 3))(volume).flatten(2).transpose(1, 2)
        found = made.reduce(feature)
    against = "LlavaMultiModalProjector of transformers, then AdaptiveAvgPool3d"
    parity("pllava", "projector and pool", against, [(found.token_BKD, expected)], tolerance=1e-6)
    assert made.count(100) == 18
    with pytest.raises(ConfigError, match="are not 4 square frames"):
        made.count(99)


class Brightness(Tower):
    """A token a quarter: its mean brightness."""

    width = 1

    def forward(self, image_BCHW: torch.Tensor) -> Any:
        token = torch.nn.functional.adaptive_avg_pool2d(image_BCHW, 2).mean(1).flatten(1)[..., None]
        return diptych.models.towers.outputs.TowerOutput(token, token[..., 0].bool(), token.mean(1))


def test_images_of_a_batch_stay_apart() -> None:
    image = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None, None].expand(4, 3, 4, 4)
    token = FrameSequenceTower(Brightness(), 4)(image).tokens_BPD
    assert token.shape == (4, 16, 1)
    assert [row.unique().tolist() for row in token] == [[1.0], [2.0], [3.0], [4.0]]
    mixed = FrameSequenceTower(Brightness(), 4, mixed=True)(image).tokens_BPD
    assert mixed[0, ::4, 0].tolist() == [1.0, 2.0, 3.0, 4.0], "as released, a clip of four images"
    clip = image[None].expand(2, 4, 3, 4, 4)
    assert FrameSequenceTower(Brightness(), 4)(clip).tokens_BPD[1, ::4, 0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_adapters_are_as_strong_as_is_asked_for(tmp_path: Path) -> None:
    tiny = replace(PLLaVA.tiny(), frame_choice="released", **SMALL)
    run = diptych.train(tiny, data=DATA, out=tmp_path / "run", seed=0)
    model: Any = diptych.load(run.path)
    made = tiny.prepare(DATA)
    base = LanguageModel.from_folder(made.language_folder).eval()
    ids = torch.arange(5)[None] + 5

    def logits(inner: Any) -> torch.Tensor:
        with torch.no_grad():
            return inner(input_ids=ids).logits  # type: ignore[no-any-return]

    trained, alone = logits(model.bridge.language.inner), logits(base.inner)
    assert not torch.allclose(trained, alone, atol=1e-4)
    model.use_alpha(0.0)
    assert torch.equal(logits(model.bridge.language.inner), alone)
    model.use_alpha(4.0)
    half, layer = logits(model.bridge.language.inner), model.bridge.language.inner.model.layers[0].self_attn.q_proj
    expected = layer.base_layer.weight + 4.0 / 8 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(torch.eye(expected.shape[1])).T, expected)
    model.save(tmp_path / "half")
    again: Any = diptych.load(tmp_path / "half")
    assert (again.lora.used, again.rounded) == (4.0, True)
    torch.testing.assert_close(logits(again.bridge.language.inner), half)
    weak: Any = replace(made, used_alpha=0.0).deploy(made.model())
    assert weak.lora.used == 0.0
    again.lora = None
    with pytest.raises(ConfigError, match="has no adapters of its own"):
        again.use_alpha(1.0)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    config["lora"]["rank"] = 4
    (tmp_path / "half" / "config.json").write_text(json.dumps(config))
    with pytest.raises(diptych.core.errors.RunError, match=r"lora_A|size mismatch"):
        diptych.load(tmp_path / "half")


def test_projector_and_adapters_alone_are_trained() -> None:
    made = replace(PLLaVA.tiny(), **SMALL).prepare(DATA)
    torch.manual_seed(0)
    bridge = made.model()
    trained = {name for name, p in bridge.named_parameters() if p.requires_grad}
    assert all(name.startswith("connector.") or ".lora_" in name for name in trained)
    assert any("q_proj.lora_A" in name for name in trained)
    (step,) = batches(DATA, made, seed=0, stop=1)
    assert step.batch.image_BCHW.shape == (4, 4, 3, 48, 48)
    assert step.batch.slot_BL.sum(1).tolist() == [16] * 4
    found = made.metrics(made.features(bridge, step.batch), step.batch)["norm_kurtosis"]
    assert torch.isfinite(found)


def test_published_folders_hold_projector_and_adapters(tmp_path: Path) -> None:
    made = replace(PLLaVA.tiny(), **SMALL, adapter_targets=(r"\.q_proj$", r"\.v_proj$")).prepare(DATA)
    torch.manual_seed(1)
    source = made.model()
    for name, parameter in source.named_parameters():
        if ".lora_" in name or name.startswith("connector."):
            torch.nn.init.normal_(parameter)
    tensors = {
        name.replace("language.inner.", "language_model.base_model.model.").replace("connector.", "multi_modal_projector."): value
        for name, value in targets(source).items()
        if ".lora_" in name or name.startswith("connector.")
    }
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    taken = replace(made, adapters_from=f"hf:{tmp_path}").model()
    held = {name: value for name, value in taken.named_parameters() if value.requires_grad}
    assert all(torch.equal(value, held[name]) for name, value in source.named_parameters() if value.requires_grad)
    dropped = next(name for name in tensors if "lora_B" in name)
    save_file(
        {name: value.detach().contiguous() for name, value in tensors.items() if name != dropped}, tmp_path / "model.safetensors"
    )
    with pytest.raises(DataError, match=r"lora_B.* is missing"):
        replace(made, adapters_from=f"hf:{tmp_path}").model()


def test_the_published_sizes() -> None:
    made = PLLaVA.paper()
    assert (made.crop, made.flip, made.short_clips, made.text_length) == ((0.5, 1.0), True, "last", 511 + 2304)
    assert (made._slots(), made.adapter_alpha / made.adapter_rank) == (2304, 0.25)
    with torch.device("meta"):
        spec = made.connector_spec()
        built: Any = connector(spec.pop("kind"), 1024, 4096, **spec)
        tower: Any = image_tower(made.image_tower, image_size=336)
    assert built.count(16 * tower.grid[0] * tower.grid[1]) == 2304
    assert sum(p.numel() for p in built.parameters()) == 20_979_712


def test_short_clips_and_bad_pools() -> None:
    world = clips(2, seed=0, length=3)
    shown = read_frames(world[0], "clip", 4, None, short="early")
    frames = read_frames(world[0], "clip", 3, None)
    order = [next(n for n in range(3) if np.array_equal(frame, frames[n])) for frame in shown]
    assert order == RELEASED["early"]
    padded = read_frames(world[0], "clip", 5, None, short="last")
    assert [next(n for n in range(3) if np.array_equal(frame, frames[n])) for frame in padded] == [0, 1, 2, 2, 2]
    made = replace(PLLaVA.tiny(), **SMALL).prepare(DATA)
    with pytest.raises(DataError, match="has 3 frames"):
        made.load(asked(world[0]), np.random.default_rng(0))
    with pytest.raises(DataError, match="no question about a clip"):
        made.load(world[0], np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"pool is \[9, 2, 2\] of 4 frames"):
        replace(made, pool=(9, 2, 2))


def test_clips_are_normalised_by_imagenet_in_training_alone() -> None:
    made = replace(PLLaVA.tiny(), **SMALL).prepare(DATA)
    shown = []
    for released in (False, True):
        (step,) = batches(DATA, replace(made, released_normalisation=released), seed=0, stop=1)
        shown.append(step.batch.image_BCHW)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (made.preprocess.mean, made.preprocess.std))
    other, scale = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(shown[1] * scale + other, shown[0] * std + mean)
    assert not torch.allclose(shown[0], shown[1])


def test_kurtosis_finds_a_dominant_token() -> None:
    torch.manual_seed(0)
    token = torch.randn(4, 100, 8)
    token = token / token.norm(dim=2, keepdim=True) * (1 + 0.1 * torch.randn(4, 100, 1))
    assert float(norm_kurtosis(token)) == pytest.approx(3, abs=0.7)
    token[0, 0] *= 50
    assert float(norm_kurtosis(token)) > 100
