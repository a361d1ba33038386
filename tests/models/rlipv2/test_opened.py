"""Checkpoints in the released layout open as detectors, answer, and start a training run."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from diptych import api
from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.checkpoint import ReleasedCheckpoint
from diptych.models.rlipv2 import opened
from diptych.models.rlipv2.graph_detector import GraphDetector
from diptych.models.rlipv2.published import ROBERTA, build, to_released
from diptych.models.rlipv2.relation_detector import RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
OPTIONS = {
    "verb_query_tgt_type": "vanilla_MBF",
    "fusion_interval": 2,
    "fusion_last_vis": True,
    "lang_aux_loss": True,
    "dropout": 0.0,
}
TAGGER = {"variant": "parsed", "given": True, "given_point": True, "hide_twins": "training"}
RELEASED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "pre-trained, ResNet-50": ("resnet50", {}, {"gating_mechanism": "VXAc", "dataset_file": "vg_coco2017_o365"}),
    "pre-trained, Swin-T": ("swin_tiny", {}, {"gating_mechanism": "VXAc", "drop_path_rate": 0.2}),
    "HICO-DET, Swin-L": (
        "swin_large",
        {"pairs": 64},
        {"gating_mechanism": "VXAc", "dataset_file": "hico", "drop_path_rate": 0.5},
    ),
    "late fusion": ("resnet50", {"fusion": "late"}, {"gating_mechanism": "VXAc", "fusion_type": "MDETR_attn"}),
    "ParSeD, ResNet-50": ("resnet50", {"variant": "parsed", "mlp_width": 1024}, {"gating_mechanism": "VXAc"}),
    "ParSeD, Swin-L": ("swin_large", {"variant": "parsed"}, {"gating_mechanism": "VXAc"}),
    "tagger, ResNet-50": (
        "resnet50",
        {**TAGGER, "relation_start": "slots", "gate": "vector", "mlp_width": 1024},
        {"gating_mechanism": "GLIP", "verb_query_tgt_type": "vanilla"},
    ),
    "tagger, Swin-L": ("swin_large", {**TAGGER, "relation_start": "both"}, {"gating_mechanism": "VXAc"}),
}
"""What the scripts of the release train: backbone, what `build` makes of it, and the options that `main.py` saves."""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RELEASED))
def test_the_architecture_is_read_off_a_full_size_file(name: str) -> None:
    backbone, changes, options = RELEASED[name]
    with torch.device("meta"):
        model = build(backbone, **changes)
        released = ReleasedCheckpoint(to_released(model.state_dict(), model.shape), {**OPTIONS, **options}, "checkpoint.pth")
        found, shape = opened.architecture(released)
    assert {f.name: getattr(shape, f.name) for f in fields(shape)} == {
        f.name: getattr(model.shape, f.name) for f in fields(shape)
    }
    assert found["name"] == model.backbone.spec["name"]


def roberta_folder(folder: Path) -> Path:
    """A tiny text encoder with its tokenizer, in transformers' layout."""
    letters = [*"abcdefghijklmnopqrstuvwxyzĠ"]
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = transformers.RobertaTokenizer(vocab={piece: n for n, piece in enumerate([*marks, *letters])}, merges=[])
    words.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    more = {"vocab_size": 40, "max_position_embeddings": 34, "type_vocab_size": 1}
    transformers.RobertaConfig(**sizes, **more, pad_token_id=1, bos_token_id=0, eos_token_id=2).save_pretrained(folder)
    return folder


SMALL = {
    "width": 32,
    "heads": 2,
    "mlp_width": 16,
    "pairs": 3,
    "branches": 16,
    "levels": 4,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "fusion_before": (0, 1, 2),
    "fusion_width": 16,
    "language_heads": 2,
    "language_mlp": 64,
    "released_masks": True,
}


