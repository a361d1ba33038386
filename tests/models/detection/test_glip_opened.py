"""A GLIP by its address, started from, trained small, and asked for phrases."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.models.detection.test_glip import SHAPE, detector, inputs, small_released
from tokenizers import Tokenizer as WordLevelTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from diptych import api
from diptych.cli import main
from diptych.core.contracts import Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.data.load.stream import batches
from diptych.data.media.decode import encode_png
from diptych.models.detection.dense.dense_detector import DenseDetector, DensePhraseDetector
from diptych.recipes.grounding.desco import DesCo
from diptych.worlds.scenes.world import scenes


def bert_folder(folder: Path) -> Path:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "red": 4, "circle": 5, "star": 6, ".": 7, "[MASK]": 8}
    tokens = WordLevelTokenizer(WordLevel({**words, **{f"w{n}": n for n in range(9, 40)}}, unk_token="[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    tokens.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 4}))
    return folder


def test_a_released_checkpoint_is_opened(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    tensors = {f"module.{name}": tensor.float() for name, tensor in small_released().items()}
    torch.save({"model": tensors}, tmp_path / "glip.pth")
    model: Any = api.load(f"glip:{tmp_path / 'glip.pth'}#{folder}")
    shape = model.model.shape
    assert isinstance(model.model, DenseDetector)
    assert (model.text_length, model.model.head.strides) == (32, (8, 16, 32, 64, 128))
    assert (shape.rounds, shape.meeting_width, shape.word_heads, shape.word_mlp, shape.head_width) == (2, 32, 4, 96, 16)
    found = model.detect(np.full((40, 60, 3), 90, np.uint8), objects=["red circle", "star"])
    assert {region.label for region in found.regions} <= {"red circle", "star"}
    text = deepcopy(detector().text).float()
    _, ids, mask = inputs()
    torch.testing.assert_close(
        model.model.text(ids, mask).tokens_BPD, text(ids, mask).tokens_BPD
    )  # the folder's weights are not used
    torch.save({"model": {name: tensor.float() for name, tensor in small_released(met=False).items()}}, tmp_path / "apart.pth")
    apart: Any = api.load(f"glip:{tmp_path / 'apart.pth'}#{folder}")
    assert (apart.model.shape.meeting_width, apart.model.shape.rounds) == (0, 2)


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "roberta").mkdir()
    (tmp_path / "roberta" / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    tensors = {name: tensor.float() for name, tensor in small_released().items()}
    save_file(tensors, tmp_path / "glip.safetensors")
    short = "language_backbone.body.model.embeddings.word_embeddings.weight"
    save_file({**tensors, short: tensors[short][:9].clone()}, tmp_path / "short.safetensors")
    gain = "rpn.head.dyhead_tower.0.b_attn.gamma_v"
    save_file({**tensors, gain: tensors[gain][:9].clone()}, tmp_path / "odd.safetensors")
    for address, error, fault in (
        (
            f"glip:{tmp_path / 'odd.safetensors'}#{folder}",
            ConfigError,
            r"not of this network; of another size: .* \[9\] for \[16\]$",
        ),
        ("glip:a.pth", ConfigError, "does not name a checkpoint and a text encoder"),
        (f"glip:{tmp_path / 'glip.safetensors'}#{tmp_path}", DataError, "the folder has no config.json"),
        (f"glip:{tmp_path / 'none.safetensors'}#{folder}", DataError, "there is no such file"),
        (f"glip:{tmp_path / 'none.pth'}#{folder}", DataError, "there is no such file"),
        (f"glip:{tmp_path / 'other.safetensors'}#{folder}", DataError, "contains no GLIP"),
        (f"glip:{tmp_path / 'glip.safetensors'}#{tmp_path / 'roberta'}", DataError, "config.json is of a roberta"),
        (f"glip:{tmp_path / 'short.safetensors'}#{folder}", ConfigError, "ids up to 39 and the checkpoint 9 words"),
    ):
        with pytest.raises(error, match=fault):
            api.load(address)


def test_it_learns_and_is_found_again(tmp_path: Path) -> None:
    rows = scenes(8, seed=0)
    recipe = replace(DesCo.tiny(), boxes_by="places", batch_size=4).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    optimiser, values = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(6):
        optimiser.zero_grad()
        total = torch.stack(list(recipe.losses(recipe.features(model, step.batch), step.batch).values())).sum()
        total.backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimiser.step()
        values.append(float(total.detach()))
    assert values[-1] < values[0]
    deployed = recipe.deploy(model.eval())
    assert isinstance(deployed, DensePhraseDetector)
    assert isinstance(deployed, Grounder)
    assert isinstance(deployed, Detector)
    deployed.save(tmp_path / "model")
    again = api.load(tmp_path / "model")
    assert isinstance(again, DensePhraseDetector)
    image, query = rows[0].image, PhraseQuery.of(["a red circle", "a star"])
    for before, after in zip(deployed.ground([image], [query], top=3)[0], again.ground([image], [query], top=3)[0], strict=True):
        assert len(before.score_N) == 3
        assert (before.box_N4 >= 0).all()
        assert (before.box_N4 <= 64).all()
        np.testing.assert_allclose(before.box_N4, after.box_N4, atol=1e-4)
    assert "each behind a meeting of image and text," in (tmp_path / "model" / "README.md").read_text()


def test_a_picture_and_a_text_are_read_alike_whatever_stands_beside_them() -> None:
    """Padded words of a longer neighbour change nothing; places of padding are read, as published."""
    made, (image, ids, mask) = detector(), inputs()
    with torch.no_grad():
        both, alone = made(image, ids, mask), made(image[1:], ids[1:, :4], mask[1:, :4])
    torch.testing.assert_close(both.change_BA4[1:], alone.change_BA4)
    torch.testing.assert_close(both.token_logit_BAL[1:, :, :4], alone.token_logit_BAL)


def test_released_weights_start_a_run(tmp_path: Path) -> None:
    rows = scenes(4, seed=0)
    recipe = replace(DesCo.tiny(), boxes_by="places", dense=SHAPE, frozen=0, batch_size=2, steps=1, warmup=0.0, average=0.0)
    tensors = {name: tensor.float() for name, tensor in small_released().items()}
    save_file(tensors, tmp_path / "glip.safetensors")
    found = recipe.fitted(tensors)
    model = recipe.prepare(rows).model()
    shared = [name for name, tensor in model.state_dict().items() if name in found and found[name].shape == tensor.shape]
    assert any("tower.blocks.1.own.weight" in name for name in shared)
    made = api.train(recipe, data=rows, out=tmp_path / "run", init=str(tmp_path / "glip.safetensors"), hold_out=0, seed=0)
    trained: Any = api.load(made.path)
    assert float((trained.model.state_dict()["head.tokens.bias"] - tensors["rpn.head.bias0"]).abs()) < 0.01
    with pytest.raises(ConfigError, match="what finds boxes by places"):
        replace(recipe, reads="pieces")
    with pytest.raises(ConfigError, match="boxes_by is 'anchors'"):
        replace(recipe, boxes_by="anchors")  # type: ignore[arg-type]


def test_the_commands_train_and_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, picture = tmp_path / "run", tmp_path / "scene.png"
    words = ["--steps", "2", "--batch-size", "4", "--boxes-by", "places", "--rounds", "1", "--meeting-width", "32"]
    assert main(["train", "desco", "--data", "world:scenes?n=12", "--out", str(run), *words]) == 0
    capsys.readouterr()
    picture.write_bytes(encode_png(scenes(1, seed=1)[0].image.pixels_HWC))  # type: ignore[union-attr]
    assert main(["detect", str(run), str(picture), "--phrase", "a red circle", "--json", "--min-score", "0"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["images"]
    assert len(answer["phrases"][0]["boxes"]) > 3
    model: Any = api.load(run)
    assert (model.kind, len(model.model.head.tower.meetings)) == ("dense_phrase_detector", 1)
