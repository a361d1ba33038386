"""CoOp: context vectors among words, one tower pass a class; the released code's logits and gradients; prompts that travel as a file."""

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
from invariants import stopped_and_resumed
from torch import Tensor
from torch.nn import functional as F

from diptych.api import load
from diptych.cli.commands.classify import main as classify
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.data.dataset import Pool
from diptych.data.load.order import WholeBatchOrder, span
from diptych.data.load.stream import batches
from diptych.data.media.decode import encode_png
from diptych.data.shots import base_and_new, draw_shots
from diptych.data.text.prompts.class_prompts import class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import load_dual_encoder
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.prompted.embedder import PromptedEmbedder, PromptSettings, prompted_encoder
from diptych.recipes.adaptation.coop import CoOp
from diptych.tasks.pairs.zero_shot import ZeroShot, class_heads
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import small_pairs

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "coop_released.json").read_text())
NAMES = ("red_kite", "cat", "tyrannosaurus rex")
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SETTINGS: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    return torch.from_numpy(np.asarray(value + 1 if name.endswith("weight") and "ln_" in name else value))


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.fixture(scope="module")
def published() -> DualEncoder:
    """A small CLIP of OpenAI's layout in float64, its weights computed from their names."""
    import open_clip

    options = {key: value for key, value in SETTINGS.items() if key != "quick_gelu"}
    shapes = open_clip.model.CLIP(**options, quick_gelu=True).state_dict()
    tensors = {name: filled(name, tuple(t.shape)) for name, t in shapes.items() if not name.endswith("attn_mask")}
    tensors["logit_scale"] = torch.tensor(math.log(20.0), dtype=torch.float64)
    parts = open_clip_parts(SETTINGS, tensors)
    model = load_dual_encoder(parts, "numbers").double()
    model.load_state_dict({**parts.tensors, "log_scale": tensors["logit_scale"].reshape(1)})
    return model


def prompted(encoder: DualEncoder, **changes: Any) -> Any:
    words = Tokenizer.from_spec("clip")
    settings = PromptSettings(NAMES, 4, **changes)
    model = prompted_encoder(encoder, settings).double()
    model.set_classes(settings.prompts(NAMES, words, 77))
    with torch.no_grad():
        model.bank.context.copy_(filled("context", tuple(model.bank.context.shape)))
    return model.eval()


@pytest.mark.parametrize("placement", ["end", "middle", "front"])
@pytest.mark.parametrize("per_class", [False, True])
def test_logits_and_gradients_are_those_of_the_released_code(
    published: DualEncoder, per_class: bool, placement: Any, parity: Any
) -> None:
    model = prompted(published, per_class=per_class, placement=placement)
    theirs = RELEASED[f"{'own' if per_class else 'shared'} {placement}"]
    logit_NK = model(filled("images", (4, 3, 32, 32)) * 10).logit_NK
    loss = F.cross_entropy(logit_NK, torch.tensor([0, 2, 1, 1]))
    (grad,) = torch.autograd.grad(loss, model.bank.context)
    pairs = [(logit_NK, doubled(theirs["logits"])), (grad.flatten(0, -2)[:, :8], doubled(theirs["grad"]))]
    parity(
        "coop", "logits and gradient of the context, every placement", "released code, trainers/coop.py", pairs, tolerance=1e-9
    )


def test_conditioned_logits_and_gradients_are_those_of_the_released_code(published: DualEncoder, parity: Any) -> None:
    model = prompted(published, conditioned=True)
    names = {"inside": "linear1", "out": "linear2"}
    with torch.no_grad():
        for name, p in model.conditioner.named_parameters():
            layer, _, kind = name.partition(".")
            p.copy_(filled(f"{names[layer]}.{kind}", tuple(p.shape)))
    logit_NK = model(filled("images", (4, 3, 32, 32)) * 10).logit_NK
    loss = F.cross_entropy(logit_NK, torch.tensor([0, 2, 1, 1]))
    grads = torch.autograd.grad(loss, [model.bank.context, *model.conditioner.parameters()])
    theirs = RELEASED["conditioned"]
    pairs = [(logit_NK, doubled(theirs["logits"]))]
    pairs += [(g.flatten()[:24], doubled(t)) for g, t in zip(grads, theirs["grads"], strict=True)]
    parity("coop", "conditioned logits and every gradient", "released code, trainers/cocoop.py", pairs, tolerance=1e-9)


