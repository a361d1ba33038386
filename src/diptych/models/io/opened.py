"""A model by its address: a run folder, a model folder, or published weights. The one place that opens models from disk."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, get_args

from diptych.core.contracts import Deployable, capabilities
from diptych.core.errors import ConfigError, RunError
from diptych.core.files import restore
from diptych.core.paths import fault_of, is_folder
from diptych.core.run_folder import RunFolder
from diptych.models.io.deployed import open_model, whole

FOREIGN = ("hf:", "open_clip:", "timm:")


def open_address(address: str | Path, *, download: bool = False) -> Any:
    """The model of a run folder, a model folder, "hf:FOLDER_OR_NAME", "open_clip:ARCH/FILE_OR_TAG" or "timm:NAME".

    download  allows fetching published weights that are not on this machine
    Raises RunError for a folder without a model, with the state of its run.
    """
    if str(address).startswith(FOREIGN):
        from diptych.models.io.foreign import load_foreign

        named = Path(str(address).partition(":")[2]).expanduser()
        with whole(named) if is_folder(named) else nullcontext():
            return load_foreign(str(address), download=download)
    folder = Path(address)
    if fault := fault_of(str(folder)):
        raise RunError(f"the address of the model is {fault}")
    restore(folder)  # where a replacement was killed between its two steps
    if (folder / "run.json").is_file():
        if not (folder / "model" / "config.json").is_file():
            raise RunError(f"{folder} holds no model yet: its run is {RunFolder.open(folder).state['status']}")
        folder = folder / "model"
    return open_model(folder)


def require(model: Any, capability: type | UnionType, *, who: str) -> None:
    """Refuse a model that cannot do what is asked, or none of several things that would do; says what it can do."""
    if not isinstance(model, capability):
        known = [kind for kind in vars(capabilities).values() if isinstance(kind, type) and getattr(kind, "_is_protocol", False)]
        offers = [kind.__name__ for kind in known if kind not in (Protocol, Deployable) and isinstance(model, kind)]
        name = getattr(model, "name", type(model).__name__)
        wanted = " or ".join(kind.__name__ for kind in get_args(capability) or (capability,))
        raise ConfigError(f"{who} needs a model that is an {wanted}; '{name}' offers {', '.join(offers) or 'none'}")
