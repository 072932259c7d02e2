"""Examples and batches: which tokens are trained on, and that padding changes nothing."""

from functools import partial

import pytest
import torch

from star_exp.data.encode import IGNORED, example, pack, pad, text_example, trained_tokens
from star_exp.data.rollouts import Steps
from star_exp.modules.loss import summed_loss
from star_exp.records import Rollout, Segment
from star_exp.sampling.base import Policy


def rollout(*segments: Segment) -> Rollout:
    return Rollout(
        problem="train/0",
        question="6+2",
        gold="8",
        groups={},
        iteration=1,
        phase="generate",
        sample=0,
        hinted=False,
        prompt_tokens=4,
        segments=segments,
        answer="8",
        correct=True,
        truncated=False,
        seed=0,
        weights="w",
    )


def test_the_completion_and_its_end_are_trained_on_and_the_prompt_is_not(policy):
    end = policy.tokenizer.eos_token_id
    tokens = (*policy.encode("#8"), end)
    made = example(policy, policy.encode("6+2="), rollout(Segment("#8", tokens)))
    assert made.tokens == (*policy.encode("6+2="), *tokens)
    assert made.trained == (False,) * 4 + (True,) * 3
    batch = pad([made], policy.pad_token)
    assert batch["input_ids"].tolist() == [[*policy.encode("6+2="), *tokens[:-1]]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + list(tokens)]  # what follows each input


def test_a_sample_that_ended_with_a_stop_string_gets_the_end_token(policy):
    made = example(
        policy, policy.encode("6+2="), rollout(Segment("#8\n\n", policy.encode("#8\n\n")))
    )
    assert made.tokens[-1] == policy.tokenizer.eos_token_id
    assert made.trained[-1]


def test_forced_segments_are_read_and_not_trained_on(policy):
    parts = [
        Segment("a", policy.encode("a")),
        Segment("tool", policy.encode("tool"), sampled=False),
        Segment("b", policy.encode("b")),
    ]
    made = example(policy, (), rollout(*parts))
    assert made.trained == (True, False, False, False, False, True, True)


def test_tokens_are_those_that_were_sampled_and_not_tokenized_again(policy):
    odd = (99 % 98, 5, 5, 7)  # whatever a model wrote, in a cut that a tokenizer may not choose
    made = example(policy, policy.encode("x"), rollout(Segment("not this text", odd)))
    assert made.tokens[1:5] == odd


def test_the_end_token_is_learned_where_it_is_also_the_padding(policy):
    same = Policy(policy.model, _padding_with_the_end(policy.tokenizer))
    assert same.pad_token == same.tokenizer.eos_token_id
    short = text_example(same, "6+2=", "#8")
    long = text_example(same, "60+20=", "#80 and more")
    labels = pad([short, long], same.pad_token)["labels"][0].tolist()
    end, last = same.tokenizer.eos_token_id, len(short.tokens) - 2
    assert labels[last] == end
    assert set(labels[last + 1 :]) == {IGNORED}


def _padding_with_the_end(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.pad_token = other.eos_token
    return other


def test_the_loss_of_a_padded_batch_is_the_sum_of_its_examples_alone(policy):
    texts = [("6+2=", "#8"), ("624+259=", "4931 2580 6280 #883"), ("1+1=", "1120 #2")]
    examples = [text_example(policy, *text) for text in texts]
    together = summed_loss(policy.model, pad(examples, policy.pad_token)).item()
    alone = [summed_loss(policy.model, pad([e], policy.pad_token)).item() for e in examples]
    assert abs(together - sum(alone)) < 1e-9
    logprobs = 0.0
    for prompt, completion in texts:  # a second method: one full pass a text, token by token
        before = policy.encode(prompt)
        tokens = [*before, *policy.encode(completion), policy.tokenizer.eos_token_id]
        with torch.no_grad():
            scores = policy.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        logprobs += sum(
            scores[place - 1, tokens[place]].item() for place in range(len(before), len(tokens))
        )
    assert abs(together + logprobs) < 1e-9


@pytest.mark.parametrize("collate", [pack, partial(pad, token=0)], ids=["packed", "padded"])
def test_the_ranks_of_a_step_share_its_examples_and_its_divisor(policy, collate):
    texts = [("1+1=", "#2"), ("22+22=", "#44"), ("3+3=", "#6"), ("44+44=", "#88 yes")]
    examples = [text_example(policy, *text) for text in texts]
    whole = Steps(examples, [[0, 1, 2, 3]], 0, 1, collate)[0]
    parts = [Steps(examples, [[0, 1, 2, 3]], rank, 2, collate)[0] for rank in (0, 1)]
    assert whole["share"] == trained_tokens(examples)
    assert {part["share"].item() for part in parts} == {trained_tokens(examples) / 2}

    def loss(batch):
        return (summed_loss(policy.model, batch) / batch["share"]).item()

    # DDP takes the mean over ranks, and that is the loss of one process with the whole step
    assert abs(sum(map(loss, parts)) / 2 - loss(whole)) < 1e-6
