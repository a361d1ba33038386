"""MRL with labels: the published loss through a whole model, the released optimiser, a model that classifies at every width."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from diptych.api import load
from diptych.cli import main
from diptych.core.contracts import Classifier, Embedder
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.layers.blurred_conv import BlurredConv
from diptych.recipes.contrastive.mrl_classes import LabelBatch, MRLClasses
from diptych.tasks._scoring.cascades import chosen_widths, thresholds
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.trained_classes import Classification
from diptych.train.optimise import build_optimiser, learning_rate

NAMES = ("bus", "cat", "old_tree")


def small(**changes: Any) -> MRLClasses:
    settings = {"image_tower": "vit_micro", "image_size": 32, "dims": (2, 5, 64), "batch_size": 6, "classes": NAMES, **changes}
    return replace(MRLClasses.tiny(), **settings)


def batch() -> LabelBatch:
    image_BCHW = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LabelBatch(image_BCHW, torch.tensor([0, 2, 1, 1, 0, 2]))


def pool(count: int = 9) -> Pool:
    rng = np.random.default_rng(0)
    pictures = [ArrayImage(rng.integers(0, 256, (40, 36, 3), np.uint8), str(n)) for n in range(count)]
    return Pool.from_samples([Sample(f"s{n}", pictures[n], extras={"label": NAMES[n % 3]}) for n in range(count)], name="nine")


def by_loops(recipe: MRLClasses, model: Any, given: LabelBatch) -> Tensor:
    """One image, one width and one class after the other."""
    x_ND = model.image_tower(given.image_BCHW).pooled_BD
    total = torch.zeros((), dtype=torch.float64)
    for m, d in enumerate(recipe.dims):
        own = model.classifier.shared if recipe.tied else model.classifier.linears[m]
        terms = []
        for row, label in zip(x_ND, given.label_B.tolist(), strict=True):
            logits = [
                sum(own.weight[c, k] * row[k] for k in range(d)) + (own.bias[c] if recipe.head_bias else 0) for c in range(3)
            ]
            log_p = torch.stack(logits) - torch.stack(logits).logsumexp(0)
            target = [recipe.smoothing / 3 + (1 - recipe.smoothing) * (c == label) for c in range(3)]
            terms.append(-sum(t * lp for t, lp in zip(target, log_p, strict=True)))
        weight = recipe.weights[m] if recipe.weights else 1.0
        total = total + weight * sum(terms) / len(terms)
    return total if recipe.reduction == "sum" else total / len(recipe.dims)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True},
        {"tied": True, "head_bias": False, "smoothing": 0.0},
        {"weights": (0.5, 1.0, 2.0), "reduction": "mean"},
    ],
)
def test_loss_and_every_gradient_are_those_of_loops(parity: Any, changes: dict[str, Any]) -> None:
    recipe, given = small(**changes), batch()
    torch.manual_seed(0)
    model = recipe.model().double()
    found = recipe.losses(recipe.features(model, given), given)["classes"]
    expected = by_loops(recipe, model, given)
    leaves = [p for p in model.parameters() if p.requires_grad]
    grads = [torch.autograd.grad(loss, leaves) for loss in (found, expected)]
    pairs = [(found, expected), *zip(*grads, strict=True)]
    parity(
        "mrl",
        "classes: loss and the gradient of every weight of tower and classifiers",
        "loops over images, widths and classes",
        pairs,
        tolerance=1e-10,
    )


def test_the_rest_of_the_vector_gets_no_gradient_from_short_prefixes() -> None:
    recipe, given = small(dims=(2, 5)), batch()
    model = recipe.model().double()
    seen: list[Tensor] = []
    model.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss = recipe.losses(recipe.features(model, given), given)["classes"]
    (grad,) = torch.autograd.grad(loss, seen)
    assert grad[:, 5:].abs().max() == 0
    assert grad[:, :5].abs().min() > 0


def test_the_optimiser_is_the_released_one(parity: Any) -> None:
    """SGD whose decay enters the momentum, on all but batch norms; the rate rises for two epochs of forty and falls to zero."""

    def net() -> nn.Module:
        torch.manual_seed(1)
        made = nn.Module()
        made.image_tower = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        made.image_tower.append(nn.ModuleDict({"downsample": nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))}))
        made.classifier = nn.ModuleList([nn.Linear(4, 3)])
        return made.double()

    ours, theirs = net(), net()
    spec = MRLClasses.paper().optimiser()
    mine = build_optimiser(ours, spec)
    norms = list(theirs.image_tower[1].parameters())
    others = [theirs.image_tower[0].weight, *theirs.image_tower[2].parameters(), *theirs.classifier.parameters()]
    released = torch.optim.SGD(
        [{"params": norms, "weight_decay": 0.0}, {"params": others, "weight_decay": 1e-4}], lr=0.425, momentum=0.9
    )
    for _ in range(4):
        for model, optimiser in ((ours, mine), (theirs, released)):
            optimiser.zero_grad()
            map_BCHW = model.image_tower[:2](torch.arange(2 * 3 * 25, dtype=torch.float64).reshape(2, 3, 5, 5).sin())
            map_BCHW = model.image_tower[2]["downsample"](map_BCHW)
            model.classifier[0](map_BCHW.mean((2, 3))).square().sum().backward()
            optimiser.step()
    parity(
        "mrl",
        "four steps of the classifier's optimiser",
        "SGD of torch with the released groups",
        zip(ours.parameters(), theirs.parameters(), strict=True),
        tolerance=1e-12,
    )
    rates = [learning_rate(spec, step, 400) for step in range(400)]
    released_rates = np.interp(np.arange(400), [0, 20, 400], [1e-4 * 0.425, 0.425, 0.0])
    assert rates == pytest.approx(list(released_rates), rel=1e-9)


def test_the_paper_builds_with_its_parameter_count() -> None:
    names = tuple(f"class {n:04}" for n in range(1000))
    with torch.device("meta"):
        whole = replace(MRLClasses.paper(), classes=names).model()
        tied = replace(MRLClasses.paper(), classes=names, tied=True).model()
    tower = 25_557_032 - 2_049_000  # torchvision's ResNet-50 without its classifier
    assert sum(p.numel() for p in whole.parameters()) == tower + 1000 * (4088 + 9)
    assert sum(p.numel() for p in tied.parameters()) == tower + 1000 * 2049
    assert sum(isinstance(module, BlurredConv) for module in whole.modules()) == 6, "three stages, a 3 x 3 and a shortcut each"


def test_small_crops_first_and_the_middle_of_larger_pictures_in_use() -> None:
    """160 pixels in 32 epochs of 40, then 192; evaluation on 256, seven eighths of the shorter side."""
    recipe = replace(MRLClasses.paper(), batch_size=4, epochs=40.0, image_tower="convnet_tiny", blur=False).prepare(pool(32))
    assert recipe.early_steps == round(0.8 * 40 * 32 / 4)
    sides = []
    for step in (0, recipe.early_steps - 1, recipe.early_steps, 319):
        (made,) = batches(pool(32), recipe, seed=0, start=step, stop=step + 1)
        sides.append(made.batch.image_BCHW.shape[-1])
    assert sides == [160, 160, 192, 192]
    assert (recipe.deployed_preprocess.size, recipe.deployed_preprocess.margin, recipe.decode_size) == (256, 37, 0)
    alone = replace(recipe, shown_size=224).deployed_preprocess
    assert (alone.size, alone.margin, alone.interpolation) == (224, 32, "bilinear"), "Resize(256), CenterCrop(224) of torchvision"
    tiny = MRLClasses.tiny()
    assert (tiny.prepare(pool(32)).early_steps, tiny.deployed_preprocess, tiny.decode_size) == (0, tiny.preprocess, 64)


def test_the_last_norms_of_residual_blocks_begin_at_one_as_torchvisions() -> None:
    recipe = replace(MRLClasses.paper(), image_tower="timm:resnet26", classes=("a", "b"), dims=(8,))
    last = [p for name, p in recipe.model().named_parameters() if name.endswith("bn3.weight")]
    assert last
    assert all((p == 1).all() for p in last)
    zeros = [p for name, p in replace(recipe, zero_last=True).model().named_parameters() if name.endswith("bn3.weight")]
    assert all((p == 0).all() for p in zeros)


def test_blurred_convolutions_see_a_binomial_mean() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 5, 3, stride=2, padding=1).double()
    map_BCHW = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    padded = nn.functional.pad(map_BCHW, (1, 1, 1, 1))
    blurred = torch.zeros_like(map_BCHW)
    for dy, wy in enumerate((1, 2, 1)):
        for dx, wx in enumerate((1, 2, 1)):
            blurred += wy * wx / 16 * padded[:, :, dy : dy + 7, dx : dx + 6]
    torch.testing.assert_close(BlurredConv(conv).double()(map_BCHW), conv(blurred))


def test_blur_reaches_strided_convolutions_of_sixteen_channels_alone() -> None:
    from diptych.models.layers.blurred_conv import blur_strided_

    net = timm.create_model("resnet18", num_classes=0)
    blur_strided_(net)
    assert type(net.conv1) is nn.Conv2d, "the first reads three channels"
    found = [name for name, module in net.named_modules() if isinstance(module, BlurredConv)]
    assert found == [f"layer{n}.0.{part}" for n in (2, 3, 4) for part in ("conv1", "downsample.0")]


def test_the_model_classifies_at_every_width_and_comes_back(tmp_path: Path) -> None:
    recipe, data = small(mirrored=True), pool()
    torch.manual_seed(0)
    model = recipe.model()
    deployed = recipe.deploy(model)
    assert isinstance(deployed, Classifier)
    assert isinstance(deployed, Embedder)
    images = [data[row].image for row in range(4)]
    pixels = recipe.preprocess([data[row].image.pixels_HWC for row in range(4)])
    with torch.no_grad():
        logit_NMC = (model.eval()(pixels).logit_NMC + model(pixels.flip(3)).logit_NMC) / 2
    np.testing.assert_allclose(deployed.classify(images), logit_NMC[:, 2], atol=1e-5)
    np.testing.assert_allclose(deployed.first(5).classify(images), logit_NMC[:, 1], atol=1e-5)
    with pytest.raises(ConfigError, match="first 2, 5, 64 dimensions only"):
        deployed.first(3).classify(images)
    short = deployed.first(2)
    assert short.embed_images(images).shape == (4, 2)
    assert short.fingerprint != deployed.fingerprint
    weight = model.classifier.linears[2].weight[2].detach()
    np.testing.assert_allclose(deployed.embed_texts(["old tree"])[0], weight / weight.norm(), atol=1e-6)
    with pytest.raises(UnknownName, match="unknown class 'buss'; did you mean 'bus'"):
        deployed.embed_texts(["buss"])
    short.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.width, again.classes, again.fingerprint) == (2, NAMES, short.fingerprint)
    np.testing.assert_array_equal(again.classify(images), short.classify(images))


def test_the_task_scores_each_width_and_counts_unknown_labels() -> None:
    recipe = small(tied=True)
    torch.manual_seed(0)
    deployed = recipe.deploy(recipe.model())
    known = [pool()[row] for row in range(9)]
    known[4] = replace(known[4], extras={"label": "ship"})
    data = Pool.from_samples(known, name="one unknown")
    result = evaluate(Classification(draws=20), deployed, data)
    labels = [sample.extras["label"] for sample in known]
    for name, reader in (("acc@1", deployed), ("acc@1/first_2", deployed.first(2)), ("acc@1/first_5", deployed.first(5))):
        said = [NAMES[k] for k in reader.classify([sample.image for sample in known]).argmax(1)]
        assert result.metrics[name].value == pytest.approx(np.mean([a == b for a, b in zip(said, labels, strict=True)]))
    assert result.notes["items_of_unseen_classes"] == 1
    assert result.metrics["acc@1"].chance == pytest.approx(8 / 9 / 3)


def test_a_cascade_answers_at_the_first_width_that_is_sure_as_in_the_released_notebook(parity: Any) -> None:
    """Its loops written out: a threshold for each two neighbours, then item after item."""
    rng = np.random.default_rng(2)
    logit_MNC = torch.from_numpy(rng.normal(size=(3, 400, 4)) * np.array([1.0, 2.0, 4.0])[:, None, None])
    truth_N = torch.from_numpy(rng.integers(0, 4, 400))
    logit_MNC[:, torch.arange(400), truth_N] += torch.tensor([[0.5], [1.0], [2.0]])
    sure_MN, said_MN = logit_MNC.softmax(-1).max(-1)
    right_NM = (said_MN == truth_N).double().T.numpy()
    sought, asked = slice(0, 80), range(80, 400)
    wanted = []
    for d in range(2):
        best, at = -1, 0.0
        for t in np.linspace(0.1, 1, 100):
            said = [said_MN[d if sure_MN[d, n] > t else d + 1, n] == truth_N[n] for n in range(80)]
            if sum(said) > best:
                best, at = sum(said), float(t)
        wanted.append(at)
    found = thresholds(sure_MN.T.numpy()[sought], right_NM[sought])
    level = []
    for n in asked:
        stop = [d for d in range(2) if sure_MN[d, n] > wanted[d]]
        level.append(stop[0] if stop else 2)
    at_N = chosen_widths(sure_MN.T.numpy()[80:], found)
    assert set(level) == {0, 1, 2}
    parity(
        "mrl",
        "thresholds of a cascade of widths, and the width that answers",
        "the loops of the released notebook",
        [
            (torch.from_numpy(found), torch.tensor(wanted, dtype=torch.float64)),
            (torch.from_numpy(at_N).double(), torch.tensor(level).double()),
        ],
        tolerance=1e-12,
    )


def test_the_task_scores_a_cascade_on_images_that_its_thresholds_have_not_seen() -> None:
    recipe = small()
    torch.manual_seed(0)
    deployed = recipe.deploy(recipe.model())
    plain, found = (evaluate(Classification(draws=20, cascade=share), deployed, pool(30)) for share in (0.0, 0.2))
    assert set(found.metrics) - set(plain.metrics) == {"acc@1/cascade", "width/cascade"}
    assert 2 <= found.metrics["width/cascade"].value <= 64
    assert not found.metrics["width/cascade"].higher_is_better
    assert len(found.notes["cascade_thresholds"]) == 2
    records = Classification(cascade=0.2, sharpness=2.0).predict(deployed, pool(30))
    score_NK = deployed.classify([pool(30)[row].image for row in range(30)])
    wanted_N = torch.from_numpy(2 * score_NK).double().softmax(1).amax(1)
    assert [row[-1] for row in records.column("confidences").to_pylist()] == pytest.approx(wanted_N.tolist(), abs=1e-6)
    for share, says in ((1.0, "cascade is 1.0"), (0.01, "0.01 of 30 images are 0")):
        with pytest.raises((ConfigError, DataError), match=says):
            evaluate(Classification(draws=20, cascade=share), deployed, pool(30))


def test_labels_decide_and_faults_are_named() -> None:
    recipe = replace(small(), classes=()).prepare(pool())
    assert recipe.classes == NAMES
    (step,) = batches(pool(), recipe, seed=0, stop=1)
    assert step.batch.image_BCHW.shape == (6, 3, 32, 32)
    assert set(step.batch.label_B.tolist()) <= {0, 1, 2}
    one = Pool.from_samples([replace(pool()[0], uid=f"a{n}") for n in range(3)], name="one")
    with pytest.raises(DataError, match="'one' has 1 class"):
        replace(small(), classes=()).prepare(one)
    with pytest.raises(ConfigError, match="in order"):
        small(dims=(5, 2))
    with pytest.raises(ConfigError, match="no strided convolutions to blur"):
        small(blur=True)
    with pytest.raises(ConfigError, match="from 1 to 64"):
        small(dims=(2, 65)).model()


def test_the_commands_train_and_score_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = "world:scenes?n=30", str(tmp_path / "run")
    fast = ["--image-tower", "vit_micro", "--image-size", "32", "--dims", "4", "64", "--batch-size", "8"]
    assert main(["train", "mrl_classes", "--data", data, "--out", run, "--preset", "tiny", "--steps", "2", *fast]) == 0
    capsys.readouterr()
    assert main(["eval", run, "classification", "--data", data, "--split", "test", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"].values()
    assert {"acc@1", "acc@1/first_4"} <= set(result["metrics"])
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(picture)
    assert main(["classify", run, str(picture), "-k", "2", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    model = load(run)
    logit_K = torch.from_numpy(model.classify([ArrayImage(np.full((40, 40, 3), 90, np.uint8))])[0])
    best = logit_K.softmax(0).topk(2)
    assert [c["name"] for c in answer["classes"]] == [model.classes[k] for k in best.indices]
    assert [c["score"] for c in answer["classes"]] == pytest.approx(best.values.tolist(), abs=1e-5)
