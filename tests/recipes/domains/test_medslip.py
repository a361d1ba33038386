"""MeDSLIP: losses, logits and attention of the released code, losses by plain loops, pairs of reports, mirroring, maps, released files."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import transformers
from torch import nn

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.load.stream import batches
from diptych.data.text.reports.finding_places import (
    NO_LABELS,
    FindingPlace,
    finding_matrix,
    finding_places,
    padchest_pairs,
    report_pairs,
)
from diptych.models.chests.finding_reader import FindingReader
from diptych.models.chests.name_book import book_vectors
from diptych.models.chests.query_decoder import QueryDecoderLayer
from diptych.models.io.releases.medslip import released_streams
from diptych.objectives.finding_losses import pair_loss, prototype_loss, stated, status_loss
from diptych.recipes.domains.medslip import MeDSLIP, drawn_others
from diptych.tasks.grounding.phrase_maps import PhraseMaps
from diptych.train.optimise import learning_rate
from diptych.worlds.resolve import resolve

DATA = resolve("world:chests?n=24&size=48").split("train")
FINDINGS, PLACES = 12, 11


def wave(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Numbers that anybody can make again, which the authors' code was run on."""
    count = int(np.prod(shape))
    values = scale * np.sin(np.arange(1, count + 1) * 12.9898 + zlib.crc32(name.encode()) % 1000)
    return torch.from_numpy(values.reshape(shape)).float()


