"""Every benchmark at its defaults, one after the other: what `make bench` runs. A failure stops nothing and is told at the end.

    python benchmarks/run_all.py [--only NAME...] [--plain] [--no-page]

Each ends in about three minutes on two quiet cores; one that takes longer than LIMIT is stopped and counts as failed. `--plain` keeps
the libraries to AVX2, so that a better processor fills the column of plain machines too: by variables, and where a compiler and the
system allow it by what CPUID answers (`as_avx2.c`), without which ONNX Runtime does not obey. Then the page "How fast" is written anew.
Exit status 1 when anything failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from diptych.core.machine import machine_class

HERE = Path(__file__).resolve().parent
LIMIT = 600.0
"""Seconds after which a benchmark is stopped: three minutes, and three times that for machines that are busy or slow."""

BENCHMARKS = (
    "startup",
    "contrastive_loss",
    "late_interaction",
    "training_step",
    "fine_tuning_step",
    "step_settings",
    "embedding",
    "decoding",
    "reading",
    "scene_tiles",
    "rendering",
    "point_sampling",
    "deformable_attention",
    "detector_step",
    "phrase_grounding",
    "relation_scoring",
    "curation",
    "rewriting",
    "search",
    "serving",
)
STUDIES = {
    "cutout_relations": "hours: every arm is a training",
    "distilled_search": "trains a teacher and a student",
    "growth": "hours at its full curve: python benchmarks/growth.py",
    "curation_peers": "beside datasketch and img2dataset, which are not among our packages: python benchmarks/curation_peers.py",
    "killed_curation": "an hour: six steps over a million rows, killed three times on each engine",
    "operator_costs": "thirty runs of curation steps: python benchmarks/operator_costs.py",
    "medical_vocabulary": "a length of texts, no speed: python benchmarks/medical_vocabulary.py",
    "by_language": "trains, no speed: python benchmarks/by_language.py",
    "embed_workers": "minutes, and equality of files rather than a speed: python benchmarks/embed_workers.py",
    "dicom": "needs the extra medical: python benchmarks/dicom.py",
    "head_switches": "fine-tunes 48 times, no speed: python benchmarks/head_switches.py",
    "staged_filter": "trains a scorer, no speed: python benchmarks/staged_filter.py",
    "judging": "compares answers and waits through an outage",
    "on_cuda": "needs a CUDA device: python benchmarks/on_cuda.py",
    "openclipart": "fetches data, then trains at every step",
    "question_programs": "a rate and a memory that no other library is compared in: python benchmarks/question_programs.py",
    "segment_search": "compares searches by loss, no speed in it",
    "packaged_encoders": "trains, no speed: python benchmarks/packaged_encoders.py",
    "planted_responders": "draws a figure, no speed in it",
    "reward_hacking": "trains five models, no speed: python benchmarks/reward_hacking.py",
    "rewritten_clipart": "fetches data, then asks a claim: half an hour",
    "tagging_sweep": "hours: taggers and detectors of three seeds",
    "trained_search": "trains four models before it searches",
    "refined_relations": "recall with and without messages between pairs: python benchmarks/refined_relations.py --seeds 0 1 2",
    "opening": "memory and processor seconds of ten million rows that it builds first: python benchmarks/opening.py",
    "visual_tokens": "a time and a memory that no other library is compared in: python benchmarks/visual_tokens.py",
}
"""What is here and is not run by `make bench`, and why."""

PLAIN = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"}
CPUINFO = Path("/proc/cpuinfo")


def as_avx2(folder: Path) -> dict[str, str]:
    """The variable that loads `as_avx2.c`, which is compiled into the folder; {} where nothing compiles it or CPUID cannot fault."""
    compiler = shutil.which("cc")
    if compiler is None or not CPUINFO.is_file() or "cpuid_fault" not in CPUINFO.read_text(encoding="ascii"):
        return {}
    library = folder / "as_avx2.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "as_avx2.c")], check=True)
    variables = {"LD_PRELOAD": str(library)}
    tried = subprocess.run([sys.executable, "-c", ""], env={**os.environ, **variables}, capture_output=True, check=False)
    return {} if tried.returncode or tried.stderr else variables  # where a sandbox forbids it, it says so


def run_all(
    names: Sequence[str], folder: Path, variables: Mapping[str, str], limit: float = LIMIT
) -> dict[str, tuple[float, str]]:
    """name -> (seconds, "" or what went wrong). Each is a process of its own with these variables beside ours."""
    found = {}
    for name in names:
        print(f"\n== {name}", flush=True)
        start, wrong = time.perf_counter(), ""
        try:
            done = subprocess.run(
                [sys.executable, str(folder / f"{name}.py")], env={**os.environ, **variables}, timeout=limit, check=False
            )
            wrong = f"exit status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            wrong = f"stopped after {limit:.0f} s"
        found[name] = (time.perf_counter() - start, wrong)
    return found


def summary(found: Mapping[str, tuple[float, str]]) -> str:
    lines = [f"\n{'benchmark':<24}{'seconds':>9}  result"]
    lines += [f"{name:<24}{seconds:>9.1f}  {wrong or 'ok'}" for name, (seconds, wrong) in found.items()]
    failed = [name for name, (_, wrong) in found.items() if wrong]
    return "\n".join(
        [*lines, f"{len(found) - len(failed)} of {len(found)} ended well{': not ' if failed else ''}{', '.join(failed)}"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--plain", action="store_true", help="keep the libraries to AVX2")
    parser.add_argument("--no-page", action="store_true", help="leave docs/how-fast.md as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variables = {**PLAIN, **as_avx2(Path(folder))} if options.plain else {}
        print(
            f"machine class: {'plain, by ' + ' '.join(f'{k}={v}' for k, v in variables.items()) if variables else machine_class()}"
        )
        found = run_all(options.only, HERE, variables)
    if not options.no_page:
        subprocess.run([sys.executable, str(HERE.parent / "scripts" / "how_fast.py")], check=True)
    print(summary(found))
    raise SystemExit(any(wrong for _, wrong in found.values()))


if __name__ == "__main__":
    main()
