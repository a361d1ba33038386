"""SyViC: captions are split and read whole, styles mix while training alone, adapters change nothing at the start, and blending returns."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import stopped_and_resumed
from safetensors.torch import load_file

from diptych.api import load
from diptych.core.contracts import Tuning
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.augment.heavy_augment import heavy_augment
from diptych.data.text.captions.chunks import caption_parts, chunks, drop_sentences
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.layers.mix_style import MixStyle, mix_styles
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.chunked_encoder import ChunkedEncoder
from diptych.models.towers.adapters import LoRAConfig, add_adapters
from diptych.models.towers.text import TextTransformer
from diptych.models.towers.vit import VisionTransformer
from diptych.recipes._shared.presets import ADAPTED
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.syvic import SyViC
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "syvic_released.npz"
SOURCE = "uvavision/SyViC d2356f7"
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "text_length": 40, "width": 16, "pieces": 320,
    "batch_size": 8, "steps": 4, "warmup": 0.0, "sentences": 2,
}  # fmt: skip


def small(**changes: Any) -> SyViC:
    return replace(SyViC.tiny(), **{**SMALL, **changes})


def rows(count: int = 24) -> Pool:
    return scenes(count, size=48, lengths=("dense",), paraphrases=0, negatives=False).to_pool()


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    return {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}


def test_the_released_adam_takes_decay_from_every_weight_that_is_trained() -> None:
    for coupled in (True, False):
        recipe = replace(small(), tokenizer="clip", coupled=coupled, falls="step")
        model = recipe.model()
        decays = {
            id(p) for g in build_optimiser(model, recipe.optimiser()).param_groups if g["weight_decay"] for p in g["params"]
        }
        assert all((id(p) in decays) == (coupled or p.ndim >= 2) for p in model.parameters())


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = SyViC.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    paper = SyViC.paper()
    assert (paper.batch_size, paper.lr, paper.weight_decay, paper.rank, paper.sentences) == (256, 2.5e-3, 0.2, 16, 4)
    assert paper.tuning() == Tuning(lora=f"16:{ADAPTED}", lora_alpha=1.0, lora_random="qkv", lora_kernel="patches")
    add_adapters(model, LoRAConfig.parse(paper.tuning().lora, alpha=1.0, kernel="patches"))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16_564_224, (
        "what the released CLIP with lora=16 trains"
    )
    with pytest.raises(ConfigError, match="patch_adapter is 'one'"):
        SyViC(patch_adapter="one")  # type: ignore[arg-type]
    assert replace(paper, adapter_start="zero").tuning().lora_random == ""
    with pytest.raises(ConfigError, match="adapter_start is 'one'"):
        SyViC(adapter_start="one")  # type: ignore[arg-type]


def test_chunks_are_read_and_averaged_as_released(theirs: dict[str, Any], parity: Any) -> None:
    image = VisionTransformer(image_size=8, patch=4, width=64, layers=1, heads=1, act="quick_gelu")
    text = TextTransformer(vocab_size=40, length=12, width=16, layers=2, heads=2, act="quick_gelu", pooling="largest", eot_id=39)
    encoder = DualEncoder(image, text, width=16)
    weights = {name.removeprefix("w."): tensor.float() for name, tensor in theirs.items() if name.startswith("w.")}
    encoder.load_state_dict(from_open_clip(weights))
    text_BKL = theirs["text"]
    with torch.no_grad():
        found = ChunkedEncoder(encoder).eval()(
            theirs["image"],
            text_BKL,
            torch.ones_like(text_BKL, dtype=torch.bool),
            torch.ones(text_BKL.shape[:2], dtype=torch.bool),
        )
        logit = found.scale * found.image_ND @ found.text_ND.T
    parity(
        "syvic", "similarities of captions in two chunks", f"{SOURCE}, CLIP.forward", [(logit, theirs["logits"])], tolerance=1e-4
    )


def test_a_chunk_that_is_not_there_is_not_read(theirs: dict[str, Any]) -> None:
    """The mean is over the chunks that a caption has, whatever stands in the others' places."""
    torch.manual_seed(0)
    recipe = small().prepare(rows(8))
    model = recipe.model().eval()
    (step,) = batches(rows(8), recipe, seed=1, stop=1)
    batch = step.batch
    assert not batch.there_BK.all(), "captions have different numbers of chunks"
    with torch.no_grad():
        found = recipe.features(model, batch)
        filled = torch.where(batch.there_BK[..., None], batch.text_BKL, torch.randint(3, 90, batch.text_BKL.shape))
        other = recipe.features(model, replace(batch, text_BKL=filled))
        assert torch.equal(found.text_ND, other.text_ND)
        row = int(batch.there_BK.sum(1).argmax())
        count = int(batch.there_BK[row].sum())
        encoder = model.encoder
        each = [
            encoder.text_projection(
                encoder.text_tower(batch.text_BKL[row, k : k + 1], batch.text_mask_BKL[row, k : k + 1]).pooled_BD
            )
            for k in range(count)
        ]
    assert torch.allclose(found.text_ND[row], F.normalize(torch.cat(each).mean(0), dim=-1), atol=1e-6)


