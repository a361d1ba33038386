"""ProtoCLIP: what an episode learns, row by row; the first one learns nothing; a stop anywhere changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from invariants import on_two_processes, stopped_and_resumed
from safetensors.torch import load_file
from sklearn.cluster import KMeans

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.pairs.encoders.prototype_encoder import EpisodeMemory, EpisodePrototypes
from diptych.recipes.contrastive.protoclip import ProtoCLIP
from diptych.train.clustering import k_means
from diptych.train.fit import fit
from diptych.train.gradient_cache import backward
from diptych.train.optimise import build_optimiser, learning_rate, schedule
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32")
ROWS = 24


def rows(teacher: bool = False) -> Any:
    pool = scenes(ROWS, size=32, lengths=("short",), paraphrases=0, negatives=False).to_pool()
    if not teacher:
        return pool
    known = [pool[row] for row in range(ROWS)]
    return Pool.from_samples(
        [replace(s, extras={"said": [float(n % 3), float(n % 2)]}) for n, s in enumerate(known)], name="taught"
    )


def small(**changes: Any) -> ProtoCLIP:
    settings = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "width": 16,
        "image_size": 32,
        "text_length": 8,
        "pieces": 300,
    }
    settings |= {
        "batch_size": 8,
        "steps": 9,
        "warmup": 1.0,
        "clusters": 4,
        "episode": 24,
        "hidden": 12,
        "head_width": 6,
        **changes,
    }
    return replace(ProtoCLIP.tiny(), **settings)


def test_k_means_finds_what_scikit_learn_finds_and_planted_clusters(parity: Any) -> None:
    chance = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 25)
    x = torch.from_numpy((10 * np.eye(4)[truth] + chance.normal(size=(100, 4))).astype(np.float32))
    label, centroid = (found.numpy() for found in k_means(x, 4, seed=1))
    for k in range(4):
        np.testing.assert_allclose(centroid[k], x.numpy()[label == k].mean(0), rtol=1e-4, atol=1e-4)
    assert len({(a, b) for a, b in zip(truth, label, strict=True)}) == 4
    theirs = KMeans(4, n_init=5, random_state=3).fit(x.numpy())
    ours = sum(float(((x[label == k] - x[label == k].mean(0)) ** 2).sum()) for k in range(4))
    assert ours == pytest.approx(theirs.inertia_, rel=1e-4)
    parity(
        "protoclip", "inertia of k-means on planted clusters", "KMeans of scikit-learn", [(ours, theirs.inertia_)], tolerance=1e-4
    )
    assert torch.equal(k_means(x, 4, seed=1)[0], k_means(x, 4, seed=1)[0])


def test_more_clusters_than_items_leaves_some_empty() -> None:
    label, centroid = k_means(torch.tensor([[0.0], [0.0], [5.0]]), 9, seed=0)
    assert label[0] == label[1] != label[2]
    assert centroid.shape == (9, 1)
    assert not centroid[3:].any()
    with pytest.raises(ConfigError, match="clusters of 0 items"):
        k_means(torch.zeros(0, 2), 3, seed=0)


def test_the_memory_knows_its_rows_and_no_others() -> None:
    memory = EpisodeMemory(6, 3, 2)
    assert (memory.labels(torch.tensor([-5, 0, 7])) == -1).all(), "before the first episode"
    row, label = torch.tensor([900, 7, 55, 12]), torch.arange(12).reshape(4, 3)
    memory.store_(row, label, EpisodePrototypes(*(torch.zeros(3, 3, 2) for _ in range(3)), torch.ones(3, 3, dtype=torch.bool)))
    found = memory.labels(torch.tensor([55, 900, 8, 7, 10**12]))
    assert found.tolist() == [[6, 7, 8], [0, 1, 2], [-1] * 3, [3, 4, 5], [-1] * 3]
    memory.store_(row[:1], label[:1], memory.prototypes())
    assert memory.labels(row).tolist() == [[0, 1, 2], [-1] * 3, [-1] * 3, [-1] * 3]


def test_an_episode_is_clustered_and_translated_back() -> None:
    """By hand, from features in evaluation mode of exactly the rows that follow."""
    data, recipe = rows(teacher=True), small(teacher="said")
    recipe = recipe.prepare(data)
    torch.manual_seed(0)
    model = recipe.model().eval()
    coming = [step.batch for step in batches(data, recipe, seed=0, start=3, stop=6)]
    with torch.no_grad():
        found = [recipe.features(model, batch) for batch in coming]
    image, text = (torch.cat([getattr(f, name) for f in found]) for name in ("head_image_ND", "head_text_ND"))
    given = {"image_ED": image, "text_ED": text, "teacher_ED": torch.cat([b.teacher_BD for b in coming])}
    recipe.cluster(model, {**given, "row_E": torch.cat([b.row_B for b in coming])}, 1)
    memory = model.episode
    label_E3 = torch.cat([recipe.features(model, batch).label_N3 for batch in coming])
    assert (label_E3 >= 0).all()
    for kind in range(3):
        for k in range(4):
            members = label_E3[:, kind] == k
            assert bool(memory.filled_3K[kind, k]) == bool(members.any())
            if members.any():
                torch.testing.assert_close(memory.image_3KD[kind, k], image[members].mean(0))
                torch.testing.assert_close(memory.text_3KD[kind, k], text[members].mean(0))
    by_teacher = label_E3[:, 2]
    said = given["teacher_ED"]
    for a in range(24):
        for b in range(24):
            same = torch.equal(said[a], said[b])
            assert same <= bool(by_teacher[a] == by_teacher[b]), "equal features, equal cluster"
    features = recipe.features(model, coming[0])
    logged = recipe.metrics(features, coming[0])
    pairs = {"image_to_text": (0, 1), "text_to_image": (1, 0), "image_to_teacher": (0, 2), "text_to_teacher": (1, 2)}
    for name, (side, kind) in pairs.items():
        x = (features.head_image_ND, features.head_text_ND)[side]
        score = x @ (memory.image_3KD, memory.text_3KD)[side][kind].T
        nearest = score.masked_fill(~memory.filled_3K[kind], -torch.inf).argmax(1)
        wanted = (nearest == features.label_N3[:, kind]).float().mean()
        assert logged[f"{name}_accuracy"].item() == pytest.approx(wanted.item())
    other = next(batches(data, recipe, seed=0, start=6, stop=7)).batch
    assert (recipe.features(model, other).label_N3 == -1).all(), "a row of another episode"
    losses = recipe.losses(recipe.features(model.train(), coming[0]), coming[0])
    assert set(losses) == {"contrastive", "prototypes", "teacher"}
    assert all(value > 0 for value in losses.values())


def test_the_first_episode_is_clips(tmp_path: Path) -> None:
    run = fit(small(), rows(), tmp_path / "run", OPTIONS)
    lines = [line for line in run.metrics() if line["kind"] == "train"]
    assert [line["prototypes"] > 0 for line in lines] == [False] * 3 + [True] * 6
    assert lines[0]["text_clusters"] == 0
    assert lines[0]["image_to_text_accuracy"] == 0
    assert max(line["image_to_text_accuracy"] for line in lines[3:]) > 0
    assert "image_to_teacher_accuracy" not in lines[3]
    assert lines[3]["text_clusters"] > 1
    saved = load_file(run.checkpoints / "step-00000009" / "model.safetensors")
    deployed = load_file(run.model / "model.safetensors")
    beside = set(saved) - {f"encoder.{name}" for name in deployed}
    assert {name.split(".")[0] for name in beside} == {"image_head", "text_head", "log_head_scale", "episode"}
    assert saved["episode.filled_3K"][:2].any()


def test_the_last_part_locks_the_image_tower(tmp_path: Path) -> None:
    run = fit(small(lit_share=1 / 3), rows(), tmp_path / "run", replace(OPTIONS, save_every=6, keep=9))
    lines = [line for line in run.metrics() if line["kind"] == "train"]
    assert ["prototypes" in line for line in lines] == [True] * 6 + [False] * 3
    before, after = (load_file(run.checkpoints / f"step-{n:08d}" / "model.safetensors") for n in (6, 9))
    for name in before:
        moved = not torch.equal(before[name], after[name])
        trained = name.startswith(("encoder.text_tower", "encoder.text_projection", "encoder.log_scale"))
        assert moved == trained or "num_batches" in name or "running" in name, name


def test_the_locked_part_has_the_last_rates_of_the_run() -> None:
    recipe = small(lit_share=1 / 4, warmup=10.0)
    first, locked = recipe.stages()
    rates = [learning_rate(locked.recipe.optimiser(), step, 50) for step in range(50)]
    wanted = [0.5 * (1 + math.cos(math.pi * (step - 10) / 190)) * recipe.lr for step in range(150, 200)]
    assert rates == pytest.approx(wanted, rel=1e-9)
    assert learning_rate(first.recipe.optimiser(), 150, 150) == pytest.approx(0, abs=1e-12)


def test_the_text_side_has_the_rates_of_the_whole_run_as_released() -> None:
    recipe = small(lit_share=1 / 4, warmup=10.0, text_rate="run", head_decay=False).prepare(rows())
    model = recipe.stages()[0].recipe.model()
    spec = recipe.stages()[0].recipe.optimiser()
    optimiser = build_optimiser(model, spec)
    rate_of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for step in range(150):
        schedule(optimiser, spec, step, 150)
        warm, image, text = (recipe.lr * x for x in ((step + 1) / 10, cosine(step, 10, 150), cosine(step, 10, 200)))
        for name, parameter in model.named_parameters():
            wanted = warm if step < 10 else image if name.startswith("encoder.image") else text
            assert rate_of[id(parameter)]["lr"] == pytest.approx(wanted, rel=1e-9), (name, step)
    assert all(rate_of[id(p)]["weight_decay"] == 0 for name, p in model.named_parameters() if name.startswith("image_head"))
    assert {group["length"] for group in build_optimiser(model, small(lit_share=1 / 4).optimiser()).param_groups} == {1.0}


def cosine(step: int, warmup: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def test_empty_clusters_and_centroids_as_released(parity: Any) -> None:
    """More clusters than different texts, and k-means stopped before it rests: the released loss is written out with torch's."""
    data = rows()
    recipe = small(clusters=6, iterations=1, restarts=1, empty="zeros", centroids="k_means").prepare(data)
    torch.manual_seed(0)
    model = recipe.model().eval()
    coming = [step.batch for step in batches(data, recipe, seed=0, start=3, stop=6)]
    with torch.no_grad():
        found = [recipe.features(model, batch) for batch in coming]
    given = {"image_ED": torch.cat([f.head_image_ND for f in found]), "text_ED": torch.cat([f.head_text_ND for f in found])}
    given |= {"row_E": torch.cat([b.row_B for b in coming]), "teacher_ED": torch.zeros(24, 0)}
    given["text_ED"] = given["text_ED"][torch.arange(24) % 5]  # no more than five different
    given["image_ED"] = torch.nn.functional.normalize(torch.randn(24, 6), dim=1)
    recipe.cluster(model, given, 1)
    features = recipe.features(model, coming[0])
    known, memory = features.prototypes, model.episode
    assert not memory.filled_3K[1].all()
    assert memory.filled_3K[1].any()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(known.centroids("image"), known.means("image", over="image"))
    losses = []
    sides = {"image": features.head_image_ND, "text": features.head_text_ND}
    for side, x_ND in sides.items():
        other = "text" if side == "image" else "image"
        mean_KD = torch.zeros(6, 6)
        label_E = memory.labels(given["row_E"])[:, ("image", "text").index(other)]
        for k in label_E.unique():
            mean_KD[k] = given[f"{side}_ED"][label_E == k].mean(0)
        centroid_KD = known.centroids(other)
        share_NK = (centroid_KD[features.labels(other)] @ centroid_KD.T / recipe.tau_target).softmax(1)
        losses.append(torch.nn.functional.cross_entropy(features.head_scale * x_ND @ mean_KD.T, share_NK))
    ours = recipe.losses(features, coming[0])["prototypes"]
    against = "megvii-research/protoclip fde1933, training/{clustering,loss}.py, with torch.nn.functional.cross_entropy"
    parity(
        "protoclip",
        "loss with empty clusters as zeros and k-means' own centroids",
        against,
        [(ours, sum(losses) / 2)],
        tolerance=1e-5,
    )
    left_out = replace(recipe, empty="left_out").losses(features, coming[0])["prototypes"]
    assert (left_out - ours).abs().item() > 1e-3


