"""A fine-tuning step of ViT-B/32 from an open_clip file: Diptych, open_clip and sentence-transformers on the same weights, in one run.
Texts have about a dozen tokens; open_clip reads rows of 77, ours leaves out what is padding in the whole batch. Ours and open_clip at its
best are in bfloat16 where the processor multiplies it, the others in float32.

    python benchmarks/fine_tuning_step.py [--batch 16] [--steps 3]

Fresh weights of open_clip's ViT-B-32 are written to a file; every way starts from them, in a process of its own, whose largest memory is
what is printed. Two ways to tune: every parameter gets a gradient and an AdamW update, or, all of them frozen, low-rank adapters of rank 16
on the maps of attention and of the two-layer networks in both towers (peft in all, by its defaults for the peers). The ways are ours
(`--init open_clip:...` of recipe `clip`, number format on `auto`), open_clip in float32 as a user starts it and at its best here (fused
AdamW, and bfloat16 where the processor multiplies it), and sentence-transformers (the same network as a `transformers` folder, its
MultipleNegativesRankingLoss both ways round). The median of the steps after one that is not counted.
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
from itertools import product
from pathlib import Path
from typing import Any

import torch
from machine_results import Figure, Peer, keep
from torch import Tensor, nn

from diptych.train.precision import choose_precision

ARCH = "ViT-B-32"
WAYS = ("ours", "open_clip", "open_clip_best", "sentence_transformers")
TUNES = ("full", "lora")
RANK = 16


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


class Step:
    """One step of AdamW over all that has a gradient."""

    def __init__(self, model: nn.Module, loss_of: Callable[[], Tensor], *, bf16: bool, fused: bool) -> None:
        self.loss_of, self.bf16 = loss_of, bf16
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.trained = sum(parameter.numel() for parameter in parameters)
        self.optimiser = torch.optim.AdamW(parameters, 1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=fused or None)

    def __call__(self) -> float:
        """The loss before the update."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss_of()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def ours(file: Path, count: int, tune: str) -> Step:
    from diptych.data.load.batch import PairBatch
    from diptych.models.io.foreign.load import load_foreign
    from diptych.models.towers.adapters import LoRAConfig, add_adapters
    from diptych.recipes.contrastive.clip import CLIP

    start = load_foreign(f"open_clip:{ARCH}/{file}")
    recipe = CLIP.tiny().started(start)
    image_BCHW, texts = batch(count)
    encoded = recipe.words().encode(texts, recipe.text_length)
    rows = PairBatch(image_BCHW, torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL), torch.arange(count))
    model = start.model
    if tune == "lora":
        add_adapters(model, LoRAConfig.parse(f"{RANK}:qkv,attention.*out,mlp"))
    model.train()
    return Step(
        model,
        lambda: torch.stack(list(recipe.losses(recipe.features(model, rows), rows).values())).sum(),
        bf16=hardware_bf16(),
        fused=True,
    )


def theirs(file: Path, count: int, tune: str, *, best: bool) -> Step:
    import open_clip
    from open_clip.loss import ClipLoss
    from peft import LoraConfig, get_peft_model

    model, loss = open_clip.create_model(ARCH, pretrained=str(file)), ClipLoss()
    if tune == "lora":
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["attn", "c_fc", "c_proj"]))
    image_BCHW, texts = batch(count)
    text_BL = open_clip.get_tokenizer(ARCH)(texts)
    return Step(model.train(), lambda: loss(*model(image_BCHW, text_BL)), bf16=best and hardware_bf16(), fused=best)


def sentence_transformers(file: Path, count: int, tune: str) -> Step:
    from peft import LoraConfig, inject_adapter_in_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(modules=[Transformer(str(file.parent / "transformers"))], device="cpu")
    if tune == "lora":
        maps = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=maps), model[0].auto_model)
    model.train()
    loss = MultipleNegativesRankingLoss(model)
    image_BCHW, texts = batch(count)
    pictures = [to_picture(image_CHW) for image_CHW in image_BCHW]
    sides = [model.preprocess(pictures), model.preprocess(texts)]
    return Step(model, lambda: loss([dict(side) for side in sides], None), bf16=False, fused=False)


def to_picture(image_CHW: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((image_CHW.clamp(-1, 1).add(1).mul(127)).to(torch.uint8).permute(1, 2, 0).numpy())


def measured(way: str, tune: str, file: Path, count: int, steps: int) -> dict[str, Any]:
    """Seconds a step, the largest memory of this process in MiB, and the numbers that are trained."""
    made = {"ours": ours, "sentence_transformers": sentence_transformers}.get(way)
    step = made(file, count, tune) if made else theirs(file, count, tune, best=way == "open_clip_best")
    losses, seconds = [step()], []
    for _ in range(steps):
        begun = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - begun)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "way": way,
        "tune": tune,
        "seconds": statistics.median(seconds),
        "memory_mib": memory,
        "trained": step.trained,
        "losses": [losses[0], losses[-1]],
    }


def figures(rows: list[dict[str, Any]], batch: int) -> list[Figure]:
    named = {
        "open_clip": "open_clip, as started",
        "open_clip_best": "open_clip, best",
        "sentence_transformers": "sentence-transformers",
    }
    found = []
    for tune, what in (("full", ""), ("lora", f", adapters of rank {RANK}")):
        by = {row["way"]: row for row in rows if row["tune"] == tune}
        for unit, key in (("s a step", "seconds"), ("MiB at most", "memory_mib")):
            peers = tuple(Peer(name, by[way][key], way == "open_clip_best") for way, name in named.items() if way in by)
            found.append(Figure(f"ViT-B/32, batch {batch}{what}", unit, by["ours"][key], peers))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--tune", choices=TUNES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args.way, args.tune, args.file, args.batch, args.steps)))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="fine-tuning-") as folder:
        file = write_weights(Path(folder))
        for tune, way in product(TUNES, WAYS):
            command = [sys.executable, __file__, "--way", way, "--tune", tune, "--file", str(file)]
            command += ["--batch", str(args.batch), "--steps", str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{way}, {tune}: {done.stderr[-2000:]}")
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{tune:5} {way:24} {row['seconds']:7.3f} s a step, {row['memory_mib']:7,.0f} MiB at most, {row['trained']:12,} trained, "
                f"loss {row['losses'][0]:.3f} -> {row['losses'][1]:.3f}",
                flush=True,
            )
    keep("fine_tuning_step", {"batch": args.batch, "steps": args.steps, "rows": rows}, figures(rows, args.batch))


if __name__ == "__main__":
    main()
