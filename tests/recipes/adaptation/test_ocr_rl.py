"""OCR-RL: encoders against figures of the released code, slots, poolings, FG-ARI against scikit-learn, sprites and their tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import diptych
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.randomness import keyed_rng
from diptych.data.load.stream import batches
from diptych.models.slots.iodine import Iodine
from diptych.models.slots.masked_autoencoder import MaskedAutoencoder, hidden_patch_error
from diptych.models.slots.object_network import IodineShape, ObjectNetwork, ObjectShape, SlateShape, SlotShape, VectorShape
from diptych.models.slots.pooling import slot_pooling, small_sines
from diptych.models.slots.slate import Slate, cosine_temperature
from diptych.models.slots.slot_attention import BroadcastDecoder, SlotAttention, SlotEncoder
from diptych.models.slots.vectors import NatureCNN, SeveralCNNs, VectorAutoencoder, vector_kl
from diptych.recipes.adaptation.ocr_rl import ObjectCentricRL, ObjectRates
from diptych.tasks._scoring.detection.adjusted_rand import adjusted_rand, foreground_ari
from diptych.tasks.grounding.foreground_ari import ForegroundARI
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser, clip, schedule
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve
from diptych.worlds.sprites.world import sprites

RELEASED = "the released code of OCR-RL, run on the same weights and random numbers"
SMALL = SlotShape(slots=4, width=20, hidden=28, rounds=3, heads=2, features=16)


def by_formula(model: nn.Module) -> nn.Module:
    """Weights that need no file: sines of their places."""
    for number, parameter in enumerate(model.parameters()):
        parameter.data = (
            (0.2 * torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + number)).view(parameter.shape).float()
        )
    return model


def pictures() -> Tensor:
    return (0.5 + 0.5 * torch.sin(torch.arange(3 * 3 * 16 * 16, dtype=torch.float64) * 0.013)).view(3, 3, 16, 16).float()


def test_slate_and_slot_attention_are_those_of_the_release(parity: Any) -> None:
    slate = by_formula(
        ObjectNetwork(
            ObjectShape(
                "slate", 16, SMALL, SlateShape(tokens=32, token_width=24, token_blocks=2, token_heads=4, token_dropout=0.0)
            )
        )
    )
    slate.slate.temperature.fill_(0.7)  # type: ignore[operator, union-attr]
    torch.manual_seed(5)
    terms = slate(pictures()).term_BT.mean(0)
    pairs = [(terms.detach() / 100, torch.tensor([424.2193603515625, 55.7508659362793]) / 100)]
    parity("ocr_rl", "SLATE: error of the autoencoder and cross-entropy of the tokens, over 100", RELEASED, pairs, tolerance=1e-4)
    terms.sum().backward()
    squares = sum((p.grad**2).sum() for p in slate.parameters() if p.grad is not None)
    pairs = [(squares / 2650069.0, torch.tensor(1.0))]
    parity("ocr_rl", "SLATE: squared norm of the gradient, over that released", RELEASED, pairs, tolerance=1e-4)

    slots = by_formula(ObjectNetwork(ObjectShape("slot_attention", 16, SMALL)))
    slate.zero_grad()
    torch.manual_seed(5)
    with torch.no_grad():
        slate_draws(slate)  # the release draws tokens first, which this loss does not need
    loss = slots(pictures()).term_BT.mean()
    pairs = [(loss.detach() / 100, torch.tensor(5.29441162109375))]
    parity("ocr_rl", "slot attention: error of the picture, over 100", RELEASED, pairs, tolerance=1e-4)


def slate_draws(slate: Any) -> None:
    for _ in range(2):
        torch.empty(3, 32, 4, 4).exponential_()


def test_iodine_is_that_of_the_release(parity: Any) -> None:
    model = by_formula(
        Iodine(16, slots=4, width=6, rounds=3, sigma=0.35, beta=1.3, features=8, hidden=10, layers=2, reads_cell=True)
    )
    torch.manual_seed(3)
    made = model(pictures())
    pairs = [
        (made.loss_B.mean() / 17231.087890625, torch.tensor(1.0)),
        (made.kl_B.mean() / 10.576786994934082, torch.tensor(1.0)),
    ]
    parity("ocr_rl", "IODINE: bound and KL, over those released", RELEASED, pairs, tolerance=2e-4)
    assert made.mask_BKHW.sum(1).sub(1).abs().max() < 1e-5
    own = by_formula(Iodine(16, slots=4, width=6, rounds=3, features=8, hidden=10, layers=2))
    torch.manual_seed(3)
    assert not torch.allclose(own(pictures()).loss_B, made.loss_B), "the LSTM's output is read, not its cell"


# ---------------------------------------------------------------- slots


def test_attention_competes_over_slots_and_slots_follow_their_noise() -> None:
    torch.manual_seed(0)
    encoder = SlotEncoder(16, features=8, slots=4, width=12, hidden=16, heads=3)
    noise_BSD = torch.randn(2, 4, 12)
    image_BCHW = torch.rand(2, 3, 16, 16)
    slot_BSD, mask_BSHW = encoder(image_BCHW, noise_BSD)
    torch.testing.assert_close(mask_BSHW.sum(1), torch.ones(2, 16, 16), msg="heads and slots share each place")
    order = [2, 0, 3, 1]
    moved_BSD, moved_mask = encoder(image_BCHW, noise_BSD[:, order])
    torch.testing.assert_close(moved_BSD, slot_BSD[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved_mask, mask_BSHW[:, order], atol=1e-5, rtol=1e-4)
    picture, mask = BroadcastDecoder(16, features=8, width=12)(slot_BSD)
    assert picture.shape == (2, 4, 3, 16, 16)
    torch.testing.assert_close(mask.sum(1), torch.ones(2, 1, 16, 16))
    with pytest.raises(ConfigError, match="cannot be shared by 5 heads"):
        SlotAttention(8, 12, hidden=8, heads=5)


def test_attention_is_the_loop_by_hand() -> None:
    torch.manual_seed(1)
    attention = SlotAttention(5, 6, hidden=7, heads=1, rounds=2).double()
    input_BNC, slot_BSD = torch.randn(1, 9, 5, dtype=torch.float64), torch.randn(1, 3, 6, dtype=torch.float64)
    got, _ = attention(input_BNC, slot_BSD)
    x, slots = attention.norm_inputs(input_BNC)[0], slot_BSD[0]
    for _ in range(2):
        query = attention.query(attention.norm_slots(slots))
        weight = torch.zeros(9, 3, dtype=torch.float64)
        for n in range(9):
            weight[n] = torch.stack([attention.key(x[n]) @ query[s] / 6**0.5 for s in range(3)]).softmax(0)
        updates = torch.stack([((weight[:, s] + 1e-8) / (weight[:, s] + 1e-8).sum()) @ attention.value(x) for s in range(3)])
        slots = attention.gru(updates, slots)
        slots = slots + attention.mlp(attention.norm_mlp(slots))
    torch.testing.assert_close(got[0], slots)


def test_tokens_are_written_from_those_before() -> None:
    torch.manual_seed(0)
    slate = Slate(
        16, SlotEncoder(16, features=8, slots=3, width=8, hidden=8), tokens=12, width=16, blocks=2, heads=2, dropout=0.0
    )
    slot_BSD, id_BN = torch.randn(2, 3, 8), torch.randint(12, (2, 16))
    logit_BNV = slate.decoder(id_BN, slot_BSD)
    changed = id_BN.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 12
    other_BNV = slate.decoder(changed, slot_BSD)
    torch.testing.assert_close(logit_BNV[:, :8], other_BNV[:, :8])
    assert not torch.allclose(logit_BNV[:, 8], other_BNV[:, 8])
    assert slate.generate(slot_BSD).shape == (2, 3, 16, 16)
    assert cosine_temperature(0, 1.0, 0.1, 100) == 1.0
    assert cosine_temperature(50, 1.0, 0.1, 100) == pytest.approx(0.55)
    assert cosine_temperature(500, 1.0, 0.1, 100) == pytest.approx(0.1)


def test_vectors_patches_and_convolutions() -> None:
    torch.manual_seed(0)
    image_BCHW = torch.rand(2, 3, 64, 64)
    vae = VectorAutoencoder(64, width=10)
    made = vae(image_BCHW)
    assert made.image_BCHW.shape == image_BCHW.shape
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(made.mean_BD, (0.5 * made.log_variance_BD).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(vector_kl(made.mean_BD, made.log_variance_BD), exact.sum(1))
    mae = MaskedAutoencoder(64, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
    drawn = mae(image_BCHW)
    assert drawn.hidden_BP.sum(1).tolist() == [48, 48]
    patch_1d = drawn.patch_BPd[1, 9].view(8, 8, 3)
    torch.testing.assert_close(patch_1d.permute(2, 0, 1), image_BCHW[1, :, 8:16, 8:16])
    by_hand = torch.stack([(drawn.drawn_BPd[b] - drawn.patch_BPd[b])[drawn.hidden_BP[b]].square().mean() for b in range(2)])
    torch.testing.assert_close(hidden_patch_error(drawn.drawn_BPd, drawn.patch_BPd, drawn.hidden_BP), by_hand)
    assert mae.tokens(image_BCHW).shape == (2, 64, 16)
    assert NatureCNN(64)(image_BCHW).shape == (2, 1, 512)
    assert NatureCNN(64, grid=True)(image_BCHW).shape == (2, 16, 64)
    assert SeveralCNNs(64, modules=3)(image_BCHW).shape == (2, 3, 512)


def test_sets_are_pooled_whatever_their_order() -> None:
    torch.manual_seed(0)
    slot_BSD = torch.randn(2, 5, 8)
    order = [3, 1, 4, 0, 2]
    for kind, same in (("transformer", True), ("relation_network", True), ("mlp", False), ("concatenation", False)):
        pool = slot_pooling(kind, 8, 5).eval()
        one, other = pool(slot_BSD), pool(slot_BSD[:, order])
        assert one.shape == (2, pool.width)
        assert torch.allclose(one, other, atol=1e-5) == same, kind
    placed = slot_pooling("transformer", 8, 5, positions="sine").eval()
    assert not torch.equal(placed(slot_BSD), placed(slot_BSD[:, order]))
    assert small_sines(3, 4)[2].tolist() == pytest.approx(
        [0.001 * np.sin(2), 0.001 * np.cos(2), 0.001 * np.sin(0.02), 0.001 * np.cos(0.02)]
    )
    with pytest.raises(UnknownName, match="unknown pooling 'transfomer'"):
        slot_pooling("transfomer", 8, 5)


# ---------------------------------------------------------------- FG-ARI


def test_index_is_that_of_scikit_learn_and_the_released_fault(parity: Any) -> None:
    from sklearn.metrics import adjusted_rand_score

    rng = keyed_rng("ari")
    pairs = []
    for _ in range(30):
        one, other = (rng.integers(int(rng.integers(1, 6)), size=40) for _ in range(2))
        pairs.append((np.array(adjusted_rand(one, other)), np.array(adjusted_rand_score(one, other))))
    parity("ocr_rl", "adjusted Rand index of 30 partitions", "adjusted_rand_score of scikit-learn", pairs, tolerance=1e-12)
    true_KHW = np.zeros((3, 12, 12), bool)
    true_KHW[0, 1:5, 1:5], true_KHW[1, 7:11, 2:6], true_KHW[2, 3:8, 7:11] = True, True, True
    perfect = np.concatenate([true_KHW, ~true_KHW.any(0)[None]]) * 0.9 + 0.025
    drawn = np.random.default_rng(0).random((4, 12, 12))
    drawn /= drawn.sum(0)
    foreground = true_KHW.any(0)
    expected = adjusted_rand_score(true_KHW.argmax(0)[foreground], drawn.argmax(0)[foreground])
    pairs = [(np.array(foreground_ari(true_KHW, drawn)), np.array(expected))]
    parity("ocr_rl", "FG-ARI of soft masks", "adjusted_rand_score of scikit-learn", pairs, tolerance=1e-12)
    assert foreground_ari(true_KHW, perfect) == 1.0
    assert foreground_ari(true_KHW, drawn) == pytest.approx(0.0011389, abs=1e-6)
    for masks in (perfect / perfect.sum(0), drawn):
        released = foreground_ari(true_KHW, masks, compat="ocrl")
        pairs = [(np.array(released), np.array(0.8272143614037275))]
        parity("ocr_rl", "the released fault: perfect and random slots alike", RELEASED, pairs, tolerance=1e-12)
    assert np.isnan(foreground_ari(np.zeros((1, 4, 4), bool), drawn[:, :4, :4]))


def test_task_scores_segments_of_objects() -> None:
    data = sprites(6, size=32, objects=3, overlap=0.0, scales=(0.2,))

    class Truthful:
        name = "truthful"

        def segment(self, images: Any, labels: Any) -> list[Any]:
            from diptych.data.masks import decode

            return [
                sum((n + 1) * decode(region.mask) for n, region in enumerate(data[row].regions)) for row in range(len(images))
            ]

    task = ForegroundARI(draws=10)
    result = task.score(task.predict(Truthful(), data))  # type: ignore[arg-type]
    assert result.metrics["fg_ari"].value == pytest.approx(1)
    assert result.metrics["bound_share"].value == 1
    with pytest.raises(DataError, match="has no masks"):
        task.predict(Truthful(), resolve("world:overhead?n=2"))  # type: ignore[arg-type]


# ---------------------------------------------------------------- recipe


@pytest.mark.parametrize("encoder", ["slate", "iodine", "vae", "mae"])
def test_every_encoder_learns_and_comes_back(encoder: str, tmp_path: Path) -> None:
    tiny = ObjectCentricRL.tiny()
    slots = SlotShape(slots=3, width=8, hidden=8, rounds=2, features=8)
    vector = replace(
        tiny.vector,
        vector_width=8,
        patch_width=16,
        patch_depth=1,
        patch_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
    )
    recipe = replace(
        tiny, encoder=encoder, slot_sizes=slots, vector=vector, iodine=replace(tiny.iodine, refine_hidden=8, refine_layers=2),  # type: ignore[arg-type]
        slate=SlateShape(tokens=16, token_width=16, token_blocks=1, token_heads=2), batch_size=4, steps=2,
    )  # fmt: skip
    data = sprites(8, size=32)
    run = fit(recipe, data, tmp_path / "run", TrainOptions(progress=False, log_every=1, precision="fp32"))
    model = diptych.load(run.model)
    read = model.represent([data[0].image, data[1].image])
    assert read.shape == {"slate": (2, 3, 8), "iodine": (2, 3, 8), "vae": (2, 1, 8), "mae": (2, 16, 16)}[encoder]
    np.testing.assert_allclose(read[:1], model.represent([data[0].image]), atol=1e-5)
    if model.model.has_masks:
        assert model.segment([data[0].image], ())[0].shape == (32, 32)
    else:
        with pytest.raises(ConfigError, match="has no slots"):
            model.segment([data[0].image], ())


PUSHED = [
    ([(0.5, 0.58), (0.62, 0.58), (0.925, 0.5)],
     "123300330131131122003332311301013011302103011103230212312013", [(0.2, 0.925), (0.62, 0.58), (0.925, 0.5), (0.2, 0.845)]),
    ([(0.45, 0.9), (0.6, 0.9), (0.3, 0.3)], "0000000033300", [(0.45, 0.925), (0.6, 0.925), (0.3, 0.3), (0.65, 0.775)]),
    ([(0.925, 0.7), (0.8, 0.75), (0.3, 0.3)], "333333300000000333", [(0.925, 0.7), (0.8, 0.75), (0.3, 0.3), (0.925, 0.55)]),
]  # fmt: skip
"""Where three squares stand, moves of the agent, and where squares and agent stand then, by `PushEnv` of OCR-RL at 01d0bd5."""


def test_squares_are_pushed_as_in_the_release(parity: Any) -> None:
    environments = pytest.importorskip("diptych.worlds.sprites.environments")
    pairs = []
    for begin, moves, end in PUSHED:
        made = environments.SpriteEnvironment(environments.SpriteTask.published("push", observation="state"))
        made.reset(seed=0)
        made.sprites = [replace(sprite, x=x, y=y) for sprite, (x, y) in zip(made.sprites, begin, strict=True)]
        for move in moves:
            made.step(int(move))
        places = [(sprite.x, sprite.y) for sprite in (*made.sprites, made.agent)]
        pairs.append((np.array(places), np.array(end)))
    parity("ocr_rl", "places of pushed squares and of the agent", "PushEnv of OCR-RL at 01d0bd5", pairs, tolerance=1e-9)


def test_the_vae_is_that_of_the_release(parity: Any) -> None:
    """Weights by formula in the order of the parameters, noise of one seed."""
    model = by_formula(ObjectNetwork(ObjectShape("vae", 16, vector=VectorShape(vector_width=7, kl_weight=5.0))))
    torch.manual_seed(5)
    picture, kl = model(pictures()).term_BT.mean(0)
    pairs = [(picture.detach() / 300.6845, torch.tensor(1.0)), (kl.detach() / 5, torch.tensor(1.8165))]
    parity("ocr_rl", "VAE: error of the picture, over that released, and KL", RELEASED, pairs, tolerance=1e-4)


def test_decay_of_the_masked_autoencoder_is_torchs_on_all_parameters() -> None:
    recipe = ObjectCentricRL.mae()
    model = nn.ModuleDict({"mae": nn.Linear(2, 2)})
    optimiser = build_optimiser(model, recipe.optimiser())
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.01] * len(optimiser.param_groups)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 2
    assert recipe.lr == pytest.approx(9.375e-5)
    assert ObjectCentricRL.vae().vector.kl_weight == 5


def test_rates_of_slate_are_those_published() -> None:
    recipe = ObjectCentricRL.paper()
    with torch.device("meta"):
        model = ObjectNetwork(ObjectShape("slate", 64, recipe.slot_sizes, recipe.slate))
    spec = recipe.optimiser()
    optimiser = build_optimiser(model, spec)
    names = {id(p): name for name, p in model.named_parameters()}
    schedule(optimiser, spec, 14_999, 400_000)
    rates = {names[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    half = 0.5 ** (14_999 / 250_000)
    assert rates["slate.autoencoder.encoder.0.0.weight"] == pytest.approx(3e-4)
    assert rates["slate.encoder.attention.query.weight"] == pytest.approx(0.5 * half * 1e-4)
    assert rates["slate.decoder.slots.weight"] == pytest.approx(0.5 * half * 1e-4)
    assert rates["slate.decoder.table.weight"] == pytest.approx(0.5 * half * 3e-4)
    assert all(group["weight_decay"] == 0 for group in optimiser.param_groups)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.parameters() if p.is_meta)


def test_gradients_are_clipped_by_their_largest_value() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.01, -0.2, 0.1])
    assert clip(nn.ParameterList([parameter]), 0.05, "largest") == pytest.approx(0.2)
    assert parameter.grad.tolist() == pytest.approx([0.0025, -0.05, 0.025], rel=1e-4)


def test_published_presets_build() -> None:
    sizes = {}
    for name in ObjectCentricRL.presets:
        recipe = ObjectCentricRL.preset(name)
        with torch.device("meta"):
            shape = ObjectShape(recipe.encoder, recipe.image_size, recipe.slot_sizes, recipe.slate, recipe.iodine, recipe.vector)
            sizes[name] = sum(p.numel() for p in ObjectNetwork(shape).parameters())
        list(batches(sprites(24, size=16), replace(recipe, batch_size=2), seed=0, stop=1))
    assert sizes["mae"] > 100e6
    assert sizes["slot_attention_large"] > sizes["slot_attention"]
    with pytest.raises(ConfigError, match="multiple of 4"):
        ObjectCentricRL(image_size=30)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        (SlotShape, {"slots": 0}, "slots is 0"),
        (SlotShape, {"rounds": -1}, "rounds is -1"),
        (SlotShape, {"width": 32, "heads": 5}, "heads that divide the width"),
        (SlateShape, {"token_heads": 5}, "heads that divide the width"),
        (IodineShape, {"sigma": 0.0}, "sigma is 0.0"),
        (VectorShape, {"hidden_share": 1.5}, "a share between 0 and 1"),
        (VectorShape, {"patch": 0}, "patch is 0"),
        (ObjectRates, {"half_life": 0.0}, "half_life 0.0"),
        (ObjectRates, {"temperature_end": 0.0}, "temperatures 1.0 and 0.0"),
    ],
)
def test_sizes_that_no_encoder_has_are_refused(shape: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape(**fields)


@pytest.mark.parametrize(("encoder", "options"), [("vae", ("--vector-width", "8")), ("slot_attention", ())])
def test_encoders_of_pictures_without_masks_finish_unmeasured(
    encoder: str, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A VAE has no slots, and pictures of a folder no masks: the run ends with its report, and says that nothing measured it."""
    data = "world:sprites?n=12&size=32"
    if encoder == "slot_attention":
        data = str(tmp_path / "pictures")
        (tmp_path / "pictures").mkdir()
        for row, image_HWC in enumerate(keyed_rng("pictures").integers(256, size=(24, 32, 32, 3), dtype=np.uint8)):
            Image.fromarray(image_HWC).save(tmp_path / "pictures" / f"{row}.png")
    out = tmp_path / "run"
    assert main(["train", "ocr_rl", "--data", data, "--out", str(out), "--steps", "2", "--encoder", encoder, *options]) == 0
    assert "not evaluated: no task measures this model" in capsys.readouterr().out
    assert (out / "report.html").is_file()
    assert diptych.load(out).represent([sprites(1, size=32)[0].image]).shape[0] == 1
    code = main(
        ["train", "ocr_rl", "--data", data, "--out", str(tmp_path / "b"), "--encoder", encoder, "--eval-every", "1", *options]
    )
    assert code == 2
    assert "no task measures 'ocr_rl'" in capsys.readouterr().err
