"""Rewriting captions: texts per second of each backend, and of a run that is killed once and resumed.

    python benchmarks/rewriting.py [--only grammar|ngram|endpoint|model] [--captions 20000] [--model folder:PATH] [--asked 200]

Captions name shapes of the rendered world small_pairs, each with a number so that no two are equal; one rewrite each. `grammar` is run
twice: once in one go, and once killed (kill -9) when about half of its parts are done and started again; both must end in the same files.
`endpoint` is a server on this machine that answers after 20 ms, so its rate is that of the engine and not of a model. `model` is a local
language model (`--model folder:PATH` or `gguf:FILE`), killed once as well; without one it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import Figure, keep, last
from PIL import Image

from diptych.core.environment import environment
from diptych.worlds.small_pairs import NOUNS, PLACES

FILES = ("text_variants.parquet", "step_00_rewrite.parquet")


def captions(folder: Path, count: int) -> Path:
    """A CSV of captions of one picture."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    rng = np.random.default_rng(0)
    noun, place = rng.integers(len(NOUNS), size=(count, 2)), rng.integers(len(PLACES), size=(count, 2))
    lines = [
        f"u{n:07d},a.png,a small {NOUNS[a]} {PLACES[p]} and a {NOUNS[b]} {PLACES[q]} in picture {n}"
        for n, ((a, b), (p, q)) in enumerate(zip(noun.tolist(), place.tolist(), strict=True))
    ]
    path = folder / f"captions-{count}.csv"
    path.write_text("uid,image,text\n" + "\n".join(lines) + "\n")
    return path


def command(source: Path, out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "diptych.cli",
        "curate",
        "rewrite",
        str(source),
        str(out),
        "--json",
        "--styles",
        "plain",
        *options,
    ]


def run(source: Path, out: Path, cache: Path, *options: str, kill_at: int = 0) -> dict[str, Any]:
    """Runs to the end; with `kill_at`, once killed as soon as so many parts lie there, and started again."""
    env = {**os.environ, "DIPTYCH_CACHE": str(cache)}
    start, busy, killed = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    if kill_at:
        first = subprocess.Popen(command(source, out, *options), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while first.poll() is None and done(out, cache) < kill_at:
            time.sleep(0.05)
        killed = done(out, cache)
        first.send_signal(signal.SIGKILL)
        first.wait()
    said = subprocess.run(command(source, out, *options), env=env, capture_output=True, text=True, check=True)
    facts = json.loads((out / "writing.json").read_text())
    step, used = json.loads(said.stdout), resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - busy.ru_utime - busy.ru_stime
    return {
        **facts,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "step_seconds": round(step["seconds"], 1),
        "processor_seconds": round(processor, 1),
        "killed_at": killed,
    }


def done(out: Path, cache: Path) -> int:
    """Parts that lie there, else answers that are kept."""
    parts = len(list(out.glob("parts/*/written-*.parquet")))
    if parts or not (cache / "answers.sqlite").exists():
        return parts
    import sqlite3

    try:
        with sqlite3.connect(f"file:{cache / 'answers.sqlite'}?mode=ro", uri=True) as known:
            return int(known.execute("select count(*) from answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def equal(one: Path, other: Path) -> bool:
    return all((one / "tables" / name).read_bytes() == (other / "tables" / name).read_bytes() for name in FILES)


class Answers(BaseHTTPRequestHandler):
    """Answers any prompt after 20 ms with the caption's words in another order."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.02)
        words = body["prompt"].rsplit("\n", 1)[-1].removesuffix("=>").split()
        text = f" there is {' '.join(words)}"
        usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": len(text) // 4}
        data = json.dumps({"choices": [{"text": text}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silent."""


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    wanted = args.only.split(",") if args.only else ["grammar", "ngram", "endpoint", *(["model"] if args.model else [])]
    if "grammar" in wanted:
        source = captions(folder, args.captions)
        whole = run(source, folder / "whole", folder / "cache")
        again = run(source, folder / "again", folder / "cache", kill_at=max(1, args.captions // 4096 // 2))
        found["grammar"] = {
            **whole,
            "killed_after_parts": again["killed_at"],
            "same_files": equal(folder / "whole", folder / "again"),
        }
    if "ngram" in wanted:
        found["ngram"] = run(captions(folder, args.captions // 10), folder / "ngram", folder / "cache", "--writer", "ngram")
    if "endpoint" in wanted:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        writer = f"http://127.0.0.1:{server.server_address[1]}/v1#words"
        found["endpoint"] = run(captions(folder, 2000), folder / "endpoint", folder / "cache", "--writer", writer)
        server.shutdown()
    if "model" in wanted:
        source, options = captions(folder, args.asked), ("--writer", args.model, "--max-tokens", "40", "--check", "none")
        whole = run(source, folder / "model", folder / "cache-model", *options)
        again = run(source, folder / "model-again", folder / "cache-again", *options, kill_at=args.asked // 2)
        same = equal(folder / "model", folder / "model-again")
        found["model"] = {
            **whole,
            "model": args.model.rpartition("/")[2],
            "killed_after_answers": again["killed_at"],
            "same_files": same,
        }
    return found


def figures(results: dict[str, dict[str, Any]]) -> list[Figure]:
    return [
        Figure(f"writer {name}, {row['asked']:,} captions", "texts/s", row["asked"] / max(row["step_seconds"], 1e-9), less=False)
        for name, row in results.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--model", default="")
    parser.add_argument("--asked", type=int, default=200)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rewriting-"))
    try:
        found = measured(args, folder)
    finally:
        shutil.rmtree(folder)
    print(
        f"{'writer':<10}{'texts':>9}{'used':>9}{'texts/s':>10}{'a cpu s':>9}{'read':>12}{'written':>12}  killed once, same files"
    )
    for name, row in found.items():
        rate = row["asked"] / max(row["step_seconds"], 1e-9)
        busy = row["asked"] / max(row["processor_seconds"], 1e-9)
        line = f"{name:<10}{row['asked']:>9,}{row['used']:>9,}{rate:>10,.1f}{busy:>9,.0f}"
        print(f"{line}{row['tokens_read']:>12,}{row['tokens_written']:>12,}  {row.get('same_files', '')}")
    commit = environment()["commit"]  # a writer that was left out keeps its older row
    results = {**last("rewriting").get("results", {}), **{name: {**row, "commit": commit} for name, row in found.items()}}
    keep("rewriting", {"results": results}, figures(results))


if __name__ == "__main__":
    main()
