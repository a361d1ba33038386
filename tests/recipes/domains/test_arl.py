"""ARL: co-attention with knowledge against the authors' code, graph attention and TransE by hand, entities that a mask removes, leaks."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.contracts import Rule
from diptych.core.errors import ConfigError, DataError
from diptych.data.load.stream import batches
from diptych.data.text.reports.entity_graph import EntityGraph, graph_of_pairs, read_graph
from diptych.data.text.reports.finding_places import FindingPlace, finding_places
from diptych.data.text.tokenize import Tokenizer
from diptych.models.knowledge.co_attention import CoAttention, KnowledgeCoAttention
from diptych.models.knowledge.graph_attention import GraphAttention, edge_counts
from diptych.models.knowledge.knowledge_fusion import LinkedInput, PatchDecoder
from diptych.models.knowledge.knowledge_matcher import KnowledgeMatcher, mask_token_id
from diptych.models.knowledge.linked_texts import link
from diptych.models.knowledge.transe import TransE, corrupted, head_shares, margin_loss, train_transe
from diptych.objectives.masked_pixels import masked_pixels, patch_pixels
from diptych.recipes.domains.arl import ARL, GraphConfig, LearningConfig
from diptych.worlds.resolve import resolve

DATA = resolve("world:chests?n=24&size=48").split("train")


def wave(name: str, shape: tuple[int, ...], scale: float) -> Tensor:
    """Numbers that anybody can make again, which the authors' code was run on."""
    count = int(np.prod(shape))
    values = scale * np.sin(np.arange(1, count + 1) * 12.9898 + zlib.crc32(name.encode()) % 1000)
    return torch.from_numpy(values.reshape(shape)).float()


def released_name(name: str, prefix: str) -> str:
    """Name in the authors' layer of a weight of `CoAttention`; `prefix` is "knowledge_" for entities."""
    part, _, rest = name.partition(".")
    stem, _, kind = rest.rpartition(".")
    if part == "mlp":
        inner = {"mlp_in": "intermediate.dense", "mlp_out": "output.dense", "norm": "output.LayerNorm"}[stem]
        return f"{prefix}{inner}.{kind}"
    block = {"own": "attention", "other": "crossattention"}[part]
    inner = {"out": "output.dense", "norm": "output.LayerNorm"}.get(stem, f"self.{stem}")
    return f"{prefix}{block}.{inner}.{kind}"


def filled(module: torch.nn.Module, tag: str, names: dict[str, str]) -> None:
    state = {}
    for name, tensor in module.state_dict().items():
        theirs = tag + names[name]
        if "LayerNorm.weight" in theirs:
            state[name] = wave(theirs, tuple(tensor.shape), 0.2) + 1
        else:
            state[name] = wave(theirs, tuple(tensor.shape), 0.3 if tensor.ndim == 1 else 2 / float(np.sqrt(tensor.shape[1])))
    module.load_state_dict(state)


