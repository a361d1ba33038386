"""Families of transformers that open as the library's own: vectors are the library's by its processor; every image-text model of the
installed version is accounted for; architectures of open_clip beyond CLIP have their preprocessing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

import diptych as dp
from diptych.core.contracts import Embedder, PairScorer, TokenEmbedder
from diptych.core.errors import ConfigError, DataError, DiptychError
from diptych.core.image import ArrayImage
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.io.foreign.transformers_library import BY_TYPE
from diptych.models.io.foreign.transformers_registry import image_text_models
from diptych.models.io.releases.families import all_releases

sys.path.insert(0, str(Path(__file__).parent))
import library_folders

ROWS = {row.slug: row for row in all_releases()}
PIXELS = [np.random.default_rng(n).integers(0, 256, size, dtype=np.uint8) for n, size in enumerate([(40, 60, 3), (64, 33, 3)])]
PICTURES = [ArrayImage(pixels) for pixels in PIXELS]
TEXTS = ["a red bus", "the green tree by the bus"]
DUAL = sorted(slug for slug in library_folders.MADE if ROWS[slug].opens == "LibraryEmbedder")
LATE = sorted(slug for slug in library_folders.MADE if ROWS[slug].opens == "LibraryLateEmbedder")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: Any) -> dict[str, str]:
    class Written(dict[str, str]):
        def __missing__(self, slug: str) -> str:
            self[slug] = library_folders.MADE[slug](tmp_path_factory.mktemp(slug))
            return self[slug]

    return Written()


def folder_of(address: str) -> Path:
    return Path(address.removeprefix("hf:").removesuffix("#naflex"))


@pytest.mark.parametrize("slug", DUAL)
def test_vectors_are_those_of_the_whole_model(slug: str, addresses: dict[str, str], parity: Any) -> None:
    """Not of the two feature calls, but of the library's own forward pass on both sides, where it has one that gives vectors."""
    model: Any = dp.load(addresses[slug])
    assert type(model).__name__ == ROWS[slug].opens
    assert isinstance(model, Embedder)
    folder = folder_of(addresses[slug])
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    theirs = getattr(hf, BY_TYPE[kind].name).from_pretrained(folder).eval()
    processor = hf.AutoProcessor.from_pretrained(folder)
    padding = "max_length" if kind == "siglip2" else True
    options = {"padding": padding, "truncation": True, "max_length": model.text_length, "return_tensors": "pt"}
    inputs = {
        **processor(text=TEXTS, **options),
        **processor.image_processor([Image.fromarray(p) for p in PIXELS], return_tensors="pt"),
    }
    if kind == "siglip2":  # trained on padding that is read
        inputs.pop("attention_mask", None)
    with torch.no_grad():
        answer = theirs(**inputs)
    expected = []
    for name in ("image_embeds", "text_embeds"):
        vectors = getattr(answer, name, None)
        if vectors is None or kind == "flava":  # FLAVA's embeddings are not projected
            side, part = name.removesuffix("_embeds"), "image" if name.startswith("image") else "text"
            tokens = getattr(answer, f"{side}_embeddings")
            vectors = getattr(theirs, f"{part}_projection")(tokens[:, 0])
        expected.append(torch.nn.functional.normalize(vectors, dim=-1))
    found = model.embed_images(PICTURES), model.embed_texts(TEXTS)
    assert found[0].dtype == np.float32
    parity(
        "clip",
        f"vectors of {BY_TYPE[kind].name}",
        "transformers on a small folder",
        zip(found, expected, strict=True),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("slug", LATE)
def test_late_models_score_as_their_processor_does(slug: str, addresses: dict[str, str], parity: Any) -> None:
    model: Any = dp.load(addresses[slug])
    assert isinstance(model, TokenEmbedder)
    assert isinstance(model, PairScorer)
    folder = folder_of(addresses[slug])
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    theirs = getattr(hf, BY_TYPE[kind].name).from_pretrained(folder).eval()
    processor: Any = hf.AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        rows = [theirs(**processor.process_images(images=[Image.fromarray(p)])).embeddings[0] for p in PIXELS]
        queries = [theirs(**processor.process_queries(text=[text])).embeddings[0] for text in TEXTS]
    expected = processor.score_retrieval(queries, rows).T
    found = model.score_pairs(PICTURES, TEXTS, query="text")
    parity("filip", f"scores of {BY_TYPE[kind].name}", "its processor's score_retrieval", [(found, expected)], tolerance=1e-4)
    assert [len(token_LD) for token_LD in model.embed_patches(PICTURES)] == [len(row) for row in rows]


def test_naflex_keeps_the_shape_that_squares_lose(addresses: dict[str, str]) -> None:
    whole, square = dp.load(addresses["hf_siglip2_naflex"]), dp.load(addresses["hf_siglip2_naflex"].removesuffix("#naflex"))
    tall = [ArrayImage(np.random.default_rng(5).integers(0, 256, (160, 32, 3), dtype=np.uint8))]
    assert type(square).__name__ == "PairEmbedder"
    assert not np.allclose(whole.embed_images(tall), square.embed_images(tall), atol=1e-3)
    np.testing.assert_allclose(whole.embed_texts(TEXTS), square.embed_texts(TEXTS), atol=1e-5)


def test_a_late_index_takes_them(addresses: dict[str, str], tmp_path: Path) -> None:
    model: Any = dp.load(addresses["hf_colpali"])
    data = dp.read([{"image": pixels, "text": text} for pixels, text in zip(PIXELS, TEXTS, strict=True)])
    index = dp.index(model, data, tmp_path / "late.index", kind="late", progress=False)
    scores = model.score_pairs(PICTURES, ["a red bus"], query="text")[:, 0]
    order = [hit.uid for hit in index.search("a red bus", 2)]
    assert order == [data.uids[n] for n in np.argsort(-scores)]


def test_what_needs_code_of_the_folder_is_refused_in_a_line(tmp_path: Path, addresses: dict[str, str]) -> None:
    plain = {"model_type": "own_clip", "auto_map": {"AutoModel": "modeling_own.OwnModel"}, "architectures": ["OwnModel"]}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('executed')")
    with pytest.raises(DiptychError, match=r"own_clip.*code of the folder \(modeling_own\.OwnModel\), which is not run") as said:
        dp.load(f"hf:{tmp_path}")
    assert "\n" not in str(said.value)
    folder = folder_of(addresses["hf_groupvit"])
    kept = (folder / "config.json").read_text()
    changed = json.loads(kept)
    changed["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(changed))
    try:
        with pytest.raises(DataError, match=r"tensor .*layers\.2\..* is missing"):
            dp.load(addresses["hf_groupvit"])
    finally:
        (folder / "config.json").write_text(kept)
    hf.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="model_type is 'bert'"):
        dp.load(f"hf:{tmp_path / 'bert'}#naflex")


def test_every_image_text_model_of_the_installed_version_is_accounted_for() -> None:
    """Walks transformers' registries. What opens is made and compared above, or in test_families, test_foreign_families,
    test_foreign_detectors and the tests of ViLT and X-CLIP; what does not says why."""
    answers = image_text_models()
    kinds = {"embedder", "late embedder", "phrase detector", "generator", "fused model", "video embedder"}
    for model_type, answer in answers.items():
        assert answer in kinds or (answer.startswith("no: ") and len(answer) > 12), (model_type, answer)
    opened = {model_type for model_type, answer in answers.items() if answer in ("embedder", "late embedder")}
    assert opened == set(FAMILIES) | set(BY_TYPE), "each has a folder in the tests of its family"
    made = {row.model_type for slug, row in ROWS.items() if slug in library_folders.MADE}
    assert made == set(BY_TYPE)
    assert (answers["vilt"], answers["xclip"], answers["grounding-dino"]) == ("fused model", "video embedder", "phrase detector")
    refused = {model_type: answer for model_type, answer in answers.items() if answer.startswith("no: ")}
    assert "vision_config" in refused["udop"]
    assert "reads clips" in refused["videoprism"]
    assert len(refused) < len(answers) / 4


@pytest.mark.slow
def test_generators_of_the_registry_are_known_by_their_configurations(tmp_path: Path) -> None:
    """Their default configurations, saved, are taken for generators by the folder alone."""
    from transformers.models.auto import modeling_auto

    from diptych.models.io.foreign.generators import WRITES, is_generator

    model_types = sorted(kind for kind, answer in image_text_models().items() if answer == "generator")
    unknown, without_default = [], []
    for model_type in model_types:
        names = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type, ())
        name = next(name for name in ([names] if isinstance(names, str) else names) if name.endswith(WRITES))
        try:
            config = hf.CONFIG_MAPPING[model_type](architectures=[name])
        except (ImportError, TypeError, ValueError):
            without_default.append(model_type)
            continue
        (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": [name]}, default=str))
        if not is_generator(tmp_path):
            unknown.append(model_type)
    assert unknown == []
    assert len(without_default) < len(model_types) / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["MobileCLIP2-S0", "EVA02-B-16", "PE-Core-T-16-384", "ViT-B-32-SigLIP2-256", "coca_ViT-B-32", "MobileCLIP-S1"]
)
def test_a_newer_architecture_of_open_clip_is_open_clips(arch: str, tmp_path: Path, parity: Any) -> None:
    import open_clip

    torch.manual_seed(0)
    theirs = open_clip.create_model(arch).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    words = open_clip.get_model_config(arch)["text_cfg"].get("hf_tokenizer_name")
    if words:
        library_folders.published.gemma_words().save_pretrained(tmp_path / "words")
        hf.BertConfig().save_pretrained(tmp_path / "words")
    behind = f"#{tmp_path / 'words'}" if words else ""
    model: Any = dp.load(f"open_clip:{arch}/{tmp_path / 'weights.pt'}{behind}")
    with torch.no_grad():
        expected = torch.nn.functional.normalize(theirs.encode_image(model.preprocess([PIXELS[0]])), dim=-1)
    parity("clip", f"vectors of open_clip's {arch}", "open_clip on the same weights", [(model.embed_images([PICTURES[0]]), expected)],
           tolerance=1e-4)  # fmt: skip
