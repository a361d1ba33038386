"""A training step with the settings that `auto` chooses, compared with the same step after changing one setting.

    python benchmarks/step_settings.py [--rounds 5]

Settings are chosen by rules (the processor's flags, the cores that there are) and never by a measurement at the first run: a machine then
computes the same numbers each time, and a busy minute does not decide for months. This is the measurement that the rules come from: where
an alternative is faster by more than noise, the rule is wrong for this class of machine. Three models with fresh weights: a small dual
encoder on 64 pixels, ViT-B/32 on 224, and the small one with a convolutional image tower (resnet18, 96 pixels). Alternatives: one thread,
twice the threads, float32 where bfloat16 is chosen (the other way round it is emulated), AdamW that is not fused, attention written out,
and images with channels last (weights follow by themselves). The ways take turns; medians of the rounds, after a step of each that is not
counted. With ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 before it, it measures a plain machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from machine_results import Figure, Peer, keep
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_step import END, VOCABULARY, inputs, measured, stepper

from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.objectives.pairs.info_nce import info_nce
from diptych.train.precision import choose_precision

Step = Callable[[], float]
MODELS = {  # image tower, text tower, joint width, pixels, tokens, images a step
    "small, 64 px": ("vit_tiny", "text_tiny_clip", 128, 64, 24, 128),
    "resnet18, 96 px": ("timm:resnet18", "text_tiny_clip", 128, 96, 24, 32),
    "ViT-B/32": ("vit_b32", "text_clip", 512, 224, 77, 16),
}


@dataclass(frozen=True)
class Setting:
    """What a step is computed with. `threads` 0 leaves what PyTorch takes."""

    bf16: bool
    fused: bool = True
    threads: int = 0
    written_out: bool = False
    channels_last: bool = False


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def steps_of(model_name: str, settings: dict[str, Setting]) -> dict[str, Step]:
    """The same weights under every setting, and one optimiser for each kind that is asked for: a ViT-B/32 a setting fits no laptop."""
    image, text, width, side, length, batch = MODELS[model_name]
    torch.manual_seed(0)
    model = DualEncoder(image_tower(image), text_tower(text, vocab_size=VOCABULARY, eot_id=END), width=width).train()
    image_BCHW, text_BL, mask_BL = inputs(batch, side, length, full=False)

    def loss_of(shown_BCHW: Tensor) -> Tensor:
        pairs = model(shown_BCHW, text_BL, mask_BL)
        return info_nce(pairs.image_ND, pairs.text_ND, scale=pairs.scale)[0]

    def one(setting: Setting) -> Step:
        form = torch.channels_last if setting.channels_last else torch.contiguous_format
        shown_BCHW = image_BCHW.contiguous(memory_format=form)
        step = stepper(model, lambda: loss_of(shown_BCHW), bf16=setting.bf16, fused=setting.fused)

        def as_set() -> float:
            attention: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH) if setting.written_out else nullcontext()
            with threads(setting.threads), attention:
                return step()

        return as_set

    return {way: one(setting) for way, setting in settings.items()}


def ways(bf16: bool) -> dict[str, Setting]:
    """`auto` first, then one change each."""
    usual = torch.get_num_threads()
    found = {
        "auto": Setting(bf16),
        "one thread": Setting(bf16, threads=1),
        f"{2 * usual} threads": Setting(bf16, threads=2 * usual),
        "float32": Setting(bf16=False),
        "AdamW not fused": Setting(bf16, fused=False),
        "attention written out": Setting(bf16, written_out=True),
        "channels last": Setting(bf16, channels_last=True),
    }
    if usual == 1:
        del found["one thread"]
    if not bf16:
        del found["float32"]  # it is what auto takes
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    options = parser.parse_args()
    bf16 = choose_precision("auto", torch.device("cpu")) == "bf16"
    rows, figures = [], []
    for name in options.models:
        found = measured(steps_of(name, ways(bf16)), options.rounds)
        batch, auto = MODELS[name][-1], found["auto"]["seconds"]
        print(f"\n{name}, batch {batch}\n{'setting':<28}{'s a step':>10}{'against auto':>14}")
        for way, one in found.items():
            rows.append({"what": name, "way": way, "batch": batch, **one, "times_as_long": one["seconds"] / auto})
            print(f"{way:<28}{one['seconds']:>10.4f}{one['seconds'] / auto:>13.2f}x")
        others = {way: one["seconds"] for way, one in found.items() if way != "auto"}
        fastest = min(others, key=lambda way: others[way])
        peers = tuple(Peer(way, seconds, way == fastest) for way, seconds in others.items())
        figures.append(Figure(f"{name}, batch {batch}: auto against the fastest other setting", "s", auto, peers))
    keep("step_settings", {"torch_threads": torch.get_num_threads(), "rows": rows}, figures)


if __name__ == "__main__":
    main()
