"""TL;DR's captioner learns captions through its codes, resumes and is deployed; the published size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import on_two_processes
from safetensors.torch import save_file

from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.core.errors import ConfigError, DataError
from diptych.data.load.stream import batches
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.generation.codebook_captioner import CodebookCaptionerRecipe
from diptych.train.fit import fit
from diptych.train.optimise import learning_rate
from diptych.train.options import TrainOptions
from diptych.train.weights import copy_matching_tensors, start_lines, start_tensors
from diptych.worlds.small_pairs import SmallPairs


def small() -> CodebookCaptionerRecipe:
    return replace(
        CodebookCaptionerRecipe.tiny(),
        image_tower="vit_micro",
        image_size=48,
        heads=4,
        layers=1,
        pieces=300,
        text_length=20,
        batch_size=16,
    )


def test_every_parameter_gets_a_gradient_and_terms_add_up() -> None:
    rows = SmallPairs(32).pool("train", 0)
    recipe = small().prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    losses = recipe.losses(features, step.batch)
    assert set(losses) == {"caption", "codebook", "commitment"}
    assert float(losses["commitment"]) == pytest.approx(0.25 * float(losses["codebook"]))
    assert float(losses["caption"]) == pytest.approx(np.log(model.tokens.num_embeddings), rel=0.1), "guessing"
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent in ([], ["image_tower.class_token_D"]), silent
    legacy = replace(recipe, legacy=True).losses(features, step.batch)
    assert float(legacy["codebook"]) == pytest.approx(0.25 * float(losses["codebook"]))


def test_the_image_tower_of_clip_starts_it(tmp_path: Path) -> None:
    """As `--init RUN` does: every tensor of the tower comes from CLIP, none of what writes."""
    rows = SmallPairs(32).pool("train", 0)
    clip = sized_for(CLIP.tiny(), image_size=48, steps=1, batch_size=8)
    options = TrainOptions(progress=False, device="cpu", precision="fp32")
    address = str(fit(clip, rows, tmp_path / "clip", options).model)
    given = start_tensors(address)
    model = small().prepare(rows).model()
    taken = copy_matching_tensors(given, model)
    assert set(taken) == {f"image_tower.{name}" for name in model.image_tower.state_dict()}
    assert "fresh" in " ".join(start_lines(given, model, address))
    torch.testing.assert_close(model.image_tower.state_dict()["patches.weight"], given["image_tower.patches.weight"])


def moved_codes(rank: int, world: int, restart: int = 1) -> dict[str, torch.Tensor]:
    """The codebook after one `after_update` on this process's share of a batch."""
    rows = SmallPairs(32).pool("train", 0)
    recipe = replace(small(), restart=restart).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    share = step.batch.rows(rank * 16 // world, (rank + 1) * 16 // world)
    with torch.no_grad():
        recipe.after_update(model, recipe.features(model, share), share, 0.0)
    return model.codebook.state_dict()


def test_unused_codes_move_and_processes_agree_on_where(tmp_path: Path) -> None:
    alone, never = moved_codes(0, 1), moved_codes(0, 1, restart=0)
    moved = (alone["code_KD"] != never["code_KD"]).any(1)
    assert 0.5 * len(moved) < moved.sum() < len(moved), "few codes are near anything at the start, and those stay"
    assert never["moves"] == 0
    assert CodebookCaptionerRecipe.paper().restart == 0
    for found in on_two_processes(moved_codes, tmp_path):
        torch.testing.assert_close(found, alone)


def test_published_size() -> None:
    recipe = CodebookCaptionerRecipe.paper()
    assert (recipe.codes, recipe.beta, recipe.text_length, recipe.batch_size, recipe.lr) == (1024, 0.25, 30, 2400, 3e-4)
    with torch.device("meta"):
        model = recipe.model()
    assert tuple(model.codebook.code_KD.shape) == (1024, 768)
    assert len(model.decoder.blocks) == 12
    assert (recipe.class_token, recipe.decoder, recipe.caption_mean, recipe.dropout) == (True, "blip", "tokens", 0.1)
    spec = recipe.optimiser()
    assert (spec.schedule, spec.decay_rate, spec.periods) == ("decay", 0.9, 20)
    assert spec.lr * spec.final_lr == pytest.approx(1e-6)
    assert (spec.betas, spec.eps, recipe.crop, recipe.flip, recipe.resize) == ((0.9, 0.999), 1e-8, (0.2, 1.0), True, "squash")


@pytest.mark.parametrize("epoch_steps", [1121, 5000])
def test_the_rate_of_each_step_is_the_released_one(epoch_steps: int, parity: Any) -> None:
    """An epoch of CC3M has 1,121 steps of 2,400: its 3,000 steps of warm-up end with the first epoch, at 1.1e-4, and
    the next has 2.7e-4."""
    spec, steps = CodebookCaptionerRecipe.paper().optimiser(), 20 * epoch_steps
    pairs = []
    for step in range(0, steps, 53):
        epoch, within = divmod(step, epoch_steps)
        rate = max(1e-6, 3e-4 * 0.9**epoch)
        if epoch == 0:
            rate = min(3e-4, 1e-6 + (3e-4 - 1e-6) * within / 3000)
        pairs.append((1e4 * learning_rate(spec, step, steps), 1e4 * rate))
    parity("tldr", "learning rates", "showlab/datacentric.vlp a488102, utils.py", pairs, tolerance=1e-9)


def published_small() -> CodebookCaptionerRecipe:
    tiny = {
        "image_tower": "vit_micro",
        "image_size": 48,
        "heads": 4,
        "layers": 2,
        "pieces": 300,
        "text_length": 20,
        "batch_size": 8,
    }
    return replace(CodebookCaptionerRecipe.paper(), tokenizer="data", codes=16, places=24, augment="none", **tiny)


def test_the_published_decoder_is_that_of_blip(parity: Any, tmp_path: Path) -> None:
    """The class token has a code of its own, in front; the loss is the mean over all tokens of the batch but padding."""
    rows = SmallPairs(24).pool("train", 0)
    recipe = replace(published_small(), dropout=0.0).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    batch = step.batch
    found = recipe.features(model, batch)
    assert found.id_BP.shape == (8, 10), "nine patches and the class token"
    torch.testing.assert_close(found.patch_BPD[:, 0], model.image_tower(batch.image_BCHW).pooled_BD)

    # The decoder itself is held against transformers in test_ptp.py; here it is asked for what the release asks it for.
    logit_BLV = model.decoder.write(batch.text_BL, batch.text_mask_BL, found.code_BPD)
    label_BL = batch.text_BL.masked_fill(~batch.text_mask_BL, -100)
    theirs = F.cross_entropy(logit_BLV[:, :-1].flatten(0, 1), label_BL[:, 1:].flatten(), ignore_index=-100)
    ours = recipe.losses(found, batch)["caption"]
    parity(
        "tldr",
        "loss of a caption by the published decoder",
        "torch's cross_entropy over all tokens",
        [(ours, theirs)],
        tolerance=1e-6,
    )
    assert [name for name, _ in model.named_parameters() if "reading" in name] == []
    folder = tmp_path / "model"
    made = recipe.deploy(model.eval())
    made.save(folder)
    image = rows[0].image
    assert open_model(folder).generate([image], [""]) == made.generate([image], [""])


@pytest.mark.slow
def test_it_starts_as_deit_and_bert(parity: Any, tmp_path: Path) -> None:
    """The decoder's words are BERT's, behind them those of two marks; its attention to the image stays fresh."""
    import transformers
    from timm.models.vision_transformer import VisionTransformer

    ready = published_small().prepare(SmallPairs(24).pool("train", 0))
    torch.manual_seed(1)
    deit = VisionTransformer(img_size=48, patch_size=16, embed_dim=64, depth=2, num_heads=4, num_classes=5).eval()
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    sizes |= {"vocab_size": ready.words().vocab_size, "max_position_embeddings": 24, "is_decoder": True}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    for parameter in [*deit.parameters(), *bert.parameters()]:
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)
    bert.bert.embeddings.token_type_embeddings.weight.data.zero_()  # BLIP's text transformer has none
    save_file(deit.state_dict(), tmp_path / "deit.safetensors")
    bert.save_pretrained(tmp_path / "bert")
    given = {"image_weights": str(tmp_path / "deit.safetensors"), "text_weights": str(tmp_path / "bert")}
    model = replace(ready, **given).model().eval()
    image_BCHW, ids_BL = torch.randn(2, 3, 48, 48), torch.randint(3, 200, (2, 9))
    causal_LL = torch.ones(9, 9, dtype=torch.bool).tril()
    with torch.no_grad():
        seen = model.image_tower(image_BCHW)
        x_BLD = model.decoder.norm(model.decoder.words(ids_BL) + model.decoder.position_LD[:9])
        for block in model.decoder.blocks:  # without the attention to the image
            x_BLD = block(x_BLD, causal_LL, None, "write")
        head = model.decoder.head_norm(F.gelu(model.decoder.head(x_BLD)))
        logit_BLV = F.linear(head, model.decoder.words.weight, model.decoder.bias_V)
        pairs = [
            (torch.cat([seen.pooled_BD[:, None], seen.tokens_BPD], 1), deit.forward_features(image_BCHW)),
            (logit_BLV[..., :-2], bert(input_ids=ids_BL).logits),
        ]
    parity("tldr", "pictures and texts as DeiT and BERT read them", "timm's and transformers' modules", pairs, tolerance=2e-5)
    with pytest.raises(ConfigError, match="expected decoder 'blip'"):
        replace(ready, decoder="plain", class_token=False, **given).model()
    with pytest.raises(DataError, match=r"the text transformer have blocks\.1\..*, which does not belong there"):
        replace(ready, layers=1, **given).model()


@pytest.mark.slow
def test_it_learns_to_name_what_it_sees(tmp_path: Path) -> None:
    rows = SmallPairs(1000, captioned=False).pool("train", 0)
    recipe = replace(small(), steps=160, batch_size=48)
    run = fit(recipe, rows, tmp_path / "run", TrainOptions(seed=0, progress=False))
    model = open_model(run.model)
    test = SmallPairs(60).pool("test", 1)
    written = model.generate([s.image for s in test], [""] * 60, max_tokens=18)
    colours = [set(s.texts[0].string.split()) & {"red", "green", "blue", "yellow", "purple", "white"} for s in test]
    said = [set(text.split()) & {"red", "green", "blue", "yellow", "purple", "white"} for text in written]
    assert np.mean([bool(a & b) for a, b in zip(colours, said, strict=True)]) > 0.7, written[:5]
