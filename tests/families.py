"""Small random models of several families, over the characters of the tiny model."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from star_exp.models.tiny import character_tokenizer
from star_exp.sampling.base import Policy

POSITIONS = 256
TOKENS: dict[str, Any] = {
    "vocab_size": 97,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
SIZES: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
MIXED = ["sliding_attention", "full_attention"]

SERVED: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=9),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=9, layer_types=MIXED),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=9, layer_types=MIXED),
    "gpt2": GPT2Config(**GPT),  # learned positions
    "gptj": GPTJConfig(**GPT, rotary_dim=4),  # attention of its own
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "falcon": FalconConfig(**SIZES, alibi=False, multi_query=True),  # attention of its own
}
NOT_SERVED: dict[str, PreTrainedConfig] = {
    "bloom": BloomConfig(**TOKENS, hidden_size=32, n_layer=2, n_head=4),  # positions in the mask
    "mamba": MambaConfig(**TOKENS, hidden_size=32, num_hidden_layers=2),  # no keys and values
    "dynamic_rope": LlamaConfig(
        **GROUPED, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    ),
}


def family(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Policy:
    """A random model with weights so large that its texts differ."""
    config = {**SERVED, **NOT_SERVED}[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.data.normal_(std=0.3)
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    return Policy(model.to(dtype).eval(), character_tokenizer())
