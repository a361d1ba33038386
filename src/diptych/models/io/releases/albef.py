"""ALBEF's and TCL's released checkpoints as readers of pairs: "albef:FILE#BERT-FOLDER", FOLDER with the tokenizer and config.json of
bert-base-uncased. GroundVLP looks into them for where a text is.

Image side: BLIP's vision transformer. Text side: BERT, whose lower layers read the text only and whose upper ones read the picture, too.
Word head, queues and momentum copies are of training and are left out.

Letters: B batch, M pairs, C channel, H W, L tokens, P patches, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.models.detection.checkpoint import checkpoint_and_encoder, first_names, load_strictly
from diptych.models.io.foreign.matchers import BlipMatcher, MappingMatcher, MatcherInputs
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.io.foreign.transformers_layout import plain
from diptych.models.io.releases.slip_layout import count, slip_image_name, slip_image_tensor
from diptych.models.io.tensor_files import read_tensors
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.matching.match_maps import grad_times_attention
from diptych.models.pairs.matching.matcher import SideFeatures
from diptych.models.towers.towers import image_tower

SOURCE = "a released checkpoint of ALBEF or TCL"
LENGTH = 50
"""Tokens of a text, as GroundVLP reads them."""
IMAGE, TEXT = "visual_encoder.", "text_encoder."
HEADS = {"vision_proj": "image_projection", "text_proj": "text_projection", "itm_head": "fits"}
LEFT = re.compile(r"text_encoder\.cls\..+|\w+_m\..+|(image|text|idx)_queue|queue_ptr|queue_total|temp|.+\.pooler\..+")


class AlbefPairMatcher(MappingMatcher):
    """ALBEF's image encoder and BERT, read together for the match of pairs.

    image, text  arguments of `image_tower`, and a configuration of BERT; depth: its layers that read the text only
    """

    def __init__(self, image: Mapping[str, Any], text: Mapping[str, Any], depth: int, joint: int) -> None:
        super().__init__()
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer

        def layer(**changes: bool) -> nn.Module:
            config = BertConfig(**{**text, **changes})
            config._attn_implementation = "eager"  # the maps are read from its shares
            made: nn.Module = BertLayer(config)
            return made

        self.image_tower = image_tower(**image)
        self.embeddings: Any = BertEmbeddings(BertConfig(**text))
        upper = int(text["num_hidden_layers"]) - depth
        self.text_layers = nn.ModuleList(layer() for _ in range(depth))
        self.fusion_layers = nn.ModuleList(layer(is_decoder=True, add_cross_attention=True) for _ in range(upper))
        hidden = int(text["hidden_size"])
        self.image_projection, self.text_projection = nn.Linear(self.image_tower.width, joint), nn.Linear(hidden, joint)
        self.fits = nn.Linear(hidden, 2)
        self.width, self.fused_width = joint, hidden

    @property
    def layers(self) -> int:
        return len(self.text_layers) + len(self.fusion_layers)

    def read_images(self, image_BCHW: Tensor) -> SideFeatures:
        output = self.image_tower(image_BCHW)
        token_BPD = torch.cat([output.pooled_BD[:, None], output.tokens_BPD], 1)
        mask_BP = token_BPD.new_ones(token_BPD.shape[:2], dtype=torch.bool)
        return SideFeatures(l2_normalise(self.image_projection(output.pooled_BD)), token_BPD, mask_BP)

    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures:
        state_BLD: Tensor = self.embeddings(input_ids=text_BL)
        for layer in self.text_layers:
            state_BLD = layer(state_BLD, _added(mask_BL, state_BLD))
        return SideFeatures(l2_normalise(self.text_projection(state_BLD[:, 0])), state_BLD, mask_BL)

    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        fused_MLD = text.state_N
        for layer in self.fusion_layers:
            seen = _added(image.mask_NT, fused_MLD)
            fused_MLD = layer(
                fused_MLD, _added(text.mask_NT, fused_MLD), encoder_hidden_states=image.state_N, encoder_attention_mask=seen
            )
        answer_M2 = self.fits(fused_MLD[:, 0])
        return answer_M2[:, 1] - answer_M2[:, 0], fused_MLD[:, 0]

    def map_match(self, image_1CHW: Tensor, text_1L: Tensor, mask_1L: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """See `MappingMatcher`. Raises ConfigError for a layer that reads no picture."""
        if layer < len(self.text_layers):
            raise ConfigError(
                f"layer is {layer} (expected {len(self.text_layers)}..{self.layers - 1}: lower ones read no picture)"
            )
        shares: list[Tensor] = []
        reading: Any = self.fusion_layers[layer - len(self.text_layers)]
        watch = reading.crossattention.self.register_forward_hook(lambda module, inputs, output: shares.append(output[1]))
        try:
            with torch.no_grad():
                image = self.read_images(image_1CHW)
            with torch.enable_grad():
                text = self.read_texts(text_1L, mask_1L)
                _, fused_1D = self.match(image, text)
                answer_12 = self.fits(fused_1D)
                weight_LP = grad_times_attention(shares[0], answer_12[0, 1])[0]
        finally:
            watch.remove()
        return (answer_12[0, 1] - answer_12[0, 0]).detach(), weight_LP[:, 1:]


class AlbefMatcher(BlipMatcher):
    """A released ALBEF or TCL: scores of pairs by reading them together, and where in the picture a text is.

    left  names of the file's tensors that are used only in training
    """

    left: tuple[str, ...] = ()


def open_released(spec: str) -> AlbefMatcher:
    """The model of "albef:FILE#BERT-FOLDER". Leaves the torch random state unchanged.

    Raises DataError for a file or folder that is missing or not what it should be, ConfigError for tensors of another architecture.
    """
    file, folder = checkpoint_and_encoder(spec, "bert-base-uncased")
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(file).items()}
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        with torch.random.fork_rng(devices=[]):
            model = empty_matcher(tensors, settings)
        read, left = from_released(tensors)
        load_strictly(model, read)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    words = from_transformers(folder)
    if words.vocab_size > (rows := len(model.embeddings.word_embeddings.weight)):
        raise ConfigError(
            f"{spec}: the tokenizer has ids up to {words.vocab_size - 1} and the checkpoint {rows} words (expected its own)"
        )
    side = int(model.image_tower.spec["image_size"])
    matcher = AlbefMatcher(model.float().eval(), MatcherInputs(Preprocess(side, resize="squash"), words, LENGTH), spec)
    matcher.left = left
    return matcher


def empty_matcher(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> AlbefPairMatcher:
    """A module of the sizes of those tensors with fresh weights; `settings` of the BERT in the folder. Raises ConfigError."""
    plainly = {_plain(name): tensor for name, tensor in tensors.items()}
    table = f"{TEXT}embeddings.word_embeddings.weight"
    needed = (f"{IMAGE}patch_embed.proj.weight", f"{IMAGE}pos_embed", table, "vision_proj.weight", "itm_head.weight")
    if lost := [name for name in needed if name not in plainly]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    layer = re.compile(r"text_encoder\.encoder\.layer\.(\d+)\.(crossattention)?.+")
    crossing = [int(match[1]) for name in plainly if (match := layer.fullmatch(name)) and match[2]]
    layers = count(r"text_encoder\.encoder\.layer\.(\d+)\..+", plainly)
    patches, (words, hidden) = plainly[needed[0]], plainly[table].shape
    width, patch = patches.shape[0], patches.shape[-1]
    image = {
        "name": "slip_b16", "image_size": patch * round((plainly[needed[1]].shape[1] - 1) ** 0.5), "patch": patch, "width": width,
        "layers": count(r"visual_encoder\.blocks\.(\d+)\..+", plainly), "heads": max(1, width // 64),
    }  # fmt: skip
    sizes = {"vocab_size": words, "hidden_size": hidden, "num_hidden_layers": layers}
    sizes |= {"max_position_embeddings": len(plainly[f"{TEXT}embeddings.position_embeddings.weight"])}
    config = {key: value for key, value in {**plain(settings), **sizes}.items() if key != "model_type"}
    return AlbefPairMatcher(image, config, min(crossing, default=layers), len(plainly["vision_proj.weight"]))


def from_released(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """State dict of an `AlbefPairMatcher`, and names of tensors that are used only in training. Raises ConfigError with the others."""
    crossing = [int(match[1]) for name in tensors if (match := re.search(r"\.layer\.(\d+)\.crossattention\.", name))]
    depth = min(crossing, default=0)
    out, left, strange = dict[str, Tensor](), list[str](), list[str]()
    for given, tensor in tensors.items():
        name = _plain(given)
        head, _, rest = name.partition(".")
        layer = re.fullmatch(r"text_encoder\.encoder\.layer\.(\d+)\.(.+)", name)
        if LEFT.fullmatch(name):
            left.append(given)
        elif name.startswith(IMAGE):
            out[f"image_tower.{slip_image_name(name.removeprefix(IMAGE))}"] = slip_image_tensor(name, tensor)
        elif layer:
            number = int(layer[1])
            part = f"text_layers.{number}" if number < depth else f"fusion_layers.{number - depth}"
            out[f"{part}.{layer[2]}"] = tensor
        elif name.startswith(f"{TEXT}embeddings.") and not name.endswith("position_ids"):
            out[name.removeprefix(TEXT)] = tensor
        elif head in HEADS:
            out[f"{HEADS[head]}.{rest}"] = tensor
        elif not name.endswith("position_ids"):
            strange.append(given)
    if strange:
        raise ConfigError(f"not of ALBEF: {first_names(strange)} (expected {SOURCE})")
    return out, tuple(left)


def _plain(name: str) -> str:
    """A name without the part that BERT with a word head has in front of its body."""
    return name.replace("text_encoder.bert.", TEXT)


def _added(mask_BL: Tensor, like: Tensor) -> Tensor:
    """A mask as attention adds it to its logits [B, 1, 1, L]."""
    added_BL = torch.zeros_like(mask_BL, dtype=like.dtype).masked_fill(~mask_BL, torch.finfo(like.dtype).min)
    return added_BL[:, None, None]
