"""A contrastive recipe of a few thousand parameters, with what makes training hard to repeat: dropout, per-draw noise, a learned
temperature, a buffer that remembers, hooks. The file is also the program that tests
start, kill and distribute."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diptych.core.contracts import Draws, Hook, Optimiser, Recipe, Rule
from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.randomness import keyed_rng
from diptych.core.rows import Embeddings, Rows
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.objectives.pairs.info_nce import info_nce
from diptych.train.hooks import WeightAverage

WIDTH = 12


def toy_pool(count: int = 50) -> Pool:
    return Pool.from_samples([Sample(uid=f"s{n:03d}", texts=(Text(f"thing {n}"),)) for n in range(count)], name="toy")


@dataclass
class ToyBatch:
    image_BD: Rows[Tensor]
    text_BD: Rows[Tensor]
    uid_B: Rows[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.uid_B)

    def to(self, device: torch.device | str) -> ToyBatch:
        return ToyBatch(self.image_BD.to(device), self.text_BD.to(device), self.uid_B)

    def rows(self, start: int, stop: int) -> ToyBatch:
        return ToyBatch(self.image_BD[start:stop], self.text_BD[start:stop], self.uid_B[start:stop])


@dataclass
class ToyPairs:
    image_ND: Embeddings[Tensor]
    text_ND: Embeddings[Tensor]
    scale: Tensor


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(dropout))

    def forward(self, x_BD: Tensor) -> Tensor:
        return x_BD + self.body(x_BD)


class ToyModel(nn.Module):
    seen: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.image = nn.Sequential(Block(dropout), Block(dropout))
        self.text = nn.Sequential(Block(dropout), Block(dropout))
        self.log_scale = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, image_BD: Tensor, text_BD: Tensor) -> ToyPairs:
        unit = nn.functional.normalize
        return ToyPairs(unit(self.image(image_BD), dim=-1), unit(self.text(text_BD), dim=-1), self.log_scale.exp())


class Witness(Hook):
    """Writes the uids of every step into a file, one line a step, and counts steps in its state. Before step `stop_at` it sends
    its own process a SIGTERM, once."""

    name = "witness"

    def __init__(self, path: str, stop_at: int) -> None:
        self.path, self.count, self.stop_at = path, 0, stop_at

    def before_step(self, run: Any, batch: Any) -> None:
        self.count += 1
        rank = os.environ.get("RANK", "0")
        cut = [isinstance(parameter, DTensor) for parameter in run.model.parameters()]
        with Path(f"{self.path}.{rank}").open("a") as file:
            line = {"step": run.step, "count": self.count, "uids": list(batch.uid_B), "sharded": all(cut), "any": any(cut)}
            file.write(json.dumps(line) + "\n")
        marker = Path(f"{self.path}.stopped")
        if run.step == self.stop_at > 0 and rank == "0" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class ToyDeployed:
    kind: ClassVar[str] = "toy"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        with atomic_folder(folder) as work:
            write_json(work / "config.json", {"kind": self.kind, "format": 1})
            save_file({k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}, work / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Toy(Recipe):
    slug: ClassVar[str] = "toy"
    needs: ClassVar[tuple[str, ...]] = ()

    batch_size: int = 8
    steps: int = 24
    warmup: float = 4.0
    lr: float = 1e-2
    dropout: float = 0.0
    double: bool = True
    kind: str = "adamw"
    frozen: str = ""
    average: bool = False
    witness: str = ""
    pause: float = 0.0
    stop_at: int = 0
    idle: bool = False
    tiled: bool = False

    def model(self) -> nn.Module:
        model = ToyModel(self.dropout)
        if self.idle:
            model.idle = nn.Linear(2, 2)
        return model.double() if self.double else model

    def batch(self, draws: Draws) -> ToyBatch:
        kind = torch.float64 if self.double else torch.float32
        rows = [keyed_rng(draw.sample.uid).normal(size=(2, WIDTH)) for draw in draws]
        noise = [draw.rng.normal(scale=0.1, size=WIDTH) for draw in draws]
        image_BD = torch.stack([torch.as_tensor(row[0] + extra, dtype=kind) for row, extra in zip(rows, noise, strict=True)])
        text_BD = torch.stack([torch.as_tensor(row[1], dtype=kind) for row in rows])
        return ToyBatch(image_BD, text_BD, tuple(draw.sample.uid for draw in draws))

    def features(self, model: nn.Module, batch: ToyBatch) -> Any:
        return model(batch.image_BD, batch.text_BD)

    def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
        if self.tiled:
            loss, _ = info_nce(features.image_ND, features.text_ND, scale=features.scale, tile=3)
            return {"rows": loss / 2, "columns": loss / 2}
        image_ND, text_ND = gathered(features.image_ND), gathered(features.text_ND)
        logits_NN = features.scale * image_ND @ text_ND.T
        truth_N = torch.arange(len(image_ND), device=image_ND.device)
        cross = nn.functional.cross_entropy
        return {"rows": cross(logits_NN, truth_N) / 2, "columns": cross(logits_NN.T, truth_N) / 2}

    def metrics(self, features: Any, batch: Any) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def after_update(self, model: nn.Module, features: Any, batch: Any, progress: float) -> None:
        assert not features.image_ND.requires_grad
        model.seen.add_(len(batch) * progress)  # type: ignore[operator, union-attr]
        if self.pause:
            time.sleep(self.pause)

    def optimiser(self) -> Optimiser:
        rules = (Rule(self.frozen, lr_scale=0.0),) if self.frozen else ()
        return Optimiser(kind=self.kind, lr=self.lr, warmup=self.warmup, clip_norm=self.clip_norm, rules=rules)  # type: ignore[arg-type]

    def hooks(self) -> Sequence[Hook]:
        found: list[Hook] = [WeightAverage(0.9)] if self.average else []
        return [*found, Witness(self.witness, self.stop_at)] if self.witness else found

    def deploy(self, model: nn.Module) -> ToyDeployed:
        return ToyDeployed(model)

    @classmethod
    def tiny(cls) -> Self:
        return cls()

    @classmethod
    def paper(cls) -> Self:
        return cls()


class Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum of what all processes say about it."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        parts = [torch.empty_like(x_BD) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> Tensor:  # type: ignore[override]
        grad_ND = grad_ND.contiguous()
        dist.all_reduce(grad_ND)
        return grad_ND.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(x_BD: Tensor) -> Tensor:
    return Gather.apply(x_BD) if dist.is_initialized() and dist.get_world_size() > 1 else x_BD


def run(plan: dict[str, Any]) -> None:
    """Train by {"out", "recipe", "options", "resume", "samples"}, or go on when "resume" is asked for and the folder is there."""
    from diptych.train.fit import fit, resume
    from diptych.train.options import TrainOptions

    out, data = Path(plan["out"]), toy_pool(plan.get("samples", 50))
    if plan.get("resume") and (out / "config.yaml").exists():
        resume(out, data, kind=Toy)
    else:
        fit(Toy(**plan.get("recipe", {})), data, out, TrainOptions(progress=False, **plan.get("options", {})))


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    run(json.loads(sys.argv[1]))
