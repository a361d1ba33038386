"""Mixes of parts: each equals a recipe that was written by hand, in value and in gradient; what cannot go together is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.cli import main
from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, RunError
from diptych.core.own_recipes import trust
from diptych.core.run_folder import RunFolder
from diptych.data.load.stream import batches
from diptych.data.text.captions.variants import TextDraw
from diptych.objectives.pairs.agreement_gates import agreement_gates
from diptych.recipes._shared.mixed_parts import MixGates, MixPrefixes, MixTexts
from diptych.recipes._shared.pairs import PairRecipe
from diptych.recipes.contrastive.align import ALIGN
from diptych.recipes.contrastive.alip import ALIP
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.dreamlip import DreamLIP
from diptych.recipes.contrastive.laclip import LaCLIP
from diptych.recipes.contrastive.mix import Mix
from diptych.recipes.contrastive.mrl import MRL
from diptych.recipes.contrastive.siglip import SigLIP
from diptych.worlds.resolve import resolve

SMALL: dict[str, Any] = {"image_size": 32, "width": 16, "batch_size": 6, "pieces": 300, "text_length": 12}
DIMS = (4, 16)
WORLD = "world:scenes?n=16&test=8"
SENTENCES = MixTexts(policy="sentences", count=2)
RAW_FIRST = MixTexts(policy="sentences", count=2, raw_first=True)
TWO, GATED = MixTexts(policy="two"), MixGates(gamma_language=2.0, gamma_description=2.0)
SHARED = {f.name for f in fields(PairRecipe)}


@pytest.fixture(scope="module")
def rows() -> Any:
    return resolve(WORLD).split("train")


def mix(**changes: Any) -> Mix:
    return replace(Mix.tiny(), **{**SMALL, **changes})


def hand(kind: type[Any], **changes: Any) -> Any:
    """A recipe by hand with the same towers and pictures."""
    made = kind.tiny()
    same = {name: getattr(mix(), name) for name in SHARED if name != "text_draw"}
    return replace(made, **{**same, **SMALL, **changes})


HANDS: dict[str, tuple[Any, Any]] = {
    "clip": (lambda: mix(), lambda: hand(CLIP)),
    "siglip": (lambda: mix(loss="sigmoid"), lambda: hand(SigLIP)),
    "align": (lambda: mix(loss="smoothed", smoothing=0.1), lambda: hand(ALIGN)),
    "laclip": (lambda: mix(text_draw=TextDraw(least_words=2)), lambda: hand(LaCLIP, rewrites=False)),
    "dreamlip": (lambda: mix(texts=SENTENCES), lambda: hand(DreamLIP, texts=2, lambda_s=0.0)),
    "dreamlip with grouping": (
        lambda: mix(texts=RAW_FIRST, lambda_s=0.1),
        lambda: hand(DreamLIP, texts=2, raw_first=True, lambda_s=0.1),
    ),
    "alip": (lambda: mix(texts=TWO, gates=GATED), lambda: hand(ALIP)),
    "clip on prefixes": (lambda: mix(prefixes=MixPrefixes(dims=DIMS)), lambda: hand(MRL, dims=DIMS)),
    "siglip on prefixes": (
        lambda: mix(loss="sigmoid", prefixes=MixPrefixes(dims=DIMS, weights=(2.0, 1.0))),
        lambda: hand(MRL, base="siglip", dims=DIMS, weights=(2.0, 1.0)),
    ),
    "alip on prefixes": (
        lambda: mix(texts=TWO, gates=GATED, prefixes=MixPrefixes(dims=DIMS, reduction="sum")),
        lambda: hand(MRL, base="alip", dims=DIMS, reduction="sum"),
    ),
    "dreamlip on prefixes": (
        lambda: mix(texts=RAW_FIRST, prefixes=MixPrefixes(dims=DIMS)),
        lambda: hand(MRL, base="dreamlip:texts=2,lambda_s=0,raw_first=true", dims=DIMS),
    ),
}


def first_batch(recipe: Any, rows: Any) -> Any:
    return next(
        iter(batches(rows, recipe, seed=0, start=0, stop=1, rank=0, world=1, workers=0, bad_limit=0.0, known_bad=set()))
    ).batch


@pytest.mark.parametrize("name", HANDS)
def test_a_mix_equals_the_recipe_written_by_hand(name: str, rows: Any) -> None:
    mixed, by_hand = (make().prepare(rows) for make in HANDS[name])
    torch.manual_seed(0)
    reference = by_hand.model().double()
    torch.manual_seed(0)
    model = mixed.model().double()
    held = reference.state_dict()
    held = held if any(key.startswith("encoder.") for key in held) else {f"encoder.{key}": value for key, value in held.items()}
    assert held.keys() == model.state_dict().keys()
    assert all(torch.equal(value, held[key]) for key, value in model.state_dict().items())  # also the same random start
    totals, grads = [], []
    for recipe, module in ((by_hand, reference), (mixed, model)):
        batch = first_batch(recipe, rows)
        batch = replace(batch, image_BCHW=batch.image_BCHW.double())
        losses = recipe.losses(recipe.features(module, batch), batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        totals.append(total.detach())
        grads.append({key.removeprefix("encoder."): p.grad for key, p in module.named_parameters()})
    factor = 2.0 if name == "align" else 1.0  # ALIGN sums the directions
    torch.testing.assert_close(factor * totals[1], totals[0], rtol=1e-9, atol=1e-12)
    assert grads[0].keys() == grads[1].keys()
    for key, grad in grads[0].items():
        assert (grad is None) == (grads[1][key] is None), key
        if grad is not None:
            torch.testing.assert_close(factor * grads[1][key], grad, rtol=1e-6, atol=1e-10, msg=key)


def test_sentences_sigmoid_prefixes_and_gates_together_are_a_plain_sum(rows: Any) -> None:
    """The line of the first page, against loops: a sigmoid on every prefix, each sentence weighted by its gate against the raw text."""
    recipe = mix(texts=RAW_FIRST, loss="sigmoid", gates=GATED, prefixes=MixPrefixes(dims=DIMS), same_group="negative").prepare(
        rows
    )
    torch.manual_seed(0)
    model, batch = recipe.model(), first_batch(recipe, rows)
    features = recipe.features(model, batch)
    assert features.bias is not None
    total, count = torch.zeros(()), len(batch.group_B)
    for d in DIMS:
        image = F.normalize(features.image_ND[:, :d], dim=1)
        texts = [F.normalize(features.text_NKD[:, k, :d], dim=1) for k in range(3)]
        agreement = [torch.stack([(texts[0] * t).sum(1), (image * texts[0]).sum(1), (image * t).sum(1)], 1) for t in texts[1:]]
        means = 0.99 * torch.ones(3) + 0.01 * torch.cat(agreement).mean(0)
        gates = [agreement_gates(one, means, gamma_language=2.0, gamma_description=2.0) for one in agreement]
        weights = [(gates[0].raw_N + gates[1].raw_N) / 2, gates[0].synthetic_N, gates[1].synthetic_N]
        for text, weight in zip(texts, weights, strict=True):
            for i in range(count):
                for j in range(count):
                    logit = features.scale * (image[i] @ text[j]) + features.bias
                    total = total - weight[i] * F.logsigmoid(logit if i == j else -logit).sum() / (count * 3 * len(DIMS))
    (loss,) = recipe.losses(features, batch).values()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-6)
    recipe.after_update(model, features, batch, 0.5)
    assert model.mean_3 is not None
    assert bool((model.mean_3 < 1).all())


def test_a_queue_adds_the_features_of_earlier_steps_as_negatives(rows: Any) -> None:
    recipe = mix(queue=8, same_group="negative").prepare(rows)
    torch.manual_seed(0)
    model, batch = recipe.model(), first_batch(recipe, rows)
    first = recipe.features(model, batch)
    plain = replace(recipe, queue=0).losses(first, batch)["contrastive"]
    torch.testing.assert_close(recipe.losses(first, batch)["contrastive"], plain)  # it is empty
    recipe.after_update(model, first, batch, 0.0)
    second = recipe.features(model, batch)
    own = torch.arange(6)
    rows_ = torch.cat([second.text_ND, first.text_ND]), torch.cat([second.image_ND, first.image_ND])
    wanted = (
        sum(
            F.cross_entropy(second.scale * one @ other.detach().T, own)
            for one, other in zip((second.image_ND, second.text_ND), rows_, strict=True)
        )
        / 2
    )
    torch.testing.assert_close(recipe.losses(second, batch)["contrastive"], wanted, rtol=1e-5, atol=1e-6)


def test_a_loss_of_ones_own_is_a_function_in_a_file(rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "losses.py"
    file.write_text(
        "import torch\nimport torch.nn.functional as F\n\n"
        "def plain(image_ND, text_ND, *, scale, bias, group_N, weight_N):\n"
        "    logit_NN = scale * image_ND @ text_ND.T\n"
        "    own_N = torch.arange(len(logit_NN))\n"
        "    return (F.cross_entropy(logit_NN, own_N) + F.cross_entropy(logit_NN.T, own_N)) / 2\n"
    )
    recipe = mix(loss=f"{file}:plain", same_group="negative").prepare(rows)
    torch.manual_seed(0)
    model, batch = recipe.model(), first_batch(recipe, rows)
    features = recipe.features(model, batch)
    with pytest.raises(RunError, match=r"loss names .*losses\.py, a program that was not used on this machine before"):
        recipe.losses(features, batch)
    trust(file)
    wanted = replace(recipe, loss="softmax").losses(features, batch)["contrastive"]
    torch.testing.assert_close(recipe.losses(features, batch)["contrastive"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "hinge"}, "loss is 'hinge' .expected softmax, smoothed, sigmoid"),
        ({"loss": "smoothed"}, "expected loss smoothed with a smoothing"),
        ({"smoothing": 0.1}, "expected loss smoothed"),
        ({"start_bias": -5.0}, "does not see a bias"),
        ({"gates": GATED}, "gates compare a raw text with captions, and policy one"),
        ({"gates": GATED, "texts": SENTENCES}, "sentences with raw_first"),
        ({"prefixes": MixPrefixes(dims=(4, 32))}, "dims reach 32"),
        ({"lambda_s": 0.1}, "groups patches by the sentences"),
        ({"loss": "mine.py:f", "queue": 4}, "is not given the queue"),
        ({"captions": "somewhere"}, "captions are further texts"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        mix(**changes)
    with pytest.raises(ConfigError, match="belong to policy sentences"):
        MixTexts(policy="two", raw_first=True)


def test_a_class_between_two_recipes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"DreamSig inherits losses from DreamLIP and SigLIP .* those of DreamLIP alone"):

        @dataclass(frozen=True, kw_only=True)
        class DreamSig(DreamLIP, SigLIP):  # type: ignore[misc]
            """Neither the one nor the other."""

    @dataclass(frozen=True, kw_only=True)
    class Both(DreamLIP, SigLIP):  # type: ignore[misc]
        """With losses of its own."""

        def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
            return DreamLIP.losses(self, features, batch)


def test_the_line_of_options_trains_and_the_run_trains_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    small = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    parts = [
        "--policy",
        "sentences",
        "--count",
        "2",
        "--raw-first",
        "--loss",
        "sigmoid",
        "--dims",
        "4",
        "16",
        "--gamma-language",
        "2",
        "--gamma-description",
        "2",
    ]
    parts += ["--queue", "12"]
    words = [
        "train",
        "mix",
        "--data",
        WORLD,
        "--out",
        str(tmp_path / "a"),
        "--steps",
        "3",
        "--warmup",
        "0",
        "--no-evaluation",
        *small,
    ]
    assert main([*words, *parts]) == 0
    run = RunFolder.open(tmp_path / "a")
    assert run.config["recipe"]["gates"] == to_plain(GATED) | {"momentum": 0.99}
    assert "weight_raw" in [line for line in run.metrics() if line["kind"] == "train"][-1] | {"first_4": 0}
    assert main(["train", "--like", str(run.path), "--out", str(tmp_path / "b"), "--no-evaluation"]) == 0
    again = RunFolder.open(tmp_path / "b")
    assert (again.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()
    assert main(["eval", str(run.path), "retrieval", "--data", WORLD, "--split", "test"]) == 0
    assert from_plain(Mix, again.config["recipe"]).prefixes.dims == (4, 16)
    assert main([*words, "--overwrite", "--gamma-language", "2"]) == 2
    assert "gates compare a raw text" in capsys.readouterr().err


def test_a_base_of_ones_own_has_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom diptych.recipes.contrastive.clip import CLIP\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Twice(CLIP):\n    '''Twice.'''\n\n    times: tuple[float, ...] = (2.0,)\n\n"
        "    def losses(self, features, batch):\n"
        "        return {n: sum(self.times) * x for n, x in super().losses(features, batch).items()}\n"
    )
    small = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["train", "mrl", "--data", WORLD, "--steps", "1", "--warmup", "0", "--no-evaluation", *small, "--dims", "4", "16"]
    assert main([*words, "--out", str(tmp_path / "a"), "--base", f"{file}:Twice:times=[2.0,1.0]"]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--base", "clip"]) == 0
    three, one = (next(x for x in RunFolder(tmp_path / name).metrics() if x["kind"] == "train")["loss"] for name in "ab")
    assert three == pytest.approx(3 * one, rel=1e-5)
    assert (tmp_path / "a/source/mine.py").is_file()
