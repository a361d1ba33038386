"""LexLIP: its phases, what a bottleneck lets through, padding that never wins, and a stop anywhere that changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from safetensors.torch import load_file
from tokenizers import Tokenizer as Inner
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BeitConfig, BeitModel, BertConfig, BertForMaskedLM

from diptych.api import evaluate, load
from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.restored_batch import RestoredBatch
from diptych.data.load.stream import batches
from diptych.models.lexlip.bottleneck import BottleneckEncoder
from diptych.models.lexlip.momentum import MomentumEncoder
from diptych.recipes.contrastive.lexlip import LexLIP, MomentumPhase
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser
from diptych.train.options import TrainOptions
from diptych.train.stages import total_steps
from diptych.worlds.scenes.world import scenes

ROWS, SIDE, LENGTH = 8, 32, 8


@cache
def rows(count: int = 40) -> Pool:
    return scenes(count, size=SIDE, lengths=("short",), paraphrases=0, negatives=False).to_pool()


@cache
def learned_words() -> str:
    """The vocabulary of the rows, learned once."""
    return replace(LexLIP.tiny(), pieces=300).prepare(rows()).vocabulary


def small(**changes: Any) -> LexLIP:
    settings = {"image_tower": "beit_micro", "text_tower": "text_micro", "image_size": SIDE, "decoder_heads": 4, "pieces": 300}
    settings |= {} if "tokenizer" in changes else {"vocabulary": learned_words()}
    settings |= {"batch_size": ROWS, "steps": 12, "warmup": 1.0, "queue": 20}
    return with_changes(LexLIP.tiny(), {**settings, **changes}).prepare(rows())


def phase_two(**changes: Any) -> MomentumPhase:
    recipe = small(**changes)
    return MomentumPhase(**{f.name: getattr(recipe, f.name) for f in fields(recipe)})


def batch_of(recipe: LexLIP, seed: int = 3) -> Any:
    (step,) = batches(rows(), recipe, seed=seed, stop=1)
    return step.batch


def doubled(batch: Any) -> Any:
    return replace(batch, image_BCHW=batch.image_BCHW.double())


def made_model(recipe: LexLIP) -> Any:
    """The momentum model differs from the trained one, the queues hold something, and patches of one colour are told apart by where they
    are: with the biases at zero they tie, and rounding decides which of them has the highest logit."""
    torch.manual_seed(1)
    model: Any = recipe.model().double()
    for name, p in model.named_parameters():
        if name.endswith("table_RN"):
            torch.nn.init.normal_(p)
    if isinstance(model, MomentumEncoder):
        with torch.no_grad():
            for number, p in enumerate(model.momentum.parameters()):
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number), dtype=p.dtype))
        for seed in (4, 5):
            keys = torch.rand(2, 6, model.encoder.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            model.remember_(*F.normalize((keys - 0.8).relu(), dim=-1), torch.arange(6))
    return model


# ---------------------------------------------------------------- what the words are


def test_weights_are_the_logarithm_of_the_highest_positive_logit_and_padding_has_none() -> None:
    recipe = small()
    model, batch = made_model(recipe), doubled(batch_of(recipe))
    encoder = model.encoder
    tokens = encoder.text_tower(batch.text_BL, batch.text_mask_BL).tokens_BPD
    for row in range(ROWS):
        logits = encoder.text_head(tokens[row][batch.text_mask_BL[row]])
        naive = torch.log(1 + torch.clamp(logits, min=0)).amax(0)
        torch.testing.assert_close(encoder.text_weights(batch.text_BL, batch.text_mask_BL)[row], naive)
    seen = encoder.image_tower(batch.image_BCHW)
    places = torch.cat([seen.pooled_BD[:, None], seen.tokens_BPD], 1)
    naive = torch.log(1 + encoder.image_head(places).clamp(min=0)).amax(1)
    torch.testing.assert_close(encoder.image_weights(batch.image_BCHW), naive)
    assert encoder.image_head.words.weight.data_ptr() != encoder.text_head.words.weight.data_ptr()
    assert torch.equal(encoder.image_head.words.weight, encoder.text_head.words.weight), "a copy at the start"
    longer = F.pad(batch.text_BL, (0, 3), value=7)[:, :16], F.pad(batch.text_mask_BL, (0, 3))[:, :16]
    shorter = batch.text_BL[:, :13], batch.text_mask_BL[:, :13]
    if not batch.text_mask_BL[:, 13:].any():
        torch.testing.assert_close(encoder.text_weights(*longer), encoder.text_weights(*shorter))


def test_each_text_is_hidden_by_its_share_and_the_terms_of_both_towers_are_added() -> None:
    batch = batch_of(small(hidden_own=0.1, hidden_other=0.9))
    assert 2 * int(batch.own_hidden_BL.sum()) < int(batch.other_hidden_BL.sum())
    recipe = small(sparsity=0.5)
    batch = doubled(batch_of(recipe))
    features = recipe.features(made_model(recipe), batch)
    naive = sum(float((side_NV.detach().mean(0) ** 2).sum()) for side_NV in (features.image_NV, features.text_NV))
    assert float(recipe.losses(features, batch)["sparsity"].detach()) == pytest.approx(0.5 * naive, rel=1e-12)


def test_the_order_of_the_batch_changes_no_loss() -> None:
    for recipe in (small(), phase_two()):
        model, batch = made_model(recipe), doubled(batch_of(recipe))
        turn = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])
        names = [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)]
        turned = replace(batch, **{name: getattr(batch, name)[turn] for name in names})
        one, other = (recipe.losses(recipe.features(model, given), given) for given in (batch, turned))
        torch.testing.assert_close(one, other)


# ---------------------------------------------------------------- the bottleneck


def test_the_decoder_knows_a_picture_by_its_words_alone() -> None:
    recipe = small()
    model, batch = made_model(recipe), doubled(batch_of(recipe))
    found = recipe.features(model, batch)
    table = model.encoder.text_tower.embed.weight
    peak, _ = model.encoder.image_peaks(batch.image_BCHW)
    by_hand = sum(peak.softmax(-1)[:, v, None] * table[v] for v in range(len(table)))
    torch.testing.assert_close(model.bottleneck(peak), by_hand)
    turned = replace(batch, image_BCHW=batch.image_BCHW.roll(1, 0))
    again = recipe.features(model, turned)
    assert not torch.allclose(found.image_word_NJV, again.image_word_NJV), "the picture matters to what it restores"
    torch.testing.assert_close(found.text_word_NJV, again.text_word_NJV)
    torch.testing.assert_close(found.own_word_NMV, again.own_word_NMV)
    model.zero_grad()
    recipe.losses(found, batch)["words_from_image"].backward()
    assert model.encoder.image_tower.patches.weight.grad.abs().max() > 0, "the gradient goes through the words into the picture"


def test_no_gradient_reaches_the_table_of_words_through_the_bottleneck() -> None:
    recipe = small()
    model, batch = made_model(recipe), doubled(batch_of(recipe))
    peak = model.encoder.image_peaks(batch.image_BCHW)[0]
    model.zero_grad()
    model.bottleneck(peak).sum().backward()
    assert model.encoder.text_tower.embed.weight.grad is None
    assert model.encoder.image_head.words.weight.grad.abs().max() > 0


def test_words_are_hidden_whole_and_from_encoder_and_decoder_by_themselves() -> None:
    recipe = small()
    batch = batch_of(recipe)
    assert isinstance(batch, RestoredBatch)
    asked = batch.other_word_BM >= 0
    assert torch.equal(batch.text_BL.gather(1, batch.other_place_BM)[asked], batch.other_word_BM[asked])
    assert not torch.equal(batch.own_hidden_BL, batch.other_hidden_BL)
    lengths = batch.text_mask_BL.sum(1) - 2
    assert (asked.sum(1) <= (0.5 * lengths).round().clamp(min=1)).all()
    assert ((batch.own_word_BM >= 0).sum(1) <= (0.3 * lengths).round().clamp(min=1)).all()


# ---------------------------------------------------------------- the momentum phase


def test_partners_are_the_momentum_models_and_negatives_the_queues_alone() -> None:
    recipe = phase_two(small_images=False, same_group="negative")
    model, batch = made_model(recipe), doubled(batch_of(recipe))
    found = recipe.features(model, batch)
    key_image = F.normalize(model.momentum.image_weights(batch.image_BCHW), dim=-1)
    key_text = F.normalize(model.momentum.text_weights(batch.text_BL, batch.text_mask_BL), dim=-1)
    sides = ((found.image_NV, key_text, model.queue_text), (found.text_NV, key_image, model.queue_image))
    by_hand = []
    for anchor, key, queue in sides:
        logits = torch.cat([(anchor * key).sum(1, keepdim=True), anchor @ queue.dense().T], 1) / 0.05
        by_hand.append(F.cross_entropy(logits, torch.zeros(ROWS, dtype=torch.int64)))
    losses = recipe.losses(found, batch)
    torch.testing.assert_close(losses["momentum"], (by_hand[0] + by_hand[1]) / 2)
    assert not found.key_image_NV.requires_grad
    before = [p.detach().clone() for p in model.momentum.parameters()]
    recipe.after_update(model, found, batch, 0.5)
    for was, now, own in zip(before, model.momentum.parameters(), model.encoder.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), 0.99 * was + 0.01 * own.detach(), rtol=1e-12, atol=1e-14)
    assert len(model.queue_image) == 20
    torch.testing.assert_close(model.queue_image.dense()[-ROWS:], found.key_image_NV)
    assert torch.equal(model.queue_image.group_K[-ROWS:], batch.group_B)


def test_half_of_the_steps_see_small_images() -> None:
    sizes = [step.batch.image_BCHW.shape[-1] for step in batches(rows(), phase_two(), seed=0, stop=40)]
    assert set(sizes) == {SIDE, SIDE // 2}
    assert 10 < sizes.count(SIDE) < 30
    with pytest.raises(ConfigError, match="reads one size"):
        phase_two(image_tower="vit_micro").model()


def test_the_momentum_model_has_dropout_only_where_asked() -> None:
    for wanted in (False, True):
        model: Any = phase_two(momentum_dropout=wanted).model()
        assert model.train().momentum.training is wanted
        assert model.encoder.training
        assert not model.eval().momentum.training


def test_the_momentum_model_may_follow_one_step_behind_as_released() -> None:
    """Written out over three steps: there the average moves between forward and update."""
    recipe = phase_two(momentum_behind=True, momentum=0.75)
    model: Any = recipe.model().double()
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(0.1)
    model.begin_(own=True)  # the average is another model, as where it begins afresh
    weights = dict(model.encoder.named_parameters())
    average = {name: p.detach().clone() for name, p in model.momentum.named_parameters()}
    features = recipe.features(model, doubled(batch_of(recipe)))
    for step in range(3):
        for name, p in weights.items():
            average[name] = 0.75 * average[name] + 0.25 * p.detach()  # released: before the update
        with torch.no_grad():
            for number, p in enumerate(weights.values()):
                p.add_(0.01 * (step + 1) * (number % 3))
            recipe.after_update(model, features, batch_of(recipe), 0.5)
        for name, p in model.momentum.named_parameters():
            torch.testing.assert_close(p, average[name], rtol=1e-12, atol=1e-12)
    plain: Any = phase_two(momentum=0.75).model()
    assert set(plain.companions) == {"momentum"}
    assert LexLIP.paper().second_phase.momentum_behind
    assert LexLIP.paper().decode_size == 0, "RandAugment moves by pixels of the whole picture"


def test_the_momentum_model_begins_as_released_in_the_published_preset() -> None:
    """The released second phase copies it before it reads the weights of the first; what is tuned later goes on from its own weights."""
    for preset, fresh in (("paper", True), ("paper_tuned", False)):
        start = LexLIP.preset(preset).second_phase.momentum_start
        (second,) = small(momentum_start=start, bottleneck=0.0).stages()
        before, after = small().model(), second.recipe.model()
        built = {name: p.clone() for name, p in after.momentum.named_parameters()}
        second.carry(before, after)
        trained = dict(before.encoder.named_parameters())
        assert all(torch.equal(p, trained[name]) for name, p in after.encoder.named_parameters())
        for name, p in after.momentum.named_parameters():
            assert torch.equal(p, built[name] if fresh else trained[name]), (preset, name)


def test_cached_gradients_are_exact() -> None:
    for recipe in (small(), phase_two()):
        model, batch = made_model(recipe), doubled(batch_of(recipe))
        whole, cut = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- processes


def stepped(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    """Two steps where a queue goes from one to the next, one where nothing does."""
    found = {}
    for name, recipe, seeds in (("bottleneck", small(), (3,)), ("momentum", phase_two(), (3, 4))):
        given = [doubled(batch_of(recipe, seed)) for seed in seeds]
        found[name] = updated(recipe, made_model(recipe), given, rank, world)
    return found


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    alone = stepped(0, 1)
    for found in on_two_processes(stepped, tmp_path):
        torch.testing.assert_close(found, alone, rtol=1e-8, atol=1e-11)


# ---------------------------------------------------------------- whole runs

OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32", keep=6)
FILES = ("model.safetensors", "optimiser.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every step is kept: the second phase begins after six of twelve."""
    return fit(small(), rows(), tmp_path_factory.mktemp("whole") / "run", replace(OPTIONS, save_every=1, keep=12)).path


