"""A model that writes, asked here and behind our own /v1/chat/completions: the same answers, questions a second, cache hits, an outage.

    python benchmarks/judging.py [--model RUN] [--data world:questions?n=400&val=4&test=40] [--split test] [--outage 60]

Without a model, a map of two steps into a language model with fresh weights answers: it says nothing sensible, and what is measured is
the way there and back. The service is a process of its own on this machine. In the third pass it is killed when a third of the answers
are there, and started again after so many seconds of outage.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import diptych
from diptych.core.environment import environment
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel
from diptych.recipes.bridges.limber import LiMBeR
from diptych.tasks.choice.multiple_choice import MultipleChoice
from diptych.worlds.scenes.questions import questions


def small_model(folder: Path) -> Path:
    """A run of `limber` in two steps, over a language model of two layers with fresh weights."""
    data = questions(32, seed=1)
    words = [one["question"] + one["answer"] for row in range(len(data)) for one in data[row].extras["questions"]]
    tokenizer = Tokenizer.train([*words, "Answer with the option's letter from the given choices directly. A. B. C. D."], 500)
    tokenizer.save(folder)
    torch.manual_seed(0)
    sizes = {
        "model_type": "gpt2",
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": tokenizer.vocab_size,
        "n_positions": 256,
    }
    LanguageModel(config={**sizes, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}).inner.save_pretrained(folder)
    small = replace(LiMBeR.tiny(), image_tower="vit_micro", image_size=48, batch_size=8, steps=2, language_model=f"hf:{folder}")
    return Path(diptych.train(small, data=data, out=folder / "run", seed=0).path)


class Served:
    """`diptych serve MODEL` as a process."""

    def __init__(self, model: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.model, self.process = model, None

    def start(self) -> None:
        command = [sys.executable, "-m", "diptych", "serve", self.model, "--port", str(self.port)]
        self.process: Any = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                return
            time.sleep(0.1)
        raise SystemExit("the service did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def timed(task: MultipleChoice, model: Any, rows: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    records = task.predict(model, rows)
    return time.perf_counter() - began, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--data", default="world:questions?n=400&val=4&test=40")
    parser.add_argument("--split", default="test")
    parser.add_argument("--outage", type=float, default=60.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIPTYCH_CACHE"] = str(Path(folder, "cache"))
        model = args.model or str(small_model(Path(folder)))
        rows, here = diptych.read(args.data, split=args.split), diptych.load(model)
        task = MultipleChoice(blind=False, draws=50, keep=False, max_tokens=8)
        seconds, local = timed(task, here, rows)
        asked = len(local)
        facts = environment()
        print(f"{asked} questions, {facts['cores']} cores, commit {facts['commit']}")
        print(f"here                     {asked / seconds:8.1f} questions/s")
        service = Served(model)
        service.start()
        address = f"openai:http://127.0.0.1:{service.port}/v1#{getattr(here, 'name', '')}"
        try:
            for label in ("served, nothing known", "served, all known"):
                served: Any = diptych.load(address)
                seconds, records = timed(task, served, rows)
                spent = served.spent
                rate, counted = f"{asked / seconds:8.1f} questions/s", f"{spent.asked} asked, {spent.looked_up} looked up"
                print(f"{label:24} {rate}, {counted}, {_same(local, records)}")
            if args.outage:
                outage(service, task, address, rows, local, args.outage)
        finally:
            service.kill()


def outage(service: Served, task: MultipleChoice, address: str, rows: Any, local: Any, seconds: float) -> None:
    os.environ["DIPTYCH_CACHE"] += "-outage"
    served: Any = diptych.load(f"{address}?patience={seconds + 240:g}")

    def die() -> None:
        while served.spent.asked < len(local) / 3:
            time.sleep(0.01)
        service.kill()
        time.sleep(seconds)
        service.start()

    dying = threading.Thread(target=die)
    dying.start()
    took, records = timed(task, served, rows)
    dying.join()
    print(f"away for {seconds:g} s in between  {took:.0f} s in all, {served.spent.failed} failed, {_same(local, records)}")


def _same(local: Any, records: Any) -> str:
    pairs = list(zip(local.column("reply").to_pylist(), records.column("reply").to_pylist(), strict=True))
    return f"{sum(one == other for one, other in pairs)} of {len(pairs)} answers as here"


if __name__ == "__main__":
    main()
