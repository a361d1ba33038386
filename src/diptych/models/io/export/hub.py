"""An exported folder goes to a hub of models, by huggingface_hub and the account that is logged in on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from diptych.core.errors import ConfigError, RunError

NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def check_push(name: str) -> None:
    """Raises ConfigError, before anything is created, if the name is not valid or no account is logged in. Contacts no server."""
    from huggingface_hub import get_token

    if not NAME.fullmatch(name):
        raise ConfigError(f"--push {name} (expected OWNER/NAME of letters, digits, '-', '_' and '.')")
    if not get_token():
        raise ConfigError("--push needs an account with a hub (expected `hf auth login` before, or HF_TOKEN in the environment)")


def push_folder(folder: Path, name: str, *, public: bool = False) -> str:
    """Every file of the folder in one commit to the model repository `name`, which is made if there is none. Returns its address.

    public  whether a repository that is made can be seen by all; one that is there keeps its own setting
    Raises RunError if the hub refuses or does not answer; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Of the library that carries its requests: another one by release.
    unreachable = cast(type[Exception], HfHubHTTPError.__bases__[0])
    api = HfApi()
    try:
        address = api.create_repo(name, private=not public, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="model", commit_message="A model by diptych")
    except HFValidationError as error:
        raise ConfigError(f"--push {name}: {str(error).splitlines()[0]}") from error
    except HfHubHTTPError as error:
        reason = " ".join(str(error.server_message or error).split())
        raise RunError(
            f"{name}: the hub refuses: {reason}. {folder} is complete; `hf upload {name} {folder}` tries again"
        ) from error
    except (unreachable, OSError) as error:  # no line to the hub, or told to stay offline
        reason = " ".join(str(error).split())
        raise RunError(
            f"{name}: the hub could not be reached ({reason}). {folder} is complete; `hf upload {name} {folder}` tries again"
        ) from error
    return str(address)
