"""Time to the first token by the number of image tokens, and the memory of a training step with and without gradients through the host.

    python benchmarks/visual_tokens.py [--width 512] [--layers 8] [--rounds 5]

A LLaMA of fresh weights reads 29, 144, 256 or 576 image tokens and 32 of a question on one thread; time is the median over rounds. Memory
is what autograd keeps for the backward pass of one row: of a projector before a frozen language model, through which gradients flow, of a
projector and the whole language model, and of the language model alone, whose image tokens carry no gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import MlpConnector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.towers.outputs import Tower, TowerOutput

COUNTS, WORDS, ANSWER, FEATURES, VOCABULARY = (29, 144, 256, 576), 32, 8, 64, 4096


class FixedFeatures(Tower):
    """Random features in place of an image encoder, so that the host alone is measured."""

    width = FEATURES

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("token_PD", torch.randn(count, FEATURES))

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        token_PD: Any = self.token_PD
        token_BPD = token_PD.expand(len(image_BCHW), -1, -1)
        return TowerOutput(token_BPD, token_BPD[..., 0].bool(), token_BPD.mean(1))


def bridge(count: int, width: int, layers: int, trained: tuple[str, ...]) -> Bridge:
    torch.manual_seed(0)
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    return Bridge(FixedFeatures(count), MlpConnector(FEATURES, width), LanguageModel(config=config), trained=trained)


def layout(count: int) -> Layout:
    length = count + WORDS + ANSWER
    slot, answer = torch.zeros(1, length, dtype=torch.bool), torch.zeros(1, length, dtype=torch.bool)
    slot[0, :count], answer[0, -ANSWER:] = True, True
    return Layout(torch.randint(3, VOCABULARY, (1, length)), slot, torch.ones(1, length, dtype=torch.bool), answer)


def first_token(model: Bridge, rows: Layout, rounds: int) -> float:
    """Seconds until the logits of the first written token are there, the projector included."""
    image, times = torch.zeros(1, 3, 1, 1), []
    with torch.no_grad():
        for _ in range(rounds + 1):
            start = time.perf_counter()
            embed_BLD, _ = model.embed(model.picture(image), rows)
            model.language.inner(inputs_embeds=embed_BLD, logits_to_keep=1)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def kept(model: Bridge, rows: Layout) -> int:
    """Bytes that autograd keeps for the backward pass, parameters not counted."""
    own, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        written = model(torch.zeros(1, 3, 1, 1), rows)
        (written.nll_B / written.count_B).sum()
    return sum(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stages = {"projector": ("connector",), "all": ("connector", "language"), "language alone": ("language",)}
    print(f"{'tokens':>6}  {'first token':>11}  " + "  ".join(f"{name + ' MiB':>18}" for name in stages))
    for count in COUNTS:
        made: nn.Module = bridge(count, options.width, options.layers, ("connector",)).eval()
        assert isinstance(made, Bridge)
        seconds = first_token(made, layout(count), options.rounds)
        memory = [
            kept(bridge(count, options.width, options.layers, trained), layout(count)) / 2**20 for trained in stages.values()
        ]
        print(f"{count:>6}  {1000 * seconds:>8.0f} ms  " + "  ".join(f"{value:>18.0f}" for value in memory))


if __name__ == "__main__":
    main()
