"""Find the folder of a transformers model: a local folder, or one in the local cache of the hub."""

from __future__ import annotations

from pathlib import Path

from diptych.core.disk.paths import near_sibling
from diptych.core.errors import ConfigError, DataError


def hub_folder(spec: str, name: str, *, download: bool, fetching: str = "pass --download to fetch it") -> Path:
    """Return a local folder, or the cached folder of a hub name, downloaded with `download`.
    `fetching` is the remedy in errors.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise DataError("the folder has no config.json", file=folder, expected="a folder that transformers saved")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        files = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, local_files_only=not download, allow_patterns=files))
    except HFValidationError as error:
        near = near_sibling(folder)
        raise ConfigError(f"{spec}: no such folder (expected a folder of transformers or OWNER/NAME){near}") from error
    except LocalEntryNotFoundError as error:
        way = "the hub could not be reached" if download else fetching
        near = near_sibling(folder)
        raise ConfigError(f"{spec} is neither a folder nor in the local cache; {way}, or pass hf:FOLDER{near}") from error
    except HfHubHTTPError as error:
        raise ConfigError(f"{spec} could not be fetched: {str(error).splitlines()[0]}") from error
