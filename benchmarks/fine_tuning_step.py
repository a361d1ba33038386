"""A fine-tuning step of ViT-B/32 from an open_clip file: ours, open_clip and sentence-transformers on the same weights, in one run.

    python benchmarks/fine_tuning_step.py [--batch 32] [--steps 5] [--isa native,avx2]

Fresh weights of open_clip's ViT-B-32 are written to a file; every way starts from them, in a process of its own, whose largest memory is
what is printed. Full fine-tuning: every parameter gets a gradient and an AdamW update. The ways are ours (`--init open_clip:...` of
recipe `clip`), open_clip in float32 as a user starts it and at its best here (bfloat16 autocast, fused AdamW), and
sentence-transformers (the same network as a `transformers` folder, its MultipleNegativesRankingLoss both ways round). The median of the
steps after one that is not counted. `--isa avx2` keeps oneDNN and PyTorch from AVX-512 and AMX; the output says what the machine has.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.environment import environment

ARCH, WORDS = "ViT-B-32", 16
WAYS = ("ours", "open_clip", "open_clip_best", "sentence_transformers")
ISA = {"native": {}, "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}


def write_weights(folder: Path) -> Path:
    """The file that all start from, and beside it the same network as a folder of transformers."""
    import open_clip

    from diptych.models.io.export.transformers_folder import to_transformers
    from diptych.models.io.foreign.load import load_foreign

    torch.manual_seed(0)
    torch.save(open_clip.create_model(ARCH).state_dict(), folder / "weights.pt")
    to_transformers(load_foreign(f"open_clip:{ARCH}/{folder / 'weights.pt'}"), folder / "transformers")  # type: ignore[arg-type]
    return folder / "weights.pt"


def batch(count: int) -> tuple[Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 224, 224, generator=generator), [f"a photo of thing number {n} on a table" for n in range(count)]


def stepper(model: nn.Module, loss_of: Callable[[], Tensor], *, bf16: bool, fused: bool) -> Callable[[], float]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=fused or None)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def ours(file: Path, count: int) -> Callable[[], float]:
    from diptych.data.load.batch import PairBatch
    from diptych.models.io.foreign.load import load_foreign
    from diptych.recipes.contrastive.clip import CLIP

    start = load_foreign(f"open_clip:{ARCH}/{file}")
    recipe = CLIP.tiny().started(start)
    image_BCHW, texts = batch(count)
    encoded = recipe.words().encode(texts, recipe.text_length)
    rows = PairBatch(image_BCHW, torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL), torch.arange(count))
    model = start.model.train()
    return stepper(
        model, lambda: torch.stack(list(recipe.losses(recipe.features(model, rows), rows).values())).sum(), bf16=True, fused=True
    )


def theirs(file: Path, count: int, *, best: bool) -> Callable[[], float]:
    import open_clip
    from open_clip.loss import ClipLoss

    model, loss = open_clip.create_model(ARCH, pretrained=str(file)), ClipLoss()
    image_BCHW, texts = batch(count)
    text_BL = open_clip.get_tokenizer(ARCH)(texts)
    return stepper(model.train(), lambda: loss(*model(image_BCHW, text_BL)), bf16=best, fused=best)


def sentence_transformers(file: Path, count: int) -> Callable[[], float]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(modules=[Transformer(str(file.parent / "transformers"))], device="cpu").train()
    loss = MultipleNegativesRankingLoss(model)
    image_BCHW, texts = batch(count)
    pictures = [to_picture(image_CHW) for image_CHW in image_BCHW]
    sides = [model.preprocess(pictures), model.preprocess(texts)]
    return stepper(model, lambda: loss([dict(side) for side in sides], None), bf16=False, fused=False)


def to_picture(image_CHW: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((image_CHW.clamp(-1, 1).add(1).mul(127)).to(torch.uint8).permute(1, 2, 0).numpy())


def measured(way: str, file: Path, count: int, steps: int) -> dict[str, Any]:
    """Seconds a step and the largest memory of this process, in MiB."""
    made = {"ours": ours, "sentence_transformers": sentence_transformers}.get(way)
    step = made(file, count) if made else theirs(file, count, best=way == "open_clip_best")
    losses, seconds = [step()], []
    for _ in range(steps):
        begun = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - begun)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"way": way, "seconds": statistics.median(seconds), "memory_mib": memory, "losses": [losses[0], losses[-1]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--isa", default="native,avx2")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args.way, args.file, args.batch, args.steps)))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="fine-tuning-") as folder:
        file = write_weights(Path(folder))
        for isa in args.isa.split(","):
            for way in WAYS:
                command = [sys.executable, __file__, "--way", way, "--file", str(file)]
                command += ["--batch", str(args.batch), "--steps", str(args.steps)]
                done = subprocess.run(command, env={**os.environ, **ISA[isa]}, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{way}: {done.stderr[-2000:]}")
                row = {"isa": isa, **json.loads(done.stdout.splitlines()[-1])}
                rows.append(row)
                print(
                    f"{isa:8} {way:24} {row['seconds']:7.3f} s a step, {row['memory_mib']:7,.0f} MiB at most, "
                    f"loss {row['losses'][0]:.3f} -> {row['losses'][1]:.3f}"
                )
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "batch": args.batch, "steps": args.steps, "rows": rows}
    if args.out:
        args.out.write_text(json.dumps({**result, "environment": environment()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
