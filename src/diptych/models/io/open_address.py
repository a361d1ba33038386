"""A model by its address: a run folder, a model folder, or published weights. The one place that opens models from disk."""

from __future__ import annotations

import re
from contextlib import nullcontext
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_type_hints

from diptych.core.contracts import Deployable, Recipe, capabilities
from diptych.core.disk.files import restore
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file, is_folder, path_problem
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.core.run_folder import RunFolder
from diptych.models.io.saved_model import one_line_errors, open_model

if TYPE_CHECKING:
    from diptych.models.io.device import InferencePrecision

OPENERS = {
    "albef": "diptych.models.io.releases.albef:open_released",
    "alip": "diptych.models.io.releases.clip_files:open_released",
    "biovil": "diptych.models.io.releases.biovil:open_released",
    "coop": "diptych.models.pairs.prompted.released:open_released",
    "ctp": "diptych.models.io.releases.ctp:open_released",
    "denseclip": "diptych.models.denseclip.opened:open_released",
    "diffusers": "diptych.models.diffusion.diffusers_folder:open_diffusers",
    "dreamlip": "diptych.models.io.releases.clip_files:open_released",
    "fiber": "diptych.models.fiber.opened:open_released",
    "filip": "diptych.models.io.releases.filip:open_released",
    "georsclip": "diptych.models.io.releases.clip_files:open_released",
    "glip": "diptych.models.glip.opened:open_released",
    "keep": "diptych.models.io.releases.keep:open_released",
    "laclip": "diptych.models.io.releases.clip_files:open_released",
    "llava": "diptych.models.bridges.llava_released:open_released",
    "medslip": "diptych.models.io.releases.medslip:open_released",
    "metaclip": "diptych.models.io.releases.clip_files:open_released",
    "mgca": "diptych.models.io.releases.mgca:open_released",
    "negclip": "diptych.models.io.releases.clip_files:open_released",
    "openai": "diptych.models.endpoint.chat_model:ChatModel.open",
    "penet": "diptych.models.penet.opened:open_released",
    "plip_person": "diptych.models.people.released:open_released",
    "rad_dino": "diptych.models.io.releases.rad_dino:open_released",
    "reversion": "diptych.models.diffusion.textual_inversion:open_released",
    "rlipv2": "diptych.models.rlipv2.opened:open_released",
    "svlc": "diptych.models.io.releases.clip_files:open_released",
    "tfjs": "diptych.models.io.foreign.centernet:CenterNet.open",
    "tips": "diptych.models.io.releases.tips:open_released",
    "unlocked": "diptych.models.io.packaged_pair:open_unlocked",
    "ulip": "diptych.models.points.released:open_released",
    "uni3d": "diptych.models.points.uni3d_released:open_uni3d",
    "xclip": "diptych.models.video.released:open_released",
}
"""Prefix of an address -> what opens it, imported only then: a function of the whole address."""
FOREIGN = ("hf:", "open_clip:", "timm:", "lora:", *(f"{name}:" for name in OPENERS if name != "openai"))
"""Prefixes of addresses of published weights."""
PACKAGED = "packaged"
"""Address of the two encoders that come in packages, as one dual encoder to train."""


def is_published(address: str) -> bool:
    """True for an address of weights that others published, False for a folder or file of one's own.

    >>> [is_published(address) for address in ("hf:bert", "packaged", "runs/packaged")]
    [True, True, False]
    """
    return address == PACKAGED or address.startswith(FOREIGN)


def is_foreign(words: str) -> bool:
    """True for an address of published weights, and not a recipe with options of its own, whose slug may be a prefix too.

    >>> [is_foreign(words) for words in ("alip:alip.pt", "alip:lr=1e-4", "alip", "hf:bert")]
    [True, False, False, True]
    """
    return words.startswith(FOREIGN) and not re.match(r"[a-z]\w*:[a-z]\w*=", words)


def is_address(name: str) -> bool:
    """True if an encoder's name is an address (folder, hf:NAME, ...) and not the name of a packaged one.

    >>> [is_address(name) for name in ("minilm-l6", "hf:bert", "runs/clip")]
    [False, True, True]
    """
    return name.startswith(FOREIGN) or "/" in name or is_folder(Path(name))


