"""A training step (forward, contrastive loss, backward, AdamW) with default settings, compared with open_clip's.

    python benchmarks/training_step.py [--batch 16] [--rounds 3]

Two models with fresh weights: ViT-B/32 on 224 pixels, and a small dual encoder on 64 pixels, with open_clip's towers at the same
sizes. Texts are captions of 6 to 20 tokens in rows of 77 (24), as its tokenizer makes them: we leave out what is padding in the whole
batch, its CLIP cannot; then texts that fill their rows. open_clip runs as a user starts it (float32, plain AdamW, its ClipLoss) and at
its best setting here: AdamW fused, and bfloat16 where the processor multiplies it (elsewhere it is emulated, and slower by far). Ours is
what `diptych train` does with its options on `auto`: number format, attention, optimiser. The ways take turns; medians of the rounds,
after a step of each that is not counted. With ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 before it, it measures a plain machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine_results import Figure, Peer, keep
from torch import Tensor, nn

from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.objectives.pairs.info_nce import info_nce
from diptych.train.precision import choose_precision

VOCABULARY, END = 49408, 49407
TINY_PEER = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": VOCABULARY, "width": 192, "heads": 3, "layers": 2},
}


def inputs(batch: int, side: int, length: int, *, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Images, ids and mask. Texts of 6 to 20 tokens, as captions have, in rows of `length` as open_clip's tokenizer makes them; or full."""
    generator = torch.Generator().manual_seed(0)
    text_BL = torch.randint(1, END - 1, (batch, length), generator=generator)
    last_B = torch.full((batch,), length - 1) if full else torch.randint(5, 20, (batch,), generator=generator)
    mask_BL = torch.arange(length) <= last_B[:, None]
    text_BL = text_BL.masked_fill(~mask_BL, 0).scatter(1, last_B[:, None], END)
    return torch.randn(batch, 3, side, side, generator=generator), text_BL, mask_BL


def stepper(model: nn.Module, loss_of: Callable[[], Tensor], *, bf16: bool, fused: bool) -> Callable[[], float]:
    """One optimiser step; gives the loss."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=fused or None)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def theirs(batch: tuple[Tensor, Tensor, Tensor], *, tiny: bool, bf16: bool, fused: bool) -> Callable[[], float]:
    import open_clip
    from open_clip.loss import ClipLoss

    model = open_clip.CLIP(**TINY_PEER) if tiny else open_clip.create_model("ViT-B-32")
    loss = ClipLoss()
    return stepper(model.train(), lambda: loss(*model(*batch[:2])[:3]), bf16=bf16, fused=fused)


def ours(batch: tuple[Tensor, Tensor, Tensor], *, tiny: bool, bf16: bool) -> Callable[[], float]:
    image = image_tower("vit_tiny" if tiny else "vit_b32")
    text = text_tower("text_tiny_clip" if tiny else "text_clip", vocab_size=VOCABULARY, eot_id=END)
    model = DualEncoder(image, text, width=128 if tiny else 512)

    def loss_of() -> Tensor:
        pairs = model(*batch)
        return info_nce(pairs.image_ND, pairs.text_ND, scale=pairs.scale)[0]

    return stepper(model, loss_of, bf16=bf16, fused=True)


def measured(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    first = {name: step() for name, step in ways.items()}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, step in ways.items():
            started, used = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - used)
    return {
        name: {"seconds": statistics.median(wall[name]), "cpu_seconds": statistics.median(cpu[name]), "first_loss": first[name]}
        for name in ways
    }


def compared(title: str, batch: int, *, tiny: bool, full: bool, bf16: bool, rounds: int) -> list[dict[str, Any]]:
    made = inputs(batch, 64 if tiny else 224, 24 if tiny else 77, full=full)
    best = "bfloat16, fused AdamW" if bf16 else "float32, fused AdamW"
    ways = {
        "open_clip, as started": theirs(made, tiny=tiny, bf16=False, fused=False),
        f"open_clip, best ({best})": theirs(made, tiny=tiny, bf16=bf16, fused=True),
        f"ours ({'bfloat16' if bf16 else 'float32'})": ours(made, tiny=tiny, bf16=bf16),
    }
    found = measured(ways, rounds)
    started = next(iter(found.values()))
    rows = []
    print(f"\n{title}, batch {batch}\n{'way':<44}{'s a step':>10}{'CPU s':>8}{'images/s':>10}{'speed-up':>10}{'by CPU':>8}")
    for name, one in found.items():
        ratio, by_cpu = started["seconds"] / one["seconds"], started["cpu_seconds"] / one["cpu_seconds"]
        rows.append({"what": title, "way": name, "batch": batch, **one, "speed_up": ratio, "speed_up_by_cpu": by_cpu})
        print(
            f"{name:<44}{one['seconds']:>10.3f}{one['cpu_seconds']:>8.2f}{batch / one['seconds']:>10.1f}{ratio:>9.2f}x{by_cpu:>7.2f}x"
        )
    return rows


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    found = []
    for title in dict.fromkeys(row["what"] for row in rows):
        here = [row for row in rows if row["what"] == title]
        for unit, key in (("images/s", "seconds"), ("images a processor second", "cpu_seconds")):
            rate = {row["way"]: row["batch"] / row[key] for row in here}
            ours = [value for way, value in rate.items() if way.startswith("ours")]
            peers = tuple(Peer(way, value, "best" in way) for way, value in rate.items() if way.startswith("open_clip"))
            if ours and peers:
                found.append(Figure(f"{title}, batch {here[0]['batch']}", unit, ours[0], peers, less=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images a step of the ViT-B/32")
    parser.add_argument("--tiny-batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    bf16 = choose_precision("auto", torch.device("cpu")) == "bf16"
    rows = []
    for full in (False, True):
        texts = "every text at its longest" if full else "captions"
        given: dict[str, Any] = {"full": full, "bf16": bf16}
        rows += compared(f"small, 64 px, {texts}", options.tiny_batch, tiny=True, rounds=2 * options.rounds, **given)
        rows += compared(f"ViT-B/32, {texts}", options.batch, tiny=False, rounds=options.rounds, **given)
    keep("training_step", {"torch_threads": torch.get_num_threads(), "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