def filled(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
        return wave(name, tuple(tensor.shape), 0.2) + 1
    if tensor.ndim == 1:
        return wave(name, tuple(tensor.shape), 0.1 if name.endswith("running_mean") else 0.05)
    scale = (6.0 if "in_proj" in name else 1.0) / np.sqrt(np.prod(tensor.shape[1:]))
    return wave(name, tuple(tensor.shape), float(scale))


class Released(nn.Module):
    """The parts that a released file has, under its names, of torchvision and torch."""

    def __init__(self, network: Any, inner: int, layers: int) -> None:
        super().__init__()
        layer, norm = nn.TransformerDecoderLayer(256, 4, 1024), nn.LayerNorm(256)  # one norm, which both decoders share
        self.res_features = nn.Sequential(*list(network(weights=None).children())[:-3])
        self.pathology_embedding_layer = nn.Linear(768, 256)
        self.mask_generator = nn.Linear(inner, inner)
        for side in ("pathology", "anatomy"):
            self.add_module(f"res_l1_{side}", nn.Linear(inner, inner))
            self.add_module(f"res_l2_{side}", nn.Linear(inner, 256))
            self.add_module(f"decoder_{side}", nn.TransformerDecoder(layer, layers, norm))
            self.add_module(f"classifier_{side}", nn.Linear(256, 2))
            self.add_module(f"cl_fc_{side}", nn.Linear(256, 768))


def matrix_of_the_run() -> torch.Tensor:
    matrix = torch.from_numpy(np.random.RandomState(0).choice([-1, 0, 1], size=(3, PLACES, FINDINGS), p=[0.6, 0.25, 0.15]))
    matrix[0, :, 3] = -1
    matrix[1, 2, :] = -1
    return matrix


def first_others(matrix_BQR: torch.Tensor) -> torch.Tensor:
    rows = [[np.flatnonzero(row != 1)[:7] for row in part] for part in matrix_BQR.numpy()]
    return torch.tensor(np.array(rows))


def test_losses_logits_and_attention_are_those_of_the_authors_code(parity: Any) -> None:
    """Numbers that MeDSLIP's code (7cfceb1) gave for these weights, images and labels: ResNet-18, two layers, 12 findings, 11 places."""
    released = Released(torchvision.models.resnet18, 256, 2)
    tensors = {name: filled(name, tensor) for name, tensor in released.state_dict().items()}
    for name in ("weight", "bias"):
        tensors[f"decoder_anatomy.norm.{name}"] = tensors[f"decoder_pathology.norm.{name}"]
    books = [wave(f"book {count}", (count, 768), 0.5) for count in (FINDINGS, PLACES)]
    model = released_streams(tensors, *books).eval()
    matrix_BAK = matrix_of_the_run()
    images = wave("image", (3, 3, 64, 64), 1.0)
    with torch.no_grad():
        features = model(images)
        tokens = model.tokens(images)
        maps = [
            model.asked(token, book, decoder)[1].mean(0)
            for token, book, decoder in zip(tokens, books, (model.finding_decoder, model.place_decoder), strict=True)
        ]
    matrix_BKA = matrix_BAK.transpose(1, 2)
    ours = [
        status_loss(features.status_finding_BK2, stated(matrix_BKA)),
        prototype_loss(features.prototype_finding_BKE, books[1], matrix_BKA == 1, first_others(matrix_BKA)),
        status_loss(features.status_place_BA2, stated(matrix_BAK)),
        prototype_loss(features.prototype_place_BAE, books[0], matrix_BAK == 1, first_others(matrix_BAK)),
        pair_loss(features.pair_BAK, matrix_BAK),
    ]
    theirs = [0.787719, 7.233278, 0.546708, 8.487975, 85.893761]
    total = 102.94944
    pairs = [(a / b, torch.tensor(1.0)) for a, b in zip([*ours, sum(ours)], [*theirs, total], strict=True)]
    logits = torch.stack([features.status_finding_BK2[0, :3], features.status_place_BA2[0, :3]])
    recorded = [
        [[0.1131589338183403, -0.18796056509017944], [-0.0018744636327028275, -0.193246528506279]],
        [[-0.003642335534095764, 0.361703097820282], [-0.12428334355354309, 0.366487979888916]],
    ]
    pairs.append((logits[:, :2], torch.tensor(recorded)))
    finding = torch.tensor([0.062492355704307556, 0.062481775879859924, 0.06247158348560333, 0.06246965005993843])
    place = torch.tensor([0.12501946091651917, 0.1250157654285431, 0.12500979006290436, 0.12500086426734924]) / 2
    pairs += [(100 * maps[0][0, 1, :4], 100 * finding), (100 * maps[1][0, 1, :4], 100 * place)]
    parity("medslip", "five losses, logits and attention", "outputs of MeDSLIP's code (7cfceb1)", pairs, tolerance=2e-5)


def test_a_decoder_layer_is_torchs(parity: Any) -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0, norm_first=True, batch_first=True)
    ours = QueryDecoderLayer(16, 4, mlp_width=32, dropout=0.0)
    ours.load_state_dict(theirs.state_dict())
    query, token = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    parity(
        "medslip", "decoder layer", "nn.TransformerDecoderLayer", [(ours(query, token)[0], theirs(query, token))], tolerance=1e-6
    )


