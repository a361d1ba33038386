"""CTP from published weights: DeiT's image tower, BERT's lower layers for words, its upper ones beside the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS, WORDS
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError
from diptych.models.io.tensor_files import read_tensors
from diptych.recipes.contrastive.ctp import CTP

LAYERS, LENGTH = 5, 9
"""Of BERT: two for words (`bert_tiny`), three for words and image."""


def small(**changes: Any) -> CTP:
    sizes = {
        **FEW_WORDS,
        "image_tower": "vit_micro",
        "text_tower": "bert_tiny",
        "image_size": 48,
        "text_length": LENGTH,
        "width": 16,
    }
    heads = {"fusion_layers": LAYERS - 2, "fusion_heads": 2, "queue": 16, "patch_bias": True, "task": 1}
    return with_changes(CTP(), {**sizes, **heads, **changes})


@pytest.fixture(scope="module")
def deit() -> Any:
    torch.manual_seed(1)
    net = VisionTransformer(img_size=48, patch_size=16, embed_dim=64, depth=2, num_heads=4, num_classes=5)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def bert(**changes: Any) -> Any:
    import transformers

    torch.manual_seed(2)
    sizes: dict[str, Any] = {
        "vocab_size": small().words().vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }
    settings = transformers.BertConfig(**{**sizes, "intermediate_size": 512, "initializer_range": 0.2, **changes})
    made = transformers.BertForPreTraining(settings).eval()
    for parameter in made.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return made


def test_it_starts_as_deit_and_bert(deit: Any, tmp_path: Path, parity: Any) -> None:
    """Where attention to the image adds nothing, text tower and reader together are BERT; every tensor of both files has its place."""
    theirs = bert()
    torch.save({"model": deit.state_dict()}, tmp_path / "deit.pth")
    theirs.save_pretrained(tmp_path / "bert")
    torch.manual_seed(3)
    fresh = small().model()
    torch.manual_seed(3)
    model = small(image_weights=str(tmp_path / "deit.pth"), text_weights=str(tmp_path / "bert")).model().eval()
    tower, words, reader = model.encoder.image_tower, model.encoder.text_tower, model.reader
    image_BCHW, ids_BL = torch.randn(2, 3, 48, 48), torch.randint(3, WORDS, (2, LENGTH))
    mask_BL = torch.arange(LENGTH) < torch.tensor([[LENGTH], [6]])
    with torch.no_grad():
        seen = tower(image_BCHW)
        image_BPD = torch.cat([seen.pooled_BD[:, None], seen.tokens_BPD], 1)
        read = theirs.bert(input_ids=ids_BL, attention_mask=mask_BL.long(), output_hidden_states=True)
        lower_BLD = words(ids_BL, mask_BL).tokens_BPD
        x_BLD = lower_BLD
        for block in reader.blocks:  # without the attention to the image, which is fresh
            x_BLD = block.attention(x_BLD, x_BLD, mask_BL[:, None, None, :])
            x_BLD = block.norm(x_BLD + block.mlp_out(F.gelu(block.mlp_in(x_BLD))))
        word_BLV = F.linear(reader.norm(F.gelu(reader.dense(x_BLD))), words.embed.weight, reader.bias_V)
        pairs = [
            (image_BPD, deit.forward_features(image_BCHW)),
            (lower_BLD[mask_BL], read.hidden_states[2][mask_BL]),
            (x_BLD[mask_BL], read.last_hidden_state[mask_BL]),
            (word_BLV[mask_BL], theirs.cls.predictions(read.last_hidden_state)[mask_BL]),
        ]
    parity("ctp", "pictures and texts as DeiT and BERT read them", "timm's and transformers' modules", pairs, tolerance=2e-5)
    before, after = fresh.state_dict(), model.state_dict()
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name]) and not name.startswith("companions.")}
    unlike = [
        name for name in still if not any(part in name for part in (".image.", "projection", "log_scale", "mask_D", "queue_"))
    ]
    assert unlike == []
    for name in ("momentum", "reference"):
        assert all(torch.equal(tensor, after[key]) for key, tensor in model.companions[name].state_dict().items())


def test_no_tensor_of_the_files_is_left_over(deit: Any, tmp_path: Path) -> None:
    """Each number of DeiT and BERT is somewhere in the model, but for the heads that the release leaves out, too."""
    theirs = bert()
    theirs.save_pretrained(tmp_path / "bert")
    save_file(deit.state_dict(), tmp_path / "deit.safetensors")
    model = small(image_weights=str(tmp_path / "deit.safetensors"), text_weights=str(tmp_path / "bert")).model()
    sums = {(tensor.numel(), float(tensor.double().sum())) for tensor in model.state_dict().values()}
    without = ("head.", "pooler.", "seq_relationship", "predictions.decoder")
    files = {**deit.state_dict(), **read_tensors(tmp_path / "bert" / "model.safetensors")}
    left = [n for n, t in files.items() if (t.numel(), float(t.double().sum())) not in sums and not any(p in n for p in without)]
    assert left == []


def test_weights_that_do_not_fit_are_refused(deit: Any, tmp_path: Path) -> None:
    bert(num_hidden_layers=LAYERS + 1).save_pretrained(tmp_path / "deep")
    with pytest.raises(DataError, match=r"the reader of hidden words have blocks\.3\..*, which does not belong there"):
        small(text_weights=str(tmp_path / "deep")).model()
    assert small(text_weights=str(tmp_path / "deep"), fusion_layers=0).model().reader is None
    bert(num_hidden_layers=LAYERS - 1).save_pretrained(tmp_path / "flat")
    with pytest.raises(DataError, match=r"the reader of hidden words have nothing for blocks\.2\."):
        small(text_weights=str(tmp_path / "flat")).model()
    save_file(deit.state_dict(), tmp_path / "deit.safetensors")
    with pytest.raises(DataError, match=r"the text tower have nothing for net\.embeddings"):
        small(text_weights=str(tmp_path / "deit.safetensors")).model()
    with pytest.raises(ConfigError, match="expected bert_"):
        small(text_tower="text_micro", text_weights=str(tmp_path / "flat"), fusion_heads=4).model()
    with pytest.raises(ConfigError, match="expected albef True"):
        small(albef=False, text_weights=str(tmp_path / "flat")).model()
    with pytest.raises(ConfigError, match="expected vit_"):
        small(
            image_tower="convnet_tiny", class_token=False, patch_bias=None, image_weights=str(tmp_path / "deit.safetensors")
        ).model()
