"""Report decoder: the released module on equal weights, beam search, vocabulary, a decoder that learns, refusals."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.text.reports.report_words import ReportVocabulary, report_words
from diptych.models.chests.memory_transformer import (
    MemoryConditionalNorm,
    MemoryTransformer,
    MemoryTransformerConfig,
    beam_search,
)
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.domains.report_head import ReportHead
from diptych.tasks.domains.report_training import ReportTraining, report_loss, trained_report_writer

RELEASED = json.loads((Path(__file__).parents[2] / "parity" / "released" / "r2gen_released.json").read_text(encoding="utf-8"))
SMALL = MemoryTransformerConfig(width=16, heads=4, layers=2, mlp_width=24, slots=3)
LINEARS = {"query": "linears.0", "key": "linears.1", "value": "linears.2", "out": "linears.3"}
RELEASED_NAMES = (
    (r"^features\.0", "att_embed.0"),
    (r"^logits", "logit"),
    (r"^words", "model.tgt_embed.0.lut"),
    (r"^memory\.attention", "model.rm.attn"),
    (r"^memory\.mlp", "model.rm.mlp"),
    (r"^memory\.word_gates", "model.rm.W"),
    (r"^memory\.memory_gates", "model.rm.U"),
    (r"^(encoder|decoder)_norm", r"model.\1.norm"),
    (r"^(encoder|decoder)\.(\d)", r"model.\1.layers.\2"),
    (r"\.norms\.(\d)", r".sublayer.\1.norm"),
    (r"layers\.(\d)\.(attention|own)\.", r"layers.\1.self_attn."),
    (r"layers\.(\d)\.image\.", r"layers.\1.src_attn."),
    (r"layers\.(\d)\.mlp\.0", r"layers.\1.feed_forward.w_1"),
    (r"layers\.(\d)\.mlp\.3", r"layers.\1.feed_forward.w_2"),
    (r"\.(query|key|value|out)\.", lambda match: f".{LINEARS[match[1]]}."),
    (r"\.scale_D$", ".gamma"),
    (r"\.offset_D$", ".beta"),
    (r"scale_shift", "mlp_gamma"),
    (r"offset_shift", "mlp_beta"),
)


def wave(name: str, shape: tuple[int, ...], scale: float) -> Tensor:
    """Numbers that anybody can make again, which the released code was run on."""
    values = scale * np.sin(np.arange(1, math.prod(shape) + 1) * 12.9898 + zlib.crc32(name.encode()) % 1000)
    return torch.from_numpy(values.reshape(shape))


def released_name(name: str) -> str:
    for pattern, other in RELEASED_NAMES:
        name = re.sub(pattern, other, name)
    return name


def filled(end: float = 0.0) -> MemoryTransformer:
    """The weights that the released code was run with; `end` is added to the bias of word 0."""
    model = MemoryTransformer(6, 11, SMALL).double().eval()
    state = {}
    for name, tensor in model.state_dict().items():
        theirs, shape = released_name(name), tuple(tensor.shape)
        if theirs.endswith("gamma"):
            state[name] = wave(theirs, shape, 0.2) + 1
        else:
            state[name] = wave(theirs, shape, 0.3 if tensor.ndim == 1 else 2 / math.sqrt(shape[1]))
    model.load_state_dict(state)
    model.logits.bias.data[0] += end
    return model


FEATURES = wave("features", (2, 4, 6), 1.0)
IDS = torch.tensor([[0, 3, 7, 2, 9, 0], [0, 5, 1, 0, 0, 0]])


def test_memory_norm_and_log_probabilities_are_the_released_ones(parity: Any) -> None:
    """In double precision, but for the released table of positions, which is of single precision."""
    model = filled()
    with torch.no_grad():
        memory_BLM = model.memory(model.embedded(IDS[:, :-1]))
        (norm, *_) = (part for part in model.modules() if isinstance(part, MemoryConditionalNorm))
        norm_BLD = norm(wave("x", (2, 5, 16), 1.0), memory_BLM)
        log_BLV = model(FEATURES, IDS[:, :-1]).log_softmax(-1)
    outputs = {"memory": memory_BLM, "norm": norm_BLD, "log": log_BLV}
    for what, name in (("relational memory", "memory"), ("memory-conditional norm", "norm"), ("log-probabilities", "log")):
        theirs = torch.tensor(RELEASED[name], dtype=torch.float64)
        mine = outputs[name]
        parity("benchx", f"{what} of the report decoder", "outputs of R2Gen's code in BenchX", [(mine, theirs)], tolerance=2e-6)


def test_beam_search_writes_what_the_released_one_does() -> None:
    for case in RELEASED["beams"]:
        reports = beam_search(filled(case["end"]), FEATURES, beams=case["beams"], length=12)
        padded = [[*report, *[0] * (12 - len(report))] for report in reports]
        assert padded == case["words"], case
    assert len({str(case["words"]) for case in RELEASED["beams"]}) > 2


def test_wide_beams_find_the_likeliest_report_of_all() -> None:
    """Every report of up to three words over two words, by its log-probability."""
    torch.manual_seed(1)
    model = MemoryTransformer(6, 3, SMALL).double().eval()
    feature_1PE = FEATURES[:1]
    scored = {}
    for length in range(4):
        for words in product((1, 2), repeat=length):
            ids = torch.tensor([[0, *words, *([0] if length < 3 else [])]])
            with torch.no_grad():
                log_LV = model.decode(ids[:, :-1], model.encode(feature_1PE), model.memory(model.embedded(ids[:, :-1])))[0]
            scored[words] = float(log_LV.log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
    assert tuple(beam_search(model, feature_1PE, beams=9, length=3)[0]) == max(scored, key=scored.__getitem__)


def test_loss_is_a_mean_over_words_behind_the_first() -> None:
    model, reports = filled(), [[0, 3, 7, 2, 9, 0], [0, 5, 1, 0]]
    with torch.no_grad():
        loss = float(report_loss(model, FEATURES, reports))
        logs = [
            float(model(FEATURES[row : row + 1], torch.tensor([report[:-1]]))[0].log_softmax(-1)[at, word])
            for row, report in enumerate(reports)
            for at, word in enumerate(report[1:])
        ]
    assert loss == pytest.approx(-sum(logs) / len(logs))


def test_rare_words_are_one_word() -> None:
    reports = ["No effusion. No mass.", "No effusion.\nSmall mass."]
    vocabulary = ReportVocabulary.of(reports, threshold=2)
    assert vocabulary.words == (".", "<unk>", "effusion", "mass", "no")
    ids = vocabulary.encode("No large effusion.")
    assert ids == [0, 5, 2, 3, 1, 0]
    assert vocabulary.decode([*ids[1:], 4]) == "no <unk> effusion ."
    assert vocabulary.encode("No large effusion.", 3) == [0, 5, 2]
    assert report_words(reports[1]) == ["no", "effusion", "small", "mass", "."]
    assert report_words(reports[1], "mimic_cxr") == ["no", "effusion", ".", "small", "mass", "."]
    with pytest.raises(DataError, match="none of 5 words occurs 9 times"):
        ReportVocabulary.of(reports, threshold=9)
    with pytest.raises(ConfigError, match="cleaning 'chexpert'"):
        ReportVocabulary.of(reports, cleaning="chexpert")  # type: ignore[arg-type]


class Shades:
    """An encoder that sees how bright an image is."""

    name = fingerprint = "shades"

    def embed_dense(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        shade_N = np.array([np.asarray(image.pixels_HWC).mean() / 64 for image in images], np.float32)
        return np.stack([np.sin(shade_N), np.cos(shade_N)], -1)[:, None, None].repeat(2, 1).repeat(2, 2)

    def embed_images(self, images: Sequence[Any]) -> Any:
        return self.embed_dense(images)[:, 0, 0]


WRITTEN = ("The lungs are clear.", "Large left effusion. No mass.", "Cardiomegaly is seen.", "Pneumothorax on the right.")


def part(name: str, copies: int) -> Pool:
    samples = [
        Sample(
            f"{name}-{n}",
            ArrayImage(np.full((8, 8, 3), 10 + 64 * (n % 4) + n // 4, np.uint8), f"{name}-{n}"),
            (Text(WRITTEN[n % 4], "en"),),
            extras={"patient": f"{name}-{n}"},
        )
        for n in range(4 * copies)
    ]
    return Pool.from_samples(samples, name=name)


SIZES = {"width": 32, "heads": 4, "layers": 1, "mlp_width": 32, "dropout": 0.0, "feature_dropout": 0.0, "length": 8, "draws": 5}
TRAINED = {**SIZES, "lr": 5e-3, "head_batch": 8, "epochs": 30, "patience": 30}


def test_a_decoder_learns_what_each_image_shows() -> None:
    task = ReportHead(train=part("train", 6), val=part("val", 1), **TRAINED)  # type: ignore[arg-type]
    result = dp.evaluate(Shades(), task, part("test", 2))
    assert result.metrics["bleu_4"].value > 0.7
    assert result.metrics["bleu_4/blind"].value < 0.5
    assert result.notes["words"] == len({word for report in WRITTEN for word in report_words(report)}) + 1


def test_an_encoder_is_trained_beside_the_decoder_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    recipe = replace(CLIP.tiny(), image_tower="vit_micro", text_tower="text_micro", image_size=48, width=32).prepare(part("x", 1))
    model = recipe.deploy(recipe.model().eval())
    before = {name: tensor.clone() for name, tensor in model.model.image_tower.state_dict().items()}
    train, val = (([sample.image for sample in pool], WRITTEN) for pool in (part("train", 1), part("val", 1)))
    options = ReportTraining(decoder=SMALL, threshold=1, length=8, lr=1e-2, batch_size=2, epochs=1, encoder_rate=0.5)
    writer = trained_report_writer(model, train, val, options, seed=0)  # type: ignore[arg-type]
    moved = writer.features.tower.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.image_tower.state_dict().items())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in moved.items())
    assert len(writer.generate(val[0][:3], max_tokens=8)) == 3
    with pytest.raises(DataError, match="1 prompts have no image"):
        writer.generate([None])


def test_references_of_the_released_code_are_cut_and_have_unknown_words() -> None:
    rare = [*WRITTEN[:3], "Emphysema is seen in the left lung."]
    test = [
        Sample(f"t{n}", ArrayImage(np.full((8, 8, 3), n, np.uint8), f"t{n}"), (Text(report, "en"),), extras={"patient": f"t{n}"})
        for n, report in enumerate(rare)
    ]
    brief = {**TRAINED, "epochs": 1, "length": 6, "blind": False}
    for compat, last in (("", rare[3]), ("released", "<unk> is seen <unk> the")):
        task = ReportHead(train=part("train", 3), val=part("val", 1), compat=compat, **brief)  # type: ignore[arg-type]
        records = task.predict(Shades(), Pool.from_samples(test, name="test"))
        assert records.column("report").to_pylist()[3] == last


def test_refusals() -> None:
    train, val = part("train", 3), part("val", 1)
    with pytest.raises(DataError, match="patients are in both train and test"):
        ReportHead(train=train, val=val, **SIZES).predict(Shades(), part("train", 1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no image with a report in train"):
        ReportHead(train=train, val=val, section="impression", **SIZES).predict(Shades(), part("test", 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no tower that can be trained"):
        ReportHead(train=train, val=val, encoder_rate=0.5, **SIZES).predict(Shades(), part("test", 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="beams is 99 with 18 words"):
        ReportHead(train=train, val=val, beams=99, **SIZES).predict(Shades(), part("test", 1))  # type: ignore[arg-type]
    for wrong in ({"width": 30}, {"length": 1}, {"cleaning": "none"}, {"compat": "paper"}, {"section": "summary"}, {"beams": 0}):
        with pytest.raises(ConfigError):
            ReportHead(**wrong)
