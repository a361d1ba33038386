"""Bridges against the models of transformers that they are settings of, weights copied.  Letters as in the code under test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import LinearConnector, MlpConnector, QueryConnector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.towers.outputs import Tower, TowerOutput

AGAINST = "LlavaForConditionalGeneration of transformers, weights copied"
AGAINST_BLIP2 = "Blip2ForConditionalGeneration of transformers, weights copied"
AGAINST_BLIP = "InstructBlipForConditionalGeneration of transformers, weights copied"
WIDTH, VOCABULARY, IMAGE_ID = 32, 60, 59
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": WIDTH,
    "max_position_embeddings": 64,
}
T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
FORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "cross_attention_frequency": 2,
}


class Features(Tower):
    """Hidden states of a vision model of transformers, cut as its bridge cuts them."""

    def __init__(self, vision: nn.Module, layer: int | None, first: int) -> None:
        super().__init__()
        self.vision, self.layer, self.first, self.width = vision, layer, first, 24

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        found = self.vision(image_BCHW, output_hidden_states=True)
        tokens_BPD = found.last_hidden_state if self.layer is None else found.hidden_states[self.layer]
        tokens_BPD = tokens_BPD[:, self.first :]
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2]).bool(), tokens_BPD.mean(1))


def layout(slots: int, *, answers: tuple[int, int] = (3, 2)) -> Layout:
    """Two rows: a start mark, the picture, two words, an answer; the second row is shorter and padded."""
    length = 1 + slots + 2 + max(answers)
    id_BL = torch.zeros(2, length, dtype=torch.int64)
    slot_BL, mask_BL, answer_BL = (torch.zeros(2, length, dtype=torch.bool) for _ in range(3))
    for row, answer in enumerate(answers):
        end = 1 + slots + 2 + answer
        id_BL[row, :end] = torch.randint(3, 50, (end,))
        slot_BL[row, 1 : 1 + slots] = True
        mask_BL[row, :end] = True
        answer_BL[row, end - answer : end] = True
    return Layout(id_BL, slot_BL, mask_BL, answer_BL)


def given(rows: Layout) -> dict[str, Tensor]:
    """What transformers' bridges are called with."""
    ids = rows.id_BL.masked_fill(rows.slot_BL, IMAGE_ID)
    return {"input_ids": ids, "attention_mask": rows.mask_BL.long(), "labels": ids.masked_fill(~rows.answer_BL, -100)}


def language(config: dict[str, Any], source: nn.Module) -> LanguageModel:
    made = LanguageModel(config=config)
    made.inner.load_state_dict(source.state_dict(), strict=True)
    return made.eval()


def mean(bridge: Bridge, image: Tensor, rows: Layout, *text: Tensor) -> Tensor:
    written = bridge(image, rows, *text)
    return written.nll_B.sum() / written.count_B.sum()


def logits(bridge: Bridge, image: Tensor, rows: Layout, *text: Tensor) -> Tensor:
    """[A, V] where the tokens of the answers are written, row by row."""
    embed_BLD, _ = bridge.embed(bridge.picture(image, *text), rows)
    return bridge.language.answers(embed_BLD, rows)[0]


def their_logits(logit_BLV: Tensor, rows: Layout) -> Tensor:
    """The same of a decoder's logits at every place: a token is written from the place before it."""
    return logit_BLV[:, :-1][rows.answer_BL[:, 1:]]


def tokens_of(module: nn.Module) -> list[Tensor]:
    """What a module of transformers will give, filled in when it is called."""
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, __, given: seen.append(given.detach()))
    return seen


def llava(act: str) -> tuple[Any, LanguageModel]:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"}),
        image_token_index=IMAGE_ID,
        projector_hidden_act=act,
        vision_feature_layer=-2 if act == "gelu" else -1,
    )
    theirs = transformers.LlavaForConditionalGeneration(config).eval()
    ours = LanguageModel(config=LLAMA).eval()
    ours.inner.model.load_state_dict(theirs.model.language_model.state_dict())
    ours.inner.lm_head.load_state_dict(theirs.lm_head.state_dict())
    return theirs, ours


def test_llava_is_a_setting(parity: Any) -> None:
    torch.manual_seed(0)
    theirs, words = llava("gelu")
    connector = MlpConnector(24, WIDTH)
    connector.load_state_dict(theirs.model.multi_modal_projector.state_dict())
    bridge = Bridge(Features(theirs.model.vision_tower, -2, 1), connector, words).eval()
    image, rows = torch.randn(2, 3, 16, 16), layout(4)
    wanted = theirs(pixel_values=image, **given(rows))
    torch.testing.assert_close(mean(bridge, image, rows), wanted.loss, rtol=1e-6, atol=1e-6)
    pairs = [(logits(bridge, image, rows), their_logits(wanted.logits, rows))]
    parity("limber", "logits of the answer behind an MLP, patches of the last layer but one", AGAINST, pairs, tolerance=1e-6)


def test_limber_is_llava_with_one_linear_map(parity: Any) -> None:
    torch.manual_seed(0)
    theirs, words = llava("linear")
    connector = LinearConnector(24, WIDTH)
    with torch.no_grad():
        projector = theirs.model.multi_modal_projector
        projector.linear_2.weight.copy_(torch.eye(WIDTH))
        projector.linear_2.bias.zero_()
    connector.map.load_state_dict(projector.linear_1.state_dict())
    bridge = Bridge(Features(theirs.model.vision_tower, -1, 1), connector, words).eval()
    image, rows = torch.randn(2, 3, 16, 16), layout(4)
    said, found = theirs(pixel_values=image, **given(rows)), mean(bridge, image, rows)
    wanted, behind = said.loss, [(logits(bridge, image, rows), their_logits(said.logits, rows))]
    parity("limber", "logits of the caption", AGAINST, behind, tolerance=1e-6)
    found.backward()
    wanted.backward()
    pairs = [(found, wanted), (connector.map.weight.grad, projector.linear_1.weight.grad)]
    pairs.append((connector.map.bias.grad, projector.linear_1.bias.grad))
    parity("limber", "loss of the caption and gradients of the map", AGAINST, pairs, tolerance=2e-6)


