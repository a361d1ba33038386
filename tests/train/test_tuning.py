"""Ways to tune any recipe: adapters, frozen parts, layer-wise rates, heads first, a teacher, blending."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diptych import api
from diptych.core.contracts import Optimiser, Rule, Tuning
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.core.run_folder import RunFolder
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.adapters import LoRAConfig, add_adapters, merged
from diptych.models.towers.towers import image_tower, text_tower
from diptych.train.optimise import build_optimiser, freeze
from diptych.train.options import TrainOptions
from diptych.train.tuning.rates import freeze_batch_norm, head_names, layer_scales, tuned_optimiser

WORLD = "world:scenes?n=16"
SMALL: dict[str, Any] = {
    "batch_size": 4,
    "progress": False,
    "width": 32,
    "image_tower": "vit_micro",
    "text_tower": "text_micro",
    "image_size": 48,
    "warmup": 0,
    "lr": 1e-2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to tune."""
    folder = tmp_path_factory.mktemp("tuning") / "base"
    api.train("clip", WORLD, folder, steps=1, seed=7, **SMALL)
    return folder


def tune(base: Path, out: Path, *, steps: int = 3, **changes: Any) -> Any:
    return api.train("clip", WORLD, out, steps=steps, init=base, **{**SMALL, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def encoder(**options: Any) -> DualEncoder:
    torch.manual_seed(0)
    towers = image_tower("vit_micro"), text_tower("text_micro", vocab_size=50, length=8)
    return DualEncoder(*towers, width=16, **options)


# ---------------------------------------------------------------- adapters


def test_adapters_start_as_nothing_and_merged_weights_answer_the_same() -> None:
    model = encoder().double()
    image_BCHW, text_BL = torch.randn(2, 3, 48, 48).double(), torch.randint(0, 50, (2, 8))
    before = model.eval()(image_BCHW, text_BL)
    add_adapters(model, LoRAConfig.parse("4:qkv,mlp_in,patches,embed,projection"))
    model.double()
    begun = model.eval()(image_BCHW, text_BL)
    assert torch.equal(before.text_ND, begun.text_ND)
    assert torch.allclose(before.image_ND, begun.image_ND, atol=1e-14)  # patches are cut by another kernel
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.requires_grad
            nn.init.normal_(parameter, std=0.2)
        else:
            assert not parameter.requires_grad
    adapted, plain = model(image_BCHW, text_BL), merged(model)
    assert not any("lora_" in name for name, _ in plain.named_parameters())
    assert (adapted.image_ND - before.image_ND).abs().max() > 0.1
    found = plain(image_BCHW, text_BL)
    assert torch.allclose(found.image_ND, adapted.image_ND, atol=1e-12)
    assert torch.allclose(found.text_ND, adapted.text_ND, atol=1e-12)
    assert any("lora_" in name for name, _ in model.named_parameters())  # the original goes on


def test_the_adapted_map_is_the_papers() -> None:
    model = encoder()
    add_adapters(model, LoRAConfig.parse("4:qkv", alpha=8))
    layer: Any = model.image_tower.transformer.blocks[0].attention.qkv
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b)
    x = torch.randn(3, 64)
    expected = nn.functional.linear(x, layer.base_layer.weight, layer.base_layer.bias) + 8 / 4 * (x @ a.T @ b.T)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_named_adapters_start_random_in_both_maps() -> None:
    """By Xavier's rule of each map's own two widths, as loralib's attention; the others start as nothing, and what they add is scaled."""
    model = encoder()
    image_BCHW = torch.randn(2, 3, 48, 48)
    before = model.eval()(image_BCHW, torch.zeros(2, 8, dtype=torch.int64)).image_ND
    names = add_adapters(model, LoRAConfig.parse("4:qkv,mlp_in,patches", alpha=1.0, random="qkv"))
    for name in names:
        layer: Any = model.get_submodule(name)
        b = layer.lora_B["default"].weight
        if not name.endswith("qkv"):
            assert not b.any()
            continue
        for weight in (layer.lora_A["default"].weight, b):
            bound = (6 / sum(weight.shape)) ** 0.5
            assert 0.9 * bound < weight.abs().max() <= bound
            assert abs(weight.std().item() / bound - 3**-0.5) < 0.06
        merged_qkv = layer.base_layer.weight + layer.get_delta_weight("default")
        torch.testing.assert_close(merged_qkv, layer.base_layer.weight + b @ layer.lora_A["default"].weight / 4)
    assert not torch.allclose(model(image_BCHW, torch.zeros(2, 8, dtype=torch.int64)).image_ND, before, atol=1e-3)
    with pytest.raises(
        ConfigError, match=r"--lora-random: no map or convolution with an adapter has 'head' .expected of patches, qkv"
    ):
        add_adapters(encoder(), LoRAConfig.parse("4:qkv,patches,embed", random="head"))
    with pytest.raises(ConfigError, match="has 'embed'"):
        add_adapters(encoder(), LoRAConfig.parse("4:qkv,embed", random="embed"))
    with pytest.raises(ConfigError, match="lora_kernel and lora_full are options of adapters"):
        Tuning(lora_random="qkv")


def test_by_default_every_linear_map_and_the_convolutions_of_a_convolutional_tower() -> None:
    names = add_adapters(encoder(), LoRAConfig(2))
    assert "image_projection" in names
    assert "text_tower.transformer.blocks.1.mlp_out" in names
    assert len(names) == 2 * 2 * 4 + 2
    assert not any("patches" in name or "embed" in name for name in names)
    convolutions = DualEncoder(
        image_tower("convnet_tiny", image_size=32), text_tower("text_micro", vocab_size=50, length=8), width=16
    )
    assert any("image_tower" in name for name in add_adapters(convolutions, LoRAConfig(2)))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("x", "expected a rank"),
        ("0", "expected a rank"),
        ("4:", "expected a rank"),
        ("4:(", "not a pattern"),
        ("4:q_proj", "no module's name has 'q_proj'.*qkv"),
        ("4:text_tower.*qkv", r"image_tower \(VisionTransformer\) has no such module.*--freeze"),
    ],
)
def test_adapters_that_cannot_be_are_refused(words: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        add_adapters(encoder(), LoRAConfig.parse(words))


def test_an_adapter_on_a_module_that_is_never_called_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(api.recipe("clip"))
    built = kind.model

    def with_idle_layer(self: Any) -> DualEncoder:
        model = built(self)
        model.image_tower.idle = nn.Linear(4, 4)
        return model

    monkeypatch.setattr(kind, "model", with_idle_layer)
    with pytest.raises(RunError, match=r"adapter of image_tower\.idle has no effect"):
        api.train("clip", WORLD, tmp_path / "run", steps=1, lora="2", **SMALL)


def test_adapters_train_and_nothing_else_and_the_run_folder_holds_merged_weights(base: Path, tmp_path: Path) -> None:
    run = tune(base, tmp_path / "run", lora="2")
    start, end = weights(run.start), weights(run.model)
    assert all(torch.equal(start[name], tensor) for name, tensor in weights(base / "model").items())
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved
    assert all("weight" in name and ("blocks" in name or "projection" in name) for name in moved)
    difference = end["image_tower.transformer.blocks.0.mlp_in.weight"] - start["image_tower.transformer.blocks.0.mlp_in.weight"]
    assert torch.linalg.matrix_rank(difference, atol=1e-5) <= 2
    assert any("adapters of rank 2 on 18 modules" in line.get("text", "") for line in run.metrics())


def test_what_no_start_gave_is_trained_in_full_beside_adapters(base: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    given = {name: tensor for name, tensor in weights(base / "model").items() if not name.startswith("image_projection")}
    save_file(given, tmp_path / "part" / "model.safetensors")
    run = tune(tmp_path / "part", tmp_path / "run", lora="2", lora_full="log_scale")
    start, end = weights(run.start), weights(run.model)
    assert torch.linalg.matrix_rank(end["image_projection.weight"] - start["image_projection.weight"], atol=1e-6) > 2
    assert not torch.equal(start["log_scale"], end["log_scale"])
    assert torch.equal(start["text_tower.position_LD"], end["text_tower.position_LD"])


# ---------------------------------------------------------------- stopping and going on


RESUMED: list[dict[str, Any]] = [
    {"lora": "2", "blend": 0.5},
    {"distill": "start", "head_first": 2},
    {"freeze": ("text_tower",), "blend": 0.7},
]


@pytest.mark.parametrize("ways", RESUMED)
def test_a_run_that_is_resumed_ends_in_the_same_bytes(base: Path, tmp_path: Path, ways: dict[str, Any]) -> None:
    run = tune(base, tmp_path / "whole", steps=4, save_every=1, keep=3, **ways)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    again = RunFolder.open(tmp_path / "cut")
    again.write_state(status="stopped")
    api.resume(tmp_path / "cut")
    assert (run.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


# ---------------------------------------------------------------- frozen parts, rates, heads


def test_frozen_parts_stay_and_the_others_move(base: Path, tmp_path: Path) -> None:
    run = tune(base, tmp_path / "run", freeze=("^image_tower", "log_scale"))
    start, end = weights(run.start), weights(run.model)
    still = {name for name in start if torch.equal(start[name], end[name])}
    assert still == {name for name in start if name.startswith("image_tower") or name == "log_scale"}


def test_frozen_batch_norms_keep_their_statistics() -> None:
    model = nn.ModuleDict({"frozen": nn.BatchNorm1d(3), "trained": nn.BatchNorm1d(3)})
    freeze(model, tuned_optimiser(Optimiser(), model, tuning := Tuning(freeze=("frozen",))))
    model.train()
    freeze_batch_norm(model, tuning)
    for norm in model.values():
        norm(torch.randn(5, 3))
    assert model["frozen"].running_mean.tolist() == [0, 0, 0]
    assert model["trained"].running_mean.abs().sum() > 0


def test_layer_wise_rates_are_those_of_timm() -> None:
    import timm
    from timm.optim import param_groups_layer_decay

    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=3)
    expected = {}
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for group in param_groups_layer_decay(net, layer_decay=0.7):
        expected |= {names[id(parameter)]: group["lr_scale"] for parameter in group["params"]}
    found = layer_scales(net, 0.7)
    assert found.pop("norm.weight") == found.pop("norm.bias") == 1.0  # as BEiT has it; timm counts it with the last block
    assert found == pytest.approx({name: scale for name, scale in expected.items() if not name.startswith("norm.")})
    assert len(set(found.values())) == 6


def test_each_tower_counts_its_own_layers_and_rules_of_the_recipe_stay() -> None:
    model = encoder()
    spec = Optimiser(lr=1.0, rules=(Rule("bias$", lr_scale=2.0), Rule("norm_after", decay=True)))
    tuned = tuned_optimiser(spec, model, Tuning(layer_decay=0.5))
    groups = build_optimiser(model, tuned).param_groups
    scale = {id(p): group["scale"] for group in groups for p in group["params"]}
    by_name = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert by_name["image_tower.patches.weight"] == 0.125
    assert by_name["text_tower.embed.weight"] == 0.125
    assert by_name["image_tower.transformer.blocks.0.mlp_in.weight"] == 0.25
    assert by_name["image_tower.transformer.blocks.1.mlp_in.bias"] == 1.0  # twice a half
    assert by_name["text_tower.norm_after.weight"] == by_name["image_projection.weight"] == 1.0
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(model.text_tower.norm_after.weight)] > 0


def test_heads_alone_first_and_then_all(base: Path, tmp_path: Path) -> None:
    assert head_names(encoder(), "") == {"image_projection.weight", "text_projection.weight", "log_scale"}
    run = tune(base, tmp_path / "run", steps=4, head_first=2, save_every=1, keep=4)
    at = {step: load_file(run.checkpoints / f"step-0000000{step}" / "model.safetensors") for step in (1, 2, 3)}

    def moved(a: int, b: int) -> set[str]:
        return {name for name in at[a] if not torch.equal(at[a][name], at[b][name])}

    assert moved(1, 2) == {"image_projection.weight", "text_projection.weight", "log_scale"}
    assert len(moved(2, 3)) > 40
    with pytest.raises(ConfigError, match="leaves no step for the other stages"):
        tune(base, tmp_path / "none", steps=2, head_first=2)


@pytest.mark.parametrize(
    ("ways", "error"),
    [
        ({"freeze": ("imagetower",)}, "unknown parameter for --freeze 'imagetower'"),
        ({"head_first": 1, "head": "nothing"}, "unknown parameter for --head 'nothing'"),
        ({"freeze": ("",)}, "no parameter is left to train"),
        ({"lora": "2", "lora_full": "nothing"}, "no parameter's name has 'nothing'"),
        ({"distill": "runs/none"}, "there is no model"),
    ],
)
def test_names_that_nothing_answers_to_are_refused(base: Path, tmp_path: Path, ways: dict[str, Any], error: str) -> None:
    with pytest.raises((ConfigError, UnknownName, RunError), match=error):
        tune(base, tmp_path / "run", steps=2, **ways)


@pytest.mark.parametrize(
    ("ways", "error"),
    [
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"blend": 0.0}, "blend is 0.0"),
        ({"lora_alpha": 8.0}, "say also --lora"),
        ({"head": "x"}, "say also for how many steps"),
        ({"distill_scale": 10.0}, "belongs to a teacher"),
    ],
)
def test_options_that_mean_nothing_are_refused(ways: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Tuning(**ways)


def test_an_engine_without_gradient_steps_cannot_be_tuned(tmp_path: Path) -> None:
    from diptych.train.options import TrainOptions
    from diptych.train.tuning.fine_tuning import tuning_of

    recipe = api.recipe("linear_map")
    with pytest.raises(ConfigError, match="takes no gradient steps"):
        tuning_of(recipe, TrainOptions(tune=Tuning(freeze=("x",))))


# ---------------------------------------------------------------- a teacher, blending


def test_distillation_is_open_clips_and_leaves_the_rest_of_the_step_alone(base: Path, tmp_path: Path) -> None:
    """At the first step student and teacher are one: the loss is the entropy of its own softmax, over rows and columns."""
    plain = tune(base, tmp_path / "plain", steps=1, log_every=1, precision="fp32")
    own = tune(base, tmp_path / "own", steps=1, log_every=1, precision="fp32", distill="start", distill_weight=0.5)
    other = tune(base, tmp_path / "other", steps=1, log_every=1, precision="fp32", distill=str(base), distill_weight=0.5)
    lines = [next(line for line in run.metrics() if line["kind"] == "train") for run in (plain, own, other)]
    assert lines[0]["contrastive"] == lines[1]["contrastive"] == lines[2]["contrastive"]
    assert lines[1]["distillation"] == pytest.approx(lines[2]["distillation"], rel=1e-4)
    assert lines[1]["loss"] == pytest.approx(lines[1]["contrastive"] + lines[1]["distillation"])


def test_distillation_equals_open_clips_loss() -> None:
    from open_clip.loss import DistillClipLoss

    from diptych.train.tuning.teacher import Teacher

    torch.manual_seed(0)
    unit = nn.functional.normalize
    student = [unit(torch.randn(6, 8), dim=1).requires_grad_() for _ in range(2)]
    teacher = [unit(torch.randn(6, 5), dim=1) for _ in range(2)]
    from diptych.models.towers.outputs import PairFeatures

    class Run:
        model = nn.Linear(1, 1)

        def features_of(self, model: nn.Module, batch: Any) -> PairFeatures:
            return PairFeatures(*teacher, torch.tensor([20.0]))

    hook = Teacher(Tuning(distill="start"), api.recipe("clip"))
    hook.begin(nn.Linear(1, 1))
    loss = hook.further(Run(), None)(PairFeatures(*student, torch.tensor([7.0])), None)["distillation"]  # type: ignore[arg-type]
    _, expected = DistillClipLoss()(student[0], student[1], torch.tensor(7.0), teacher[0], teacher[1], torch.tensor(20.0))
    assert torch.allclose(loss, expected, atol=1e-6)


def test_blending_is_the_mean_of_start_and_end(base: Path, tmp_path: Path) -> None:
    end = tune(base, tmp_path / "end")
    half = tune(base, tmp_path / "half", blend=0.25)
    start, full, mixed = weights(half.start), weights(end.model), weights(half.model)
    assert all(torch.allclose(mixed[name], 0.75 * start[name] + 0.25 * full[name], atol=1e-6) for name in start)
    adapted = tune(base, tmp_path / "adapted", lora="2")
    softer = tune(base, tmp_path / "softer", lora="2", blend=0.25)
    full, mixed = weights(adapted.model), weights(softer.model)
    assert all(torch.allclose(mixed[name], 0.75 * start[name] + 0.25 * full[name], atol=1e-6) for name in start)
    assert any((full[name] - start[name]).abs().max() > 1e-3 for name in start)


def test_freeze_is_what_the_rules_say() -> None:
    model = encoder()
    freeze(model, tuned_optimiser(Optimiser(), model, Tuning(freeze=("text",))))
    assert {n.split("_")[0] for n, p in model.named_parameters() if not p.requires_grad} == {"text"}


def test_the_average_of_the_weights_is_an_option_of_any_recipe(tmp_path: Path) -> None:
    """The same bytes as a recipe with the hook of its own, also after a stop."""
    from toy import Toy, toy_pool

    from diptych.train.fit import fit, resume
    from diptych.train.hooks import WeightAverage

    @dataclass(frozen=True, kw_only=True)
    class Averaged(Toy):
        """With a hook of its own."""

        def hooks(self) -> Any:
            return (*super().hooks(), WeightAverage(0.9))

    plain: dict[str, Any] = {"save_every": 2, "progress": False, "precision": "fp32"}
    own = fit(Averaged(steps=6), toy_pool(), tmp_path / "own", TrainOptions(**plain))
    options = TrainOptions(**plain, tune=Tuning(average_weights=0.9))
    stopped = fit(Toy(steps=6, witness=str(tmp_path / "w"), stop_at=3), toy_pool(), tmp_path / "option", options)
    assert stopped.state["status"] == "stopped"
    run = resume(stopped.path, toy_pool(), kind=Toy)
    raw = fit(Toy(steps=6), toy_pool(), tmp_path / "raw", TrainOptions(**plain))
    weights = [(one.model / "model.safetensors").read_bytes() for one in (own, run, raw)]
    assert weights[0] == weights[1] != weights[2]
    with pytest.raises(ConfigError, match="averages its weights already"):
        fit(Averaged(steps=2), toy_pool(), tmp_path / "twice", options)