def test_a_layer_is_the_authors(parity: Any) -> None:
    """Numbers that ARL's code (527fe06) gave for these weights and inputs; the second text names no entity."""
    text = KnowledgeCoAttention(16, 2, mlp_width=64).eval()
    names = {name: released_name(name.removeprefix("text."), "") for name in text.state_dict() if name.startswith("text.")}
    names |= {
        name: released_name(name.removeprefix("entity."), "knowledge_")
        for name in text.state_dict()
        if name.startswith("entity.")
    }
    rest = {
        "image_to_entity": "image2knowledge",
        "entity_to_text": "knowledge2text",
        "fused": "knowledge_fusion_output.dense",
        "norm": "knowledge_fusion_output.LayerNorm",
    }
    names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in rest.items() for kind in ("weight", "bias")}
    filled(text, "text", names)
    image = CoAttention(16, 2, 16, mlp_width=64).eval()
    filled(image, "image", {name: released_name(name, "") for name in image.state_dict()})
    x, y, z = wave("x", (2, 5, 16), 1), wave("y", (2, 4, 16), 1), wave("z", (2, 3, 256), 1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    here = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    tokens = torch.zeros(2, 3, 5)
    tokens[0, 0, 1:3] = tokens[0, 1, 3] = 1
    may_entity = ((~here).float() * torch.finfo(torch.float32).min)[:, None, None]
    with torch.no_grad():
        ours, entity = text(x, y, z * here[..., None], mask[:, None, None], may_entity, tokens)
        other = image(y, x, None, mask[:, None, None])
    pairs = [
        (
            ours[:, 1, :4],
            [
                [-0.07721593230962753, -1.0805583000183105, 0.9379606246948242, 0.9987431168556213],
                [0.9895399212837219, -0.6304448843002319, -0.6253148317337036, 1.3486921787261963],
            ],
        ),
        (entity[0, 0, :4], [1.3238909244537354, 0.5844629406929016, 0.6161715984344482, 1.1916481256484985]),
        (
            other[:, 1, :4],
            [
                [-0.8986048698425293, 1.18711519241333, -0.6299417018890381, -0.6312857866287231],
                [-0.5878291726112366, -0.8867090344429016, 1.4780585765838623, 0.21630240976810455],
            ],
        ),
    ]
    parity(
        "arl",
        "co-attention with and without knowledge",
        "outputs of ARL's code (527fe06)",
        [(mine, torch.tensor(theirs)) for mine, theirs in pairs],
        tolerance=5e-6,
    )


def test_graph_attention_by_a_plain_loop(parity: Any) -> None:
    """GATConv of PyTorch Geometric by its documentation: edges from source to target, parallel ones each counted, self-loops once."""
    torch.manual_seed(0)
    edges = torch.tensor([[0, 1], [0, 1], [2, 1], [3, 0], [1, 1]])
    counts = edge_counts(4, edges)
    for heads, joined in ((2, True), (2, False)):
        layer, x = GraphAttention(6, 5, heads=heads, joined=joined).double(), torch.randn(4, 6, dtype=torch.float64)
        layer.bias.data.normal_()
        rows = []
        for target in range(4):
            sources = [int(a) for a, b in edges.tolist() if b == target and a != b] + [target]
            parts = []
            for head in range(heads):
                values = [layer.linear.weight.view(heads, 5, 6)[head] @ x[node] for node in range(4)]
                scores = [
                    F.leaky_relu(layer.target_HE[head] @ values[target] + layer.source_HE[head] @ values[source], 0.2)
                    for source in sources
                ]
                shares = torch.stack(scores).softmax(0)
                parts.append(sum(share * values[source] for share, source in zip(shares, sources, strict=True)))
            rows.append((torch.cat(parts) if joined else torch.stack(parts).mean(0)) + layer.bias)
        parity(
            "arl",
            f"graph attention, joined {joined}",
            "a plain loop over edges",
            [(layer(x, counts), torch.stack(rows))],
            tolerance=1e-9,
        )


def test_transe_by_hand() -> None:
    torch.manual_seed(0)
    model, triples = TransE(5, 2, 4), torch.tensor([[0, 0, 1], [2, 1, 3]])
    entity, relation = (F.normalize(table.weight, dim=1) for table in (model.entity, model.relation))
    expected = [(entity[h] + relation[r] - entity[t]).abs().sum() for h, r, t in triples.tolist()]
    torch.testing.assert_close(model(triples), torch.stack(expected))
    loss = margin_loss(torch.tensor([1.0, 9.0]), torch.tensor([[7.0, 3.0], [8.0, 20.0]]), 5.0)
    assert loss.item() == pytest.approx((0 + 3 + 6 + 0) / 4)
    known = {(0, 0, 1), (0, 0, 2), (0, 0, 3), (2, 1, 3)}
    rows = torch.tensor(sorted(known))
    shares = head_shares(rows)
    torch.testing.assert_close(shares, torch.tensor([3 / (3 + 1), 1 / (1 + 1)]))
    made = corrupted(rows, rows, shares, 5, 40, torch.Generator().manual_seed(0))
    assert not {tuple(row) for row in made.flatten(0, 1).tolist()} & known
    at_head = (made[:3, :, 0] != 0).float().mean().item()
    assert 0.6 < at_head < 0.9, "three tails per head: heads are replaced in three of four cases, a fifth of them by themselves"
    torch.manual_seed(1)
    trained = train_transe(5, 2, rows, width=8, epochs=80, batches=2, negatives=4, lr=0.5)
    assert trained(rows).mean() < 0.6 * trained(made).mean()
    assert torch.equal(TransE(3, 1, 4).entity.weight.isfinite(), train_transe(3, 0, rows[:0], width=4).entity.weight.isfinite())


def test_linked_entities_and_graphs(tmp_path: Path) -> None:
    graph = EntityGraph((("nodule", "nodules"), ("lung",), ("left lung", "left_lung")), ("at",), ((0, 0, 2),))
    assert [tuple(entity) for entity in graph.linked("Two Nodules, left lung; lungs.")] == [(4, 11, 0), (13, 22, 2)]
    assert EntityGraph.from_json(graph.to_json()) == graph
    mixed = graph.shuffled(3)
    assert (mixed.names, len(mixed.triples)) == (graph.names, 1)
    pairs = [FindingPlace("a", "x", "present"), FindingPlace("b", "y", "present"), FindingPlace("c", "x", "absent")]
    made = graph_of_pairs([pairs])
    assert [names[0] for names in made.names] == ["a", "b", "c", "x", "y"]
    assert made.triples == ((0, 0, 3), (1, 0, 4), (0, 1, 1))
    file = tmp_path / "graph.json"
    file.write_text(json.dumps({"entities": {"mass": ["masses"], "lung": []}, "triples": [["mass", "at", "lung"]]}))
    assert read_graph(file).triples == ((0, 0, 1),)
    file.write_text(json.dumps({"entities": {"mass": []}, "triples": [["mass", "at", "liver"]]}))
    with pytest.raises(DataError, match="row 0"):
        read_graph(file)
    with pytest.raises(DataError, match="does not name an entity"):
        EntityGraph((("a",),), ("at",), ((0, 0, 1),))


def small(**changes: Any) -> ARL:
    shape: dict[str, Any] = {"image_tower": "vit_micro", "image_size": 48, "batch_size": 6, "steps": 4, "text_length": 48}
    graph = GraphConfig(entity_width=32, most_entities=8, transe_epochs=1)
    learning = LearningConfig(decoder_width=32, decoder_layers=1, decoder_heads=2, patch_layer=1)
    own: dict[str, Any] = {"entity_graph": graph, "learning": learning, "width": 32}
    return replace(ARL.tiny(), **{**shape, **own, **changes}).prepare(DATA)


def test_a_mention_is_hidden_whole_and_its_entity_goes_everywhere() -> None:
    recipe = small()
    batch = next(batches(DATA, recipe, seed=0, stop=1)).batch
    words, graph = recipe.words(), recipe.entities
    removed = 0
    for row in range(6):
        asked = set(batch.position_BM[row][batch.word_BM[row] >= 0].tolist())
        whole = [
            (int(e), set(torch.nonzero(t).flatten().tolist()))
            for e, t in zip(batch.entity_BS[row], batch.tokens_BSL[row], strict=True)
        ]
        gone = set()
        for entity, positions in whole:
            assert not positions or not positions & asked or positions <= asked, "a mention is one unit"
            if positions & asked:
                gone.add(entity)
        assert not set(batch.masked_entity_BS[row].tolist()) & gone
        assert not batch.masked_tokens_BSL[row][:, sorted(asked)].any()
        removed += len(gone)
    assert removed > 2
    text = "nodule in the left lung, nodule in the right lung"
    two = EntityGraph((("nodule",), ("left lung",)))
    linked = link([text], two, words, 48)
    hidden = torch.zeros_like(linked.mask_BL)
    hidden[0, linked.mentions[0][0][1][0]] = True
    assert linked.inputs(4).entity_BS.tolist() == [[0, 1, 0, -1]]
    assert linked.inputs(4, hidden).entity_BS.tolist() == [[1, -1, -1, -1]]
    assert linked.inputs(4, hidden, removed="mention").entity_BS.tolist() == [[1, 0, -1, -1]]
    cut = link([text], two, words, len(linked.mentions[0][2][1]) + max(linked.mentions[0][1][1]) + 2)
    assert len(cut.mentions[0]) == 2, "a mention that is cut off is left out"
    assert len(graph.names) == 11


def test_a_masked_entity_changes_no_logit() -> None:
    """Leak test: another vector for the entity of a hidden mention gives the same logits; for one that is read, others."""
    recipe = small()
    torch.manual_seed(0)
    model = recipe.model().eval()
    linked = link(["nodule in the left lower zone. opacity in the left mid zone."], recipe.entities, recipe.words(), 48)
    (entity, positions), (other, _) = linked.mentions[0][:2]
    hidden = torch.zeros_like(linked.mask_BL)
    hidden[0, list(positions)] = True
    masked = linked.inputs(8, hidden)
    text = replace(masked, text_BL=masked.text_BL.masked_fill(hidden, recipe.mask_id))
    image = torch.randn(1, 3, 48, 48)

    def logits(changed: int | None) -> Tensor:
        vector = model.vectors().clone()
        if changed is not None:
            vector[changed] += 5.0
        state, _ = model.fused(text, model.text_states(text.text_BL, text.mask_BL), model.image_states(image), vector)
        return model.words_at(state, torch.tensor([[positions[0]]]))

    with torch.no_grad():
        assert torch.equal(logits(None), logits(entity))
        assert not torch.allclose(logits(None), logits(other), atol=1e-6)


def test_pixels_and_their_decoder() -> None:
    torch.manual_seed(0)
    image, hidden = torch.randn(2, 3, 8, 8), torch.tensor([[True, False, True, False], [False, True, True, False]])
    guess = torch.randn(2, 4, 48)
    terms = []
    for row in range(2):
        for patch in torch.nonzero(hidden[row]).flatten().tolist():
            top, left = 4 * (patch // 2), 4 * (patch % 2)
            target = image[row, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
            target = (target - target.mean()) / (target.var() + 1e-6) ** 0.5
            terms.append((guess[row, patch] - target).square().mean())
    torch.testing.assert_close(masked_pixels(guess, image, hidden, patch=4), torch.stack(terms).mean())
    torch.testing.assert_close(patch_pixels(image, 4, normalised=False)[0, 1, :3], image[0, :, 0, 4])
    decoder = PatchDecoder(6, 8, 1, 2, (2, 2), 48).eval()
    state, kept = torch.randn(1, 3, 6), torch.tensor([[2, 0]])
    spread = PatchDecoder(64, 128, 2, 2, (2, 2), 48).state_dict()
    for name, weight in spread.items():
        if weight.ndim == 2 and "qkv" not in name and "position" not in name:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not weight.any(), name
    swapped = decoder(state[:, [0, 2, 1]], kept.flip(1))
    torch.testing.assert_close(decoder(state, kept), swapped, msg="patches go where they came from")
    assert not torch.allclose(decoder(state, kept), decoder(state, kept.flip(1)))


def test_hidden_patches_are_guessed_as_released(parity: Any) -> None:
    """Numbers that MIMHead and compute_mim of ARL's code (527fe06) gave for these weights, states and images."""
    parts = {"norm_1": "ln_1", "norm_2": "ln_2", "out": "attn.out_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
    rest = {"embed": "decoder_embed", "pixels": "decoder_pred", "norm": "decoder_norm"}
    decoder, state = PatchDecoder(24, 16, 2, 2, (3, 3), 48).eval(), {}
    for name, tensor in decoder.state_dict().items():
        stem, _, kind = name.rpartition(".")
        place = f"decoder.resblocks.{stem.split('.')[2]}." if stem.startswith("blocks.") else ""
        inner = stem.rpartition(".")[2]
        theirs = f"{place}attn.in_proj_{kind}" if inner == "qkv" else f"{place}{(parts if place else rest).get(inner, '')}.{kind}"
        theirs = "mask_token" if name == "mask_D" else theirs
        start = 1.0 if "norm" in inner and kind == "weight" else 0.0
        state[name] = start + wave(theirs, tuple(tensor.shape), 0.5)
    decoder.load_state_dict(state)
    kept, image = torch.tensor([[5, 0], [7, 3]]), wave("image", (2, 3, 12, 12), 1.0)
    with torch.no_grad():
        guess = decoder(wave("x", (2, 3, 24), 1.0), kept)
    hidden = torch.ones(2, 9, dtype=torch.bool).scatter(1, kept, False)
    recorded = [
        [
            [-4.408193588256836, -2.626194953918457, -0.24457821249961853],
            [-4.665429592132568, -3.0497756004333496, -0.7341469526290894],
            [-4.650355339050293, -3.028902292251587, -0.7124199867248535],
        ],
        [
            [-4.717123031616211, -3.120164394378662, -0.8065543174743652],
            [-4.684720993041992, -3.1017298698425293, -0.8064552545547485],
            [-4.6585187911987305, -3.0648117065429688, -0.7675672769546509],
        ],
    ]
    loss = masked_pixels(guess, image, hidden, patch=4)
    pairs = [(guess[:, ::4, :3], torch.tensor(recorded)), (loss, torch.tensor(12.631128311157227))]
    parity("arl", "pixels of hidden patches and their loss", "outputs of ARL's code (527fe06)", pairs, tolerance=1e-5)


def test_hidden_words_and_the_optimiser_are_the_released_ones() -> None:
    """Of rows whose padding counts, ten tokens of 64 are asked for at most, as round(64 * 0.15) says; a short text loses fewer."""
    recipe = small(text_length=64)
    for counts in (False, True):
        learning = replace(recipe.learning, padding_counts=counts, hidden=0.5)
        batch = next(batches(DATA, replace(recipe, learning=learning), seed=0, stop=1)).batch
        asked, real = (batch.word_BM >= 0).sum(1), batch.text_mask_BL.sum(1)
        assert counts == bool((asked > 0.5 * real).any()), "words of the text and padding share the rest of the row"
    assert (ARL.paper().optimiser().adam, recipe.optimiser().adam) == ("transformers", "torch")


def test_the_released_preset_hides_pieces_and_mentions_alone() -> None:
    """With a vocabulary whose padding is "<pad>", a text of fewer words than the row's share loses every piece of it."""
    released = ARL.released()
    assert (released.learning.units, released.learning.padding_counts, released.entity_graph.removed) == (
        "pieces",
        True,
        "mention",
    )
    recipe = small(text_length=128)
    recipe = replace(recipe, learning=replace(released.learning, hidden=0.9, decoder_width=32, decoder_layers=1, decoder_heads=2))
    vocabulary = recipe.vocabulary.replace('"[PAD]"', '"<pad>"')
    for name, all_asked in ((recipe.vocabulary, False), (vocabulary, True)):
        batch = next(batches(DATA, replace(recipe, vocabulary=name), seed=0, stop=1)).batch
        whole = (batch.word_BM >= 0).sum(1) == batch.text_mask_BL.sum(1) - 2
        assert bool(whole.all()) == all_asked


def test_matching_and_losses_of_a_step() -> None:
    recipe = small()
    batch = next(batches(DATA, recipe, seed=0, stop=1)).batch
    groups = [sample.group for sample in (DATA[row] for row in range(24))]
    assert len(set(groups)) > 6
    own = [torch.equal(shown, image) for shown, image in zip(batch.shown_BCHW, batch.image_BCHW, strict=True)]
    assert own == batch.fits_B.bool().tolist()
    assert sum(own) == 3
    torch.manual_seed(0)
    model = recipe.model().eval()
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    assert set(losses) == {"words", "match", "patches", "align"}
    expected = [
        F.binary_cross_entropy_with_logits(logit, target)
        for logit, target in (
            (features.image_entity_NV, batch.image_entity_BV),
            (features.text_entity_NV, batch.text_entity_BV),
        )
    ]
    torch.testing.assert_close(losses["align"], sum(expected))
    torch.testing.assert_close(losses["match"], 0.1 * F.cross_entropy(features.match_N2, batch.fits_B))
    for row in range(6):
        named = {pair.finding for pair in finding_places(DATA[row])}
        assert named
    plain = small(entity_graph=replace(recipe.entity_graph, aligns=False, reasons=False))
    without = plain.losses(plain.features(plain.model(), batch), batch)
    assert set(without) == {"words", "match", "patches"}
    assert not any("entit" in name or "align" in name for name, _ in plain.model().named_parameters())
    with pytest.raises(ConfigError, match="names 0 entities"):
        ARL.tiny().prepare(resolve("world:scenes?n=4").split("train"))


def test_the_published_sizes() -> None:
    """ViT-B/16 of 11 blocks, RoBERTa-base, six layers on either side, by hand."""
    recipe = replace(ARL.paper(), pieces=300).prepare(DATA)
    recipe = replace(recipe, entity_graph=replace(recipe.entity_graph, transe_epochs=0))
    with torch.device("meta"):
        model = recipe.model()
    decays = {
        name: next((rule for rule in recipe.optimiser().rules if re.search(rule.pattern, name)), Rule(""))
        for name, _ in model.named_parameters()
    }
    vectors = {name for name, weight in model.named_parameters() if weight.ndim < 2 and decays[name].decay}
    # of ARL's parameters without "bias", "LayerNorm", "norm.", "norm1." or "norm2." in their names those of one dimension
    assert len(vectors) == 2 * 11 + 2 + 1 + 1 + 1 + 2 * 4
    assert {decays[name].lr_scale for name in vectors if not name.startswith("image_tower")} == {5.0}
    width, words = 768, recipe.words().vocab_size
    block = 12 * width * width + 13 * width
    vision = 3 * 256 * width + width + (18 * 18 + 1) * width + 4 * width + 11 * block
    language = (words + 514 + 1) * width + 2 * width + 12 * block
    cross = 16 * width * width + (8 + 4 + 1 + 6) * width
    entity = 16 * 256 * 256 + 19 * 256
    beside = 2 * (768 * 256) + 256 + width + width * width + 3 * width
    counts = {
        "image_tower": vision,
        "text_tower": language,
        "image_layers": 6 * cross,
        "text_layers": 6 * (cross + entity + beside),
    }
    for name, count in counts.items():
        assert sum(p.numel() for p in getattr(model, name).parameters()) == count, name


def test_use_after_saving(tmp_path: Path) -> None:
    recipe = small()
    torch.manual_seed(0)
    matcher = recipe.deploy(recipe.model().eval())
    image = DATA[0].image
    assert image is not None
    texts = ["nodule in the left mid zone", "no opacity"]
    scores = matcher.score_pairs([image, DATA[1].image], texts, query="image")
    alone = matcher.score_pairs([image], [texts[1]], query="text")
    np.testing.assert_allclose(scores[0, 1], alone[0, 0], atol=1e-5)
    guesses = matcher.guess_words([image], ["A ___ in the left mid zone."], candidates=["nodule", "opacity"])
    assert (guesses < 0).all()
    matcher.save(tmp_path / "model")
    again = KnowledgeMatcher.load(tmp_path / "model")
    np.testing.assert_allclose(
        again.guess_words([image], ["A ___ in the left mid zone."], candidates=["nodule", "opacity"]), guesses
    )
    blanks = matcher.guess_words([image], ["A   ___  in the left mid zone."], candidates=["nodule", "opacity"])
    np.testing.assert_allclose(blanks, guesses, atol=1e-5)
    with pytest.raises(ConfigError, match="no token for hidden words"):
        mask_token_id(Tokenizer.from_spec("clip"))
    with pytest.raises(ConfigError, match="has no gap"):
        matcher.guess_words([image], ["A nodule."], candidates=["nodule"])


def test_text_inputs_move_together() -> None:
    inputs = LinkedInput(*(torch.zeros(1, 2) for _ in range(4)))
    assert {tensor.device.type for tensor in (inputs.to("meta").text_BL, inputs.to("meta").tokens_BSL)} == {"meta"}