def test_losses_by_plain_loops() -> None:
    torch.manual_seed(0)
    matrix, book = torch.randint(-1, 2, (3, 5, 6)), torch.randn(6, 8, dtype=torch.float64)
    matrix[0, 1] = 0  # nothing goes with it: it takes no part
    query = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    others = torch.from_numpy(np.stack([drawn_others(rows, 3, np.random.default_rng(1)) for rows in matrix.numpy()]))
    terms = []
    for b in range(3):
        for q in range(5):
            partners = [r for r in range(6) if matrix[b, q, r] == 1]
            if partners:
                names = [torch.stack([book[r] for r in partners]).mean(0), *(book[r] for r in others[b, q].tolist() if r >= 0)]
                terms.append(F.cross_entropy(torch.stack(names) @ query[b, q], torch.tensor(0)))
    loss = prototype_loss(query, book, matrix == 1, others)
    torch.testing.assert_close(loss, torch.stack(terms).mean().float(), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(loss, query)
    assert gradient[0, 1].abs().sum() == 0
    assert gradient[0, 0].abs().sum() > 0
    label = torch.tensor([[1, 0, -1], [2, 1, -1]])
    logit = torch.randn(2, 3, 2)
    expected = [F.cross_entropy(logit[b, q], label[b, q]) for b, q in ((0, 0), (0, 1), (1, 1))]
    torch.testing.assert_close(status_loss(logit, label), torch.stack(expected).mean())
    assert stated(torch.tensor([[[-1, 0], [0, 1], [-1, -1]]])).tolist() == [[0, 1, -1]]
    assert pair_loss(torch.randn(1, 2, 2), torch.full((1, 2, 2), -1)) == 0
    assert prototype_loss(query, book, torch.zeros(3, 5, 6, dtype=torch.bool), others) == 0


def test_negatives_are_never_present() -> None:
    matrix = np.array([[1, 0, -1, 1], [1, 1, 1, 1], [0, 0, -1, -1]], np.int8)
    seen = Counter[int]()
    for seed in range(50):
        drawn = drawn_others(matrix, 3, np.random.default_rng(seed))
        assert sorted(drawn[0].tolist()) == [-1, 1, 2]
        assert drawn[1].tolist() == [-1] * 3
        assert len(set(drawn[2].tolist())) == 3
        seen.update(drawn[2].tolist())
    assert set(seen) == {0, 1, 2, 3}


def test_pairs_of_reports() -> None:
    stated_here = "There is an opacity in the left lower zone and a nodule in the right upper zone. No cavity."
    report = f"FINDINGS: {stated_here}\nIMPRESSION: Possible mass."
    assert report_pairs(report, ["opacity", "nodule", "cavity", "mass"], ["left_lower_zone", "right upper zone", "zone"]) == [
        ("opacity", "left_lower_zone", "present"),
        ("nodule", "right upper zone", "present"),
        ("cavity", "unspecified", "absent"),
        ("mass", "unspecified", "uncertain"),
    ]
    assert report_pairs(
        "Right upper zone nodule and left basal opacity.", ["opacity", "nodule"], ["right upper zone", "left"]
    ) == [
        ("nodule", "right upper zone", "present"),
        ("opacity", "left", "present"),
    ]
    sample = Sample("a", texts=(Text("No nodule.", "en"),), extras={"pairs": '[["mass", "left lung", "present"]]'})
    assert finding_places(sample) == [FindingPlace("mass", "left lung", "present")]
    assert finding_places(replace(sample, extras={}), ["nodule"]) == [("nodule", "unspecified", "absent")]
    matrix = finding_matrix(
        [*finding_places(sample), FindingPlace("mass", "left lung", "absent")], ["mass"], ["right lung", "left lung"]
    )
    assert matrix.tolist() == [[-1], [1]]
    for extras, match in (
        ({"pairs": [["mass", "left lung"]]}, "field 'pairs'"),
        ({"pairs": [["mass", "left lung", "maybe"]]}, "field 'pairs'"),
        ({"sentences": "['mass'"}, "field 'sentences'"),
    ):
        with pytest.raises(DataError, match=match):
            finding_places(replace(sample, extras=extras))


@pytest.mark.parametrize("rows", [4000, pytest.param(None, marks=pytest.mark.slow)])
def test_the_matrix_of_padchest_by_a_plain_loop(rows: int | None) -> None:
    """The real table: counts of every pair of finding and place in rows of physicians, and the same findings as in the column Labels."""
    package = pytest.importorskip("torchxrayvision")
    path = Path(package.__file__).parent / "data" / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        table = list(islice(csv.DictReader(stream), rows))
    kept = [row for row in table if row["LabelsLocalizationsBySentence"] not in ("", "nan")]
    every = [padchest_pairs(row["LabelsLocalizationsBySentence"]) for row in kept]
    for row, pairs in zip(kept, every, strict=True):
        labels = {label.strip() for label in json.loads(row["Labels"].replace("'", '"').replace("nan", '""'))}
        assert {pair.finding for pair in pairs} == labels - NO_LABELS, row["ImageID"]
    physicians = [at for at, row in enumerate(kept) if row["MethodLabel"] == "Physician"]
    findings = sorted({pair.finding for row in every for pair in row})
    places = sorted({pair.place for row in every for pair in row})
    if rows is None:  # rows of physicians stand first; 194 labels, four of them no findings; 104 places, and "unspecified"
        assert (len(kept), len(physicians), len(findings), len(places)) == (160_758, 39_053, 190, 105)
    ours = np.zeros((len(places), len(findings)), int)
    for at in physicians:
        ours += finding_matrix(every[at], findings, places) == 1
    counts = Counter[tuple[str, str]]()
    for at in physicians:
        stated_here = set()
        for sentence in json.loads(kept[at]["LabelsLocalizationsBySentence"].replace("'", '"').replace("nan", "[]")):
            labels = [label.strip() for label in sentence]
            spots = [label[4:].strip() for label in labels if label.startswith("loc ")]
            for label in labels:
                name = re.sub(r" (left side|right side|both sides?|bilateral)$", "", label)
                side = {"": "", "left side": "left", "right side": "right"}.get(label[len(name) + 1 :], "bilateral")
                if not label.startswith("loc ") and label not in ("normal", "exclude", "unchanged", ""):
                    stated_here.update((spot, name) for spot in [*spots, *filter(None, [side])] or ["unspecified"])
        counts.update(stated_here)
    expected = [[counts[place, finding] for finding in findings] for place in places]
    assert len(counts) > 500
    np.testing.assert_array_equal(ours, expected)


def test_the_learning_rate_falls_after_each_epoch() -> None:
    """Rates at 10 steps an epoch, warm-up aside, of MeDSLIP's CosineLRScheduler: min + (lr - min) (1 + cos(pi epoch / 100)) / 2."""
    spec = replace(MeDSLIP.paper().optimiser(), warmup=5.0)
    expected = {9: 1e-4, 10: 9.997779521645793e-05, 505: 5.5e-05, 999: 1.002220478354206e-05}
    assert {step: learning_rate(spec, step, 1000) for step in expected} == pytest.approx(expected, rel=1e-9)
    assert spec.betas == (0.9, 0.999)
    whole = MeDSLIP.paper().optimiser()
    # printed by the release's scheduler and loop at 700 steps an epoch
    stairs = {
        0: 1e-5,
        100: 1e-5,
        101: 2.8e-5,
        200: 2.8e-5,
        201: 4.6e-5,
        400: 6.4e-5,
        401: 8.2e-5,
        500: 8.2e-5,
        501: 1e-4,
        699: 1e-4,
    }
    whole = replace(whole, periods=4.0)
    later = {700: 8.681980515339464e-05, 1400: 5.5e-05, 2100: 2.3180194846605367e-05}
    rates = {step: learning_rate(whole, step, 2800) for step in stairs | later}
    assert rates == pytest.approx(stairs | later, rel=1e-9)
    assert learning_rate(whole, 200, 800) == pytest.approx(8.681980515339464e-05, rel=1e-9)  # an epoch shorter than the warm-up
    assert MeDSLIP.tiny().optimiser().falls == "step"


def small(**changes: Any) -> MeDSLIP:
    shape: dict[str, Any] = {"image_tower": "dense_micro", "image_size": 48, "batch_size": 8, "steps": 4, "warmup": 1.0}
    return replace(MeDSLIP.tiny(), **{**shape, **changes}).prepare(DATA)


def test_a_mirrored_image_changes_sides_or_stays() -> None:
    whole: dict[str, Any] = {"crop": (1.0, 1.0), "augment": "none"}
    plain, keep, swap, ignore = (
        next(batches(DATA, small(**whole, **how), seed=0, stop=1)).batch
        for how in ({"flip": False}, {"flip_sides": "keep"}, {"flip_sides": "swap"}, {"flip_sides": "ignore"})
    )
    sides = [place.replace("left", "x").replace("right", "left").replace("x", "right") for place in small().places]
    order = [small().places.index(place) for place in sides]
    turned = 0
    for row in range(8):
        stated_pairs = (plain.matrix_BAK[row] >= 0).any()
        if torch.equal(swap.image_BCHW[row], plain.image_BCHW[row]):
            assert torch.equal(swap.matrix_BAK[row], plain.matrix_BAK[row])
            continue
        turned += 1
        torch.testing.assert_close(swap.image_BCHW[row], plain.image_BCHW[row].flip(-1))
        assert torch.equal(swap.matrix_BAK[row], plain.matrix_BAK[row][order])
        assert torch.equal(ignore.matrix_BAK[row], plain.matrix_BAK[row])
        torch.testing.assert_close(ignore.image_BCHW[row], plain.image_BCHW[row].flip(-1))
        if stated_pairs:
            assert torch.equal(keep.image_BCHW[row], plain.image_BCHW[row])
    assert 0 < turned < 8


def test_the_gate_divides_and_one_stream_has_as_many_weights() -> None:
    recipe = small()
    torch.manual_seed(0)
    model = recipe.model().eval()
    seen: list[torch.Tensor] = []
    for part in (model.finding_in, model.place_in):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.randn(2, 3, 48, 48)
    model.tokens(image)
    torch.testing.assert_close(seen[0] + seen[1], model.image_tower(image).tokens_BPD)
    one = replace(recipe, decoder=replace(recipe.decoder, streams="one"))
    counts = [sum(p.numel() for p in made.model().parameters()) for made in (recipe, one)]
    assert abs(counts[0] / counts[1] - 1) < 0.1, counts
    losses = one.losses(one.features(one.model(), batch := next(batches(DATA, one, seed=0, stop=1)).batch), batch)
    assert set(losses) == {"findings", "pairs"}


def test_maps_are_products_and_can_be_scored(tmp_path: Path) -> None:
    recipe = small()
    torch.manual_seed(0)
    reader = recipe.deploy(recipe.model().eval())
    image = DATA[0].image
    assert image is not None
    nodule, zone, both, every = (
        reader.map_phrases(image, [phrase], **how)[0]
        for phrase, how in (
            ("nodule", {"interpolation": "nearest"}),
            ("right upper zone", {"interpolation": "nearest"}),
            ("Nodule in the right upper zone", {"interpolation": "nearest"}),
            ("nodule", {"interpolation": "nearest", "every_place": True}),
        )
    )
    np.testing.assert_allclose(both, nodule * zone / (nodule * zone).max(), rtol=1e-5)
    assert nodule.shape == (48, 48)
    assert nodule.max() == 1
    assert not np.allclose(every, nodule)
    assert len({nodule[row, 0] for row in range(48)}) <= 6
    unseen = reader.classify_texts([image], ["a white disc", "mass"])
    np.testing.assert_allclose(unseen[0, 0], _beside_the_book(reader, image, "a white disc"), atol=1e-6)
    np.testing.assert_allclose(unseen[0, 1], reader.classify_texts([image], ["mass"])[0, 0], atol=1e-6)
    alone, beside = (reader.map_phrases(image, phrases)[0] for phrases in (["nodule"], ["nodule", "a white disc", "mass"]))
    np.testing.assert_allclose(alone, beside, rtol=1e-5)
    assert [reader.classify_places([]).shape, reader.classify_pairs([]).shape] == [(0, 6), (0, 6, 5)]
    task = PhraseMaps(template="{label} in the {place}", draws=20)
    assert set(task.score(task.predict(reader, DATA)).metrics) == {"cnr", "miou", "pointing"}
    reader.book_encoder = ""
    with pytest.raises(ConfigError, match="no text encoder for 'mass'"):
        reader.map_phrases(image, ["mass"])


def _beside_the_book(reader: FindingReader, image: Any, text: str) -> float:
    """Probability of a text where its query is asked after those of the book's findings."""
    with torch.no_grad():
        tokens, _ = reader.model.tokens(reader.preprocess([image.pixels_HWC]))
        book = torch.cat([reader.model.finding_book_KE, book_vectors([text], "random:64")])
        state, _ = reader.model.asked(tokens, book, reader.model.finding_decoder)
        return float(reader.model.finding_status(state).softmax(-1)[0, -1, 1])


def test_a_book_names_what_is_read(tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    book.write_text(
        '{"findings": {"nodule": "a round spot", "opacity": "a white area"}, "places": ["left lung", "right upper zone"]}'
    )
    recipe = replace(MeDSLIP.tiny(), book=str(book)).prepare(DATA)
    assert (recipe.findings, recipe.places) == (("nodule", "opacity"), ("left lung", "right upper zone"))
    assert [tuple(vectors.shape) for vectors in recipe.books] == [(2, 64), (2, 64)]
    book.write_text('{"findings": ["nodule"]}')
    with pytest.raises(DataError, match="contains no book"):
        replace(MeDSLIP.tiny(), book=str(book)).prepare(DATA)
    with pytest.raises(ConfigError, match="book_encoder is not set"):
        MeDSLIP.paper().prepare(DATA)
    with pytest.raises(DataError, match="names 0 findings"):
        MeDSLIP.tiny().prepare(resolve("world:scenes?n=4").split("train"))


def test_the_published_model_has_every_released_tensor() -> None:
    """A file of full size under the release's names, as torchvision and torch name them: nothing is left over on either side."""
    with torch.device("meta"):
        ours, released = MeDSLIP.paper().model(), Released(torchvision.models.resnet50, 1024, 4)
        made = released_streams(released.state_dict(), torch.zeros(75, 768), torch.zeros(51, 768))
    assert {name: tuple(t.shape) for name, t in made.state_dict().items()} == {
        name: tuple(t.shape) for name, t in ours.state_dict().items()
    }
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in released.parameters())


def test_a_released_file_opens_by_address(tmp_path: Path, parity: Any) -> None:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "is", "located", "at", "lung", "left", "right", "a", "spot", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=768, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    bert = transformers.BertModel(config).eval()
    bert.save_pretrained(tmp_path)
    (tmp_path / "book.json").write_text(
        '{"findings": {"nodule": "a spot", "mass": "spot"}, "places": ["left lung", "right lung"]}'
    )
    file = tmp_path / "checkpoint.pth"
    tensors = Released(torchvision.models.resnet18, 256, 1).state_dict()
    torch.save({"model": tensors, "epoch": 3}, file)
    reader: Any = dp.load(f"medslip:{file}#{tmp_path}")
    assert reader.classes == ("nodule", "mass")
    image = DATA[0].image
    np.testing.assert_allclose(book_vectors(["a spot", "spot"], reader.book_encoder), reader.model.finding_book_KE, atol=1e-6)
    rows = (
        [2, 12, 13],
        [2, 5, 6, 7, 8, 10, 9, 14],
    )  # "a spot" and "It is located at left lung. " by the released tokenizer: no [SEP]
    with torch.no_grad():
        finding, site = (bert(torch.tensor([row])).last_hidden_state[0, 0] for row in rows)
    pairs = [(reader.model.finding_book_KE[0], finding), (reader.model.place_book_AE[0], site)]
    parity(
        "medslip",
        "vectors of a book",
        "ids of MeDSLIP's tokenizer (7cfceb1) through transformers' BertModel",
        pairs,
        tolerance=1e-5,
    )
    with_mark = book_vectors(["a spot"], f"hf:{tmp_path}")
    assert not np.allclose(with_mark[0], finding, atol=1e-3)
    assert reader.classify([image]).shape == reader.classify_texts([image], ["a spot", "spot"]).shape == (1, 2)
    torch.save({"model": {**tensors, "another.weight": torch.zeros(1)}}, file)
    with pytest.raises(ConfigError, match=r"'another\.weight' does not belong to MeDSLIP"):
        dp.load(f"medslip:{file}#{tmp_path}")
    with pytest.raises(DataError, match=r"a folder with a book\.json"):
        dp.load(f"medslip:{file}")