def queried(theirs: Any, words: LanguageModel, *, reads_text: bool) -> Bridge:
    connector = QueryConnector(24, WIDTH, queries=4, former=former(reads_text), reads_text=reads_text, norm=0)
    connector.former.load_state_dict(theirs.qformer.state_dict())
    connector.map.load_state_dict(theirs.language_projection.state_dict())
    with torch.no_grad():
        connector.query_QD.copy_(theirs.query_tokens[0])
    return Bridge(Features(theirs.vision_model, None, 0), connector, words).eval()


def former(reads_text: bool) -> dict[str, Any]:
    return {**FORMER, "vocab_size": 40} if reads_text else FORMER


@pytest.mark.parametrize("config", [OPT, T5], ids=["opt", "t5"])
def test_blip2_is_a_setting(config: dict[str, Any], parity: Any) -> None:
    """The last norm of the vision model (`ln_vision` of the release) is part of the features here."""
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(**config)
    theirs = transformers.Blip2ForConditionalGeneration(
        transformers.Blip2Config(
            vision_config=transformers.Blip2VisionConfig(**VISION),
            qformer_config=transformers.Blip2QFormerConfig(**FORMER, encoder_hidden_size=24),
            text_config=settings,
            num_query_tokens=4,
            image_token_index=IMAGE_ID,
        )
    ).eval()
    with torch.no_grad():
        theirs.query_tokens.normal_()
    bridge = queried(theirs, language(config, theirs.language_model), reads_text=False)
    image, rows = torch.randn(2, 3, 16, 16), layout(4)
    call = given(rows)
    if config is T5:  # the encoder reads picture and prompt, the answers are the decoder's
        count = int(rows.answer_BL.sum(1).max())
        labels = torch.full((2, count), -100)
        for row in range(2):
            answer = rows.id_BL[row, rows.answer_BL[row]]
            labels[row, : len(answer)] = answer
        call = {"input_ids": call["input_ids"], "attention_mask": (rows.mask_BL & ~rows.answer_BL).long(), "labels": labels}
    seen = tokens_of(theirs.language_projection)
    said = theirs(pixel_values=image, **call)
    wanted = said.loss
    parity("mblip", "tokens of a picture", AGAINST_BLIP2, [(bridge.picture(image), seen[0])], tolerance=1e-6)
    written = said.logits[call["labels"] != -100] if config is T5 else their_logits(said.logits, rows)
    behind = [(logits(bridge, image, rows), written)]
    parity("mblip", "logits of the answer, OPT and T5", AGAINST_BLIP2, behind, tolerance=1e-6)
    found = mean(bridge, image, rows)
    found.backward()
    wanted.backward()
    mine = dict(bridge.connector.former.named_parameters())
    pairs = [(found, wanted), (bridge.connector.map.weight.grad, theirs.language_projection.weight.grad)]
    pairs += [(mine[name].grad, p.grad) for name, p in theirs.qformer.named_parameters() if p.grad is not None]
    parity(
        "mblip", "loss of the answer and gradients of Q-Former and projection, OPT and T5", AGAINST_BLIP2, pairs, tolerance=2e-6
    )


def test_instructblip_is_a_setting_with_padded_instructions(parity: Any) -> None:
    torch.manual_seed(0)
    theirs = transformers.InstructBlipForConditionalGeneration(
        transformers.InstructBlipConfig(
            vision_config=transformers.InstructBlipVisionConfig(**VISION),
            qformer_config=transformers.InstructBlipQFormerConfig(**former(True), encoder_hidden_size=24),
            text_config=transformers.AutoConfig.for_model(**LLAMA),
            num_query_tokens=4,
            image_token_index=IMAGE_ID,
        )
    ).eval()
    with torch.no_grad():
        theirs.query_tokens.normal_()
    bridge = queried(theirs, language(LLAMA, theirs.language_model), reads_text=True)
    image, rows = torch.randn(2, 3, 16, 16), layout(4)
    asked, mask = torch.randint(1, 40, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    seen = tokens_of(theirs.language_projection)
    said = theirs(pixel_values=image, qformer_input_ids=asked, qformer_attention_mask=mask, **given(rows))
    wanted, tokens = said.loss, [(bridge.picture(image, asked, mask.bool()), seen[0])]
    parity("instructblip", "tokens of a picture, padded instructions", AGAINST_BLIP, tokens, tolerance=1e-6)
    behind = [(logits(bridge, image, rows, asked, mask.bool()), their_logits(said.logits, rows))]
    parity("instructblip", "logits of the answer", AGAINST_BLIP, behind, tolerance=1e-6)
    found = mean(bridge, image, rows, asked, mask.bool())
    found.backward()
    wanted.backward()
    mine = dict(bridge.connector.former.named_parameters())
    pairs = [(found, wanted), (bridge.connector.query_QD.grad, theirs.query_tokens.grad[0])]
    pairs += [(mine[name].grad, p.grad) for name, p in theirs.qformer.named_parameters() if p.grad is not None]
    parity("instructblip", "loss of the answer and every gradient of the Q-Former", AGAINST_BLIP, pairs, tolerance=2e-6)
    with pytest.raises(Exception, match="reads the instruction"):
        bridge(image, rows)