def weights_mtime(address: str) -> tuple[int, ...]:
    """Modification times of the weights of a run, model or hf: folder, for callers that cache opened models; () for other addresses."""
    folder = Path(address.removeprefix("hf:")).expanduser()
    files = (Path(folder, *folders, "model.safetensors") for folders in ((), ("model",)))
    return tuple(path.stat().st_mtime_ns for path in files if is_file(path))


def open_address(
    address: str | Path, *, download: bool = False, device: str = "auto", precision: InferencePrecision = "auto"
) -> Any:
    """The model of a run folder, a model folder, "packaged" (`models.io.packaged_pair`), "hf:FOLDER_OR_NAME",
    "open_clip:ARCH/FILE_OR_TAG", "timm:NAME", a release of the table of `diptych weights` ("xclip:FILE", "glip:CHECKPOINT#BERT", ...),
    "tfjs:CENTERNET.json" of a package, "openai:http://HOST:PORT/v1#MODEL" of a server of chat completions, or "lora:ADAPTER#BASE"
    with any other as the base, into whose weights the adapter is merged.

    download  allows fetching published weights that are not on this machine
    device    where its tensors are put: "auto" takes CUDA where it is (`models.io.device`)
    precision  of embedders on it: "auto" is bf16 where a CUDA device multiplies it in hardware, else float32
    Raises RunError for a folder without a model, with the state of its run; ConfigError or DataError for a file of another release, with
    the one that it looks like.
    """
    from diptych.models.io.device import choose_device, place  # imports torch, which the help of commands waits for

    target = choose_device(device)  # before anything is read
    try:
        return place(_opened(str(address), download), target, precision)
    except (ConfigError, DataError) as error:
        if hint := _looks_like(str(address)):
            raise ConfigError(f"{error}; {hint}") from error
        raise


def _opened(address: str, download: bool) -> Any:
    if address == PACKAGED:
        return import_module("diptych.models.io.packaged_pair").open_packaged_pair()
    prefix = address.partition(":")[0]
    if ":" in address and prefix in OPENERS:
        module, _, name = OPENERS[prefix].partition(":")
        return attrgetter(name)(import_module(module))(address)
    if address.startswith("lora:"):
        return _adapted(address, download)
    if address.startswith(FOREIGN):
        from diptych.models.io.foreign.load import load_foreign
        from diptych.models.video.released import open_hub
        from diptych.models.vilt.opened import open_vilt

        named = Path(address.partition(":")[2].removesuffix("#naflex")).expanduser()
        if is_file(named / "model_index.json"):
            module, _, name = OPENERS["diffusers"].partition(":")
            with one_line_errors(named):
                return getattr(import_module(module), name)(address)
        with one_line_errors(named) if is_folder(named) else nullcontext():
            own = (
                None
                if address.endswith("#naflex")
                else open_vilt(address, download=download) or open_hub(address, download=download)
            )
            return own or load_foreign(address, download=download)
    folder = Path(address)
    if fault := path_problem(str(folder)):
        raise RunError(f"the address of the model is {fault}")
    if is_file(folder):
        raise ConfigError(f"{folder} is a file without a prefix that tells what opens it (`diptych weights` lists them)")
    restore(folder)  # where a replacement was killed between its two steps
    if (folder / "run.json").is_file():
        if not (folder / "model" / "config.json").is_file():
            raise RunError(f"{folder} contains no model yet: its run is {RunFolder.open(folder).state['status']}")
        folder = folder / "model"
    if library := _library_of(folder):
        return open_address(f"{library}:{folder}", download=download)
    return open_model(folder)


def _library_of(folder: Path) -> str:
    """Prefix of the address of a folder that another library saved, as our exports are: "hf", "open_clip", or ""."""
    if is_file(folder / "open_clip_config.json"):
        return "open_clip"
    file = folder / "config.json"
    if not is_file(file):
        return ""
    try:
        settings = read_object(file)
    except ValueError:
        return ""  # `open_model` names the fault
    return "hf" if "model_type" in settings and "kind" not in settings else ""