def test_context_of_words_is_the_zero_shot_head(published: DualEncoder, parity: Any) -> None:
    """Before the first step, "a photo of a" gives the logits of the template; also by the released code."""
    words = Tokenizer.from_spec("clip")
    embedder = PairEmbedder(published, CoOp(image_size=32).preprocess, words, 77, "numbers")
    recipe = CoOp(weights="", image_size=32, start="a photo of a", classes=NAMES)
    settings = replace(recipe.settings(), classes=NAMES)
    ids = words.encode(["a photo of a"], 77).ids_BL[0, 1:5]
    model = prompted_encoder(published, settings, words_MD=published.text_tower.embed.weight[torch.from_numpy(ids)]).double()
    model.set_classes(settings.prompts(NAMES, words, 77))
    image_NJ = published.encode_image(filled("images", (4, 3, 32, 32)) * 10)
    logit_NK = model(image_NJ).logit_NK
    head_KD = class_heads(ZeroShot(templates="a photo of a {}.").embed_classes(embedder, NAMES))
    hand = published.log_scale.exp() * image_NJ @ torch.from_numpy(head_KD).T
    parity("coop", "logits before the first step", "the zero-shot head of 'a photo of a {}.'", [(logit_NK, hand)], tolerance=1e-5)
    theirs = doubled(RELEASED["words"]["logits"])
    parity("coop", "logits of a context of words", "released code, trainers/coop.py", [(logit_NK, theirs)], tolerance=1e-9)


def test_where_a_name_stands() -> None:
    """By hand: start 0, context 1..4, a name of three tokens, tail, end."""
    words = Tokenizer.from_spec("clip")
    rows = {p: class_prompts(["tyrannosaurus"], words, 12, context=4, placement=p) for p in ("end", "middle", "front")}  # type: ignore[arg-type]
    assert rows["end"].order_KL.tolist() == [list(range(12))]
    assert rows["middle"].order_KL.tolist() == [[0, 1, 2, 5, 6, 7, 3, 4, 8, 9, 10, 11]]
    assert rows["front"].order_KL.tolist() == [[0, 5, 6, 7, 1, 2, 3, 4, 8, 9, 10, 11]]
    assert rows["end"].mask_KL.sum() == 10
    assert words.eot_id == rows["end"].ids_KL.max() == rows["end"].ids_KL[0, 9], "the end is where the largest id is, as released"


def test_a_name_that_does_not_fit_is_refused_and_not_cut() -> None:
    words = Tokenizer.from_spec("clip")
    assert class_prompts(["cat"], words, 7, context=3).mask_KL.all()
    with pytest.raises(DataError, match="the prompt of class 'cat' has 7 tokens with 3 of context"):
        class_prompts(["cat"], words, 6, context=3)
    with pytest.raises(DataError, match="'_' has no token"):
        class_prompts(["_"], words, 16, context=3)


# ---------------------------------------------------------------- trained


