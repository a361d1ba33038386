"""BiomedCLIP: its text head and loss are open_clip's, its released folder opens by address, its vocabulary is WordPiece of the corpus."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, BertTokenizerFast

from diptych.api import load
from diptych.core.errors import ConfigError, DataError
from diptych.data.articles.corpus import corpus_texts
from diptych.data.load.stream import batches
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.word_pieces import SPECIAL, train_word_pieces
from diptych.models.io.foreign.open_clip_folder import BERT_BASE
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import build_dual_encoder, check_tensors
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.headed import headed
from diptych.models.towers.towers import text_tower
from diptych.recipes.domains.biomedclip import BiomedCLIP
from diptych.worlds.resolve import resolve

CAPTIONS = (
    "Histology of the gastric mucosa, haematoxylin and eosin.",
    "Axial CT of the chest: nodule in the right upper lobe (arrow).",
    "Western blot of lysates; GAPDH is the loading control.",
    "Gastric nodule, CT and histology.",
)
RELEASED: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
"""The settings of the published open_clip_config.json."""


def words() -> Tokenizer:
    return train_word_pieces(CAPTIONS, 200)


def small(**changes: Any) -> BiomedCLIP:
    shape: dict[str, Any] = {"image_tower": "vit_micro", "image_size": 48, "width": 24, "text_length": 20, "pieces": 200}
    return replace(BiomedCLIP.tiny(), **{**shape, "vocabulary": words().to_json(), "batch_size": 6, **changes})


def test_texts_are_read_as_open_clip_reads_them(parity: Any) -> None:
    torch.manual_seed(0)
    tower = headed(text_tower("bert_tiny", vocab_size=90, length=12), 24, "text", kind="mlp").eval()
    config = AutoConfig.for_model(**tower.inner.config)  # type: ignore[union-attr]
    theirs = HFTextEncoder("", 24, config=config, pooler_type="cls_last_hidden_state_pooler", proj_type="mlp")
    theirs.transformer.pooler = None
    theirs.eval()
    theirs.transformer.load_state_dict(tower.inner.net.state_dict())  # type: ignore[union-attr]
    theirs.proj.load_state_dict(tower.head.state_dict())
    assert [parameter.shape for parameter in theirs.proj.parameters()] == [(76, 128), (24, 76)]
    text_BL = torch.randint(5, 90, (5, 12))
    mask_BL = torch.arange(12) < torch.tensor([12, 9, 4, 2, 7])[:, None]
    with torch.no_grad():
        pairs = [(tower(text_BL, mask_BL).pooled_BD, theirs(text_BL.where(mask_BL, torch.tensor(0))))]
    parity("biomedclip", "vectors of texts by the MLP head", "open_clip's HFTextEncoder, copied weights", pairs, tolerance=1e-5)


def test_loss_and_gradients_are_clips(parity: Any) -> None:
    recipe = small(same_group="negative")
    torch.manual_seed(1)
    model = recipe.model().eval().double()
    (step,) = batches(resolve("world:scenes?n=12").split("train"), recipe, seed=0, stop=1)
    batch = replace(step.batch, image_BCHW=step.batch.image_BCHW.double())
    features = recipe.features(model, batch)
    loss = recipe.losses(features, batch)["contrastive"]
    theirs = open_clip.ClipLoss()(features.image_ND, features.text_ND, features.scale)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours_grad, their_grad = (
        torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True) for value in (loss, theirs)
    )
    assert any(gradient is not None for gradient in ours_grad)
    pairs = [(loss, theirs.squeeze()), *((a, b) for a, b in zip(ours_grad, their_grad, strict=True) if a is not None)]
    parity("biomedclip", "loss and every gradient", "ClipLoss of open_clip", pairs, tolerance=1e-9)


def full_size() -> dict[str, Tensor]:
    """A state dict of the published shapes, on the meta device."""
    settings = {**RELEASED, "text_cfg": {**RELEASED["text_cfg"], "hf_model_name": "", "layers": 1}}
    with torch.device("meta"):
        image = dict(CustomTextCLIP(**settings).state_dict())
        config = AutoConfig.for_model(**BERT_BASE[RELEASED["text_cfg"]["hf_model_name"]])
        text = HFTextEncoder("", 512, config=config, pooler_type="cls_last_hidden_state_pooler", proj_type="mlp")
        text.transformer.pooler = None
        position_ids = torch.empty(1, 512)
    tensors = {name: tensor for name, tensor in image.items() if name.startswith("visual.") or name == "logit_scale"}
    older = {"text.transformer.embeddings.position_ids": position_ids}  # as transformers wrote it when the model was released
    return {**tensors, **{f"text.{name}": tensor for name, tensor in text.state_dict().items()}, **older}


def test_every_tensor_of_the_released_size_has_a_place() -> None:
    tensors = full_size()
    with torch.device("meta"):
        parts = open_clip_parts(RELEASED, tensors, BERT_BASE[RELEASED["text_cfg"]["hf_model_name"]])
        model = build_dual_encoder(parts)
        ours = replace(BiomedCLIP.paper(), vocabulary=words().to_json()).model()
    check_tensors(parts.tensors, model.state_dict(), "made up")
    assert not parts.left
    assert sum(p.numel() for p in model.parameters()) == 195_902_721
    assert sum(p.numel() for p in ours.parameters()) == 195_902_721 - 768 * (30_522 - words().vocab_size)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A small folder in the published layout, with the configuration of its text encoder and its tokenizer."""
    folder = tmp_path / "biomedclip"
    folder.mkdir()
    settings = json.loads(json.dumps(RELEASED))
    settings["embed_dim"] = 24
    settings["vision_cfg"] = {"image_size": 48, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
    settings["text_cfg"]["context_length"] = 20
    shape = {"vocab_size": words().vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = {"model_type": "bert", **shape, "intermediate_size": 64, "max_position_embeddings": 40}
    (folder / "config.json").write_text(json.dumps(encoder))
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": preprocess}))
    vocabulary = sorted(words().inner.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(piece for piece, _ in vocabulary) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(4)
    text = {
        **settings["text_cfg"],
        "hf_model_name": str(folder),
        "hf_model_pretrained": False,
    }  # looked up by name: a folder is one
    theirs = CustomTextCLIP(**{**settings, "text_cfg": text})
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def test_the_published_folder_opens_by_address(released: Path, parity: Any) -> None:
    model = load(f"open_clip:{released}")
    assert isinstance(model, PairEmbedder)
    assert (model.preprocess.mean, model.preprocess.size, model.text_length) == ((0.4, 0.5, 0.6), 48, 20)
    text = {**RELEASED["text_cfg"], "hf_model_name": str(released), "hf_model_pretrained": False, "context_length": 20}
    settings = json.loads((released / "open_clip_config.json").read_text())["model_cfg"]
    theirs = CustomTextCLIP(**{**settings, "text_cfg": text})
    theirs.load_state_dict(load_file(released / "open_clip_model.safetensors"))
    theirs.eval()
    image_BCHW = torch.rand(3, 3, 48, 48)
    ids_BL = open_clip.tokenizer.HFTokenizer(str(released), context_length=20)(list(CAPTIONS))
    encoded = model.tokenizer.encode(list(CAPTIONS), 20)
    assert encoded.ids_BL.tolist() == ids_BL.tolist()
    with torch.no_grad():
        ours = model.model.encode_text(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
        pairs = [(ours, theirs.encode_text(ids_BL, normalize=True))]
        pairs += [(model.model.encode_image(image_BCHW), theirs.encode_image(image_BCHW, normalize=True))]
    parity(
        "biomedclip", "images and texts of a folder in the published layout", "open_clip's CustomTextCLIP", pairs, tolerance=1e-5
    )
    started = small(vocabulary="").started(model)
    assert started.words().encode(list(CAPTIONS), 20).ids_BL.tolist() == ids_BL.tolist()
    assert started.model().state_dict().keys() == model.model.state_dict().keys()


def test_a_folder_without_what_it_needs_says_so(released: Path) -> None:
    settings = json.loads((released / "open_clip_config.json").read_text())
    (released / "config.json").unlink()
    with pytest.raises(
        DataError, match="a state dict of the folder's configuration"
    ):  # BERT-base by its name, and the file is small
        load(f"open_clip:{released}")
    settings["model_cfg"]["text_cfg"]["hf_model_name"] = "somebody/bert"
    (released / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="needs the configuration of somebody/bert"):
        load(f"open_clip:{released}")
    (released / "open_clip_model.safetensors").unlink()
    settings["model_cfg"]["text_cfg"]["hf_model_name"] = RELEASED["text_cfg"]["hf_model_name"]
    (released / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="no weights"):
        load(f"open_clip:{released}")


def test_word_pieces_are_read_as_bert_reads_them(tmp_path: Path, parity: Any) -> None:
    ours = words()
    assert ours.to_json() == train_word_pieces(reversed(CAPTIONS), 200).to_json()
    pieces = sorted(ours.inner.get_vocab().items(), key=lambda item: item[1])
    assert tuple(piece for piece, _ in pieces[:5]) == SPECIAL
    (tmp_path / "vocab.txt").write_text("\n".join(piece for piece, _ in pieces) + "\n")
    theirs = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    texts = [*CAPTIONS, "GASTRIC   nódule; lobes?", "[SEP] zzz 漢字", ""]
    read = theirs(texts, padding="max_length", max_length=24, truncation=True)["input_ids"]
    pairs = [(torch.from_numpy(ours.encode(texts[:5], 24).ids_BL), torch.tensor(read[:5]))]
    parity("biomedclip", "ids of a learned vocabulary", "BertTokenizerFast of transformers", pairs, tolerance=0.0)
    assert SPECIAL.index("[SEP]") not in ours.encode(["[SEP] zzz"], 24).ids_BL[0, 1:3].tolist()  # spelt, not meant
    with pytest.raises(DataError, match="no text to learn"):
        train_word_pieces([" "], 200)


def test_the_vocabulary_comes_from_the_corpus(tmp_path: Path) -> None:
    record = "<PubmedArticle><MedlineCitation><Article><ArticleTitle>On <i>Zika</i> virus</ArticleTitle><Abstract>{}</Abstract></Article>"
    abstract = "<AbstractText Label='AIM'>Microcephaly.</AbstractText><AbstractText/>"
    dump = f"<PubmedArticleSet>{record.format(abstract)}</MedlineCitation></PubmedArticle></PubmedArticleSet>"
    (tmp_path / "medline.xml.gz").write_bytes(gzip.compress(dump.encode()))
    assert list(corpus_texts(tmp_path / "medline.xml.gz")) == ["On Zika virus", "Microcephaly."]
    (tmp_path / "texts.txt").write_text("first\n\nsecond\n")
    assert list(corpus_texts(tmp_path / "texts.txt")) == ["first", "second"]
    (tmp_path / "cut.xml.gz").write_bytes(gzip.compress(dump.encode())[:-20])
    with pytest.raises(DataError, match=r"cut\.xml\.gz"):
        list(corpus_texts(tmp_path / "cut.xml.gz"))
    data = resolve("world:scenes?n=12").split("train")
    learned = small(vocabulary="", corpus=str(tmp_path / "medline.xml.gz"), pieces=60).prepare(data).words()
    assert learned.inner.token_to_id("zika") is None or learned.count("Zika") == 1
    assert learned.count("virus") < len("virus") + 1
    assert small(vocabulary="").prepare(data).words().count("circle") >= 1
    byte_pairs = small(vocabulary="", learned_pieces="bytes", pieces=300).prepare(data).words()
    assert byte_pairs.inner.token_to_id("[CLS]") is None
    with pytest.raises(ConfigError, match="expected data"):
        small(tokenizer="clip", corpus="texts.txt")
