"""Experiment trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow. Each is an extra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from diptych.core.errors import MissingExtra


class ExperimentTracker(Protocol):
    """Logs metrics by name and step. A resumed run continues in the same tracker."""

    def write(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/` of the run folder; those after step `start` are taken back."""

    def __init__(self, folder: Path, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "track", needed_for="writing TensorBoard files") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project "diptych", unless WANDB_PROJECT is set; account, mode (WANDB_MODE=offline) and server are wandb's."""

    def __init__(self, folder: Path, start: int) -> None:
        del start  # steps that are written again take the place of those before
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("wandb", "wandb", needed_for="--wandb") from error
        from diptych.core.run_folder import RunFolder

        run = RunFolder(folder)
        run_id = run.state.get("wandb", "")
        self._run: Any = wandb.init(
            project=None if "WANDB_PROJECT" in os.environ else "diptych",
            name=folder.name,
            dir=str(folder),
            config=run.config,
            id=run_id or None,
            resume="allow" if run_id else None,
        )
        run.write_state(wandb=str(self._run.id))

    def write(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment "diptych" at MLFLOW_TRACKING_URI, else of `mlruns/` in the working directory; fields are its parameters."""

    def __init__(self, folder: Path, start: int) -> None:
        del start
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("mlflow-skinny", "mlflow", needed_for="--mlflow") from error
        from diptych.core.run_folder import RunFolder

        run = RunFolder(folder)
        run_id = run.state.get("mlflow", "")
        self._mlflow: Any = mlflow
        if not run_id:
            mlflow.set_experiment("diptych")
        begun = mlflow.start_run(run_id=run_id or None, run_name=None if run_id else folder.name)
        if not run_id:
            fields = {f"{part}.{name}": value for part, values in run.config.items() for name, value in values.items()}
            mlflow.log_params({name: str(value)[:500] for name, value in fields.items()})
            run.write_state(mlflow=str(begun.info.run_id))

    def write(self, values: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
