"""Training options that are not part of the recipe; section "run" of `config.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diptych.core.contracts.tuning import Tuning
from diptych.core.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp64"]
Deterministic = Literal["auto", "yes", "no"]
Uint8Images = Literal["auto", "yes", "no"]
Shard = Literal["none", "ddp", "fsdp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Options of `fit`.

    steps        optimiser steps; 0 takes the recipe's `steps`, or else its `epochs`
    workers      loader processes of each process; the samples and their random numbers do not depend on it. -1: none on the processor,
                 whose cores the model uses; on a GPU one less than its share of the cores, 16 at most
    save_every   steps between checkpoints; 0 saves only at the end and when stopped
    keep         checkpoints that stay on disk, at least two, so that a damaged one costs `save_every` steps and not the run
    micro_batch  samples that go through the model at once; 0 is the whole batch of a process. Smaller ones save memory and
                 change nothing else: gradients stay those of the whole batch (`gradient_cache.py`)
    precision    "auto" is bf16 where the processor multiplies it in hardware, else fp32; weights are kept in fp32 either way;
                 "fp64" trains weights and batches in double precision, to compare runs to the last digits
    device       "auto" takes CUDA when there is one; or cpu, cuda, cuda:N, mps (`models.io.device`)
    eval_every   steps between evaluations; 0 evaluates once, at the end
    keep_best    at the end model/ holds the best moment by the split "val" and not the last one; it is kept in best/ meanwhile
    early_stop   keep the best and end when `patience` evaluations in a row brought nothing better; evaluates 20 times a run
                 where `eval_every` says nothing
    patience     evaluations without a better one after which `early_stop` ends the run
    log_every    steps between lines of `metrics.jsonl`
    part_norms   norms of gradients (before clipping) and of updates by part of the model in each of these lines
    shard        how processes started by `torchrun` share the work: "ddp" copies the model, "fsdp" cuts it into shards
    shard_size   of "fsdp": processes among which a model is cut, such as those of one machine; each such group has a copy, between which
                 gradients are averaged (HSDP). 0: all
    shard_bf16   of "fsdp" with bf16: parameters are put together in bf16, which halves what is sent; gradients are averaged in float32
    bad_limit    share of samples that may fail before the run stops
    tensorboard  event files in tensorboard/ of the run (extra track)
    wandb        a run of Weights & Biases, by your own account and settings (extra wandb)
    mlflow       a run of MLflow, at MLFLOW_TRACKING_URI or in mlflow.db of the working directory (extra mlflow)
    board_tags   tags of the run there
    board_group  name of a group of runs there, such as a comparison
    silence      seconds without a sign of life from another process after which the run is stopped; 10 once it was asked to stop
    tune         adapters, frozen parts, layer-wise rates and the like (`core.contracts.Tuning`); fields at their default are the recipe's
    compile      the blocks of towers are compiled by torch.compile when they first run, which takes a while and needs a C++ compiler
    checkpoint_layers  activations of every so many-th block of a tower are computed again in the backward pass and not kept: 1 for all,
                 2 for every second one, 0 for none. Slower, for models or batches that do not fit; gradients stay the same
    deterministic  kernels that give the same bits each time, where PyTorch has them: "auto" on the processor and not on a GPU, where they
                 cost speed; "yes", "no"
    uint8_images  pictures are sent to the device as bytes, a quarter of what floats take, and normalised there: "auto" on any device but
                 the processor; "yes", "no". Recipes that change normalised pictures in the loader send floats either way
    profile      steps that are traced after the first three, into trace.json of the run (trace-1.json and so on of further processes),
                 for chrome://tracing or Perfetto
    init         a .safetensors file, or the address of a model, whose tensors of equal name and shape are the start
    download     allows fetching the weights of `init`
    """

    seed: int = 0
    steps: int = 0
    workers: int = -1
    save_every: int = 200
    keep: int = 2
    micro_batch: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    eval_every: int = 0
    keep_best: bool = False
    early_stop: bool = False
    patience: int = 5
    log_every: int = 10
    part_norms: bool = False
    shard: Shard = "none"
    shard_size: int = 0
    shard_bf16: bool = False
    bad_limit: float = 0.01
    silence: float = 60.0
    tensorboard: bool = False
    wandb: bool = False
    mlflow: bool = False
    board_tags: tuple[str, ...] = ()
    board_group: str = ""
    progress: bool = True
    compile: bool = False
    checkpoint_layers: int = 0
    deterministic: Deterministic = "auto"
    uint8_images: Uint8Images = "auto"
    profile: int = 0
    init: str = ""
    download: bool = False
    tune: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        if self.workers < -1:
            raise ConfigError(f"workers is {self.workers} (expected 0 or more, or -1 to choose them by the cores)")
        for name in ("steps", "save_every", "micro_batch", "eval_every", "checkpoint_layers", "profile", "shard_size"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected 0 or more)")
        if self.keep < 2:
            raise ConfigError(f"keep is {self.keep} (expected at least 2: a damaged checkpoint needs one before it)")
        if self.patience < 1:
            raise ConfigError(f"patience is {self.patience} (expected at least 1 evaluation)")
        if self.log_every < 1:
            raise ConfigError(f"log_every is {self.log_every} (expected at least 1)")
        if self.silence < 1.0:
            raise ConfigError(f"silence is {self.silence} (expected at least a second)")
        if not 0.0 <= self.bad_limit <= 1.0:
            raise ConfigError(f"bad_limit is {self.bad_limit} (expected a share between 0 and 1)")
