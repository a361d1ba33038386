"""The launch files of examples/cluster: they parse, and their words are those of the command line."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from diptych.cli.commands import train
from diptych.core.errors import ConfigError

FOLDER = Path(__file__).parents[3] / "examples/cluster"


def slurm() -> list[str]:
    text = (FOLDER / "train.sbatch").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("srun "))
    return shlex.split(line.partition("||")[0].replace("$DATA", "pairs").replace("$RUN", "run").replace("$", ""))


def kubernetes() -> list[str]:
    (job,) = [
        part for part in yaml.safe_load_all((FOLDER / "train-job.yaml").read_text(encoding="utf-8")) if part["kind"] == "Job"
    ]
    assert job["spec"]["completionMode"] == "Indexed"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words: list[str] = container["command"]
    return words


@pytest.mark.parametrize("words", [slurm, kubernetes])
def test_the_words_are_understood(words: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the data, which are not there."""
    command = words()  # type: ignore[operator]
    given = command[command.index("--no-python") + 1 :]
    assert given[:3] == ["diptych", "train", "clip"]
    flat = " ".join(given).replace("=", " ")
    assert "--resume auto" in flat
    from diptych import api

    def understood(*_: object, **options: object) -> None:
        raise ConfigError(f"{type(options['options']).__name__} read")

    monkeypatch.setattr(api, "train_or_resume", understood, raising=False)
    with pytest.raises(ConfigError, match="TrainOptions read"):
        train.main(given[2:])


def test_nodes_and_pods_agree() -> None:
    job = (FOLDER / "train-job.yaml").read_text(encoding="utf-8")
    assert re.findall(r"(?:completions|parallelism): (\d+)", job) == re.findall(r"--nnodes=(\d+)", job) * 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_is_sound() -> None:
    done = subprocess.run(["bash", "-n", FOLDER / "train.sbatch"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
