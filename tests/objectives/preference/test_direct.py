"""Losses of preferred answers against trl's trainer, the released trainers of RLAIF-V and STIC, and the formulas."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.preference.direct import (
    FORMS,
    PairLogProbs,
    chosen_loss,
    implicit_rewards,
    likeliest_other,
    preference_loss,
    sequence_log_probs,
)

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "released_preference.json").read_text(encoding="utf-8"))
"""Log-probabilities, losses and rewards of `dpo_trainer.py` of STIC and of `trainers.py` of RLAIF-V, on drawn logits and labels."""
LOGITS = [torch.tensor(rows) for rows in RELEASED["logits"]]
LABELS = [torch.tensor(rows) for rows in RELEASED["labels"]]


def released_pairs(*, other: bool) -> PairLogProbs:
    chosen, rejected, reference_chosen, reference_rejected = LOGITS
    first, second = (sequence_log_probs(logits, LABELS[0])[0] for logits in (chosen, reference_chosen))
    if not other:
        return PairLogProbs(
            first, sequence_log_probs(rejected, LABELS[1])[0], second, sequence_log_probs(reference_rejected, LABELS[1])[0]
        )
    target_BM = LABELS[1][:, 1:]
    rows, places = (target_BM != -100).nonzero(as_tuple=True)
    sums = [
        torch.zeros(len(target_BM)).index_add(0, rows, likeliest_other(logits[rows, places], target_BM[rows, places]))
        for logits in (rejected, reference_rejected)
    ]
    return PairLogProbs(first, sums[0], second, sums[1])


def test_losses_are_those_of_the_released_trainers(parity: Any) -> None:
    true, other = released_pairs(other=False), released_pairs(other=True)
    compared = [
        (true.chosen_B, torch.tensor(RELEASED["chosen"])),
        (true.rejected_B, torch.tensor(RELEASED["rejected"])),
        (preference_loss(true) - true.chosen_B / 1024, torch.tensor(RELEASED["loss"])),
    ]
    parity(
        "stic",
        "log-probabilities and the regularised loss of each pair",
        "dpo_trainer.py of STIC at 993734e",
        compared,
        tolerance=1e-5,
    )
    compared = [
        (other.rejected_B, torch.tensor(RELEASED["other"])),
        (preference_loss(other) - other.chosen_B / 1024, torch.tensor(RELEASED["released_loss"])),
        (torch.stack(implicit_rewards(other, 0.1)), torch.tensor(RELEASED["released_rewards"])),
    ]
    against = "_get_noisy_batch_logps and dpo_loss of STIC at 993734e"
    parity("stic", "released scoring of the rejected answer", against, compared, tolerance=1e-5)
    compared = [(preference_loss(true, beta=0.1), torch.tensor(RELEASED["rlaif_v_loss"]))]
    parity("rlaif_v", "loss of each pair", "dpo_loss of RLAIF-V at 83d917b", compared, tolerance=1e-5)


def test_losses_are_those_of_trl(parity: Any, tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    import tokenizers
    import transformers

    words = [f"w{number}" for number in range(40)]
    vocabulary = {name: number for number, name in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    ids = {"vocab_size": len(vocabulary), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = transformers.LlamaConfig(**sizes, **ids, initializer_range=0.4)
    torch.manual_seed(0)
    model, reference = (transformers.LlamaForCausalLM(config).eval() for _ in range(2))
    rng = random.Random(0)
    rows = [
        {name: " ".join(rng.choices(words, k=rng.randint(1, 9))) for name in ("prompt", "chosen", "rejected")} for _ in range(100)
    ]
    rows = [{name: text if name == "prompt" else f" {text}" for name, text in row.items()} for row in rows]
    compared = []
    for form in FORMS:
        options = trl.DPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=100, loss_type=[form], beta=0.3, report_to=[], use_cpu=True,
            bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = trl.DPOTrainer(
            model=model,
            ref_model=reference,
            args=options,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            theirs = trainer.compute_loss(trainer.model, batch)
            label_BL = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
            given = {name: batch[name] for name in ("input_ids", "attention_mask")}
            sums, counts = zip(*(sequence_log_probs(one(**given).logits, label_BL) for one in (model, reference)), strict=True)
        pairs = PairLogProbs(*sums[0].chunk(2), *sums[1].chunk(2), *counts[0].chunk(2))
        compared.append((preference_loss(pairs, beta=0.3, form=form).mean(), theirs))
    parity(
        "rlaif_v", "sigmoid, hinge and IPO losses of 100 pairs", f"DPOTrainer of trl {trl.__version__}", compared, tolerance=1e-6
    )


def drawn(pairs: int = 100) -> PairLogProbs:
    generator = torch.Generator().manual_seed(1)
    sums = [-30 * torch.rand(pairs, generator=generator, dtype=torch.float64) for _ in range(4)]
    counts = [torch.randint(1, 20, (pairs,), generator=generator).double() for _ in range(2)]
    return PairLogProbs(*sums, *counts)


def test_the_loss_of_a_policy_that_is_its_reference_is_the_logarithm_of_two() -> None:
    given = drawn()
    same = PairLogProbs(given.chosen_B, given.rejected_B, given.chosen_B, given.rejected_B)
    torch.testing.assert_close(preference_loss(same), torch.full((100,), math.log(2), dtype=torch.float64))


def test_means_over_tokens_and_no_reference() -> None:
    pairs = drawn(4)
    for row in range(4):
        a, b, c, d, n, m = (float(tensor[row]) for tensor in (pairs.chosen_B, pairs.rejected_B, pairs.reference_chosen_B,
                            pairs.reference_rejected_B, pairs.chosen_count_B, pairs.rejected_count_B))  # fmt: skip
        margin = (a - c) / n - (b - d) / m
        assert float(preference_loss(pairs, average=True)[row]) == pytest.approx(math.log1p(math.exp(-0.1 * margin)))
        assert float(preference_loss(pairs, form="ipo", beta=0.2)[row]) == pytest.approx((margin - 2.5) ** 2)
        assert float(preference_loss(pairs, form="hinge", beta=0.2, reference_free=True)[row]) == pytest.approx(
            max(0, 1 - 0.2 * (a - b))
        )
    assert float(chosen_loss(pairs)) == pytest.approx(-float(pairs.chosen_B.mean()))
    assert float(chosen_loss(pairs, per="token")) == pytest.approx(-float(pairs.chosen_B.sum() / pairs.chosen_count_B.sum()))


def test_what_cannot_be_computed_is_refused() -> None:
    pairs = drawn(2)
    with pytest.raises(ConfigError, match="beta is 0"):
        preference_loss(pairs, beta=0)
    with pytest.raises(ShapeError, match="number of tokens"):
        preference_loss(PairLogProbs(pairs.chosen_B, pairs.rejected_B, pairs.chosen_B, pairs.rejected_B), form="ipo")
    with pytest.raises(ShapeError, match="differ"):
        sequence_log_probs(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64))
