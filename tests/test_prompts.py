"""What a model reads: exemplars where the protocol shows them, hints for all or for none."""

from dataclasses import dataclass

import pytest

from star_exp.errors import UserError
from star_exp.models.tiny import character_tokenizer
from star_exp.prompts import Prompts
from star_exp.records import Problem
from star_exp.sampling.base import Policy
from star_exp.tasks.base import Exemplar, Task

ASKED = Problem("train/9", "9+9", "18")
SHOWN = Exemplar(Problem("train/0", "6+2", "8"), " six and two. #8")


@dataclass(frozen=True)
class Sums(Task):
    stop = ("\n\n",)

    def problems(self, split):
        return [ASKED]

    def prompt(self, problem, hint=False):
        return f"Q: {problem.question}{f' ({problem.answer})' * hint}\nA:"

    def extract(self, completion):
        return completion.rpartition("#")[2] or None

    def direct(self, problem):
        return f" #{problem.answer}"

    def exemplars(self, per_group):
        return [SHOWN]

    def shown(self, problem):
        return [SHOWN]


FEW_SHOT = "Q: 6+2\nA: six and two. #8\n\n"


@pytest.mark.parametrize(
    ("few_shot", "trained", "text"),
    [
        ("always", 0, FEW_SHOT + "Q: 9+9\nA:"),
        ("always", 3, FEW_SHOT + "Q: 9+9\nA:"),
        ("first", 0, FEW_SHOT + "Q: 9+9\nA:"),
        ("first", 1, "Q: 9+9\nA:"),
        ("never", 0, "Q: 9+9\nA:"),
    ],
)
def test_exemplars_are_shown_to_the_models_that_the_protocol_says(policy, few_shot, trained, text):
    prompts = Prompts(few_shot=few_shot)
    assert policy.decode(prompts.sampling(policy, Sums(), ASKED, trained=trained)) == text
    assert policy.decode(prompts.training(policy, Sums(), ASKED)) == "Q: 9+9\nA:"


def test_a_hinted_prompt_hints_its_exemplars_and_a_training_text_hints_nothing(policy):
    prompts = Prompts(few_shot="always", few_shot_train=True)
    hinted = policy.decode(prompts.sampling(policy, Sums(), ASKED, trained=0, hint=True))
    assert hinted == "Q: 6+2 (8)\nA: six and two. #8\n\nQ: 9+9 (18)\nA:"
    assert policy.decode(prompts.training(policy, Sums(), ASKED)) == FEW_SHOT + "Q: 9+9\nA:"


def test_the_direct_baselines_exemplars_answer_at_once(policy):
    prompts = Prompts(few_shot="always", rationales=False)
    read = policy.decode(prompts.sampling(policy, Sums(), ASKED, trained=0))
    assert read == "Q: 6+2\nA: #8\n\nQ: 9+9\nA:"


def test_a_chat_has_a_turn_for_each_question_and_is_not_begun_twice(policy):
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chatting = Policy(policy.model, tokenizer)
    prompts = Prompts(few_shot="always", chat=True, system="Think.")
    read = chatting.decode(prompts.sampling(chatting, Sums(), ASKED, trained=0))
    turns = "[user]Q: 6+2\nA:[assistant]six and two. #8[user]Q: 9+9\nA:[assistant]"
    assert read == "[system]Think." + turns


def test_a_chat_ends_with_its_turn_and_a_text_with_the_tasks_stop_strings():
    assert Prompts(chat=True).stop(Sums()) == ()
    assert Prompts().stop(Sums()) == Sums.stop == ("\n\n",)


def test_a_chat_without_a_template_is_refused(policy):
    with pytest.raises(UserError, match="no chat template"):
        Prompts(chat=True).training(policy, Sums(), ASKED)
