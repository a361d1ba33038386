"""SVLC: what each source of texts gives, the three losses together, adapters on published weights, both curation steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clip_folders import clip_folder
from few_words import FEW_WORDS
from invariants import gradients, on_two_processes, updated

from diptych.api import load
from diptych.cli import main
from diptych.core.contracts import Draw, Draws, Tuning
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Text
from diptych.curate.operators.structured_negatives import NEGATIVES, POSITIVE, StructuredNegatives, fill_mask
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.shards.build import build
from diptych.data.text.captions.negative_texts import NegativeBatch
from diptych.data.text.english.structured import word_lists
from diptych.models.towers.adapters import LoRAConfig, add_adapters
from diptych.recipes.contrastive.svlc import SVLC
from diptych.worlds.small_pairs import small_pairs

SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "text_length": 32, "width": 16, "pieces": 300, "batch_size": 8
}  # fmt: skip
TEXTS = ["a red circle and a blue cross", "a green square top left", "roses"]


def small(**changes: Any) -> SVLC:
    return replace(SVLC.tiny(), **{**SMALL, **FEW_WORDS, **changes})


def rows(count: int = 24) -> Pool:
    """Every third text has no word of a list, and no second way to say it."""
    pool = small_pairs(count).to_pool()
    return Pool.from_samples(
        replace(pool[row], texts=(Text("roses", "en"),)) if row % 3 == 0 else pool[row] for row in range(len(pool))
    )


def made(recipe: SVLC, data: Pool) -> tuple[Any, NegativeBatch]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def draw(*texts: Text, seed: int = 0, extras: dict[str, Any] | None = None) -> Draw:
    sample = replace(small_pairs(1).to_pool()[0], texts=texts, extras=extras or {})
    return Draw(sample, keyed_rng(seed), np.zeros((48, 48, 3), np.uint8))


def read(batch: NegativeBatch, recipe: SVLC) -> tuple[list[list[str]], list[str]]:
    """The wrong texts of every row, and its second right text."""
    words = recipe.words()

    def text(ids: torch.Tensor, mask: torch.Tensor) -> str:
        return words.decode(ids[mask].tolist())

    wrong = [
        [text(i, m) for i, m, there in zip(ids, masks, row, strict=True) if there]
        for ids, masks, row in zip(batch.negative_BKL, batch.negative_mask_BKL, batch.there_BK, strict=True)
    ]
    if batch.positive_BL is None or batch.positive_mask_BL is None:
        return wrong, []
    return wrong, [text(i, m) for i, m in zip(batch.positive_BL, batch.positive_mask_BL, strict=True)]


def of(recipe: SVLC, draws: Sequence[Draw]) -> tuple[list[list[str]], list[str]]:
    return read(recipe.batch(Draws(tuple(draws), rng=keyed_rng(0), step=0)), recipe)


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = SVLC.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    paper = SVLC.paper()
    assert (paper.lr, paper.weight_decay, paper.warmup, paper.epochs, paper.batch_size) == (5e-6, 0.1, 10_000, 5, 512)
    released = Tuning(lora="4:qkv,attention.out,mlp_in,mlp_out,patches", lora_alpha=1.0, lora_random="qkv", lora_kernel="patches")
    assert paper.tuning() == released, "loralib's alpha of 1, its attention random in both maps"
    names = add_adapters(model, LoRAConfig.parse(released.lora, alpha=1.0, kernel=released.lora_kernel))
    assert len(names) == 2 * 12 * 4 + 1, "four maps a block, and the patches"
    assert {p.scaling["default"] for n, p in model.named_modules() if n in names and not n.endswith("patches")} == {0.25}
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 4_141_056, "what the released CLIP with lora=4 trains"
    assert sum(count for name, count in trained.items() if "patches" in name) == 3_158_016
    assert replace(paper, patch_adapter="rank").tuning() == replace(released, lora_kernel="")
    assert replace(paper, image_tower="convnet_tiny").tuning() == Tuning(lora="4", lora_alpha=1.0)
    assert replace(paper, adapter_start="zero").tuning() == replace(released, lora_random="")
    assert (paper.negatives, paper.positives, paper.negative_weight, paper.published_rules) == ("both", "texts", 1.0, True)
    assert SVLC.tiny().tuning().lora == ""


def test_rules_replace_a_word_of_a_list() -> None:
    text = Text("a red circle", "en")
    wrong, right = of(small(types=("colour",), negatives_each=2), [draw(text, seed=seed) for seed in range(4)])
    colours = word_lists()["colour"]
    assert all(len(each) == 2 for each in wrong)
    assert all(
        new.split()[0] in ("a", "an") and new.split()[1] in colours and new.split()[1] != "red" for each in wrong for new in each
    )
    assert right == []


def test_texts_come_from_the_sample_and_from_curation() -> None:
    sample = (Text("a red circle", "en"), Text("a circle that is red", "en", "rewrite"), Text("a red square", "en", "negative"))
    one = small(negatives="texts", positives="texts", negatives_each=3)
    extras = {NEGATIVES: ["a blue circle"], POSITIVE: "a round red thing"}
    drawn = [draw(*sample, seed=seed, extras=extras) for seed in range(12)]
    wrong, right = of(one, drawn)
    assert all(set(each) == {"a red square", "a blue circle"} for each in wrong)
    assert {"a round red thing", "a circle that is red"} <= set(right)
    wrong, right = of(replace(one, positives="analogies"), [draw(sample[0])])
    assert (wrong, right) == ([[]], ["a circle that is red"])
    _, right = of(replace(one, positives="analogies"), [draw(Text("roses", "en"))])
    assert right == ["roses"], "the text again, where there is no other"


def test_both_flips_a_coin_for_each_text() -> None:
    sample = (Text("a red circle", "en"), Text("a red square", "en", "negative"))
    wrong, _ = of(small(negatives="both", types=("colour",)), [draw(*sample, seed=seed) for seed in range(40)])
    written = sum(each == ["a red square"] for each in wrong)
    assert 10 < written < 30
    assert all(wrong)


def test_the_controls_replace_by_common_words_or_nothing() -> None:
    recipe = small(negatives="random_words").prepare(rows())
    assert {"circle", "red"} <= set(recipe.common_words)
    wrong, _ = of(recipe, [draw(Text("a red circle", "en"), seed=seed) for seed in range(20)])
    for (new,) in wrong:
        assert sum(one != two for one, two in zip(new.split(), ("a", "red", "circle"), strict=True)) == 1
    assert of(small(negatives="none"), [draw(Text("a red circle", "en"))]) == ([[]], [])


def test_the_losses_are_their_sum_by_hand(parity: Any) -> None:
    """With all three parts: a loop over images, texts and wrong texts."""
    data = rows()
    recipe = small(positives="analogies", negative_weight=2.0, same_group="negative", negatives_each=2)
    model, batch = made(recipe, data)
    features = recipe.features(model.double(), replace(batch, image_BCHW=batch.image_BCHW.double()))
    found = recipe.losses(features, batch)
    v, t, n, p, there = features.image_ND, features.text_ND, features.negative_NKD, features.positive_ND, batch.there_BK
    assert p is not None
    assert 0 < int(there.sum()) < there.numel()
    scale, size = features.scale, range(len(v))
    wrong = [n[j, k] for j in size for k in range(2) if there[j, k]]
    loss = {"contrastive": 0.0, "negatives": 0.0, "positives": 0.0}
    for i in size:
        row = torch.stack([scale[0] * v[i] @ x for x in (*t, *wrong)])
        column = torch.stack([scale[0] * t[i] @ x for x in v])
        loss["contrastive"] += (row.logsumexp(0) - row[i] + column.logsumexp(0) - column[i]).item() / 2 / len(v)
        own = torch.stack([scale[0] * v[i] @ x for x in (t[i], *(n[i, k] for k in range(2) if there[i, k]))])
        loss["negatives"] += 2 * (own.logsumexp(0) - own[0]).item() / int(there.any(1).sum())
        for anchor in (v[i], t[i]):
            met = torch.stack([scale[0] * anchor @ x for x in p])
            loss["positives"] += (met.logsumexp(0) - met[i]).item() / 2 / len(v)
    parity("svlc", "contrastive, negative and positive loss", "a loop", [(found[k], loss[k]) for k in loss], tolerance=1e-9)


def test_wrong_texts_may_stay_out_of_the_contrastive_loss() -> None:
    data = rows()
    model, batch = made(small(), data)
    features = small().features(model, batch)
    inside, outside = (small(in_contrastive=yes).losses(features, batch) for yes in (True, False))
    assert inside["contrastive"] > outside["contrastive"]
    assert inside["negatives"] == outside["negatives"]
    without = replace(batch, there_BK=batch.there_BK & False)
    none = small(negatives="none").losses(features, without)["contrastive"]
    torch.testing.assert_close(none, outside["contrastive"], rtol=1e-6, atol=0)


def stepped(rank: int, world: int) -> dict[str, torch.Tensor]:
    recipe = small(positives="analogies", negatives_each=2)
    model, batch = made(recipe, rows())
    return updated(recipe, model.double(), [replace(batch, image_BCHW=batch.image_BCHW.double())], rank, world)


def test_chunks_and_two_processes_learn_what_one_does(tmp_path: Path, parity: Any) -> None:
    recipe = small(positives="analogies", negatives_each=2)
    model, batch = made(recipe, rows())
    model, batch = model.double(), replace(batch, image_BCHW=batch.image_BCHW.double())
    whole, chunks = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    parity(
        "svlc",
        "every gradient, three rows at a time",
        "the whole batch at once",
        [(chunks[k], whole[k]) for k in whole],
        tolerance=1e-9,
    )
    alone = stepped(0, 1)
    pairs = [(found[name], tensor) for found in on_two_processes(stepped, tmp_path) for name, tensor in alone.items()]
    parity("svlc", "weights and gradients after a step of two processes", "one process", pairs, tolerance=1e-9)


# ---------------------------------------------------------------- curation and the command line


def test_curation_writes_wrong_and_right_texts() -> None:
    data = rows()
    result = StructuredNegatives(count=3)(data)
    assert set(result.kept) == set(data.uids)
    assert result.columns[NEGATIVES], "counts of the captions propose words"
    texts = {data[row].uid: data[row].texts[0].string for row in range(len(data))}
    for uid, made_texts in result.columns[NEGATIVES].items():
        assert texts[uid] != "roses"
        assert all(len(new.split()) == len(texts[uid].split()) and new != texts[uid] for new in made_texts)
    shuffled = data.select(list(range(len(data)))[::-1])
    assert StructuredNegatives(count=3)(shuffled).columns == result.columns
    roses = Pool.from_samples(replace(data[row], texts=(Text("!", "en"),)) for row in range(4))
    with pytest.raises(DataError, match="no caption of"):
        StructuredNegatives()(roses)
    with pytest.raises(ConfigError, match="VERB"):
        StructuredNegatives(tags=("noun",))


def test_curation_writes_wrong_texts_as_released_where_it_is_asked_to() -> None:
    captions = ["A big dog, on a red mat!", "A new cat, on a red bed!", "A big cat, on a blue mat!"]
    row = small_pairs(1).to_pool()[0]
    data = Pool.from_samples([replace(row, uid=str(n), texts=(Text(text, "en"),)) for n, text in enumerate(captions)])
    assert StructuredNegatives.paper() == StructuredNegatives(published=True, tags=("NOUN", "ADP", "ADJ", "VERB")), "no names"
    made = StructuredNegatives(published=True, count=8)(data).columns[NEGATIVES]
    assert set(made) == {"0", "1", "2"}
    for uid, texts in made.items():
        bare = captions[int(uid)].replace(",", "").replace("!", "").split()
        for text in texts:
            words = text.split()
            assert sum(one != two for one, two in zip(words, bare, strict=True)) == 1
            assert (words[2], words[-1]) == (bare[2], bare[-1]), "signs stand at these two: no words between spaces"
    kept = StructuredNegatives(count=8)(data).columns[NEGATIVES].values()
    assert all("," in text for texts in kept for text in texts)


def test_a_fill_mask_model_proposes(tmp_path: Path) -> None:
    """The five likeliest words of a random BERT: those of its logits."""
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "square", "dog"])
    )
    tokenizer = transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(**tokenizer("a [MASK] circle", return_tensors="pt")).logits[0, 2]
    expected = [tokenizer.decode([i]) for i in logits.topk(5).indices.tolist()]
    assert fill_mask(str(tmp_path))("a ", " circle") == expected
    with pytest.raises(ConfigError, match="cannot be opened"):
        fill_mask(str(tmp_path / "nowhere"))


def test_curated_texts_and_adapters_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written texts, adapters of rank 4 on published weights, blended with them afterwards."""
    weights = f"hf:{clip_folder(tmp_path / 'published', TEXTS)}"
    data, texts, run = (str(tmp_path / name) for name in ("data", "texts", "run"))
    build(rows(), data)
    assert main(["curate", "structured_negatives", data, texts, "--json"]) == 0
    options = ["--steps", "2", "--batch-size", "8", "--no-evaluation", "--no-progress", "--json"]
    words = ["train", "svlc", "--data", texts, "--out", run, "--init", weights, "--negatives", "both", "--positives", "texts"]
    capsys.readouterr()
    assert main([*words, "--rank", "4", *options]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    assert (tmp_path / "run/adapter").is_dir(), "adapters are kept beside the merged model"
    assert main(["blend", weights, run, "--share", "0.5", "--out", str(tmp_path / "blend")]) == 0
    assert load(tmp_path / "blend").embed_texts(["a red circle"]).shape == (1, 16)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rules"):
        SVLC(negatives="rule")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="analogies"):
        SVLC(positives="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'taste'"):
        SVLC(types=("taste",))