def test_captions_are_cut_as_released(theirs: dict[str, Any], parity: Any) -> None:
    captions = ["A cup. A box. It is red. It is blue. A dog runs fast.  Two.", "One", "A. B. C. D", ". .x. y"]
    ours = []
    for caption in captions:
        found = chunks(caption)
        ours.append([len(found), *[zlib.crc32(chunk.encode()) for chunk in found], *[0] * (3 - len(found))])
    parity("syvic", "chunks of captions", f"{SOURCE}, core.py", [(ours, theirs["chunks"])], tolerance=0)


def test_splitting_really_splits() -> None:
    """Nothing of a caption is lost by "all", while the released "first" loses all but four sentences."""
    data = rows(8)
    long = [text.string for sample in data for text in sample.texts]
    assert max(len(caption_parts(text)) for text in long) > 4
    for text in long:
        assert caption_parts(". ".join(chunks(text))) == caption_parts(text)
    whole, first = (small(split=split, said=1.0).prepare(data) for split in ("all", "first"))
    (one,) = batches(data, whole, seed=1, stop=1)
    (two,) = batches(data, first, seed=1, stop=1)
    assert one.batch.there_BK.sum() > two.batch.there_BK.sum() == 8
    rng = np.random.default_rng(0)
    kept = [len(caption_parts(drop_sentences("a. b. c. d. e. f. g. h. i. j. k", rng, keep=0.7))) for _ in range(300)]
    assert np.mean(kept) == pytest.approx(1 + 10 * 0.7, abs=0.3)
    assert all(drop_sentences("a. b", rng, keep=0.0) == "a" for _ in range(5))


def test_captions_of_actions_are_thinned_as_released() -> None:
    """Of n pieces between full stops, the empty one at the end among them, each stays in 7 of n cases: 11 sentences leave 11 * 7 / 12."""
    rng = np.random.default_rng(1)
    long = "a. b. c. d. e. f. g. h. i. j. k."
    kept = [caption_parts(drop_sentences(long, rng, about=7.0)) for _ in range(600)]
    assert np.mean([len(some) for some in kept]) == pytest.approx(77 / 12, abs=0.2)
    assert np.mean(["a" in some for some in kept]) == pytest.approx(7 / 12, abs=0.06)
    short = "a. b. c. d. e. f."
    assert all(caption_parts(drop_sentences(short, rng, about=7.0)) == caption_parts(short) for _ in range(20))
    assert all(caption_parts(drop_sentences("a. b. c.", rng, about=1e-9)) == ["a"] for _ in range(5)), "never nothing"
    paper = SyViC.paper()
    assert (paper.said_about, paper.flip, paper.flip_sides) == (7.0, True, "keep")
    assert (SyViC.tiny().said_about, SyViC.tiny().said) == (0.0, 0.7)
    with pytest.raises(ConfigError, match="said_about -1"):
        SyViC(said_about=-1)


def test_styles_mix_as_released_and_only_while_training(theirs: dict[str, Any], parity: Any) -> None:
    found = mix_styles(theirs["mix_in"], theirs["mix_part"], theirs["mix_other"])
    parity("syvic", "mixed styles", f"{SOURCE}, mixstyle.py", [(found, theirs["mix_out"])], tolerance=1e-12)
    x_BPD = torch.randn(6, 5, 4, requires_grad=True)
    style = MixStyle(share=1.0)
    assert torch.equal(style.eval()(x_BPD), x_BPD)
    assert not torch.allclose(style.train()(x_BPD), x_BPD)
    assert all(torch.equal(MixStyle(share=0.0).train()(x_BPD), x_BPD) for _ in range(20))
    cross = MixStyle(mix="crossdomain")
    for _ in range(20):
        other = cross.others(6)
        assert sorted(other.tolist()) == list(range(6))
        assert all(int(o) >= 3 for o in other[:3])
    assert sorted(theirs["cross_other"][:3].tolist()) == [3, 4, 5]
    (grad,) = torch.autograd.grad(mix_styles(x_BPD, torch.full((6, 1, 1), 0.5), torch.randperm(6)).sum(), [x_BPD])
    expected = torch.autograd.grad(
        ((x_BPD - x_BPD.mean(1, keepdim=True).detach()) / (x_BPD.var(1, keepdim=True) + 1e-6).sqrt().detach()).sum(), [x_BPD]
    )[0]
    assert torch.sign(grad).equal(torch.sign(expected)), "statistics carry no gradient"