def rows(count: int = 48) -> Pool:
    return small_pairs(count).to_pool()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A dual encoder with fresh weights, saved."""
    torch.manual_seed(0)
    made = CoOp.tiny().prepare(rows()).base()
    made.name = "base"
    made.save(tmp_path / "base")
    return tmp_path / "base"


def small(base: Path, **changes: Any) -> CoOp:
    return replace(CoOp.tiny(), weights=str(base), **{"shots": 1, "steps": 4, "batch_size": 8, **changes})


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = replace(CoOp.paper(), classes=NAMES).model()
        own = replace(CoOp.paper(), classes=NAMES, per_class=True).model()
        conditioned = replace(CoOp.cocoop(), classes=NAMES).model()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16 * 512
    assert sum(p.numel() for p in model.encoder.parameters()) == 102_007_137
    assert sum(p.numel() for p in own.parameters() if p.requires_grad) == 3 * 16 * 512
    assert sum(p.numel() for p in conditioned.parameters() if p.requires_grad) == 4 * 512 + 512 * 32 + 32 + 32 * 512 + 512
    paper = CoOp.paper()
    assert (paper.lr, paper.weight_decay, paper.batch_size, paper.optimiser().kind) == (2e-3, 5e-4, 32, "sgd")


def test_only_the_context_moves_and_kept_vectors_are_those_of_the_images(base: Path, tmp_path: Path) -> None:
    data = rows()
    recipe = small(base).prepare(data)
    assert recipe.cached
    assert set(recipe.chosen) <= set(data.uids)
    assert len(recipe.chosen) == len(recipe.classes)
    chosen = data.select([row for row in range(len(data)) if recipe.is_chosen(data[row])])
    (step,) = batches(chosen, recipe, seed=1, stop=1)
    by_hand = load(base).embed_images([data[list(data.uids).index(uid)].image for uid in recipe.chosen])
    kept = {tuple(np.round(v, 5)) for v in step.batch.vector_BD.numpy().tolist()}
    assert kept <= {tuple(np.round(v, 5)) for v in by_hand.tolist()}
    run = fit(recipe, data, tmp_path / "run", OPTIONS)
    before, after = load(base).model.state_dict(), load(run.path).prompted.state_dict()
    assert all(torch.equal(after[f"encoder.{name}"], tensor) for name, tensor in before.items())
    torch.manual_seed(0)
    assert (after["bank.context"] - recipe.model().bank.context).abs().max() > 0
    assert not any(name.startswith("encoder.") for name in _checkpoint_names(run.checkpoints))


def _checkpoint_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    names: list[str] = []
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names += [name.removeprefix("model.") for name in file.keys()]  # noqa: SIM118
    assert names
    return names


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(base: Path, tmp_path: Path) -> None:
    whole = fit(small(base), rows(), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(small(base), rows(), tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("changes", [{}, {"per_class": True}, {"conditioned": True}, {"placement": "middle"}])
def test_prompts_travel_as_a_file(changes: dict[str, Any], base: Path, tmp_path: Path, capsys: Any) -> None:
    """The model that was adapted with the file of prompts answers as the run does, also on the command line."""
    data = rows()
    run = fit(small(base, **changes), data, tmp_path / "run", OPTIONS)
    whole = load(run.path)
    images = [data[row].image for row in range(3)]
    found = PromptedEmbedder.with_prompts(load(base), run.model / "prompts.safetensors")
    np.testing.assert_allclose(found.classify(images), whole.classify(images), atol=1e-5)
    assert found.classes == whole.classes
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode_png(data[0].image.pixels_HWC))
    assert classify([str(base), str(picture), "--prompts", str(run.model / "prompts.safetensors"), "--json", "-k", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"][0]["classes"][0]
    assert answer["name"] == whole.classes[int(whole.classify(images[:1]).argmax())]
    other = tmp_path / "other"
    torch.manual_seed(5)
    small(base).prepare(data)
    stranger = load(base)
    torch.nn.init.normal_(stranger.model.text_projection.weight)
    stranger.save(other)
    with pytest.raises(ConfigError, match="was learned for another text side"):
        classify([str(other), str(picture), "--prompts", str(run.model / "prompts.safetensors")])


def test_names_that_training_never_saw(base: Path, tmp_path: Path) -> None:
    """Base classes are trained on; new ones are read by the same context, but not where each class has its own."""
    data = rows()
    recipe = small(base, part="base").prepare(data)
    base_names, new_names = base_and_new(draw_shots(data, 1, 1).classes)
    assert recipe.classes == base_names
    model = recipe.deploy(recipe.model().eval())
    assert model.embed_texts(new_names).shape == (len(new_names), 64)
    task = ZeroShot(draws=1)
    new = data.where("label", list(new_names))
    result = task.score(task.predict(model, new))
    by_hand = model.embed_images([s.image for s in new]) @ model.embed_texts(sorted(set(new.column("label")))).T
    names = sorted(set(new.column("label")))
    hits = np.mean([names[k] == label for k, label in zip(by_hand.argmax(1), new.column("label"), strict=True)])
    assert result.value == pytest.approx(hits, abs=1e-6)
    own = small(base, per_class=True).prepare(data)
    with pytest.raises(UnknownName, match="unknown class 'zebra'"):
        own.deploy(own.model()).embed_texts(["zebra"])
    conditioned = small(base, conditioned=True).prepare(data)
    with pytest.raises(ConfigError, match="reads a class name beside each image"):
        conditioned.deploy(conditioned.model()).embed_texts(["red circle"])


def test_hyphens_are_read_as_spaces_where_wanted(base: Path, tmp_path: Path) -> None:
    """In training, in use, and in the file of prompts that travels."""
    recipe = replace(small(base), hyphens=False, classes=("red-circle", "blue-square"))
    plain = replace(recipe, hyphens=True, classes=("red circle", "blue square"))
    made, told = recipe.deploy(recipe.model().eval()), plain.deploy(plain.model().eval())
    with torch.no_grad():
        told.prompted.bank.context.copy_(made.prompted.bank.context)
    np.testing.assert_array_equal(made.embed_texts(["red-circle", "a-b"]), told.embed_texts(["red circle", "a b"]))
    assert np.abs(told.embed_texts(["red-circle"]) - told.embed_texts(["red circle"])).max() > 1e-6
    made.save_prompts(tmp_path / "prompts.safetensors")
    again = PromptedEmbedder.with_prompts(load(base), tmp_path / "prompts.safetensors")
    np.testing.assert_array_equal(again.embed_texts(["red-circle"]), made.embed_texts(["red-circle"]))


def test_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the model that it adapts as --weights"):
        CoOp.tiny().started(None)
    with pytest.raises(ConfigError, match="conditioned context is shared"):
        CoOp(conditioned=True, per_class=True)
    with pytest.raises(DataError, match=r"the prompt of class '.+' has \d+ tokens with 22 of context"):
        small(base, context=22).prepare(rows())
    shots = tmp_path / "shots.json"
    draw_shots(rows(24), 1, 1).save(shots)
    assert small(base, shot_file=str(shots)).prepare(rows(24)).chosen == draw_shots(rows(24), 1, 1).uids()
    with pytest.raises(DataError, match="which 'samples' has not"):
        small(base, shot_file=str(shots)).prepare(rows(24).select(range(3, 24)).named("samples"))
    recipe = small(base).prepare(rows())
    recipe.deploy(recipe.model()).save(tmp_path / "prompted")
    with pytest.raises(ConfigError, match=r"a model of kind prompted \(expected a dual encoder"):
        small(tmp_path / "prompted").prepare(rows())


def test_a_model_of_transformers_is_adapted(tmp_path: Path, parity: Any) -> None:
    """Context of words before the first step: its own answers to the whole sentence, read from ids."""
    import transformers

    words = Tokenizer.train(["a photo of a red circle.", "a photo of a blue cross.", "a green square"], 300)
    words.save(tmp_path / "clip")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": words.vocab_size, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    torch.manual_seed(0)
    settings = transformers.CLIPConfig(
        projection_dim=16, vision_config={**sizes, "image_size": 48, "patch_size": 16}, text_config=text
    )
    theirs = transformers.CLIPModel(settings).eval()
    theirs.save_pretrained(tmp_path / "clip")
    transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(
        tmp_path / "clip"
    )
    recipe = replace(CoOp.tiny(), weights=f"hf:{tmp_path / 'clip'}", start="a photo of a", shots=1).prepare(rows())
    model = recipe.model().eval()
    encoded = words.encode([f"a photo of a {name}." for name in recipe.classes], 32)
    ids, mask = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
    with torch.no_grad():
        pooled = theirs.text_model(input_ids=ids, attention_mask=mask.long()).pooler_output
        expected = F.normalize(theirs.text_projection(pooled), dim=-1)
        pairs = [(model.encode_classes(), expected)]
    parity(
        "coop", "context of words in a model of transformers", "transformers' CLIPModel on the sentence", pairs, tolerance=1e-5
    )


def test_weight_decay_is_on_all_that_is_learned() -> None:
    """Dassl gives SGD the parameters as they are: biases of CoCoOp's network decay as its matrices do."""
    from diptych.train.optimise import build_optimiser

    recipe = CoOp(
        image_tower="vit_micro",
        text_tower="text_micro",
        width=64,
        image_size=48,
        text_length=24,
        conditioned=True,
        start="a photo of a",
        classes=("cat", "dog"),
    )
    optimiser = build_optimiser(recipe.model(), recipe.optimiser())
    decays = {group["weight_decay"] for group in optimiser.param_groups}
    assert decays == {5e-4}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 5, "context, two matrices, two biases"