def test_letters_beyond_ascii_are_taken_out_where_asked() -> None:
    data = Pool.from_samples(
        [replace(rows()[n], texts=(Text("Café – naïve red", "en", "caption"),)) for n in range(8)], name="accents"
    )
    plain, released = (replace(small(), tokenizer="clip", ascii=ascii) for ascii in (False, True))
    (one,), (other,) = (list(batches(data, recipe, seed=0, stop=1)) for recipe in (plain, released))
    words = plain.words()
    assert torch.equal(other.batch.text_BL[0], torch.from_numpy(words.encode(["Caf  nave red"], 8).ids_BL)[0])
    assert not torch.equal(one.batch.text_BL, other.batch.text_BL)


def test_the_text_head_starts_as_the_image_head() -> None:
    model = small(tokenizer="clip").model()
    assert all(torch.equal(a, b) for a, b in zip(model.image_head.parameters(), model.text_head.parameters(), strict=True))
    assert model.image_head[0].weight is not model.text_head[0].weight


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = small(lit_share=1 / 9, teacher="said")
    return fit(recipe, rows(teacher=True), tmp_path_factory.mktemp("whole") / "run", OPTIONS).path


@pytest.mark.parametrize("step", [2, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 3, 5, 6, 7))])
def test_a_stop_anywhere_changes_nothing(step: int, whole: Path, tmp_path: Path) -> None:
    """Between two episodes and in the middle of one."""
    recipe = small(lit_share=1 / 9, teacher="said")
    run = stopped_and_resumed(recipe, rows(teacher=True), tmp_path, OPTIONS, step=step)
    last = "checkpoints/step-00000009"
    for file in ("model.safetensors", "optimiser.safetensors"):
        assert (run.path / last / file).read_bytes() == (whole / last / file).read_bytes()


