"""Makes dpo_trl.json: what TRL's DPOTrainer says of two small models and three pairs.

    pip install trl==1.16.0
    python tests/reference/dpo_trl.py

The file holds the weights of both, the pairs as tokens, and TRL's loss, rewards, log-probabilities
and gradient. Nothing of star_exp is used here; tests/test_verifier.py compares it with this.
"""

import json
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

WORDS = ["<pad>", "<end>", *"0123456789+="]
CONFIG = {
    "vocab_size": len(WORDS),
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
PAIRS = [  # of unlike lengths: padding and prompts must not count
    {"prompt": "1 + 2 =", "chosen": " 3", "rejected": " 1 2"},
    {"prompt": "4 + 9 =", "chosen": " 1 3", "rejected": " 5"},
    {"prompt": "7 7 + 1 1 =", "chosen": " 8 8", "rejected": " 7 8 1 1"},
]
BETAS = (0.1, 0.5)


def model_of(seed: int) -> LlamaForCausalLM:
    """Weights of four decimals, so that the file holds them exactly enough."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    for weights in model.parameters():
        weights.data = torch.round(torch.randn_like(weights), decimals=4)
    return model


def state(model: LlamaForCausalLM) -> dict[str, list]:
    named = model.named_parameters()
    return {name: torch.round(w.detach().double(), decimals=4).tolist() for name, w in named}


def trainer_of(beta: float, folder: str) -> DPOTrainer:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", behavior="removed")
    words.add_special_tokens(["<pad>", "<end>"])
    return DPOTrainer(
        model_of(1),
        ref_model=model_of(0),
        args=DPOConfig(
            folder,
            beta=beta,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
        ),
    )


def batch_of(trainer: DPOTrainer) -> dict[str, torch.Tensor]:
    """All pairs, as TRL tokenizes and pads them: the chosen ones first."""
    return trainer.data_collator([*trainer.train_dataset])


def said(trainer: DPOTrainer) -> dict:
    """What TRL says of a batch of all pairs."""
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    loss.backward()
    metrics = {name: values[0] for name, values in trainer._metrics["train"].items()}
    kept = ("rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
    return {
        "beta": trainer.beta,
        "loss": loss.item(),
        **{name: metrics[name] for name in kept},
        "gradient": {name: w.grad.tolist() for name, w in trainer.model.named_parameters()},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainers = [trainer_of(beta, folder) for beta in BETAS]
    batch = {name: tensor.tolist() for name, tensor in batch_of(trainers[0]).items()}
    lengths = [sum(mask) for mask in batch["attention_mask"]]
    cut = {
        name: [row[:length] for row, length in zip(batch[name], lengths, strict=True)]
        for name in ("input_ids", "completion_mask")
    }
    file = {
        "made_by": "tests/reference/dpo_trl.py with trl 1.16.0 and transformers 5.23.0",
        "config": CONFIG,
        "policy": state(model_of(1)),
        "reference": state(model_of(0)),
        "tokens": cut["input_ids"],
        "trained": cut["completion_mask"],
        "expected": [said(trainer) for trainer in trainers],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(file) + "\n")


if __name__ == "__main__":
    main()
