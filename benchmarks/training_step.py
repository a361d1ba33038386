"""A training step (forward, contrastive loss, backward, AdamW) against open_clip's, and our attention's two forms, in one run.

    python benchmarks/training_step.py [--batch 32] [--rounds 5]

ViT-B/32 with fresh weights, three ways in turn: open_clip as a user starts it (float32, plain AdamW, its ClipLoss), open_clip at its
best setting here (bfloat16 autocast, fused AdamW), and ours (the same precision and optimiser). Then the tiny dual encoder on 64-pixel
images: attention as two matrix products against `scaled_dot_product_attention`, both under bfloat16 autocast. Medians of the rounds;
a round takes each way once. Every way first takes one step that is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.environment import environment
from diptych.models.layers import attention
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.objectives.pairs.info_nce import info_nce

VOCABULARY, END = 49408, 49407


def inputs(batch: int, side: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    text_BL = torch.randint(1, END - 1, (batch, length), generator=generator)
    text_BL[:, -1] = END
    return torch.randn(batch, 3, side, side, generator=generator), text_BL


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


def theirs(batch: tuple[Tensor, Tensor], *, best: bool) -> Callable[[], float]:
    import open_clip
    from open_clip.loss import ClipLoss

    model, loss = open_clip.create_model("ViT-B-32"), ClipLoss()
    return stepper(model, lambda: loss(*model(*batch)), bf16=best, fused=best)


def ours(batch: tuple[Tensor, Tensor], *, tiny: bool) -> Callable[[], float]:
    image = image_tower("vit_tiny" if tiny else "vit_b32")
    text = text_tower("text_tiny" if tiny else "text_clip", vocab_size=VOCABULARY, eot_id=END)
    model = DualEncoder(image, text, width=128 if tiny else 512)

    def loss_of() -> Tensor:
        pairs = model(*batch)
        return info_nce(pairs.image_ND, pairs.text_ND, scale=pairs.scale)[0]

    return stepper(model, loss_of, bf16=True, fused=True)


@contextmanager
def written_out(up_to: int) -> Any:
    before, attention.SHORT = attention.SHORT, up_to
    try:
        yield
    finally:
        attention.SHORT = before


def under(up_to: int, step: Callable[[], float]) -> Callable[[], float]:
    def run() -> float:
        with written_out(up_to):
            return step()

    return run


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


def table(title: str, batch: int, found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    rows = []
    slowest = next(iter(found.values()))
    print(f"\n{title}, batch {batch}\n{'way':<44}{'s a step':>10}{'CPU s':>8}{'images/s':>10}{'speed-up':>10}{'by CPU':>8}")
    for name, one in found.items():
        ratio, by_cpu = slowest["seconds"] / one["seconds"], slowest["cpu_seconds"] / one["cpu_seconds"]
        row = {"what": title, "way": name, "batch": batch, **one, "speed_up": ratio, "speed_up_by_cpu": by_cpu}
        rows.append(row)
        print(
            f"{name:<44}{one['seconds']:>10.3f}{one['cpu_seconds']:>8.2f}{batch / one['seconds']:>10.1f}{ratio:>9.2f}x{by_cpu:>7.2f}x"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images a step of the ViT-B/32")
    parser.add_argument("--tiny-batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_step.json")
    options = parser.parse_args()
    torch.manual_seed(0)

    small = inputs(options.tiny_batch, 64, 16)
    step = ours(small, tiny=True)
    ways = {"tiny, fused attention": under(0, step), "tiny, written-out attention": under(200, step)}
    rows = table("tiny dual encoder", options.tiny_batch, measured(ways, options.rounds * 3))

    batch = inputs(options.batch, 224, 77)
    ways = {
        "open_clip, as started (float32)": theirs(batch, best=False),
        "open_clip, best (bfloat16, fused AdamW)": theirs(batch, best=True),
        "ours (bfloat16, fused AdamW)": ours(batch, tiny=False),
    }
    rows += table("ViT-B/32", options.batch, measured(ways, options.rounds))

    result = {"name": "training_step", "date": f"{datetime.now(UTC):%Y-%m-%d}", "environment": environment(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
