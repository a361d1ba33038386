"""MeDSLIP's released weights: "medslip:FILE#FOLDER".

FILE is the checkpoint (.pth). FOLDER is the text encoder's (Bio_ClinicalBERT: config.json, model.safetensors, vocabulary) with a
book.json beside them: {"findings": {name: explanation}, "places": [name, ...]}, in the release's order, for a checkpoint has no texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.models.chests.finding_reader import FindingReader
from diptych.models.chests.finding_streams import FindingStreams
from diptych.models.chests.name_book import book_vectors, read_book
from diptych.models.io.tensor_files import read_tensors
from diptych.models.towers.towers import image_tower

SOURCE = "medslip:FILE.pth#FOLDER, a folder of Bio_ClinicalBERT with a book.json"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLACE_TEXT = "It is located at {}. "
LENGTH, SIZE, HEADS = 128, 224, 4
STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3"}
"""Position in the release's list of modules -> name in timm's residual network."""
NAMES = {
    "pathology_embedding_layer": "book",
    "mask_generator": "gate",
    "res_l1_pathology": "finding_in",
    "res_l2_pathology": "finding_out",
    "res_l1_anatomy": "place_in",
    "res_l2_anatomy": "place_out",
    "decoder_pathology": "finding_decoder",
    "decoder_anatomy": "place_decoder",
    "classifier_pathology": "finding_status",
    "classifier_anatomy": "place_status",
    "cl_fc_pathology": "finding_prototype",
    "cl_fc_anatomy": "place_prototype",
}


def open_released(spec: str) -> FindingReader:
    """The reader of "medslip:FILE#FOLDER". Leaves the torch random state unchanged.

    Raises ConfigError or DataError for a file or folder that lacks something, or whose tensors are not MeDSLIP's.
    """
    where, _, beside = spec.partition(":")[2].partition("#")
    file, folder = Path(where).expanduser(), Path(beside).expanduser()
    if not beside or not (folder / "book.json").is_file():
        raise DataError("does not name a folder with a book.json", file=spec, expected=SOURCE)
    findings, sites = read_book(folder / "book.json")
    texts = [*findings.values(), *(PLACE_TEXT.format(site) for site in sites)]
    encoder = f"hf-bare:{folder}"
    vector_NE = book_vectors(texts, encoder, length=LENGTH)
    model = released_streams(read_tensors(file), vector_NE[: len(findings)], vector_NE[len(findings) :])
    preprocess = Preprocess(SIZE, *IMAGENET, "squash", "bilinear")
    return FindingReader(model.eval(), preprocess, tuple(findings), sites, spec, book_encoder=encoder, text_length=LENGTH)


def released_streams(tensors: Mapping[str, Tensor], finding_book_KE: Tensor, place_book_AE: Tensor) -> FindingStreams:
    """The model of a released state dict. Raises ConfigError for tensors that are not MeDSLIP's, or books of another width."""
    renamed = {}
    for name, tensor in tensors.items():
        renamed[_renamed(name.removeprefix("module."))] = tensor
    gate, book = renamed.get("gate.weight"), renamed.get("book.weight")
    if gate is None or book is None or book.shape[1] != finding_book_KE.shape[1]:
        raise ConfigError(f"contains no MeDSLIP for vectors of {finding_book_KE.shape[1]} dimensions (expected {SOURCE})")
    layers = len({name.split(".")[2] for name in renamed if name.startswith("finding_decoder.layers.")})
    network = "resnet50" if "image_tower.net.layer1.0.conv3.weight" in renamed else "resnet18"
    with torch.random.fork_rng(devices=[]):
        tower = image_tower(f"timm:{network}", image_size=SIZE, stage=3)
        mlp_width = len(renamed["finding_decoder.layers.0.linear1.weight"])
        model = FindingStreams(
            tower, finding_book_KE, place_book_AE, width=len(book), heads=HEADS, layers=layers, mlp_width=mlp_width
        )
    books = {"finding_book_KE": finding_book_KE, "place_book_AE": place_book_AE}
    try:
        model.load_state_dict({**renamed, **books})
    except RuntimeError as error:
        raise ConfigError(f"tensors are not MeDSLIP's: {' '.join(str(error).split())[:200]} (expected {SOURCE})") from error
    return model


def _renamed(name: str) -> str:
    stem, _, rest = name.partition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{rest}"
    stage = re.fullmatch(r"res_features\.(\d+)\.(.+)", name)
    if stage is None or stage[1] not in STAGES:
        raise ConfigError(f"tensor {name!r} does not belong to MeDSLIP (expected {SOURCE})")
    return f"image_tower.net.{STAGES[stage[1]]}.{stage[2]}"
