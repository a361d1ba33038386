"""Folders of transformers that find phrases, tiny and random: the same boxes and scores as transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import diptych as dp
from diptych.core.contracts import Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.image import ArrayImage
from diptych.data.text.tokens.spans import SpanText

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "red",
    "cup",
    "plate",
    "a",
    "left",
    "of",
    ".",
    ",",
    "cup",
    "##s",
    "fork",
]
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def _bert_words(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    words = list(dict.fromkeys(WORDS))
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=True)


def _dino(folder: Path) -> None:
    tokenizer = _bert_words(folder)
    text = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    backbone = transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, out_indices=[2, 3, 4]
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config={**text, "vocab_size": len(tokenizer)}, d_model=32, encoder_layers=1,
        decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        num_queries=6, num_feature_levels=4, max_text_len=12,
    )  # fmt: skip
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    pictures = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 80, "longest_edge": 160})
    transformers.GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)


def _owl(folder: Path, second: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = transformers.CLIPTokenizerFast(vocab=vocabulary, merges=[], model_max_length=16)
    text = {"vocab_size": len(pieces), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 16, "eos_token_id": 53, "bos_token_id": 52, "pad_token_id": 53}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
              "patch_size": 8}  # fmt: skip
    kind = "Owlv2" if second else "OwlViT"
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, projection_dim=16)
    getattr(transformers, f"{kind}ForObjectDetection")(config).save_pretrained(folder)
    pictures = getattr(transformers, f"{kind}ImageProcessor")(size={"height": 32, "width": 32})
    getattr(transformers, f"{kind}Processor")(pictures, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("detectors")
    torch.manual_seed(0)
    _dino(root / "dino")
    _owl(root / "owlvit", second=False)
    _owl(root / "owlv2", second=True)
    return {name: root / name for name in ("dino", "owlvit", "owlv2")}


def test_grounding_dino_reads_the_whole_text_and_scores_phrases_by_their_tokens(folders: dict[str, Path]) -> None:
    model: Any = dp.load(f"hf:{folders['dino']}")
    assert isinstance(model, Detector)
    assert isinstance(model, Grounder)
    text = "The red cups left of a plate"
    query = SpanText.from_phrases(text, {"cups": "red cups", "plate": "plate"}).query()
    cups, plate = model.ground(ArrayImage(PICTURE), query, top=6)
    theirs = transformers.GroundingDinoForObjectDetection.from_pretrained(folders["dino"]).eval()
    processor = transformers.GroundingDinoProcessor.from_pretrained(folders["dino"])
    inputs = processor(images=PICTURE, text=text.lower() + ".", return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    with torch.no_grad():
        answer = theirs(**inputs)
    (posted,) = processor.post_process_grounded_object_detection(answer, threshold=-1.0, target_sizes=[(40, 60)])
    box_Q4 = posted["boxes"].clamp(min=0).minimum(torch.tensor([60, 40, 60, 40])).numpy()
    for found, wanted in ((cups, ["red", "cup", "##s"]), (plate, ["plate"])):
        score_Q = answer.logits[0].sigmoid()[:, [tokens.index(word) for word in wanted]].mean(1).numpy()
        order = np.argsort(-score_Q, kind="stable")
        np.testing.assert_allclose(found.score_N, score_Q[order], rtol=1e-5)
        np.testing.assert_allclose(found.box_N4, box_Q4[order], atol=1e-3)
    with pytest.raises(DataError, match="cannot read the phrase 'plate'"):
        model.ground(
            ArrayImage(PICTURE), SpanText.from_phrases("a cup left of a cup left of the red cup of a plate", {0: "plate"}).query()
        )


@pytest.mark.parametrize("name", ["owlvit", "owlv2"])
def test_owl_scores_each_phrase_alone(folders: dict[str, Path], name: str) -> None:
    model: Any = dp.load(f"hf:{folders[name]}")
    phrases = ["a cup", "red plate"]
    found = model.ground(ArrayImage(PICTURE), PhraseQuery.of(phrases), top=3)
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    theirs = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folders[name]).eval()
    inputs = processor(text=[phrases], images=PICTURE, return_tensors="pt")
    with torch.no_grad():
        answer = theirs(**inputs)
    (posted,) = processor.post_process_grounded_object_detection(answer, threshold=-1.0, target_sizes=[(40, 60)])
    box_Q4 = posted["boxes"].clamp(min=0).minimum(torch.tensor([60, 40, 60, 40])).numpy()
    for number, grounded in enumerate(found):
        score_Q = answer.logits[0, :, number].sigmoid().numpy()
        order = np.argsort(-score_Q, kind="stable")[:3]
        np.testing.assert_allclose(grounded.score_N, score_Q[order], rtol=1e-5)
        np.testing.assert_allclose(grounded.box_N4, box_Q4[order], atol=1e-3)
    with pytest.raises(DataError, match="phrases of 16 tokens"):
        model.ground(ArrayImage(PICTURE), PhraseQuery.of(["a plate of a cup of a plate"]))


@pytest.mark.parametrize("name", ["dino", "owlvit", "owlv2"])
def test_the_same_calls_as_for_models_of_our_own(folders: dict[str, Path], name: str) -> None:
    model: Any = dp.load(f"hf:{folders[name]}")
    graph = dp.detect(model, PICTURE, objects=["a cup", "fork"], top=4)
    assert {region.label for region in graph.regions} <= {"a cup", "fork"}
    assert len(graph.regions) == 4
    assert dp.ground(model, PICTURE, "a cup", top=2)["a cup"].box_N4.shape == (2, 4)
    assert model.fingerprint == dp.load(f"hf:{folders[name]}").fingerprint  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="does not predict relations"):
        model.detect([ArrayImage(PICTURE)], objects=["cup"], relations=["on"])
    with pytest.raises(DataError, match="1 images but 0 queries"):
        model.ground([ArrayImage(PICTURE)], [])


def test_folders_that_lack_something_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folders["owlvit"], broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["box_head.dense0.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"tensor box_head\.dense0\.weight is missing"):
        dp.load(f"hf:{broken}")
    config = (broken / "config.json").read_text()
    (broken / "config.json").write_text(config.replace("OwlViTForObjectDetection", "OwlViTModel"))
    with pytest.raises(ConfigError, match="is not a phrase detector"):
        dp.load(f"hf:{broken}")
