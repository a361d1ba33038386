"""LLaVA 1.5 and 1.6, and Croc, as their authors or transformers save them, opened for use: "llava:FOLDER", "llava:FOLDER#CLIP-FOLDER"."""

from __future__ import annotations

from pathlib import Path

import torch

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.data.media.tiles import PaddedTiles
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.dialogue_rows import CHATML_CHAT, CHATML_END, CHATML_START, MISTRAL_CHAT, VICUNA_CHAT
from diptych.data.text.prompts.template import Template
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import MlpConnector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.llava_weights import LlavaConfig, take_llava_, weight_tensors
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.io.saved_model import one_line_errors
from diptych.models.towers.hidden_layer import hidden_layer
from diptych.models.towers.towers import image_tower

VISION = "vision_model."


def open_released(address: str) -> BridgeGenerator:
    """The model of a LLaVA folder, asked in the form of Vicuna 1.1, Mistral, or ChatML (1.6 of 34B). Images are shown as its configuration
    says: padded to a square with CLIP's mean colour (1.5), whole and in tiles (1.6), or cut to their middle square. ChatML is that of a
    vocabulary with its marks, where the release looks for "v1.6-34b" in the folder's name; an answer ends at its mark. Of a Croc, whose
    image tokens have norm 1, pool and head stay behind.

    address  "llava:FOLDER", and after "#" the folder of the CLIP that it was trained with, where it holds no image encoder of its own
    Raises DataError for a folder without an image encoder where none is named, and for weights of another model.
    """
    name, _, clip = address.removeprefix("llava:").partition("#")
    folder = Path(name).expanduser()
    with one_line_errors(folder), torch.random.fork_rng(devices=[]):
        config = LlavaConfig.read(folder)
        vision, encoder_folder = config.vision, Path(clip.removeprefix("hf:")).expanduser() if clip else None
        if encoder_folder is not None:
            vision = read_object(encoder_folder / "config.json").get("vision_config")
        if not isinstance(vision, dict):
            raise DataError("contains no image encoder", file=folder, expected=f"llava:{name}#CLIP-FOLDER")
        tower = image_tower("hf_image", config={"model_type": "clip_vision_model", **vision})
        if encoder_folder is not None:
            own = {k.removeprefix(VISION): v for k, v in weight_tensors(encoder_folder) if k.startswith(VISION)}
            tower.net.load_state_dict({k: v for k, v in own.items() if not k.endswith("position_ids")})  # type: ignore[union-attr]
        language = LanguageModel(config=config.text)
        options = {name: True for name in ("newline", "unit") if getattr(config, name)}
        made = MlpConnector(tower.token_width, language.width, **options)
        bridge = Bridge(hidden_layer(tower, config.layer), made, language)
        take_llava_(bridge, str(folder), encoder=encoder_folder is None)
        tokenizer = Tokenizer.load(folder)
        form = dialogue_form(tokenizer, mistral=config.mistral)
        end_id = tokenizer.inner.token_to_id(CHATML_END)
        if form == CHATML_CHAT and end_id is not None:
            tokenizer.suffix = (end_id,)
        words = LanguageVocabulary(tokenizer)
    size = int(tower.image_size)  # type: ignore[arg-type]
    return BridgeGenerator(
        bridge.eval(),
        Preprocess(size, resize="square" if config.aspect == "pad" else "crop"),
        words,
        Template(form),
        folder.name,
        connector={"kind": "mlp", **options},
        length=language.context_length,
        space="" if words.spaced or form == CHATML_CHAT else " ",
        tiles=PaddedTiles(size, config.sizes) if config.sizes else None,
    )


def dialogue_form(tokenizer: Tokenizer, *, mistral: bool) -> str:
    """The template that a LLaVA with this vocabulary is asked by."""
    if mistral:
        return MISTRAL_CHAT
    marks = [tokenizer.inner.token_to_id(mark) for mark in (CHATML_START, CHATML_END)]
    return VICUNA_CHAT if None in marks else CHATML_CHAT