def test_styles_reach_the_image_tower() -> None:
    data = rows(8)
    recipe = small(mix_style=1.0, mix="random").prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    with torch.no_grad():
        training, again = (recipe.features(model.train(), step.batch).image_ND for _ in range(2))
        evaluated = recipe.features(model.eval(), step.batch).image_ND
    assert not torch.allclose(training, again)
    assert not torch.allclose(training, evaluated)
    plain = small().prepare(data).model().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(recipe.features(plain, step.batch).image_ND, evaluated)
    with pytest.raises(ConfigError, match="mix_style needs a vit_\\* image tower"):
        small(mix_style=0.5, image_tower="convnet_tiny").prepare(data).model()


def test_adapters_change_nothing_at_the_start_and_alone_are_trained(tmp_path: Path, parity: Any) -> None:
    data = rows(24)
    clip = fit(replace(CLIP.tiny(), **{k: v for k, v in SMALL.items() if k != "sentences"}), data, tmp_path / "clip", OPTIONS)
    start = load(clip.path)
    base = dict(start.model.state_dict())
    recipe = replace(small(rank=4, lr=0.0, weight_decay=0.0), tokenizer="data")
    tuned = fit(recipe, data, tmp_path / "tuned", replace(OPTIONS, init=str(clip.path)))
    still = load(tuned.path).model.state_dict()
    pairs = [(still[name], tensor) for name, tensor in base.items()]
    parity("syvic", "adapters at a rate of zero", "the weights that were started from", pairs, tolerance=1e-6)
    moved = fit(replace(recipe, lr=1e-2), data, tmp_path / "moved", replace(OPTIONS, init=str(clip.path)))
    ours = load(moved.path).model.state_dict()
    wide = fit(replace(recipe, lr=1e-2, patch_adapter="side"), data, tmp_path / "wide", replace(OPTIONS, init=str(clip.path)))
    assert load(wide.path).model.state_dict().keys() == base.keys()
    taken_up = load(f"lora:{wide.adapter}#{wide.start}").model.state_dict()
    for name, tensor in load(wide.path).model.state_dict().items():
        torch.testing.assert_close(taken_up[name], tensor, atol=1e-6, rtol=0)
    changed = {name for name, tensor in base.items() if not torch.allclose(ours[name], tensor, atol=1e-6)}
    assert changed
    assert all(any(part in name for part in ADAPTED.split(",")) and name.endswith("weight") for name in changed), changed
    blended = fit(
        replace(recipe, lr=1e-2), data, tmp_path / "blend", replace(OPTIONS, init=str(clip.path), tune=Tuning(blend=0.5))
    )
    middle = load(blended.path).model.state_dict()
    pairs = [(middle[name], (tensor + ours[name]) / 2) for name, tensor in base.items()]
    parity("syvic", "average with the start", "half of both by hand", pairs, tolerance=1e-5)


def test_a_run_that_was_stopped_ends_the_same(tmp_path: Path) -> None:
    data = rows(24)
    recipe = small(mix_style=0.5, augment="heavy")
    straight = fit(recipe, data, tmp_path / "straight", OPTIONS)
    stopped = stopped_and_resumed(recipe, data, tmp_path, OPTIONS, step=2)
    one, two = (load_file(folder.model / "model.safetensors") for folder in (straight, stopped))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_heavy_augmentation_is_keyed_and_keeps_shapes() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    made = [heavy_augment(image_HWC, np.random.default_rng(seed)) for seed in range(30)]
    assert all(each.shape == image_HWC.shape and each.dtype == np.uint8 for each in made)
    assert np.array_equal(made[3], heavy_augment(image_HWC, np.random.default_rng(3)))
    assert sum(not np.array_equal(each, image_HWC) for each in made) > 20


def test_refused() -> None:
    data = rows(8)
    with pytest.raises(ConfigError, match="split is 'half'"):
        SyViC(split="half")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="augment is 'light'"):
        SyViC(augment="light")  # type: ignore[arg-type]
    recipe = small().prepare(data)
    blank = Pool.from_samples([replace(data[row], texts=(Text(" . ", "en"),)) for row in range(8)], name="blank")
    with pytest.raises(DataError, match="has a caption without a word"):
        list(batches(blank, recipe, seed=0, stop=1))
