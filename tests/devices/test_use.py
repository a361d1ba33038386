"""Models on a CUDA device that is only pretended: evaluation, index, detection, captions; memory that runs out; a norm that is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers/pretended_use.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the pretended device is built by g++, which is not there"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("use")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read | {"stderr": done.stderr}


@pytest.mark.parametrize("part", ["fingerprint", "found", "found_late", "captions", "answer"])
def test_the_device_answers_as_the_processor(part: str, answers: dict[str, Any]) -> None:
    assert answers["cuda"][part] == answers["cpu"][part]


def test_numbers_of_the_device_are_those_of_the_processor(answers: dict[str, Any]) -> None:
    on_cpu, on_cuda = answers["cpu"], answers["cuda"]
    assert on_cuda["retrieval"] == pytest.approx(on_cpu["retrieval"], abs=1e-6)
    assert on_cuda["late_retrieval"] == pytest.approx(on_cpu["late_retrieval"], abs=1e-6)
    assert (on_cpu["bf16"], on_cuda["bf16"]) == (False, True), "where the hardware multiplies it"
    for model, tolerance in ((0, 2e-5), (1, 5e-3)):
        for row, other in zip(on_cuda["embedded"][model], on_cpu["embedded"][model], strict=True):
            assert row == pytest.approx(other, abs=tolerance)
    assert [row[:3] for row in on_cuda["graph"]] == [row[:3] for row in on_cpu["graph"]]
    assert [row[3] for row in on_cuda["graph"]] == pytest.approx([row[3] for row in on_cpu["graph"]], abs=1e-3)


def test_no_operator_mixes_devices(answers: dict[str, Any]) -> None:
    assert answers["faults"] == []
    assert answers["auto"] == "cuda:0"


def test_a_step_without_memory_is_taken_in_smaller_chunks(answers: dict[str, Any]) -> None:
    roomy, full = answers["memory"]["losses"]
    assert full == pytest.approx(roomy, rel=1e-5), "gradients stay those of the whole batch"
    line = "the memory of cuda:0 does not hold 8 samples at once"
    assert answers["memory"]["notes"] == [f"{line}: micro_batch is 4 from here on"]
    assert f"{line}: 4 from here on" in answers["stderr"]
    assert answers["memory"]["uncacheable"].endswith("needs it whole: use a smaller one, such as batch_size=4")


def test_a_norm_that_is_none_ends_the_run_before_it_is_saved(answers: dict[str, Any]) -> None:
    norm = answers["norm"]
    assert norm["problem"].startswith("the gradient norm is nan: lower lr")
    assert norm["checkpoints"] == ["step-00000001", "step-00000002"], "the third step had the wrong gradient"
    assert norm["same"], "resumed where it was sound, the run ends as one that never went wrong"
    assert norm["steps"] == [1, 2, 3, 4, 5, 6], "no line is lost or twice, though each is written a step late"
