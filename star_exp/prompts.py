"""What a model reads before it writes: behind exemplars or without, as plain text or as a chat.

Which exemplars there are, and how a question is asked, with a hint or without, says the task. When
they are shown says the paper's protocol, and its variations:

    few_shot=always   in every sampling prompt (STaR, section 4.1)
             first    in those of M_0 alone; M_1 and the next go without (sections 4.1 and 5)
             never    in none: the model has them in its weights (model=tiny)
    few_shot_train    in the training texts too (section 4.4: 72.5 with, 69.9 without, on CQA)

A hinted prompt hints its exemplars too (figure 2). The loss is never taken on a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.sampling.base import Policy
from star_exp.tasks.base import Task


@dataclass(frozen=True)
class Prompts:
    """
    few_shot, few_shot_train: see the head of this file.
    rationales: exemplars show theirs; False: the answer alone, as the direct baselines do.
    chat: as a conversation in the model's own template, for instruct models: each question is a
        user's turn, each exemplar's completion the assistant's.
    system: the message that a chat begins with; None: none, but for what the template puts there.
    """

    few_shot: Literal["always", "first", "never"] = "never"
    few_shot_train: bool = False
    rationales: bool = True
    chat: bool = False
    system: str | None = None

    def sampling(
        self, policy: Policy, task: Task, problem: Problem, *, trained: int, hint: bool = False
    ) -> tuple[int, ...]:
        """Tokens that M_trained reads before it writes a rationale."""
        shown = self.few_shot == "always" or (self.few_shot == "first" and trained == 0)
        return self._tokens(policy, self._turns(task, problem, hint, shown), task.separator)

    def training(self, policy: Policy, task: Task, problem: Problem) -> tuple[int, ...]:
        """Tokens that stand before a rationale in the training text; never with a hint."""
        turns = self._turns(task, problem, False, self.few_shot_train)
        return self._tokens(policy, turns, task.separator)

    def stop(self, task: Task) -> tuple[str, ...]:
        """Strings that end a completion: none in a chat, where the end of the turn does."""
        return () if self.chat else task.stop

    def said(self, completion: str) -> str:
        """A completion that no model sampled, as it would stand in a chat or in a text."""
        return completion.strip() if self.chat else completion

    def _turns(self, task: Task, problem: Problem, hint: bool, shown: bool) -> list[str]:
        """question, completion, question, completion, ..., question."""
        turns = []
        for exemplar in task.shown(problem) if shown else ():
            said = exemplar.completion if self.rationales else task.direct(exemplar.problem)
            turns += [task.prompt(exemplar.problem, hint), said]
        return [*turns, task.prompt(problem, hint)]

    def _tokens(self, policy: Policy, turns: Sequence[str], separator: str) -> tuple[int, ...]:
        if self.chat:
            return self._chat(policy, turns)
        pieces = zip(turns[:-1:2], turns[1::2], strict=True)
        text = "".join(question + said + separator for question, said in pieces) + turns[-1]
        return (*policy.begin, *policy.encode(text))

    def _chat(self, policy: Policy, turns: Sequence[str]) -> tuple[int, ...]:
        if policy.tokenizer.chat_template is None:
            raise UserError(
                "data.prompts.chat=true, and the model's tokenizer has no chat template: take an "
                "instruct model, or data.prompts.chat=false"
            )
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        for place, text in enumerate(turns):
            role = "assistant" if place % 2 else "user"
            messages.append({"role": role, "content": text.strip()})
        text = policy.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        assert isinstance(text, str)
        return policy.encode(text)  # the template writes the first token too, where there is one
