"""Tuned weights back into the classes that they came from, and adapters as peft reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, RunError
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.adapter_folder import for_transformers, merge_adapter, save_adapter
from diptych.models.io.export.open_clip import model_config, to_open_clip
from diptych.models.io.export.source_layout import in_their_layout
from diptych.models.io.export.transformers_folder import to_transformers
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.adapters import LoRAConfig, add_adapters, merged
from diptych.models.towers.towers import image_tower, text_tower


def clip(seed: int = 0) -> PairEmbedder:
    torch.manual_seed(seed)
    words = Tokenizer.from_spec("clip")
    text = text_tower("text_clip", vocab_size=words.vocab_size, length=12, width=32, layers=2, heads=4, eot_id=words.eot_id)
    model = DualEncoder(image_tower("vit_micro"), text, width=16)
    return PairEmbedder(model.eval(), Preprocess(48), words, 12, "tiny")


def asked(embedder: PairEmbedder) -> tuple[Tensor, Tensor]:
    ids = embedder.tokenizer.encode(["a red bus", "two birds on a wire"], 12).ids_BL
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)), torch.from_numpy(ids)


SIGLIP: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("family", ["clip", "siglip", "align"])
def test_every_number_goes_back_to_where_it_came_from(family: str) -> None:
    """In, changed, out, in again: the second way in gives what was changed, and tensors without a part stay."""
    import transformers

    small = {"vocab_size": 60, "max_position_embeddings": 8, **SIGLIP}
    vision = {"image_size": 16, "patch_size": 8, **SIGLIP}
    if family == "clip":
        config: Any = transformers.CLIPConfig(text_config={**small, "eos_token_id": 59}, vision_config=vision, projection_dim=8)
    elif family == "siglip":
        config = transformers.SiglipConfig(text_config=small, vision_config=vision)
    else:
        words = {**small, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = transformers.AlignConfig(
            text_config=words, vision_config={"image_size": 64, "hidden_dim": 640}, projection_dim=640
        )
    kind: Any = getattr(transformers, FAMILIES[family].classes[0])
    if family == "align":
        theirs = {
            "temperature": torch.tensor(0.05),
            "text_model.x.weight": torch.randn(3, 2),
            "text_model.pooler.dense.weight": torch.ones(2),
        }
        layout = lambda given: {"log_scale": -given["temperature"].log().reshape(1), "w": given["text_model.x.weight"]}  # noqa: E731
        ours = {"log_scale": torch.tensor([2.5]), "w": torch.randn(3, 2)}
        out = in_their_layout(theirs, ours, layout)
        assert torch.allclose(layout(out)["log_scale"], ours["log_scale"])
        assert torch.equal(out["text_model.x.weight"], ours["w"])
        assert torch.equal(out["text_model.pooler.dense.weight"], torch.ones(2))
        return
    model = kind(config)
    plain = model.config.to_dict()

    def layout(given: Any) -> Any:
        return FAMILIES[family].parts(plain, given, kind.__name__).tensors

    ours = {name: torch.randn_like(tensor) for name, tensor in layout(model.state_dict()).items()}
    out = in_their_layout(model.state_dict(), ours, layout)
    model.load_state_dict(out)
    again = layout(model.state_dict())
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())
    with pytest.raises(ConfigError, match="made for another size"):
        in_their_layout(model.state_dict(), {**ours, "image_tower.position_PD": torch.zeros(50, 32)}, layout)
    with pytest.raises(ConfigError, match="'head' does not belong to"):
        in_their_layout(model.state_dict(), {"head": torch.zeros(1)}, layout)


def test_open_clip_opens_ours_and_answers_the_same(tmp_path: Path) -> None:
    import open_clip

    embedder = clip()
    to_open_clip(embedder, tmp_path / "out")
    theirs: Any = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    image_BCHW, text_BL = asked(embedder)
    with torch.no_grad():
        assert torch.allclose(theirs.encode_image(image_BCHW, normalize=True), embedder.model.encode_image(image_BCHW), atol=1e-5)
        assert torch.allclose(theirs.encode_text(text_BL, normalize=True), embedder.model.encode_text(text_BL), atol=1e-5)
    assert model_config(embedder)["text_cfg"]["eos_id"] == embedder.tokenizer.eot_id


def test_what_no_other_library_holds_is_refused_with_the_field_that_would_help(tmp_path: Path) -> None:
    towers = image_tower("vit_micro"), text_tower("text_micro", vocab_size=60, length=8)
    embedder = PairEmbedder(DualEncoder(*towers, width=8), Preprocess(48), Tokenizer.from_spec("clip"), 8, "x")
    with pytest.raises(ConfigError, match="--text-tower text_clip"):
        to_open_clip(embedder, tmp_path / "out")


# ---------------------------------------------------------------- adapters


def adapted(words: str = "4") -> tuple[PairEmbedder, DualEncoder]:
    """A base, and the same with adapters that do something."""
    embedder = clip()
    model = clip().model
    add_adapters(model, LoRAConfig.parse(words))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return embedder, model.eval()


def test_peft_reads_the_adapter_of_our_module_and_so_do_we(tmp_path: Path) -> None:
    from peft import PeftModel

    base, model = adapted()
    model.image_tower.norm_after.weight.requires_grad_(True)
    nn.init.normal_(model.image_tower.norm_after.weight)
    model.log_scale.requires_grad_(True)
    save_adapter(model, base.model, tmp_path / "adapter", rank=4, alpha=4)
    assert json.loads((tmp_path / "adapter" / "diptych.json").read_text())["not_in_adapter"] == ["log_scale"]
    image_BCHW, text_BL = asked(base)
    with torch.no_grad():
        expected = merged(model)(image_BCHW, text_BL)
        ours = clip()
        merge_adapter(ours.model, tmp_path / "adapter")
        found = ours.model(image_BCHW, text_BL)
        assert torch.allclose(found.image_ND, expected.image_ND, atol=1e-6)
        assert torch.allclose(found.text_ND, expected.text_ND, atol=1e-6)
        theirs = PeftModel.from_pretrained(clip().model, str(tmp_path / "adapter")).eval()
        assert torch.allclose(theirs(image_BCHW, text_BL).text_ND, expected.text_ND, atol=1e-6)
    with pytest.raises(ConfigError, match="adapter of another base"):
        merge_adapter(clip(seed=9).model, tmp_path / "adapter")
    with pytest.raises(RunError, match="is not an adapter"):
        merge_adapter(clip().model, tmp_path)


def test_peft_puts_our_adapter_on_the_clip_model_of_transformers(tmp_path: Path) -> None:
    import transformers
    from peft import PeftModel

    base, model = adapted()
    save_adapter(model, base.model, tmp_path / "ours", rank=4, alpha=4)
    for_transformers(tmp_path / "ours", tmp_path / "theirs")
    to_transformers(base, tmp_path / "base")
    theirs = PeftModel.from_pretrained(transformers.CLIPModel.from_pretrained(tmp_path / "base"), str(tmp_path / "theirs")).eval()
    image_BCHW, text_BL = asked(base)
    with torch.no_grad():
        expected = merged(model)(image_BCHW, text_BL)
        found = theirs(pixel_values=image_BCHW, input_ids=text_BL)
    assert torch.allclose(found.image_embeds, expected.image_ND, atol=1e-5)
    assert torch.allclose(found.text_embeds, expected.text_ND, atol=1e-5)


def test_a_folder_of_the_same_class_answers_as_the_tuned_model(tmp_path: Path) -> None:
    import transformers

    from diptych.models.io.export.source_layout import to_same_class
    from diptych.models.io.open_address import open_address

    to_transformers(clip(), tmp_path / "base")
    tuned = open_address(f"hf:{tmp_path / 'base'}")
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    to_same_class(tuned, f"hf:{tmp_path / 'base'}", tmp_path / "out")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert {path.name for path in (tmp_path / "base").iterdir()} <= {path.name for path in (tmp_path / "out").iterdir()}
    image_BCHW, text_BL = asked(tuned)
    with torch.no_grad():
        found, expected = theirs(pixel_values=image_BCHW, input_ids=text_BL), tuned.model.eval()(image_BCHW, text_BL)
    assert torch.allclose(found.image_embeds, expected.image_ND, atol=1e-5)
    assert torch.allclose(found.text_embeds, expected.text_ND, atol=1e-5)
    with pytest.raises(ConfigError, match="no folder of transformers"):
        to_same_class(tuned, "hf:nowhere", tmp_path / "none")


def test_sentence_transformers_opens_the_export(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    from diptych.models.io.export.sentence_transformers import to_sentence_transformers

    embedder = clip()
    to_sentence_transformers(lambda folder: to_transformers(embedder, folder), tmp_path / "out")
    found = torch.tensor(st.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(["a red bus"]))
    assert torch.allclose(found, torch.tensor(embedder.embed_texts(["a red bus"])), atol=1e-5)
