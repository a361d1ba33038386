"""Phrases per second and peak memory of a grounding detector, compared with transformers' Grounding DINO of equal size in the same run.

    python benchmarks/phrase_grounding.py [--pixels 256] [--phrases 1 10 100] [--repeats 3]

Both have Swin-T, a BERT of 4 layers of 256, six encoder and six decoder layers of 256 and 300 queries; weights are random, which changes
no time. An image is asked for so many phrases of three words, as many in a text as fit 256 tokens. Time is the median of wall seconds;
memory is the largest of the process, one process a row, what it holds before the first image taken off.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from machine_results import Figure, Peer, keep

SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
VOCABULARY, TOKENS, A_PHRASE = 1000, 256, 4
TOGETHER = (TOKENS - 2) // A_PHRASE
"""Phrases of three words and a stop that one text holds."""


def texts(phrases: int) -> list[torch.Tensor]:
    """Token ids of the texts that so many phrases need."""
    rows = []
    for start in range(0, phrases, TOGETHER):
        count = min(TOGETHER, phrases - start)
        rows.append(torch.randint(5, VOCABULARY, (1, A_PHRASE * count + 2)))
    return rows


def ours() -> tuple[torch.nn.Module, Callable[[torch.Tensor, torch.Tensor], Any]]:
    from diptych.models.detection.backbone import detection_backbone
    from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
    from diptych.models.towers.towers import text_tower

    text = text_tower("hf", config={"model_type": "bert", "vocab_size": VOCABULARY, **SIZE}, pooling="cls", length=TOKENS)
    shape = GroundingConfig(language_heads=4, language_mlp=1024, fusion_width=1024)
    model = GroundingDetector(detection_backbone("timm:swin_tiny_patch4_window7_224"), text, shape).eval()
    return model, lambda image, ids: model(image, ids, torch.ones_like(ids, dtype=torch.bool))


def grounding_dino() -> tuple[torch.nn.Module, Callable[[torch.Tensor, torch.Tensor], Any]]:
    import transformers

    backbone = transformers.SwinConfig(
        embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, out_indices=[2, 3, 4]
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone,
        text_config={"model_type": "bert", "vocab_size": VOCABULARY, **SIZE},
        num_queries=300,
        max_text_len=TOKENS,
    )
    model: Any = transformers.GroundingDinoForObjectDetection(config).eval()
    return model, lambda image, ids: model(pixel_values=image, input_ids=ids)


MODELS = {"diptych": ours, "grounding dino": grounding_dino}


def memory() -> int:
    """The largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(name: str, phrases: int, pixels: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, ask = MODELS[name]()
    image, asked = torch.randn(1, 3, pixels, pixels), texts(phrases)
    before, seconds = memory(), []
    with torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            for ids in asked:
                ask(image, ids)
            seconds.append(time.perf_counter() - start)
    took = statistics.median(seconds[1:])
    return {
        "model": name,
        "phrases": phrases,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(took, 3),
        "phrases_a_second": round(phrases / took, 2),
        "peak_mb": round((memory() - before) / 2**20),
    }


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    peers = {row["phrases"]: row for row in rows if row["model"] == "grounding dino"}
    return [
        Figure(f"{row['phrases']} phrases", "s", row["seconds"], (Peer("Grounding DINO", peers[row["phrases"]]["seconds"]),))
        for row in rows
        if row["model"] == "diptych"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--phrases", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "PHRASES"), help="one row, as JSON: what each process does")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.pixels, args.repeats)))
        return
    rows = []
    for phrases in args.phrases:
        for name in MODELS:
            words = [
                sys.executable,
                __file__,
                "--one",
                name,
                str(phrases),
                "--pixels",
                str(args.pixels),
                "--repeats",
                str(args.repeats),
            ]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    keep("phrase_grounding", {"pixels": args.pixels, "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