def gathered(rank: int, world: int) -> dict[str, torch.Tensor]:
    """What an episode of one step learns on this process's share. Batch norm in evaluation mode does not depend on the share."""
    data = rows()
    recipe = small(tokenizer="clip", episode=8, text_tower="text_micro")
    torch.manual_seed(0)
    model = recipe.model()

    class Run:
        step = 1

        def ahead(self, count: int) -> Any:
            return (item.batch for item in batches(data, recipe, seed=0, start=1, stop=1 + count, rank=rank, world=world))

    run: Any = Run()
    run.model, run.recipe = model, recipe
    (hook,) = recipe.hooks()
    hook.before_step(run, None)
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith("episode.")}


def test_two_processes_cluster_what_one_does(tmp_path: Path) -> None:
    alone = gathered(0, 1)
    torch.testing.assert_close(on_two_processes(gathered, tmp_path), [alone, alone], rtol=1e-4, atol=1e-5)


def test_gradient_caching_is_refused() -> None:
    recipe = small(tokenizer="clip")
    batch = next(batches(rows(), recipe, seed=0, stop=1)).batch
    with pytest.raises(ConfigError, match="need the whole batch"):
        backward(recipe, recipe.model(), batch, micro_batch=4)


def test_a_teacher_that_is_not_there_is_asked_for() -> None:
    recipe = small(tokenizer="clip", teacher="said")
    with pytest.raises(DataError, match="no teacher's features"):
        recipe._teacher_features(Sample("one"))
    with pytest.raises(ConfigError, match="shorter than a batch"):
        small(episode=4)


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = ProtoCLIP.paper()
    spec = paper.optimiser()
    assert (spec.betas, spec.eps) == ((0.9, 0.999), 1e-8), "open_clip's for residual networks"
    assert [rule.decay for rule in spec.rules] == [False, None]
    assert paper.act == "quick_gelu", "of the text tower: the released code has no other"
    assert ProtoCLIP.tiny().optimiser().rules == ()
    with torch.device("meta"):
        model = paper.model()
    head = (1024 * 2048 + 2048) + 2 * 2048 + (2048 * 128 + 128)
    assert sum(p.numel() for p in model.image_head.parameters()) == head
    assert sum(p.numel() for p in model.parameters()) == 102_007_137 + 2 * head + 1, "open_clip's RN50, two heads, their scale"
    assert (paper.clusters, paper.tau_target, model.episode.label_E3.shape[0]) == (20_000, 0.01, 199_680)