def save(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[str, RelationDetector]:
    """A checkpoint of a small model as `main.py` writes it, its address, and the model. What no file says of a small one is told to the
    reader: its widths are those of no release."""
    words = roberta_folder(folder / "roberta")
    config = {**ROBERTA, **json.loads((words / "config.json").read_text())}
    config = {key: config[key] for key in ROBERTA}
    torch.manual_seed(0)
    backbone = detection_backbone("timm:resnet10t", frozen_norm=True)
    model = RelationDetector(backbone, label_encoder("hf", config=config), RelationDetectorConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    widths = {"width", "heads", "levels", "fusion_width", "language_heads", "language_mlp"}
    monkeypatch.setattr(
        opened, "PUBLISHED", RelationDetectorConfig(**{**SMALL, **{k: v for k, v in changes.items() if k in widths}})
    )
    monkeypatch.setitem(opened.BACKBONES, "resnet50", {"name": "timm:resnet10t", "frozen_norm": True})
    tensors = to_released(model.state_dict(), model.shape)
    trained = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(trained.parameters())
    options = argparse.Namespace(**{**OPTIONS, "fusion_interval": 1, "gating_mechanism": "VXAc", "dataset_file": "hico"})
    content = {"model": tensors, "optimizer": optimiser.state_dict(), "epoch": 19, "args": options}
    torch.save(content, folder / "checkpoint.pth")
    return f"rlipv2:{folder / 'checkpoint.pth'}#{words}", model


def answers(detector: GraphDetector) -> list[Tensor]:
    objects, relations = ["person", "dog"], ["walk", "hold"]
    rows = detector.triplets([ArrayImage(PIXELS)], objects=objects, relations=relations, top=10)
    return [rows[0][0].score_T]


@pytest.mark.parametrize("changes", [{}, {"fusion": "late"}, {"variant": "parsed"}], ids=["parseda", "late", "parsed"])
def test_a_checkpoint_detects_what_its_model_detects(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, model = save(tmp_path, monkeypatch, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector = api.load(address)
    assert isinstance(detector, Detector)
    assert "person" in detector.objects
    assert len(detector.relations) == 117
    detector.images = type(detector.images)(64, longest=96)
    known = GraphDetector(model, detector.texts, detector.images, "known")
    for ours, theirs in zip(answers(detector), answers(known), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    detector.save(tmp_path / "kept")
    again = api.load(tmp_path / "kept")
    again.images = detector.images
    torch.testing.assert_close(answers(again)[0], answers(detector)[0])


def test_a_run_starts_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, model = save(tmp_path, monkeypatch)
    said: list[str] = []
    options: dict[str, Any] = {"steps": 1, "batch_size": 2, "progress": False, "lr": 1e-12, "image_size": 64, "square": True}
    run = api.train(
        "rlipv2", "world:links?n=8", tmp_path / "run", init=address, say=said.append, preset="paper", pairs=2, **options
    )
    assert any(line.startswith("fresh") for line in said) is False
    assert any("tensors start from rlipv2:" in line for line in said)
    after = api.load(run.path).model.state_dict()
    before = model.state_dict()
    assert torch.equal(after["queries.content_QD"], before["queries.content_QD"][[0, 1, 3, 4]])  # the first pairs, both halves
    torch.testing.assert_close(after["narrow.0.weight"], before["narrow.0.weight"], atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="is a detector of regions that it finds"):
        api.train("rlipv2", "world:links?n=8", tmp_path / "no", init=address, preset="tagger_released", **options)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected rlipv2:CHECKPOINT#ROBERTA-FOLDER"):
        api.load("rlipv2:checkpoint.pth")
    address, _ = save(tmp_path, monkeypatch)
    path, _, folder = address.removeprefix("rlipv2:").partition("#")
    with pytest.raises(DataError, match=r"the folder has no config\.json"):
        api.load(f"rlipv2:{path}#{tmp_path}")
    with pytest.raises(DataError, match="there is no such file"):
        api.load(f"rlipv2:{path}x#{folder}")
    content = torch.load(path, weights_only=False)
    content["model"].pop("bias_obj_a")
    torch.save(content, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ConfigError, match=r"not in the file: classifier\.entity_shift_D"):
            api.load(address)
    torch.save({"model": {"class_embed.weight": torch.zeros(1)}}, path)
    with pytest.raises(ConfigError, match="no RLIPv2-ParSeDA, RLIPv2-ParSeD or R-Tagger"):
        api.load(address)
