"""Experiment trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow. Each is an extra."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from diptych.core.errors import MissingExtra
from diptych.core.image import BytesImage
from diptych.core.run_folder import RunFolder
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Pixels

Ended = Literal["finished", "stopped", "failed"]
SHOWN = 32
"""Pictures of failures that TensorBoard gets."""
FAILURES = re.compile(r'<section id="failures">(.*?)</section>', re.DOTALL)
PICTURE = re.compile(r'<img src="data:image/webp;base64,([^"]+)"')


class ExperimentTracker(Protocol):
    """Logs metrics by name and step. A resumed run continues in the same tracker."""

    def write(self, values: dict[str, float], step: int) -> None: ...

    def attach(self, page: Path) -> None:
        """Keep an HTML page, such as the report with pictures of failures."""

    def close(self, ended: Ended) -> None: ...


class Boards:
    """The trackers of a run. One that fails costs itself: it is left out from then on, with a line for `note`, and the run goes on."""

    def __init__(self, names: Sequence[str], folder: Path, start: int, note: Callable[[str], None]) -> None:
        """Raises MissingExtra for a tracker whose package is not installed."""
        self._note = note
        self._open: dict[str, ExperimentTracker] = {}
        for name in names:
            try:
                self._open[name] = TRACKERS[name](folder, start)
            except MissingExtra:
                raise
            except Exception as error:  # any error of a tracking service
                self._fail(name, error)

    def write(self, values: dict[str, float], step: int) -> None:
        self._each(lambda board: board.write(values, step))

    def attach(self, page: Path) -> None:
        self._each(lambda board: board.attach(page))

    def close(self, ended: Ended) -> None:
        self._each(lambda board: board.close(ended))
        self._open.clear()

    def _each(self, call: Callable[[ExperimentTracker], None]) -> None:
        for name, board in list(self._open.items()):
            try:
                call(board)
            except Exception as error:  # as above
                del self._open[name]
                self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        reason = next(iter(str(error).splitlines()), "")[:200]
        self._note(f"{name} failed and is left out: {type(error).__name__}: {reason}")


def publish(run: RunFolder, values: Mapping[str, float], page: Path | None, say: Callable[[str], None]) -> None:
    """Send held-out results and the report of a finished run to the trackers that it was logged to."""
    options = run.config["run"]
    boards = Boards([name for name in TRACKERS if options.get(name)], run.path, int(run.state.get("step", 0)), say)
    boards.write(dict(values), int(run.state.get("step", 0)))
    if page is not None and page.is_file():
        boards.attach(page)
    boards.close("finished")


class TensorBoard:
    """Event files in `tensorboard/` of the run folder; those after step `start` are taken back."""

    def __init__(self, folder: Path, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "track", needed_for="writing TensorBoard files") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        if not start:
            self._writer.add_text("configuration", f"```\n{(folder / 'config.yaml').read_text(encoding='utf-8')}\n```")

    def write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def attach(self, page: Path) -> None:
        """TensorBoard shows no pages: it gets the report's path, and the first pictures of its failures."""
        self._writer.add_text("report", str(page))
        for number, picture_HWC in enumerate(failure_pictures(page)[:SHOWN]):
            self._writer.add_image(f"failures/{number}", picture_HWC, dataformats="HWC")

    def close(self, ended: Ended) -> None:
        del ended  # event files know no status
        self._writer.close()


class WeightsAndBiases:
    """A run of the project "diptych", unless WANDB_PROJECT is set; account, mode (WANDB_MODE=offline) and server are wandb's."""

    def __init__(self, folder: Path, start: int) -> None:
        del start  # steps that are written again take the place of those before
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("wandb", "wandb", needed_for="--wandb") from error
        run = RunFolder(folder)
        run_id = run.state.get("wandb", "")
        self._run: Any = wandb.init(
            project=None if "WANDB_PROJECT" in os.environ else "diptych",
            name=folder.name,
            dir=str(folder),
            config=run.config,
            tags=list(run.config["run"].get("board_tags", ())) or None,
            group=run.config["run"].get("board_group") or None,
            id=run_id or None,
            resume="allow" if run_id else None,
        )
        run.write_state(wandb=str(self._run.id))

    def write(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def attach(self, page: Path) -> None:
        import wandb

        self._run.log({"report": wandb.Html(page.read_text(encoding="utf-8"))})

    def close(self, ended: Ended) -> None:
        self._run.finish(exit_code=int(ended == "failed"))


class MLflow:
    """A run of the experiment "diptych" (MLFLOW_EXPERIMENT_NAME) at MLFLOW_TRACKING_URI, else in MLflow's own default, `mlflow.db` in the
    working directory; fields are its parameters. "@" in names of metrics, which MLflow refuses, is " at "."""

    STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self, folder: Path, start: int) -> None:
        del start
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("mlflow-skinny", "mlflow", needed_for="--mlflow") from error
        run = RunFolder(folder)
        run_id = run.state.get("mlflow", "")
        self._mlflow: Any = mlflow
        if not run_id and "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            mlflow.set_experiment("diptych")
        begun = mlflow.start_run(run_id=run_id or None, run_name=None if run_id else folder.name)
        if not run_id:
            fields = {f"{part}.{name}": value for part, values in run.config.items() for name, value in values.items()}
            mlflow.log_params({name: str(value)[:500] for name, value in fields.items()})
            options = run.config["run"]
            tags = {**{f"tag.{name}": "true" for name in options.get("board_tags", ())}, "group": options.get("board_group", "")}
            mlflow.set_tags({name: value for name, value in tags.items() if value})
            run.write_state(mlflow=str(begun.info.run_id))

    def write(self, values: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics({_mlflow_name(name): value for name, value in values.items()}, step=step)

    def attach(self, page: Path) -> None:
        self._mlflow.log_artifact(str(page))

    def close(self, ended: Ended) -> None:
        self._mlflow.end_run(self.STATUS[ended])


def failure_pictures(page: Path) -> list[Pixels]:
    """Pictures in the section "Failures" of a report, in its order."""
    section = FAILURES.search(page.read_text(encoding="utf-8"))
    encoded = PICTURE.findall(section[1]) if section else []
    return [decode(BytesImage(base64.b64decode(picture), "failure")) for picture in encoded]


def _mlflow_name(name: str) -> str:
    """Name of a metric as MLflow takes it: letters, digits, _ - . / : and spaces."""
    return re.sub(r"[^\w\-./: ]", "_", name.replace("@", " at "))


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
