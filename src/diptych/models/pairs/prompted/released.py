"""Load prompts released by CoOp's and CoCoOp's authors: "coop:FILE#MODEL" or "coop:FILE#MODEL#CLASSES.txt".

FILE is a prompt_learner's model.pth.tar-50; only the context (and CoCoOp's meta-net) is read from it, not the token vectors of
its classes. MODEL is the address of the CLIP that the prompts were learned for. The file has no class names: CLASSES
has one per line, in the order of training; without it `classify` has no default classes, and a class-specific context
cannot be loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.detection.checkpoint import first_names, load_strictly
from diptych.models.io.tensor_files import read_content
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.prompted.embedder import ConditionedEmbedder, PromptedEmbedder, PromptSettings, prompted_encoder
from diptych.models.towers.text_embeddings import token_table

SOURCE = "a prompt_learner of CoOp or CoCoOp, with 'state_dict'"
FORM = "coop:FILE#MODEL, or coop:FILE#MODEL#CLASSES.txt"
IGNORED = ("token_prefix", "token_suffix")
"""Token embeddings of the names of training, which the release also drops when it loads a file."""
NAMES = {
    "ctx": "bank.context", "meta_net.linear1.weight": "conditioner.inside.weight", "meta_net.linear1.bias": "conditioner.inside.bias",
    "meta_net.linear2.weight": "conditioner.out.weight", "meta_net.linear2.bias": "conditioner.out.bias",
}  # fmt: skip


def open_released(spec: str) -> PromptedEmbedder:
    """Load the dual encoder with those prompts. Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or not a prompt_learner, ConfigError for a model that it was not learned for.
    """
    from diptych.models.io.open_address import open_address

    path, _, rest = spec.partition(":")[2].partition("#")
    address, names = _split(rest)
    if not path or not address:
        raise ConfigError(f"{spec!r} does not name prompts and a model (expected {FORM})")
    file = Path(path).expanduser()
    tensors = _tensors(file)
    base = open_address(address)
    if not isinstance(base, PairEmbedder):
        raise ConfigError(f"{address} is not a dual encoder (expected the CLIP that {file.name} was learned for)")
    try:
        return with_released(base, tensors, _class_names(names), spec)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def with_released(base: PairEmbedder, tensors: Mapping[str, Tensor], classes: tuple[str, ...], name: str) -> PromptedEmbedder:
    """Return a dual encoder with the context of a state dict. Raises ConfigError for another width or number of classes."""
    read = {NAMES[key]: tensor.float() for key, tensor in tensors.items() if key in NAMES}
    if strange := [key for key in tensors if key not in NAMES and key not in IGNORED]:
        raise ConfigError(f"not of CoOp: {first_names(strange)} (expected {SOURCE})")
    if "bank.context" not in read:
        raise ConfigError(f"contains no ctx (expected {SOURCE})")
    context = read["bank.context"]
    width, per_class = token_table(base.model.text_tower).embedding_dim, context.ndim == 3
    counted = len(context) if per_class else len(tensors["token_prefix"]) if "token_prefix" in tensors else len(classes)
    if context.shape[-1] != width:
        raise ConfigError(
            f"the context is {context.shape[-1]} wide and '{base.name}' reads {width} (expected the CLIP of its run)"
        )
    if (per_class or classes) and len(classes) != counted:
        raise ConfigError(
            f"it was learned for {counted} classes and {len(classes)} are named (expected {FORM}, a name in each line)"
        )
    settings = PromptSettings(
        classes=classes, count=context.shape[-2], per_class=per_class, conditioned=any("conditioner." in key for key in read)
    )
    with torch.random.fork_rng(devices=[]):
        model = prompted_encoder(base.model, settings)
    held = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("encoder.")}
    load_strictly(model, held | read, title="prompt_learner")
    kind = ConditionedEmbedder if settings.conditioned else PromptedEmbedder
    return kind(model.eval(), base.preprocess, base.tokenizer, base.text_length, name, prompts=settings)


def _split(rest: str) -> tuple[str, str]:
    """Return the address of the model, which may contain "#", and the file of classes after the last "#"."""
    address, _, last = rest.rpartition("#")
    return (address, last) if address and last.endswith(".txt") else (rest, "")


def _tensors(file: Path) -> dict[str, Tensor]:
    content = read_content(file)
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise DataError("contains no state_dict", file=file, expected=SOURCE)
    return {str(name).removeprefix("module.").removeprefix("prompt_learner."): tensor for name, tensor in tensors.items()}


def _class_names(file: str) -> tuple[str, ...]:
    if not file:
        return ()
    path = Path(file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="names of classes, one in a line") from error
    return tuple(name for line in lines if (name := line.strip()))
