"""BioViL: hidden words and matched sections against plain rewritings, released weights against numbers of the authors' code."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import transformers
from scipy import ndimage

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.captions.sentences import sentences
from diptych.data.text.tokens.word_pieces import train_word_pieces
from diptych.models.io.foreign.parts import build_dual_encoder
from diptych.models.io.releases.biovil import released_parts
from diptych.models.pairs.phrase_embedder import PhraseEmbedder
from diptych.models.towers.projected_map import ProjectedMapTower
from diptych.models.towers.towers import image_tower
from diptych.recipes.domains.biovil import BioViL, ReportPhases, section_matching
from diptych.tasks.grounding.phrase_maps import PhraseMaps, contrast_to_noise, mean_iou, points_inside
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

DATA = resolve("world:chests?n=16")
WORDS = train_word_pieces([text.string for sample in DATA for text in sample.texts], 300).to_json()


def small(**changes: Any) -> BioViL:
    shape = {"image_tower": "convnet_micro", "image_size": 48, "text_length": 48, "width": 16, "pieces": 300, "vocabulary": WORDS}
    return replace(BioViL.tiny(), **{**shape, "batch_size": 6, "steps": 6, "warmup": 1.0, **changes})


def step_of(recipe: BioViL, data: Any = None) -> Any:
    (step,) = batches(data if data is not None else DATA.split("train"), recipe, seed=0, stop=1)
    return step.batch


def test_hidden_words_are_those_of_transformers(parity: Any) -> None:
    """Logits and loss of `BertForMaskedLM` on the same weights; whole words are hidden, and the head shares its table."""
    recipe = small(phase="words")
    torch.manual_seed(0)
    model, batch = recipe.model().eval(), step_of(recipe)
    tower = model.bert
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**{**tower.config, "vocab_size": tower.embed.num_embeddings}))
    state = {f"bert.{name}": value for name, value in tower.net.state_dict().items()}
    names = {"dense.weight": "transform.dense.weight", "dense.bias": "transform.dense.bias", "bias_V": "bias"}
    names |= {"norm.weight": "transform.LayerNorm.weight", "norm.bias": "transform.LayerNorm.bias"}
    state |= {f"cls.predictions.{names[name]}": value for name, value in model.words.state_dict().items()}
    report = theirs.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    theirs.tie_weights()
    ids = batch.masked_BL.masked_fill(batch.hidden_BL, recipe.mask_id)
    labels = torch.full_like(ids, -100).scatter(
        1, batch.position_BM.where(batch.word_BM >= 0, 0), batch.word_BM.where(batch.word_BM >= 0, -100)
    )
    expected = theirs.eval()(input_ids=ids, attention_mask=batch.text_mask_BL.long(), labels=labels)
    features = recipe.features(model, batch)
    asked = batch.word_BM >= 0
    logits = expected.logits.gather(1, batch.position_BM[..., None].expand(-1, -1, expected.logits.shape[-1]))
    pairs = [(features.word_NMV[asked], logits[asked]), (recipe.losses(features, batch)["words"], expected.loss)]
    parity("biovil", "logits and loss of hidden words", "BertForMaskedLM of transformers", pairs, tolerance=1e-5)
    pieces = [recipe.words().inner.id_to_token(int(token)) for token in batch.text_BL[0]]
    positions = set(batch.position_BM[0][asked[0]].tolist())
    for position in positions:  # a hidden piece has its whole word with it
        for other in (position - 1, position + 1):
            joined = pieces[max(position, other)].startswith("##")
            assert not joined or other in positions or len(positions) == batch.position_BM.shape[1]


def test_sections_match_by_a_plain_loop(parity: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (
        F.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2)
    )
    both = torch.tensor([True, True, False, True, True])
    kept = [0, 1, 3, 4]
    terms = []
    for rows, columns in ((one, other), (other, one)):
        for anchor in kept:
            scores = torch.stack([rows[anchor] @ columns[column] / 0.5 for column in kept])
            terms.append(torch.logsumexp(scores, 0) - scores[kept.index(anchor)])
    expected = torch.stack(terms).mean()
    loss = section_matching(one, other, both, tau=0.5)
    ours, theirs = (torch.autograd.grad(value, (one, other), retain_graph=True) for value in (loss, expected))
    parity(
        "biovil",
        "section matching and gradients",
        "a plain loop over reports with both sections",
        [(loss, expected), *zip(ours, theirs, strict=True)],
        tolerance=1e-12,
    )
    assert not section_matching(one.detach(), other.detach(), torch.zeros(5, dtype=torch.bool)).isnan()


def test_phases_read_their_sections_and_weigh_their_losses() -> None:
    report = "FINDINGS: One is first. Two is next. Three is last.\nIMPRESSION: All is well."
    rng = np.random.default_rng(0)
    findings, impression = small(phase="sections").sides(report, rng)
    assert sorted(sentences(findings)) == ["One is first.", "Three is last.", "Two is next."]
    assert impression == "All is well."
    assert small(phase="words").sides(report, rng)[0].startswith("FINDINGS: One")
    plain = ReportPhases(shuffled=False, read="impression")
    assert small(phase="pairs", phases=plain).sides(report, rng) == ("All is well.", "")
    assert small(phase="pairs", phases=plain).sides("FINDINGS: Clear.", rng) == ("Clear.", "")
    assert small(phase="pairs").sides("Normal chest.", rng) == ("Normal chest.", "")
    image = DATA[0].image
    rows = Pool.from_samples([Sample("a", image, (Text(report),)), Sample("b", image, (Text("FINDINGS: Clear.\nIMPRESSION: "),))])
    assert sorted(step_of(small(phase="sections", batch_size=2), rows).both_B.tolist()) == [False, True]
    weighed = ReportPhases(weight_words_beside=(0.25, 0.5), weight_pairs=2.0)
    for phase, weights in (("sections", {"sections": 1.0, "words": 0.25}), ("pairs", {"pairs": 2.0, "words": 0.5})):
        recipe = small(phase=phase, phases=weighed)
        torch.manual_seed(0)
        model, batch = recipe.model().eval(), step_of(recipe)
        unit = replace(recipe, phases=ReportPhases(weight_words_beside=(1.0, 1.0), weight_pairs=1.0))
        features = recipe.features(model, batch)
        losses, bare = recipe.losses(features, batch), unit.losses(features, batch)
        assert losses.keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(losses[name], weight * bare[name])
    assert {module.p for module in small(phase="sections").model().bert.modules() if isinstance(module, torch.nn.Dropout)} == {
        0.25
    }
    for wrong in ({"phase": "image"}, {"order": "both"}, {"corpus": "a.txt", "tokenizer": "clip"}):
        with pytest.raises(ConfigError):
            small(**wrong)
    with pytest.raises(ConfigError, match="tau_pairs"):
        ReportPhases(tau_pairs=0.0)


def test_a_run_in_three_phases_is_deployed_and_finds_phrases(tmp_path: Path) -> None:
    fit(small(), DATA.split("train"), tmp_path / "run", TrainOptions(progress=False, log_every=1, precision="fp32"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [set(line) & {"words", "sections", "pairs"} for line in lines if line.get("kind") == "train"]
    assert trained[0] == {"words"}
    assert {"sections", "words"} in trained
    assert trained[-1] == {"pairs", "words"}
    model = dp.load(tmp_path / "run")
    assert isinstance(model, PhraseEmbedder)
    np.testing.assert_array_equal(model.embed_texts(["A nodule."]), model.embed_texts(["A nodule"]))
    raw = torch.stack(
        [
            model.model.text_vectors(*(torch.from_numpy(part) for part in encoded(model, text)))[0]
            for text in ("a nodule", "no nodule seen")
        ]
    )
    np.testing.assert_allclose(
        model.embed_prompts(["a nodule", "no nodule seen"]), F.normalize(raw.mean(0), dim=0).detach(), atol=1e-5
    )
    task = PhraseMaps(template="{label} in the {place}")
    result = task.score(task.predict(model, DATA.split("train")))
    assert set(result.metrics) == {"cnr", "miou", "pointing"}


def encoded(model: Any, text: str) -> Any:
    batch = model.tokenizer.encode([text], model.text_length)
    return batch.ids_BL, batch.mask_BL


def test_maps_lie_in_the_frame_of_the_image() -> None:
    recipe = small()
    torch.manual_seed(0)
    model = PhraseEmbedder(recipe.model().encoder.eval(), replace(recipe.deployed_preprocess, margin=12), recipe.words(), 48, "x")
    image = ArrayImage(np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8))
    (map_HW,) = model.map_phrases(image, ["a nodule"], sigma=0)
    side = int(48 * 60 / 60)
    assert map_HW.shape == (90, 60)
    assert (~np.isnan(map_HW)).sum() == side * side
    patches = model.model.image_tower(model.preprocess([image.pixels_HWC])).tokens_BPD[0]
    cosine = (F.normalize(patches, dim=1) @ torch.from_numpy(model.embed_texts(["a nodule"])[0])).detach().numpy()
    assert np.isclose(map_HW[21, 6], cosine[0])
    assert np.isclose(map_HW[21 + side - 1, 6 + side - 1], cosine[-1])
    (smooth,) = model.map_phrases(image, ["a nodule"])
    grid = cosine.reshape(round(len(cosine) ** 0.5), -1)
    assert np.isclose(smooth[21, 6], ndimage.gaussian_filter(grid, 1.5)[0, 0])


def test_the_global_vector_is_the_mean_of_projected_patches() -> None:
    torch.manual_seed(0)
    tower = ProjectedMapTower(image_tower("convnet_micro"), 8).eval()
    image = torch.rand(2, 3, 48, 48)
    output = tower(image)
    first, norm, _, last = tower.project
    tokens = tower.inner(image).tokens_BPD
    convolved = F.conv1d(tokens.transpose(1, 2), first.weight[..., None])
    normal = F.batch_norm(convolved, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    expected = F.conv1d(normal.relu(), last.weight[..., None], last.bias).transpose(1, 2)
    torch.testing.assert_close(output.tokens_BPD, expected)
    torch.testing.assert_close(output.pooled_BD, expected.mean(1))
    pooled = ProjectedMapTower(tower.inner, 8, order="pooled").eval()
    pooled.project.load_state_dict(tower.project.state_dict())
    torch.testing.assert_close(pooled(image).pooled_BD, tower.project(tokens.mean(1)))


def test_measures_of_a_map_of_two_levels(parity: Any) -> None:
    map_HW, target = np.full((8, 10), 0.15), np.zeros((8, 10), bool)
    target[2:5, 3:7] = True
    rng = np.random.default_rng(0)
    map_HW[target] = 0.45
    noisy = map_HW + rng.normal(0, 0.02, map_HW.shape)
    inside, outside = noisy[target], noisy[~target]
    expected = abs(inside.mean() - outside.mean()) / math.sqrt(
        ((inside - inside.mean()) ** 2).mean() + ((outside - outside.mean()) ** 2).mean()
    )
    counts = [(((noisy > t) & target).sum(), ((noisy > t) | target).sum()) for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
    pairs = [(contrast_to_noise(noisy, target), expected), (mean_iou(noisy, target), float(np.mean([a / b for a, b in counts])))]
    parity(
        "biovil",
        "CNR and mIoU of a map",
        "their formulas in numpy",
        [(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)) for a, b in pairs],
        tolerance=1e-9,
    )
    assert contrast_to_noise(map_HW, target) == float("inf")
    assert np.isclose(mean_iou(map_HW, target), (12 / 80 + 1 + 1 + 1 + 0) / 5)
    assert points_inside(noisy, target)
    noisy[0, 0] = noisy[target].max()
    assert not points_inside(noisy, target)
    noisy[0] = np.nan
    assert points_inside(noisy, target)


def wave(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that anybody can make: a sine whose phase is the checksum of the tensor's name."""
    count = math.prod(shape)
    value = torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + zlib.crc32(name.encode()) % 1000) * 0.1
    if name.endswith("running_var"):
        value = value.abs() + 0.8
    norms = "bn" in name or "norm" in name.lower() or "downsample.1.weight" in name or "model.1.weight" in name
    if name.endswith("weight") and norms:
        value = value + 0.6
    if name.endswith("weight") and len(shape) > 1:
        value = value * math.sqrt(6 / max(1, count // shape[0])) * 3
    return value.reshape(shape).float()


NUMBERS: dict[str, list[float]] = {
    "plain": [0.13529109954833984, -0.07523863017559052, -0.0742730125784874, -0.058403272181749344],
    "alone": [0.07688861340284348, -0.03334103152155876, -0.09275912493467331, -0.0663759633898735],
    "both": [0.008974054828286171, 0.005192199721932411, -0.09555906802415848, -0.09977087378501892],
    "text": [-0.05377614125609398, 0.11466990411281586, 0.059517476707696915, -0.18122996389865875],
}
"""First values of image and text vectors that hi-ml-multimodal (b67c1d2) gives on these weights."""


def released_image(*, temporal: bool, network: str = "resnet18", out: int = 32) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released image file."""
    with torch.device("meta"):
        net = getattr(torchvision.models, network)()
    shapes = {f"encoder.encoder.{name}": tuple(value.shape) for name, value in net.state_dict().items()}
    channels = net.fc.in_features
    if temporal:
        shapes |= {"encoder.missing_previous_emb": (1, 256, 1, 1), "encoder.backbone_to_vit.weight": (256, channels, 1, 1)}
        shapes |= {"encoder.vit_pooler.type_embed": (2, 1, 256)}
        shapes |= {f"encoder.vit_pooler.norm_post.{leaf}": (256,) for leaf in ("weight", "bias")}
        for block in range(3):
            stem = f"encoder.vit_pooler.blocks.{block}."
            shapes |= {f"{stem}{norm}.{leaf}": (256,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
            shapes |= {f"{stem}attn.{name}.weight": (256, 256) for name in ("proj_q", "proj_k", "proj_v", "proj")}
            shapes |= {f"{stem}mlp.{name}.weight": (256, 256) for name in ("fc1", "fc2")}
            shapes |= {f"{stem}{name}.bias": (256,) for name in ("attn.proj", "mlp.fc1", "mlp.fc2")}
        channels = 512
    shapes |= {
        "projector.model.0.weight": (out, channels, 1, 1),
        "projector.model.3.weight": (out, out, 1, 1),
        "projector.model.3.bias": (out,),
    }
    shapes |= {f"projector.model.1.{leaf}": (out,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {**shapes, "projector.model.1.num_batches_tracked": ()}


def released_text(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        bert = transformers.BertForMaskedLM(transformers.BertConfig(**config))
    shapes = {name: tuple(value.shape) for name, value in bert.state_dict().items()}
    out, width = config["projection_size"], config["hidden_size"]
    shapes |= {
        "cls_projection_head.dense_to_hidden.weight": (out, width),
        "cls_projection_head.dense_to_output.weight": (out, out),
    }
    shapes |= {f"cls_projection_head.{part}.bias": (out,) for part in ("dense_to_hidden", "LayerNorm", "dense_to_output")}
    return {**shapes, "cls_projection_head.LayerNorm.weight": (out,)}


SMALL_BERT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL_BERT |= {"max_position_embeddings": 40, "projection_size": 32}


def made_up(folder: Path, *, temporal: bool) -> str:
    """A made-up release of both sides, small."""
    text = folder / "cxr-bert"
    text.mkdir()
    tensors = {name: wave(name, shape) for name, shape in released_text(SMALL_BERT).items()}
    tied = "bert.embeddings.word_embeddings.weight"
    tensors[tied] = wave("cls.predictions.decoder.weight", tuple(tensors[tied].shape))
    torch.save(tensors, text / "pytorch_model.bin")
    (text / "config.json").write_text(json.dumps({**SMALL_BERT, "model_type": "cxr-bert", "architectures": ["CXRBertModel"]}))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(35))]
    (text / "vocab.txt").write_text("\n".join(pieces))
    (text / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    image = {name: wave(name, shape) for name, shape in released_image(temporal=temporal).items()}
    image = {name: value if "num_batches" not in name else torch.tensor(0) for name, value in image.items()}
    torch.save(image, folder / "image.pt")
    return f"biovil:{text}#{folder / 'image.pt'}"


@pytest.mark.parametrize("temporal", [False, True])
def test_released_weights_give_the_authors_numbers(temporal: bool, tmp_path: Path, parity: Any) -> None:
    model: Any = dp.load(made_up(tmp_path, temporal=temporal))
    assert isinstance(model, PhraseEmbedder)
    assert all(name.startswith(("cls.predictions.", "encoder.encoder.fc.")) for name in model.left)
    assert (model.preprocess.size, model.preprocess.margin) == ((448, 64) if temporal else (480, 32))
    wide = torch.sin(torch.arange(2 * 3 * 448 * 448, dtype=torch.float32) * 0.01).reshape(2, 3, 448, 448) * 0.5 + 0.5
    with torch.no_grad():
        tower = model.model.image_tower
        ids, mask = torch.tensor([[2, 5, 9, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]]).bool()
        numbers = {"text": model.model.encode_text(ids, mask)[0]}
        if temporal:
            numbers |= {"alone": tower(wide[:1]).pooled_BD[0], "both": tower(wide[:1], wide[1:]).pooled_BD[0]}
        else:
            numbers["plain"] = tower(wide[:1]).pooled_BD[0]
    pairs = [(value[:4], torch.tensor(NUMBERS[name])) for name, value in numbers.items()]
    what = "vectors of an opened BioViL-T, with and without an earlier image" if temporal else "vectors of an opened BioViL"
    parity("biovil", what, "hi-ml-multimodal (b67c1d2) on equal weights, recorded", pairs, tolerance=2e-6)
    image = ArrayImage(np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8))
    assert model.embed_images([image]).shape == model.embed_texts(["w1 w2."]).shape
    if temporal:
        assert np.isclose(np.linalg.norm(model.embed_earlier(image, image)), 1, atol=1e-5)
    else:
        with pytest.raises(ConfigError, match="reads one image"):
            model.embed_earlier(image, image)


@pytest.mark.parametrize("temporal", [False, True])
def test_every_tensor_of_the_released_sizes_has_a_place(temporal: bool) -> None:
    config = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    config |= {"projection_size": 128, "max_position_embeddings": 512}
    with torch.device("meta"):
        image = {
            name: torch.empty(shape) for name, shape in released_image(temporal=temporal, network="resnet50", out=128).items()
        }
        text = {name: torch.empty(shape) for name, shape in released_text(config).items()}
        parts = released_parts({**config, "model_type": "cxr-bert"}, text, image)
        model = build_dual_encoder(parts)
    state = {name: value.shape for name, value in model.state_dict().items() if name != "log_scale"}
    assert {name: value.shape for name, value in parts.tensors.items()} == state
    assert len(parts.left) + len(parts.tensors) == len(image) + len(text)


def test_bad_releases_say_why(tmp_path: Path) -> None:
    address = made_up(tmp_path, temporal=False)
    folder, _, file = address.partition(":")[2].partition("#")
    with pytest.raises(DataError, match="does not name both"):
        dp.load(f"biovil:{folder}")
    content = torch.load(file)
    torch.save({**content, "stranger": torch.zeros(2)}, tmp_path / "more.pt")
    with pytest.raises(ConfigError, match="stranger"):
        dp.load(f"biovil:{folder}#{tmp_path / 'more.pt'}")
    del content["encoder.encoder.bn1.weight"]
    torch.save(content, tmp_path / "less.pt")
    with pytest.raises(DataError, match=r"bn1\.weight is missing"):
        dp.load(f"biovil:{folder}#{tmp_path / 'less.pt'}")


def test_the_published_size() -> None:
    """CXR-BERT's text side, ResNet-50 and both heads; the vocabulary of 30,522 pieces is learned from a corpus."""
    recipe = replace(BioViL.paper(), tokenizer="clip")
    with torch.device("meta"):
        model = recipe.model()
    text = sum(p.numel() for p in model.bert.parameters()) - model.bert.embed.weight.numel()
    assert text == 12 * 7_087_872 + 512 * 768 + 2 * 768 + 2 * 768
    resnet = 25_557_032 - 2048 * 1000 - 1000
    projector = 2048 * 128 + 2 * 128 + 128 * 128 + 128
    assert sum(p.numel() for p in model.encoder.image_tower.parameters()) == resnet + projector
    assert (recipe.image_size, recipe.deployed_preprocess.size + recipe.deployed_preprocess.margin) == (480, 512)
