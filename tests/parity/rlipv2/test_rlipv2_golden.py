"""A whole forward pass of the released RLIPv2-ParSeDA, at a width of 64: every module and every head of every decoder layer.

`rlipv2_tiny.npz.xz` holds random weights under their released names ("weights/...", int16 times `weight_scale`) and what the released
code computed with them from given feature maps: evaluation mode, one image, float32.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.rlipv2.published import from_released
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder

HERE = Path(__file__).parent
GIVEN = ("feat0", "feat1", "feat2", "pixel_mask", "text_mask", "spatial_shapes", "valid_ratios")


class GivenMaps(DetectionBackbone):
    """The stored feature maps in place of a backbone."""

    strides, channels = (8, 16, 32), (16, 24, 32)

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return self.maps


@cache
def golden() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """The settings, the released weights and the stored values."""
    settings = json.loads((HERE / "rlipv2_tiny.json").read_text())
    with np.load(io.BytesIO(lzma.decompress((HERE / "rlipv2_tiny.npz.xz").read_bytes()))) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    weights = {
        name.removeprefix("weights/"): value.float() * settings["weight_scale"]
        for name, value in arrays.items()
        if name.startswith("weights/")
    }
    return settings, weights, {name: value for name, value in arrays.items() if not name.startswith("weights/")}


def detector() -> RelationDetector:
    settings, weights, values = golden()
    roberta = settings["roberta_config"]
    shape = RelationDetectorConfig(
        pairs=8,
        width=64,
        mlp_width=64,
        fusion_width=128,
        norm_groups=32,
        in_padded=True,
        relation_boxes=True,
        language_heads=roberta["num_attention_heads"],
        language_mlp=roberta["intermediate_size"],
    )
    maps = GivenMaps([values[f"feat{level}"] for level in range(3)])
    model = RelationDetector(maps, label_encoder("hf", config={"model_type": "roberta", **roberta}), shape)
    with pytest.warns(UserWarning, match="only the first number is read"):  # released gates are vectors whose first number counts
        model.load_state_dict(from_released(weights))
    return model.eval()


def texts() -> tuple[Tensor, Tensor]:
    """Token ids and their mask, padded to the longest text."""
    settings, _, _ = golden()
    tokens = [settings["tokens"][text] for text in (*settings["object_texts"], *settings["relation_texts"])]
    length = max(map(len, tokens))
    ids = torch.tensor([row + [settings["roberta_config"]["pad_token_id"]] * (length - len(row)) for row in tokens])
    return ids, torch.tensor([[column < len(row) for column in range(length)] for row in tokens])


class Watched:
    """A detector whose modules note what they were given and gave, by the names of the stored values.

    forced   every module's answer is replaced by the stored one, so that the next starts from exactly what the release gave it
    """

    def __init__(self, *, forced: bool = False) -> None:
        self.model, self.forced = detector(), forced
        self.values: dict[str, Tensor] = {}
        model = self.model
        self._watch(model.labels, lambda args, out: {"text_pooler": out}, lambda out: self._of("text_pooler"))
        self._watch(model.pyramid, lambda args, out: {"pos_flat": out.position_BPD})
        for k, fusion in enumerate(model.encoder.fusions):
            self._watch(
                fusion,
                lambda args, out, k=k: _fusion(f"fusion{k}", args, out),
                lambda out, k=k: self._of(f"fusion{k}_out_v", f"fusion{k}_out_l"),
            )
        for k, layer in enumerate(model.encoder.language):
            self._watch(
                layer, lambda args, out, k=k: {f"lang_layer{k}_out": out}, lambda out, k=k: self._of(f"lang_layer{k}_out")
            )
        for k, layer in enumerate(model.encoder.layers):
            self._watch(
                layer,
                lambda args, out, k=k: {f"enc_layer{k}_out": out.tokens_BPD},
                lambda out, k=k: replace(out, tokens_BPD=self._of(f"enc_layer{k}_out")),
            )
        self._watch(model.encoder, lambda args, out: {"memory": out[0].tokens_BPD})
        self.narrowed: list[Tensor] = []
        model.narrow.register_forward_hook(lambda module, args, out: self.narrowed.append(out.transpose(0, 1)))
        for kind, decoder in (("entity", model.entity_decoder), ("relation", model.relation_decoder)):
            for k, layer in enumerate(decoder.layers):
                name = f"{kind}_dec{k}"
                self._watch(
                    layer,
                    lambda args, out, name=name: _decoder_layer(name, args, out),
                    lambda out, name=name: self._of(f"{name}_out"),
                )
        assert model.relation_decoder.fuse is not None
        self._watch(model.relation_decoder.fuse, lambda args, out: {"mbf_out": out}, lambda out: self._of("mbf_out"))

    def __call__(self, *, pixels: Tensor | None = None) -> PairSet:
        ids, mask = texts()
        with torch.no_grad():
            said: PairSet = self.model(torch.zeros(1, 3, 96, 96), ids, mask, entities=6, pixel_BHW=pixels)
        self.values["text_resized_3layers"] = torch.stack(self.narrowed)
        heads = {
            "pred_sub_logits": said.subject_logit_BSQC,
            "pred_obj_logits": said.object_logit_BSQC,
            "pred_verb_logits": said.relation_logit_BSQR,
            "pred_sub_boxes": said.subject_box_BSQ4,
            "pred_obj_boxes": said.object_box_BSQ4,
        }
        for name, value_BSX in heads.items():
            self.values |= {prefix + name: value_BSX[:, layer] for layer, prefix in enumerate(("out_aux0_", "out_aux1_", "out_"))}
        return said

    def _watch(
        self, module: nn.Module, note: Callable[..., dict[str, Tensor]], stored: Callable[[Any], Any] | None = None
    ) -> None:
        def hook(_: nn.Module, args: Any, out: Any) -> Any:
            self.values |= note(args, out)
            return stored(out) if self.forced and stored is not None else None

        module.register_forward_hook(hook)

    @staticmethod
    def _of(*names: str) -> Any:
        found = tuple(golden()[2][name] for name in names)
        return found if len(found) > 1 else found[0]


def _fusion(name: str, args: Any, out: Any) -> dict[str, Tensor]:
    given = {f"{name}_{part}": value for part, value in zip(("in_v", "in_l", "pos"), args[:3], strict=True)}
    return given | {f"{name}_{part}": value for part, value in zip(("out_v", "out_l"), out, strict=True)}


def _decoder_layer(name: str, args: Any, out: Tensor) -> dict[str, Tensor]:
    _, position, reference, pyramid = args[:4]
    return {f"{name}_out": out, f"{name}_query_pos": position, f"{name}_ref": pyramid.in_levels(reference)}


def stored_values() -> dict[str, Tensor]:
    """What the release computed, without what it was given."""
    return {name: value for name, value in golden()[2].items() if name not in GIVEN and "_mask_" not in name}


def compared(values: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(values[name], value) for name, value in stored_values().items()]


def differences(values: dict[str, Tensor], limit: float) -> dict[str, float]:
    """The largest absolute difference of each stored value that is farther off than the limit."""
    stored = stored_values()
    assert len(stored) == 62
    apart = {name: (values[name] - value).abs().max().item() for name, value in stored.items()}
    assert all(values[name].shape == value.shape for name, value in stored.items())
    return {name: value for name, value in apart.items() if not value <= limit}


def test_every_module_equals_the_release_on_what_the_release_gave_it(parity: Any) -> None:
    watched = Watched(forced=True)
    watched()
    assert not differences(watched.values, 1e-5)
    parity(
        "rlipv2",
        "every module on what the release gave it",
        "one whole pass of JacobYuan7/RLIPv2",
        compared(watched.values),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("mask", [False, True], ids=["no mask", "a mask without padding"])
def test_the_whole_pass_equals_the_release(mask: bool, parity: Any) -> None:
    watched = Watched()
    watched(pixels=torch.ones(1, 96, 96, dtype=torch.bool) if mask else None)
    assert not differences(watched.values, 5e-5)
    parity(
        "rlipv2",
        "every module, box and logit of a whole pass",
        "one whole pass of JacobYuan7/RLIPv2",
        compared(watched.values),
        tolerance=5e-5,
    )


def test_relation_boxes_move_references_and_logits() -> None:
    """The heads of the relation decoder are not zero in a checkpoint: without them its references and logits are off."""
    watched, (_, _, values) = Watched(), golden()
    watched.model.relation_decoder.subject_box = watched.model.relation_decoder.object_box = None
    said = watched()
    assert (watched.values["relation_dec2_ref"] - values["relation_dec2_ref"]).abs().max() > 0.1
    assert (said.relation_logit_BSQR[:, -1] - values["out_pred_verb_logits"]).abs().max() > 0.5
    assert (said.subject_logit_BSQC[:, -1] - values["out_pred_sub_logits"]).abs().max() < 5e-5