def test_a_name_that_ends_in_a_full_stop_stands_where_it_is_released() -> None:
    """trainers/coop.py counts the tokens of the name alone and cuts that many off the row of name and tail."""
    words = Tokenizer.from_spec("clip")
    row = class_prompts(["st."], words, 12, context=4, placement="front")
    own = words.encode(["st."], 12).mask_BL.sum() - 2
    joined = words.encode(["st.."], 12).ids_BL[0]
    assert row.ids_KL[0, 5:8].tolist() == joined[1:4].tolist()
    assert row.order_KL[0, 1:5].tolist() == [5, 6, 1, 2]
    assert own == 2


def test_base_classes_are_the_first_by_their_numbers(base: Path) -> None:
    """datasets/oxford_pets.py halves the classes in the order of their labels, whatever their names."""
    data = rows()
    names = draw_shots(data, 1, 1).classes
    turned = tuple(reversed(names))
    half = -(-len(names) // 2)
    halves = {part: small(base, part=part, class_order=turned).prepare(data).classes for part in ("base", "new")}
    assert halves == {"base": turned[:half], "new": turned[half:]}
    assert small(base, part="base").prepare(data).classes == tuple(sorted(names))[:half]
    with pytest.raises(ConfigError, match=f"class_order lacks '{names[-1]}'"):
        small(base, part="base", class_order=names[:-1]).prepare(data)


def test_what_does_not_fill_a_batch_is_left_out_of_a_pass() -> None:
    """Dassl's loader drops it: passes of seven batches over 30 rows in fours, of 28 different rows each; then every row in turn."""
    order, n = WholeBatchOrder(4), 30
    stream = np.concatenate([order(5, epoch, n) for epoch in range(28)])
    passes = stream.reshape(30, 28)
    assert all(len(set(one)) == 28 for one in passes.tolist())
    assert len({tuple(sorted(set(range(n)) - set(one))) for one in passes.tolist()}) > 10, "others are left out each time"
    assert np.array_equal(np.concatenate([WholeBatchOrder(5)(5, epoch, n) for epoch in range(3)]), span(5, n, 0, 3 * n)[1])
    with pytest.raises(ConfigError, match="3 rows do not fill a batch of 4"):
        order(0, 0, 3)
    recipe = replace(CoOp.paper(), steps=200 * 23, chosen=tuple(map(str, range(47 * 16))))
    assert recipe.stages()[0].share == pytest.approx(1 / 200), "DTD: 23 whole batches of 752 images a pass"
