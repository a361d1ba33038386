"""Configuration files: ``--config FILE.yaml`` and ``--like RUN`` give options their defaults; options given by hand overrule them.

A file has sections of plain fields: "train" (data, out and the other options of the command), "recipe" and "run" as `config.yaml` of a
run holds them; "compare", "eval" and "curate" for those commands. tyro reads the command line over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import tyro

from diptych.core.config import checked_fields, read_sections
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Sections of a configuration file; none where there is no file."""

    path: Path = Path()
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Any]:
        """The fields of a section; empty where the file has none of that name."""
        return dict(self.sections.get(name, {}))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the path of the file before errors of a block."""
        try:
            yield
        except (ConfigError, UnknownName) as error:
            if not self.sections or str(error).startswith(str(self.path)):
                raise
            raise ConfigError(f"{self.path}: {error}") from error

    def default(self, kind: type[Any], section: str, *, values: Mapping[str, Any] | None = None) -> Any:
        """An instance of a dataclass of options with the values of a section, as tyro takes it; options that must be given and are not stay
        required. None where the file has nothing for it.

        values  those of the section, where they are not to be taken as the file has them
        """
        plain = self.section(section) if values is None else dict(values)
        if not plain:
            return None
        with self.named():
            given = checked_fields(kind, plain, section)
        required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        return kind(**{**dict.fromkeys(required, tyro.MISSING), **given})


def config_of(argv: Sequence[str], *sections: str) -> ConfigFile:
    """The configuration file that a command line names by ``--config FILE`` or ``--like RUN``.

    sections  those that the command reads; a file with others is refused. Raises ConfigError.
    """
    path, like = Path(_value(argv, "--config")), _value(argv, "--like")
    if like and path != Path():
        raise ConfigError("--config and --like both name a configuration (expected one of them)")
    if like:
        folder = RunFolder.open(Path(like))
        path = folder.path / "config.yaml"
    if path == Path():
        return ConfigFile()
    try:
        read = read_sections(path)
    except ValueError as error:
        raise ConfigError(
            str(error).replace("expected the file of a run", f"expected sections such as {sections[0]}:")
        ) from error
    for name in read:
        if name not in sections:
            raise ConfigError(f"{path}: {UnknownName('section', name, sections)}")
    if "train" in sections and (path.parent / "run.json").is_file():
        read = {**read, "train": _of_run(RunFolder.open(path.parent), read.get("train", {}))}
    return ConfigFile(path, read)


def leading(argv: Sequence[str], file: ConfigFile, section: str, names: Sequence[str]) -> list[str]:
    """The command line with the arguments without a name that it leaves out, where the file has them."""
    words = list(argv)
    count = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    given = file.section(section)
    for at, name in enumerate(names[count:], count):
        if name not in given:
            break
        words.insert(at, str(given[name]))
    return words


def _of_run(folder: RunFolder, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Section "train" of a run's own file; that of older runs from run.json."""
    state = folder.state
    made = dict(begun) or {"recipe": state.get("recipe") or state["slug"], "data": state.get("source", "")}
    if folder.subset.is_file():
        made.setdefault("subset", str(folder.subset))
    if not made.get("data"):
        made.pop("data", None)
    return made


def _value(argv: Sequence[str], option: str) -> str:
    for at, word in enumerate(argv):
        if word == option and at + 1 < len(argv):
            return argv[at + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""