def _looks_like(address: str) -> str:
    """Releases, other than that of the address, that its file or folder looks like; "" if there is none."""
    from diptych.models.io.releases.families import all_releases
    from diptych.models.io.releases.release import described, recognised

    prefix, colon, rest = address.partition(":")
    if not colon:
        prefix, rest = "", address
    elif f"{prefix}:" not in FOREIGN or prefix == "lora":
        return ""
    paths = [rest.partition("#")[0], rest.partition("/")[2].partition("#")[0] if prefix in ("open_clip", "timm") else ""]
    path = next((path for name in paths if name and (is_file(path := Path(name).expanduser()) or is_folder(path))), None)
    if path is None:
        return ""
    alike = recognised(path, all_releases())
    return "" if any(release.address.startswith(f"{prefix}:") for release in alike) else described(alike)


def _adapted(address: str, download: bool) -> Any:
    from diptych.models.io.adapter_folder import merge_adapter
    from diptych.models.pairs.embedder import PairEmbedder

    adapter, _, base = address.removeprefix("lora:").partition("#")
    if not adapter or not base:
        raise ConfigError(f"{address!r} does not name an adapter and base (expected lora:ADAPTER#BASE)")
    model = open_address(base, download=download)
    if not isinstance(model, PairEmbedder):
        raise ConfigError(f"{address}: the base is not a dual encoder (expected one, such as a run of clip or an hf: folder)")
    merge_adapter(model.model, Path(adapter))
    model.name = f"{Path(adapter).name} on {model.name}"
    return model


def require(model: Any, capability: type | UnionType, *, who: str) -> None:
    """Raises ConfigError, with the model's capabilities, for a model without the required capability."""
    if not isinstance(model, capability):
        offers = [kind.__name__ for kind in _capabilities() if isinstance(model, kind)]
        raise ConfigError(_lacks(capability, who, getattr(model, "name", type(model).__name__), offers))


def require_deployed(recipe: Recipe, capability: type | UnionType, *, who: str) -> None:
    """Raises ConfigError before training for a recipe whose deployed model would lack the required capability.

    Read off the return annotation of its `deploy`: a class that has the methods, or has a subclass that does, may have the capability. A
    recipe without an annotation, or with that of a protocol, is not refused here.
    """
    try:
        deployed = get_type_hints(type(recipe).deploy).get("return")
    except NameError:  # an annotation that is known to the type checker alone
        return
    if not isinstance(deployed, type) or getattr(deployed, "_is_protocol", False):
        return
    classes = [deployed, *_subclasses(deployed)]
    if not any(_may_have(one, kind) for kind in get_args(capability) or (capability,) for one in classes):
        offers = [kind.__name__ for kind in _capabilities() if _may_have(deployed, kind)]
        raise ConfigError(_lacks(capability, who, recipe.slug, offers))


def _may_have(deployed: type, capability: type) -> bool:
    """True if the class has the methods of the capability; attributes are set when a model is made."""
    if not getattr(capability, "_is_protocol", False):
        return issubclass(deployed, capability) or issubclass(capability, deployed)
    methods = {name for base in capability.__mro__ for name, value in vars(base).items() if name[0] != "_" and callable(value)}
    return methods <= set(dir(deployed))


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    return [deeper for child in direct for deeper in (child, *_subclasses(child))]


def _capabilities() -> list[Any]:
    """The protocols of `core.contracts.capabilities`."""
    kinds = [kind for kind in vars(capabilities).values() if isinstance(kind, type) and getattr(kind, "_is_protocol", False)]
    return [kind for kind in kinds if kind not in (Protocol, Deployable)]


def _lacks(capability: type | UnionType, who: str, name: str, offers: list[str]) -> str:
    required = " or ".join(kind.__name__ for kind in get_args(capability) or (capability,))
    article = "an" if required[0] in "AEIOU" else "a"
    return f"{who} needs a model that is {article} {required}; '{name}' offers {', '.join(offers) or 'none'}"