def test_both_phases_share_a_run_and_the_second_begins_where_the_first_ended(whole: Path) -> None:
    run = load(whole)
    model, after, second = (load_file(whole / f"checkpoints/step-000000{n}/model.safetensors") for n in ("06", "07", "08"))
    assert any(name.startswith("decoder.") for name in model)
    followers = [name for name in after if name.startswith("companions.momentum.")]
    assert followers
    assert len(second["queue_image.length_K"]) == 2 * ROWS
    assert len(load_file(whole / "checkpoints/step-00000012/model.safetensors")["queue_text.length_K"]) == 20
    result = evaluate(run, "retrieval", rows())
    assert "t2i_r@1" in result.metrics
    for follower in followers:
        own = follower.replace("companions.momentum.", "encoder.", 1)
        torch.testing.assert_close(after[follower], 0.99 * model[own] + 0.01 * after[own], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [2, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in range(12) if n not in (2, 8))])
def test_a_stop_anywhere_changes_nothing(step: int, whole: Path, tmp_path: Path) -> None:
    """In the middle of either phase, at the last step of one, and right after the next one began."""
    run = stopped_and_resumed(small(), rows(), tmp_path, OPTIONS, step=step)
    for file in FILES:
        last = Path("checkpoints/step-00000012") / file
        assert (run.path / last).read_bytes() == (whole / last).read_bytes()


