"""FILIP's token-wise loss, forward and backward: time and memory compared with a dense form that stores every similarity, in one run.

    python benchmarks/late_interaction.py [--largest 1024] [--dense-largest 1024] [--patches 49] [--words 32]

Both sides run alternately on the same tokens (D = 256, float32, scale 1 / 0.07, texts of 4 words to all). Time is the median; memory is
what autograd keeps between forward and backward, each storage once, and the peak of the process over the measured calls, which each size
and side has to itself. The dense form needs B * B * P * L numbers several times over: what does not fit is left out, and said.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from machine_results import Figure, Peer, keep
from torch import Tensor

from diptych.objectives.pairs.late_interaction import late_interaction

WIDTH = 256
SIZES = (64, 128, 256, 512, 1024)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours(patch_NPD: Tensor, word_NLD: Tensor, mask_NL: Tensor, scale: Tensor) -> Tensor:
    return late_interaction(patch_NPD, word_NLD, scale=scale, word_mask_NL=mask_NL)[0]


def dense(patch_NPD: Tensor, word_NLD: Tensor, mask_NL: Tensor, scale: Tensor) -> Tensor:
    """The same loss as one writes it down: all similarities at once, under autograd."""
    a_NNPL = torch.einsum("ipd,jld->ijpl", patch_NPD, word_NLD)
    by_image_NN = a_NNPL.masked_fill(~mask_NL[:, None], -torch.inf).amax(3).mean(2)
    best_NNL = a_NNPL.amax(2).masked_fill(~mask_NL, 0)
    by_text_NN = best_NNL.sum(2) / mask_NL.sum(1)
    target_N = torch.arange(len(patch_NPD))
    return (F.cross_entropy(scale * by_image_NN, target_N) + F.cross_entropy(scale * by_text_NN.T, target_N)) / 2


SIDES: dict[str, Loss] = {"tiles": ours, "dense": dense}


def inputs(rows: int, patches: int, words: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(rows)
    made = [F.normalize(torch.randn(rows, count, WIDTH, generator=generator), dim=-1) for count in (patches, words)]
    length_N = torch.randint(min(4, words), words + 1, (rows,), generator=generator)
    leaves = [*(x.requires_grad_() for x in made), torch.tensor([1 / 0.07], requires_grad=True)]
    return leaves, torch.arange(words) < length_N[:, None]


def saved_bytes(loss: Loss, leaves: list[Tensor], mask_NL: Tensor) -> int:
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(leaves[0], leaves[1], mask_NL, leaves[2])
    return sum(kept.values())


def measure(side: str, rows: int, patches: int, words: int, repeats: int, answers: Any) -> None:
    """In a process of its own, whose peak is therefore this side's."""
    leaves, mask_NL = inputs(rows, patches, words)
    loss = SIDES[side]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        value = loss(leaves[0], leaves[1], mask_NL, leaves[2])
        torch.autograd.grad(value, leaves)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    saved = saved_bytes(loss, leaves, mask_NL)
    seconds = statistics.median(times[1:])
    answers.put({"seconds": seconds, "saved_mib": saved / 2**20, "peak_mib": peak / 2**10, "loss": value.item()})


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    found, dense = [], {row["B"]: row for row in rows if row["side"] == "dense" and "seconds" in row}
    for row in rows:
        if row["side"] == "tiles" and row["B"] in dense:
            peer, case = dense[row["B"]], f"{row['B']:,} pairs, {row['P']} patches, {row['L']} words"
            found.append(Figure(case, "s", row["seconds"], (Peer("the dense form", peer["seconds"]),)))
            found.append(Figure(f"{case}, saved", "MiB", row["saved_mib"], (Peer("the dense form", peer["saved_mib"]),)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--largest", type=int, default=1024, help="largest batch")
    parser.add_argument("--dense-largest", type=int, default=1024, help="largest batch of the dense form")
    parser.add_argument("--patches", type=int, default=49, help="patches an image: ViT-B/32's")
    parser.add_argument("--words", type=int, default=32, help="tokens of the longest text")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = []
    print(f"{'B':>6} {'side':<6} {'seconds':>9} {'saved MiB':>10} {'peak MiB':>9} {'loss':>9}")
    for size in (size for size in SIZES if size <= args.largest):
        for side in SIDES:
            if side == "dense" and size > args.dense_largest:
                continue
            answers = spawn.Queue()
            worker = spawn.Process(target=measure, args=(side, size, args.patches, args.words, args.repeats, answers))
            worker.start()
            worker.join()
            row: dict[str, Any] = {"B": size, "P": args.patches, "L": args.words, "D": WIDTH, "side": side}
            if worker.exitcode:
                print(f"{size:>6} {side:<6} did not fit (exit code {worker.exitcode})")
                rows.append({**row, "exit_code": worker.exitcode})
                continue
            row |= answers.get()
            rows.append(row)
            print(
                f"{size:>6} {side:<6} {row['seconds']:>9.3f} {row['saved_mib']:>10.1f} {row['peak_mib']:>9.1f} {row['loss']:>9.5f}"
            )
    keep("late_interaction", {"torch_threads": torch.get_num_threads(), "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
