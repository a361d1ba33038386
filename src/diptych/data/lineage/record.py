"""`lineage.json` of a folder: every step from the first source to it, with version, commit, configuration hash and time.

It lies apart from the data, whose bytes do not depend on when and by which version they were made. A folder carries the steps of its source
along, so that they are known where the source is gone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diptych.core.config import config_hash
from diptych.core.disk.files import write_json
from diptych.core.disk.json_text import read_object
from diptych.core.environment import commit, environment
from diptych.core.errors import DataError

FILE = "lineage.json"


@dataclass(frozen=True, slots=True)
class LineageStep:
    """A step that made data of data.

    step         "data links", "data download", "data build", or the name of a curation step; "data add", "data split" and
                 "data takedown" change a folder that is there
    source       address of what it was made of, or what came in, "" for neither; `fingerprint`: of that
    config       its options as plain values; `config_hash`: of them
    version      of Diptych; `commit`: of its sources, where they are a checkout
    time         of its end, in UTC
    counts       such as rows before and after
    """

    step: str
    source: str
    fingerprint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    version: str = ""
    commit: str = ""
    time: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        made = f"diptych {self.version}" + (f" ({self.commit})" if self.commit else "")
        return f"{self.time}  {self.step}{f' of {self.source}' * bool(self.source)}{f': {counts}' * bool(counts)}  [{made}]"


def made_now(step: str, source: str | Path, *, fingerprint: str = "", config: Any = None, **counts: int) -> LineageStep:
    """A step that ended now, by this version."""
    plain = dict(config or {})
    version = str(environment()["packages"].get("diptych", ""))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return LineageStep(step, str(source), fingerprint, plain, config_hash(plain), version, commit(), now, counts)


def write_lineage(folder: Path, steps: list[LineageStep], source: str | Path = "") -> None:
    """Write down how a folder was made: the steps of its source, where that has some, then these. A folder that was made before by the
    same steps keeps its record."""
    before = lineage_of(Path(source).expanduser()) if source and "://" not in str(source) else []
    old = lineage_of(folder)
    if old and [_same(step) for step in old] == [_same(step) for step in (*before, *steps)]:
        return
    write_json(folder / FILE, {"steps": [asdict(step) for step in (*before, *steps)]})


def add_lineage(folder: Path, step: LineageStep, source: str | Path = "") -> None:
    """Write down a step that changed a folder: after its own steps, and those of what it took in that are not among them.

    The same step a second time in a row is written once.
    """
    steps = lineage_of(folder)
    written = [_same(one) for one in steps]
    if written and written[-1] == _same(step):
        return
    taken_in = lineage_of(Path(source).expanduser()) if source and "://" not in str(source) else []
    steps += [one for one in taken_in if _same(one) not in written]
    write_json(folder / FILE, {"steps": [asdict(one) for one in (*steps, step)]})


def lineage_of(folder: Path) -> list[LineageStep]:
    """Steps that led to a folder, the first one first; none where nothing is recorded. Raises DataError for a damaged record."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        steps = read_object(path)["steps"]
        return [LineageStep(**step) for step in steps]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"is damaged: {type(error).__name__}", file=path, expected="what made the folder wrote") from error


def _same(step: LineageStep) -> tuple[Any, ...]:
    return step.step, step.source, step.fingerprint, step.config_hash, step.counts