def both_ways(rank: int, world: int) -> dict[str, Tensor]:
    """On two processes: whole, and stopped in the middle of the second phase."""
    os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"] = str(world), str(rank), str(rank)
    folder = Path(os.environ["LEXLIP_FOLDER"])
    options = replace(OPTIONS, shard="ddp", precision="fp64")
    one = fit(small(), rows(), folder / "one" / "run", options).path
    other = stopped_and_resumed(small(), rows(), folder, options, step=8).path
    last = "checkpoints/step-00000012/model.safetensors"
    found, wanted = load_file(other / last), load_file(one / last)
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)  # sums over processes round; a step moves weights by 1e-4
    return load_file(other / last)


@pytest.mark.slow
def test_a_stop_on_two_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And both runs are that of one process, queues too."""
    monkeypatch.setenv("LEXLIP_FOLDER", str(tmp_path))
    one = fit(small(), rows(), tmp_path / "alone" / "run", replace(OPTIONS, precision="fp64")).path
    alone = load_file(one / "checkpoints/step-00000012/model.safetensors")
    for found in on_two_processes(both_ways, tmp_path):
        assert found.keys() == alone.keys()
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-8)


def test_steps_of_both_phases_are_counted_from_the_data() -> None:
    recipe = small(steps=0, epochs=3.0, momentum_steps=10)
    assert recipe.steps == 3 * 40 // ROWS + 10 == total_steps(recipe, rows(), TrainOptions())
    assert [stage.share * recipe.steps for stage in recipe.stages()] == pytest.approx([15, 10])
    assert recipe.prepare(rows()) == recipe
    assert [stage.name for stage in small(bottleneck=1.0).stages()] == ["bottleneck"]
    assert [stage.name for stage in small(bottleneck=0.0).stages()] == ["momentum"]
    assert small(momentum_batch=16).stages()[1].recipe.batch_size == 16


def test_a_run_of_the_second_phase_alone_begins_with_its_weights(whole: Path, tmp_path: Path) -> None:
    tuned = small(bottleneck=0.0, steps=1)
    given = str(whole / "model" / "model.safetensors")
    run = fit(tuned, rows(), tmp_path / "run", replace(OPTIONS, init=given, save_every=1)).path
    before, after = load_file(Path(given)), load_file(run / "checkpoints/step-00000001/model.safetensors")
    for name, tensor in before.items():
        own = after[f"encoder.{name}"]
        torch.testing.assert_close(after[f"companions.momentum.{name}"], 0.99 * tensor + 0.01 * own, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- vocabularies and weights of others


def word_pieces(folder: Path, count: int) -> Path:
    """A vocabulary in BERT's form."""
    special = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz"),
    ]
    words = [*special, *(f"[unused{n}]" for n in range(count - len(special)))]
    inner = Inner(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    inner.add_special_tokens(special[:5])
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    return folder


def test_the_paper_builds_with_the_parameter_count_of_the_released_code(tmp_path: Path) -> None:
    paper = replace(LexLIP.paper(), tokenizer=str(word_pieces(tmp_path / "words", 30_522)))
    assert paper.words().vocab_size == 30_522
    first, second = LexLIP(**{f.name: getattr(paper, f.name) for f in fields(paper)}), None
    with torch.device("meta"):
        first_model: Any = first.model()
        second = replace(paper, bottleneck=0.5).stages()[1].recipe
        small_queue = replace(second, second_phase=replace(second.second_phase, queue_start="empty"))
        second_model: Any = small_queue.model()
    assert isinstance(first_model, BottleneckEncoder)
    count = sum(p.numel() for p in first_model.parameters())
    assert (
        count == 256_956_468
    )  # BertForMaskedLM with two decoder layers, BeitForMaskedImageModeling and the copied head, as released
    encoder = sum(p.numel() for p in second_model.encoder.parameters())
    assert encoder == count - 14_175_744
    assert sum(p.numel() for p in second_model.momentum.parameters()) == encoder
    assert second.batch_size == 2880
    tuned = LexLIP.preset("paper_tuned")
    assert (tuned.image_size, tuned.batch_size, tuned.bottleneck, tuned.small_images) == (384, 1536, 0.0, False)
    with torch.device("meta"):
        table = replace(tuned, tokenizer=paper.tokenizer).encoder().image_tower.get_parameter("blocks.0.bias.table_RN")
    assert len(table) == 27 * 27 + 3, "the biases of 224 pixels"
    assert (paper.tau, paper.sparsity, paper.second_phase.queue, paper.second_phase.momentum, paper.text_length) == (
        0.05,
        0.002,
        11_520,
        0.99,
        40,
    )


def test_weight_decay_is_where_the_names_of_the_release_put_it(parity: Any) -> None:
    """Its list spares "norm.weight" and the like by name: BEiT's `layernorm_before` is none of these, `relative_position_bias_table` is."""
    spared = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")
    sizes: dict[str, Any] = {"use_relative_position_bias": True, "layer_scale_init_value": 0.1, "use_mean_pooling": False}
    with torch.device("meta"):
        theirs = BeitModel(BeitConfig(**sizes), add_pooling_layer=False)
        model: Any = LexLIP.paper().model()
    expected = sum(p.numel() for name, p in theirs.named_parameters() if not any(part in name for part in spared))
    chosen = build_optimiser(model, LexLIP.paper().optimiser())
    decayed = {id(p) for group in chosen.param_groups if group["weight_decay"] for p in group["params"]}
    found = sum(p.numel() for p in model.encoder.image_tower.parameters() if id(p) in decayed)
    parity(
        "lexlip",
        "decayed numbers of the image tower",
        "transformers' BEiT by the released names",
        [(found, expected)],
        tolerance=0,
    )
    for part in (model.encoder.text_tower, model.encoder.text_head, model.encoder.image_head, model.decoder):
        assert all((id(p) in decayed) == (p.ndim >= 2) for p in part.parameters())
    assert LexLIP.tiny().optimiser().rules == ()


def test_a_masked_language_models_head_comes_along(tmp_path: Path) -> None:
    folder = word_pieces(tmp_path / "bert", 80)
    config = BertConfig(vocab_size=80, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    torch.manual_seed(3)
    theirs = BertForMaskedLM(config).eval()
    torch.nn.init.normal_(theirs.cls.predictions.bias)
    theirs.save_pretrained(folder)
    recipe = small(text_tower=f"hf:{folder}", tokenizer=str(folder))
    model: Any = recipe.model().eval()
    assert model.mask_D is None, "its vocabulary has a token for hidden words"
    batch = batch_of(recipe)
    assert (batch.own_BL == 4).any()
    with torch.no_grad():
        logits = theirs(input_ids=batch.text_BL, attention_mask=batch.text_mask_BL.long()).logits
        ours = model.encoder.text_head(model.encoder.text_tower(batch.text_BL, batch.text_mask_BL).tokens_BPD)
    torch.testing.assert_close(ours[batch.text_mask_BL], logits[batch.text_mask_BL], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encoder.image_head.words.bias, theirs.cls.predictions.bias)


def worded(*texts: str) -> Pool:
    given = rows(len(texts))
    return Pool.from_samples(
        [Sample(uid=f"row-{n}", image=given[n].image, texts=(Text(text, "en"),)) for n, text in enumerate(texts)], name="made"
    )


def refused(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    empty = worded(*["a red circle"] * 7, " ")
    recipe = replace(small(), vocabulary="").prepare(empty)
    refused(DataError, "a text of sample 'row-7' has no token", lambda: list(batches(empty, recipe, seed=0, stop=1)))
    foreign = worded(*["красный круг над синим квадратом"] * 8)
    english = str(word_pieces(tmp_path / "words", 80))
    refused(
        DataError,
        "of the tokens of 'made' are not words of the vocabulary",
        lambda: replace(small(), tokenizer=english).prepare(foreign),
    )
    refused(ConfigError, "a batch of 8 is larger than the queue of 7", lambda: small(queue=7))
    assert small(queue=7, bottleneck=1.0).second_phase.queue == 7, "the first phase has no queue"
    refused(ConfigError, "a batch of 24 is larger than the queue of 20", lambda: small(momentum_batch=24))
    refused(ConfigError, "expected equal widths", lambda: small(image_tower="beit_tiny").model())
    refused(ConfigError, "tau is 0", lambda: small(tau=0.0))
    refused(ConfigError, "same_group positive", lambda: small(same_group="positive"))
