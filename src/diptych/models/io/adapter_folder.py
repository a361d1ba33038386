"""Low-rank adapters as folders of `peft`: adapter_config.json and adapter_model.safetensors, for our modules or for transformers' CLIP.

    peft.PeftModel.from_pretrained(model, FOLDER)          # the module of the start, or the CLIPModel that it was exported to
    dp.load("lora:FOLDER#BASE")                            # merged into any base that it fits

A note beside them (diptych.json) has the fingerprint of their base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.errors import ConfigError, MissingExtra, RunError
from diptych.models.io.folder import fingerprint
from diptych.models.io.foreign.clip_layout import renamed_for_transformers
from diptych.models.towers.adapters import MARK, merge_
from diptych.models.towers.kernel_adapter import KernelAdapter

CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "diptych.json"
_PART = re.compile(r"(.+)\.lora_(\w+)\.default(?:\.(weight))?")


def save_adapter(model: nn.Module, base: nn.Module, folder: Path, *, rank: int, alpha: float, address: str = "") -> None:
    """Writes the adapters of a module.

    base     the same module before training, without adapters
    address  address of the base, for `peft` and for readers
    Parameters that were trained in full are stored as `modules_to_save`, and so are convolutions whose adapter is loralib's, which `peft`
    cannot hold, with that adapter in their kernel; those that are no module's weight (a temperature) are named in the
    note, since `peft` has no place for them.
    """
    tensors, modules = adapter_tensors(model)
    before = base.state_dict()
    owners: set[str] = set()
    left = []
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if MARK in name or not parameter.requires_grad or name not in before:
            continue
        if owner and leaf in ("weight", "bias"):
            owners.add(owner)
        else:
            left.append(name)
    whole = {
        f"base_model.model.{owner}.{name}": tensor.detach().cpu().contiguous()
        for owner in sorted(owners)
        for name, tensor in model.get_submodule(owner).state_dict().items()
    }
    for name, module in model.named_modules():
        if isinstance(module, KernelAdapter):
            owners.add(name)
            held = {"weight": module.kernel(), **({} if module.base_layer.bias is None else {"bias": module.base_layer.bias})}
            whole |= {f"base_model.model.{name}.{leaf}": tensor.detach().cpu().contiguous() for leaf, tensor in held.items()}
    kept = sorted(owners)
    _write(folder, tensors | whole, modules, kept, rank, alpha, address, {"base": fingerprint(base, {}), "not_in_adapter": left})


def adapter_tensors(model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by `peft`'s names in a file, and the modules that they belong to."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if MARK in name and (match := _PART.fullmatch(name)):
            tail = f".{match[3]}" if match[3] else ""
            tensors[f"base_model.model.{match[1]}.lora_{match[2]}{tail}"] = parameter.detach().cpu().contiguous()
    return tensors, sorted({name.removeprefix("base_model.model.").partition(MARK)[0] for name in tensors})


def for_transformers(folder: Path, out: Path) -> None:
    """The adapter of a dual encoder of ours for the `CLIPModel` that its base is exported to.

    Our queries, keys and values are one map, theirs three: each has the same A and its third of B.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        module, mark, part = name.removeprefix("base_model.model.").partition(MARK)
        if not mark:
            owner, _, leaf = module.rpartition(".")
            tensors[f"base_model.model.{_theirs(owner)[0]}.{leaf}"] = tensor
            continue
        modules = _theirs(module)
        cut = tensor.chunk(3) if len(modules) == 3 and part.startswith("B") else [tensor] * len(modules)
        tensors |= {f"base_model.model.{target}{MARK}{part}": value.clone() for target, value in zip(modules, cut, strict=True)}
    names = sorted({name.removeprefix("base_model.model.").partition(MARK)[0] for name in tensors if MARK in name})
    whole = sorted({_theirs(name)[0] for name in config.get("modules_to_save") or ()})
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    _write(out, tensors, names, whole, config["r"], config["lora_alpha"], "", note)


def _theirs(module: str) -> list[str]:
    if split := re.fullmatch(r"(.+)\.attention\.qkv", module):
        block = renamed_for_transformers(f"{split[1]}.attention.out.weight").removesuffix(".self_attn.out_proj.weight")
        return [f"{block}.self_attn.{part}_proj" for part in "qkv"]
    return [renamed_for_transformers(f"{module}.weight").removesuffix(".weight")]


def _write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    modules: list[str],
    whole: list[str],
    rank: int,
    alpha: float,
    address: str,
    note: Mapping[str, Any],
) -> None:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("peft", "adapters", needed_for="adapters") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="|".join(map(re.escape, modules)),
        bias="none",
        modules_to_save=whole or None,
        base_model_name_or_path=address or None,
        inference_mode=True,
    )
    with atomic_folder(Path(folder)) as work:
        config.save_pretrained(str(work))
        save_file(dict(tensors), work / WEIGHTS)
        write_json(work / NOTE, dict(note))


def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Adds an adapter to a module's weights, in place. Refuses one of another base."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise RunError(
                f"{folder} is not an adapter: it has no {name} (expected a folder that `diptych train --lora` or peft wrote)"
            )
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("peft", "adapters", needed_for="adapters") from error
    note = json.loads((folder / NOTE).read_text(encoding="utf-8")) if (folder / NOTE).is_file() else {}
    if note.get("base") and note["base"] != fingerprint(model, {}):
        raise ConfigError(f"{folder} is the adapter of another base: its weights are not those of this model")
    module_names = {name.removesuffix(".weight") for name, _ in model.named_parameters()}
    for name, tensor in load_file(folder / WEIGHTS).items():
        module, mark, part = name.removeprefix("base_model.model.").partition(MARK)
        if mark and module not in module_names:
            raise ConfigError(f"{folder} is the adapter of another base: this model has no module '{module}'")
        weight = model.get_parameter(f"{module}.weight") if mark else None
        if weight is not None and weight.ndim == 2 and part.startswith("A.") and tensor.shape[1] != weight.shape[1]:
            raise ConfigError(
                f"{folder} is the adapter of another base: '{module}' has {tensor.shape[1]} inputs there, {weight.shape[1]} here"
            )
    adapted: Any = PeftModel.from_pretrained(model, str(folder))
    inner = adapted.get_base_model()
    merge_(inner)
    _unwrap(inner)


def _unwrap(model: nn.Module) -> None:
    """Modules that were saved in full take the place of those that `peft` keeps beside them."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save["default"])
