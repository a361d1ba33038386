"""Searches over the segments of a prompt at equal exact forwards: GSPO, random edits, a coordinate sweep, and edits of single tokens.

    python benchmarks/segment_search.py [--starts 5] [--steps 400] [--wordings 15]

A small causal language model learns prompts of four segments, a story of two words and its label. Each segment has several wordings, which
training shows with frequencies that differ, and it heeds the story better behind the ones it knows. Every search begins at the same random
prompts and pays one forward for a prompt's loss over one question, and three for a gradient. Printed are the loss of the prompt at each
budget, mean over starts, and how many starts come within .01 of what the sweep ends with.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from diptych.pipelines._social.prompts import SEGMENTS
from diptych.pipelines._social.segment_objective import SegmentObjective, SegmentQuestion, Slot
from diptych.pipelines._social.segment_search import SegmentSearch, coordinate_sweep, random_edits, token_search

LABELS, WORDS, LENGTH = 8, 12, 4
"""Labels, words of stories, tokens of a wording."""
BUDGETS = (40, 80, 120, 172, 240)


def trained(wordings: int, steps: int) -> tuple[object, dict[str, list[str]], int]:
    """The model, the wordings as texts of token numbers, and the size of the vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    first = 1 + LABELS + WORDS
    vocabulary = first + 60
    texts = {slot: [rng.integers(first, vocabulary, LENGTH).tolist() for _ in range(wordings)] for slot in SEGMENTS}
    known = {slot: rng.permutation(1 / np.arange(1, wordings + 1) ** 1.5) for slot in SEGMENTS}
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=64, **sizes))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = []
        for _ in range(64):
            picked = {slot: int(rng.choice(wordings, p=known[slot] / known[slot].sum())) for slot in SEGMENTS}
            clear = np.mean([known[slot][row] / known[slot].max() for slot, row in picked.items()])
            story = rng.integers(WORDS, size=2)
            label = int(story.sum() % LABELS) if rng.random() < 0.3 + 0.7 * clear else int(rng.integers(LABELS))
            prompt = [token for slot in SEGMENTS for token in texts[slot][picked[slot]]]
            rows.append([*prompt, *(1 + LABELS + story).tolist(), 1 + label])
        ids = torch.tensor(rows)
        logits = model(ids).logits[:, -2]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, ids[:, -1]).backward()
        optimiser.step()
    return model.eval(), {slot: [" ".join(map(str, ids)) for ids in some] for slot, some in texts.items()}, vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--wordings", type=int, default=15)
    args = parser.parse_args()
    model, texts, vocabulary = trained(args.wordings, args.steps)
    rng = np.random.default_rng(1)
    questions = []
    for story in rng.integers(WORDS, size=(2, 2)):
        words = " ".join(str(1 + LABELS + word) for word in story)
        questions.append(SegmentQuestion((*(Slot(slot) for slot in SEGMENTS), words), str(1 + int(story.sum() % LABELS))))
    most = max(BUDGETS) * len(questions)
    settings = SegmentSearch(steps=500, top=3, questions=0, budget=most)
    runs: dict[str, list] = {"gspo": [], "random edits": [], "sweep": [], "tokens": []}
    for _ in range(args.starts):
        start = {slot: int(rng.integers(args.wordings)) for slot in SEGMENTS}

        def made() -> SegmentObjective:
            return SegmentObjective(model, lambda text: [int(token) for token in text.split()], texts)

        runs["gspo"].append(settings.run(made(), questions, start, np.random.default_rng(2)))
        runs["random edits"].append(random_edits(made(), questions, start, np.random.default_rng(2), settings))
        runs["sweep"].append(coordinate_sweep(made(), questions, start, np.random.default_rng(2), settings))
        words = range(1 + LABELS + WORDS, vocabulary)
        runs["tokens"].append(token_search(made(), questions, start, np.random.default_rng(2), vocabulary=words, budget=most))
    print(
        f"{args.wordings ** len(SEGMENTS):,} prompts, {args.starts} starts; forwards are prompts over {len(questions)} questions"
    )
    print("search        " + "".join(f"{budget:>8}" for budget in BUDGETS) + "   within .01 of the sweep's end")
    goal = [run.loss for run in runs["sweep"]]
    for name, results in runs.items():
        means = [np.mean([run.loss_within(budget * len(questions)) for run in results]) for budget in BUDGETS]
        near = sum(run.loss <= end + 0.01 for run, end in zip(results, goal, strict=True))
        print(f"{name:<14}" + "".join(f"{value:8.3f}" for value in means) + f"   {near} of {args.starts}")


if __name__ == "__main__":
    main()
