"""A fine-tuning step of ViT-B/32 from an open_clip file: ours, open_clip and sentence-transformers on the same weights, in one run.
Texts have about a dozen tokens; open_clip reads rows of 77, ours leaves out what is padding in the whole batch. Ours and open_clip at its
best are in bfloat16 where the processor multiplies it, the others in float32.

    python benchmarks/fine_tuning_step.py [--batch 16] [--steps 3]

Fresh weights of open_clip's ViT-B-32 are written to a file; every way starts from them, in a process of its own, whose largest memory is
what is printed. Full fine-tuning: every parameter gets a gradient and an AdamW update. The ways are ours (`--init open_clip:...` of
recipe `clip`, number format on `auto`), open_clip in float32 as a user starts it and at its best here (fused AdamW, and bfloat16 where
the processor multiplies it), and
sentence-transformers (the same network as a `transformers` folder, its MultipleNegativesRankingLoss both ways round). The median of the
steps after one that is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine_results import Figure, Peer, keep
from torch import Tensor, nn

from diptych.train.precision import choose_precision

ARCH = "ViT-B-32"
WAYS = ("ours", "open_clip", "open_clip_best", "sentence_transformers")


def hardware_bf16() -> bool:
    return choose_precision("auto", torch.device("cpu")) == "bf16"


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
        model,
        lambda: torch.stack(list(recipe.losses(recipe.features(model, rows), rows).values())).sum(),
        bf16=hardware_bf16(),
        fused=True,
    )


def theirs(file: Path, count: int, *, best: bool) -> Callable[[], float]:
    import open_clip
    from open_clip.loss import ClipLoss

    model, loss = open_clip.create_model(ARCH, pretrained=str(file)), ClipLoss()
    image_BCHW, texts = batch(count)
    text_BL = open_clip.get_tokenizer(ARCH)(texts)
    return stepper(model.train(), lambda: loss(*model(image_BCHW, text_BL)), bf16=best and hardware_bf16(), fused=best)


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


def figures(rows: list[dict[str, Any]], batch: int) -> list[Figure]:
    by = {row["way"]: row for row in rows}
    named = {
        "open_clip": "open_clip, as started",
        "open_clip_best": "open_clip, best",
        "sentence_transformers": "sentence-transformers",
    }
    found = []
    for unit, key in (("s a step", "seconds"), ("MiB at most", "memory_mib")):
        peers = tuple(Peer(name, by[way][key], way == "open_clip_best") for way, name in named.items() if way in by)
        found.append(Figure(f"ViT-B/32, batch {batch}", unit, by["ours"][key], peers))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args.way, args.file, args.batch, args.steps)))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="fine-tuning-") as folder:
        file = write_weights(Path(folder))
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--file", str(file)]
            command += ["--batch", str(args.batch), "--steps", str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{way}: {done.stderr[-2000:]}")
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{way:24} {row['seconds']:7.3f} s a step, {row['memory_mib']:7,.0f} MiB at most, "
                f"loss {row['losses'][0]:.3f} -> {row['losses'][1]:.3f}",
                flush=True,
            )
    keep("fine_tuning_step", {"batch": args.batch, "steps": args.steps, "rows": rows}, figures(rows, args.batch))


if __name__ == "__main__":
    main()
