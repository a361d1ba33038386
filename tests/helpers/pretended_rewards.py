"""Learned rewards of texts on the pretended CUDA device.

    python tests/helpers/pretended_rewards.py FOLDER

FOLDER holds classifiers of transformers, `nli` with a label named entailment and `bleurt` with one output. Prints one line of JSON: the
scores of forty answers on the processor and on the device, waits of the host, and operators that mixed devices.
"""

from __future__ import annotations

import pretended  # first: it comes before torch

# isort: split
import json
import sys
import warnings
from pathlib import Path

import torch

from diptych.models.io.device import device_default
from diptych.models.policy.classifier_reward import ClassifierReward, IntentReward
from diptych.models.policy.sequence_classifier import SequenceClassifier
from diptych.tasks._scoring.rewards.text_rewards import text_reward

ANSWERS = ["heart", "no effusion", "small left heart", ""] * 10
REFERENCES = [["no pleural effusion"], ["heart", "size"], ["is"], ["left"]] * 10
PROMPTS = ["is there <EOU>"] * 40


def scored(folder: Path, device: str) -> dict[str, list[float]]:
    """Scores of every kind on a device."""
    with device_default(device):
        rewards = {
            "bleurt": text_reward(f"bleurt:{folder / 'bleurt'}"),
            "entailment": text_reward(f"entailment:{folder / 'nli'}"),
            "classifier": ClassifierReward.open(f"{folder / 'nli'}:1"),
            "intent": IntentReward(SequenceClassifier.open(folder / "nli"), [1, 2, 3, 1] * 10),
        }
        scores = {}
        for name, reward in rewards.items():
            pretended.notes.phase = name
            scores[name] = [float(score) for score in reward(PROMPTS, ANSWERS, REFERENCES)]
        pretended.notes.phase = "other"
    return scores


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    results = {"cpu": scored(folder, "cpu")}
    pretended.install()
    results["cuda"] = scored(folder, "cuda:0")
    waits: dict[str, float] = {}
    for kind in ("sync", "h2d"):
        for (phase, *_), count in pretended.notes.counts[kind].items():
            waits[phase] = waits.get(phase, 0) + count
    results["waits"] = {name: waits.get(name, 0) for name in results["cpu"]}
    faults = sorted({f"{line} {what}" for _, what, _, line in pretended.notes.counts["fault"]})
    print(json.dumps(results | {"faults": faults}))


if __name__ == "__main__":
    main()
