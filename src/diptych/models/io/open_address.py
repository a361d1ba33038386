"""A model by its address: a run folder, a model folder, or published weights. The one place that opens models from disk."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, get_args

from diptych.core.contracts import Deployable, capabilities
from diptych.core.disk.files import restore
from diptych.core.disk.paths import is_file, is_folder, path_problem
from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.models.io.saved_model import one_line_errors, open_model

FOREIGN = (
    "hf:",
    "open_clip:",
    "timm:",
    "rlipv2:",
    "penet:",
    "fiber:",
    "glip:",
    "denseclip:",
    "ulip:",
    "tfjs:",
    "llava:",
    "lora:",
)


def is_address(name: str) -> bool:
    """True if an encoder's name is an address (folder, hf:NAME, ...) and not the name of a packaged one.

    >>> [is_address(name) for name in ("minilm-l6", "hf:bert", "runs/clip")]
    [False, True, True]
    """
    return name.startswith(FOREIGN) or "/" in name or is_folder(Path(name))


def weights_mtime(address: str) -> tuple[int, ...]:
    """When the weights of a run, model or hf: folder were written, for who keeps what it opened; () for other addresses."""
    folder = Path(address.removeprefix("hf:")).expanduser()
    files = (Path(folder, *folders, "model.safetensors") for folders in ((), ("model",)))
    return tuple(path.stat().st_mtime_ns for path in files if is_file(path))


def open_address(address: str | Path, *, download: bool = False) -> Any:
    """The model of a run folder, a model folder, "hf:FOLDER_OR_NAME", "open_clip:ARCH/FILE_OR_TAG", "timm:NAME",
    "rlipv2:CHECKPOINT#ROBERTA-FOLDER", "penet:CHECKPOINT#SETTING", "fiber:CHECKPOINT#ROBERTA-FOLDER", "glip:CHECKPOINT#BERT-FOLDER",
    "denseclip:CHECKPOINT", "ulip:CHECKPOINT" (or CHECKPOINT#MODEL), "llava:FOLDER" (or FOLDER#CLIP-FOLDER),
    "tfjs:CENTERNET.json" of a package, "openai:http://HOST:PORT/v1#MODEL" of a server of chat completions, or
    "lora:ADAPTER#BASE" with any other as the base, into whose weights the adapter is merged.

    download  allows fetching published weights that are not on this machine
    Raises RunError for a folder without a model, with the state of its run.
    """
    if str(address).startswith("rlipv2:"):
        from diptych.models.rlipv2.opened import open_released

        return open_released(str(address))
    if str(address).startswith("penet:"):
        from diptych.models.penet.opened import open_released as open_penet

        return open_penet(str(address))
    if str(address).startswith("fiber:"):
        from diptych.models.fiber.opened import open_released as open_fiber

        return open_fiber(str(address))
    if str(address).startswith("glip:"):
        from diptych.models.glip.opened import open_released as open_glip

        return open_glip(str(address))
    if str(address).startswith("denseclip:"):
        from diptych.models.denseclip.released import open_released as open_denseclip

        return open_denseclip(str(address))
    if str(address).startswith("ulip:"):
        from diptych.models.points.released import open_released as open_ulip

        return open_ulip(str(address))
    if str(address).startswith("llava:"):
        from diptych.models.bridges.llava_released import open_released as open_llava

        return open_llava(str(address))
    if str(address).startswith("tfjs:"):
        from diptych.models.io.foreign.centernet import CenterNet

        return CenterNet.open(str(address))
    if str(address).startswith("openai:"):
        from diptych.models.endpoint.chat_model import ChatModel

        return ChatModel.open(str(address))
    if str(address).startswith("lora:"):
        return _adapted(str(address), download)
    if str(address).startswith(FOREIGN):
        from diptych.models.io.foreign.load import load_foreign
        from diptych.models.vilt.opened import open_vilt

        named = Path(str(address).partition(":")[2]).expanduser()
        with one_line_errors(named) if is_folder(named) else nullcontext():
            return open_vilt(str(address), download=download) or load_foreign(str(address), download=download)
    folder = Path(address)
    if fault := path_problem(str(folder)):
        raise RunError(f"the address of the model is {fault}")
    restore(folder)  # where a replacement was killed between its two steps
    if (folder / "run.json").is_file():
        if not (folder / "model" / "config.json").is_file():
            raise RunError(f"{folder} holds no model yet: its run is {RunFolder.open(folder).state['status']}")
        folder = folder / "model"
    return open_model(folder)


def _adapted(address: str, download: bool) -> Any:
    from diptych.models.io.adapter_folder import merge_adapter
    from diptych.models.pairs.embedder import PairEmbedder

    adapter, _, base = address.removeprefix("lora:").partition("#")
    if not adapter or not base:
        raise ConfigError(f"{address!r} names no adapter and base (expected lora:ADAPTER#BASE)")
    model = open_address(base, download=download)
    if not isinstance(model, PairEmbedder):
        raise ConfigError(f"{address}: the base is no dual encoder (expected one, such as a run of clip or an hf: folder)")
    merge_adapter(model.model, Path(adapter))
    model.name = f"{Path(adapter).name} on {model.name}"
    return model


def require(model: Any, capability: type | UnionType, *, who: str) -> None:
    """Raises ConfigError, with the model's capabilities, for a model without the required capability."""
    if not isinstance(model, capability):
        protocols = [
            kind for kind in vars(capabilities).values() if isinstance(kind, type) and getattr(kind, "_is_protocol", False)
        ]
        offers = [kind.__name__ for kind in protocols if kind not in (Protocol, Deployable) and isinstance(model, kind)]
        name = getattr(model, "name", type(model).__name__)
        required = " or ".join(kind.__name__ for kind in get_args(capability) or (capability,))
        article = "an" if required[0] in "AEIOU" else "a"
        raise ConfigError(f"{who} needs a model that is {article} {required}; '{name}' offers {', '.join(offers) or 'none'}")
