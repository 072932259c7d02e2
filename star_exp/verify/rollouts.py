"""Whether each stored rollout is what it says: where it stands, its seed, its judgement, who wrote
it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from star_exp import verifying
from star_exp.models.lora import num_adapter_weights
from star_exp.modules.base import LanguageModel, put_trained
from star_exp.records import Problem, Rollout
from star_exp.sampling.base import Policy, fingerprint
from star_exp.seeds import derive
from star_exp.store import StoreError, read_shard, read_table
from star_exp.tasks.base import Judgement, Task
from star_exp.verify.stored import AFTER, BEFORE, Check, Stored

TRUSTED = "taken as they stand: truncated, prompt_tokens, log-probabilities, scores"


def checks(run: Stored, grading: bool) -> list[Check]:
    """What each shard says by itself, and what all of them say together."""
    files, seeds, answers = Check("files"), Check("seeds"), Check("answers")
    module = run.lightning_module
    number, failed, writers, problems = 0, 0, defaultdict[tuple[int, str], set[str]](set), {}
    for iteration in run.store.iterations():
        for phase in run.store.phases(iteration):
            paths, (task, known) = run.store.shards(iteration, phase), run.asking(phase)
            files.faults += _gaps(run, iteration, phase, paths)
            seen: set[tuple[str, int]] = set()
            for path in paths:
                where = path.relative_to(run.root)
                try:
                    rollouts = read_shard(path)
                except StoreError as error:
                    files.faults.append(str(error))
                    continue
                number += len(rollouts)
                files.faults += _misplaced(where, iteration, phase, rollouts, seen)
                files.faults += _asked_otherwise(where, phase, known, rollouts)
                if module is not None and phase not in run.written:
                    files.faults += _decoded_otherwise(where, module.policy, rollouts)
                seeds.faults += _seeded_otherwise(where, run, rollouts)
                writers[iteration, phase] |= {rollout.weights for rollout in rollouts}
                if grading:
                    judged = _judged(task, rollouts)
                    failed += len(rollouts) - len(judged)
                    answers.faults += _judged_otherwise(where, judged)
            problems[iteration, phase] = {name for name, _ in seen}
    files.faults += _missing(run, problems)
    files.said = seeds.said = f"{number} rollouts"
    files.left_out.append(TRUSTED if module is not None else f"{TRUSTED}, tokens")
    if grading:
        answers.said = f"{number - failed} rollouts judged again"
        what = f"{failed} rollouts that the checker failed on, then or now"
        answers.left_out += [what] if failed else []
    else:
        answers.left_out.append("not judged again: --no-grading")
    return [files, seeds, _weights(run, writers), answers]


def _gaps(run: Stored, iteration: int, phase: str, paths: Sequence[Path]) -> Iterator[str]:
    numbers = {int(path.stem) for path in paths}
    for shard in sorted(set(range(max(numbers, default=0))) - numbers):
        path = run.store.path(iteration, phase, shard).relative_to(run.root)
        yield f"{path} is missing; there is a later one"


def _missing(run: Stored, problems: Mapping[tuple[int, str], set[str]]) -> Iterator[str]:
    """Phases that hold fewer problems than were logged, or more, or not all that are measured."""
    told = dict[tuple[int, str], float]()
    for iteration, line in run.lines.items():
        for name in (name for name in line if name.endswith("/problems")):
            phase = name.removesuffix("/problems").replace("/", "-", 1)
            if phase not in ("train", "faithful"):
                told[iteration, phase] = line[name]
    for iteration, phase in sorted({*problems, *told}):
        found, logged = problems.get((iteration, phase), set()), told.get((iteration, phase))
        folder = run.store.folder(iteration, phase).relative_to(run.root)
        complete = run.finished or logged is not None or iteration < max(run.lines, default=0)
        if logged is not None and len(found) != logged:
            yield f"{folder} holds {len(found)} problems, metrics.jsonl told of {logged:g}"
        elif complete and (missing := run.measured(phase) - found):
            yield f"{folder} lacks {len(missing)} of the task's problems, such as {min(missing)}"


def _misplaced(
    where: Path,
    iteration: int,
    phase: str,
    rollouts: Sequence[Rollout],
    seen: set[tuple[str, int]],
) -> Iterator[str]:
    """Rollouts of elsewhere, and those that were there before; `seen` gets the new ones."""
    for rollout in rollouts:
        if (rollout.iteration, rollout.phase) != (iteration, phase):
            said = f"iteration {rollout.iteration}, {rollout.phase}"
            yield f"{where}: {_name(rollout)} says that it is of {said}"
        if (rollout.problem, rollout.sample) in seen:
            yield f"{where}: {_name(rollout)} stands there twice"
        seen.add((rollout.problem, rollout.sample))


def _asked_otherwise(
    where: Path, phase: str, known: Mapping[str, Problem], rollouts: Iterable[Rollout]
) -> Iterator[str]:
    sampled = BEFORE.fullmatch(phase) or AFTER.fullmatch(phase)
    for rollout in rollouts:
        if rollout.problem not in known:  # seed rationales, and what completes them: of no split
            if sampled:
                yield f"{where}: {_name(rollout)} is none of the problems that {phase} asks"
            continue
        problem = known[rollout.problem]
        for name, said, expected in (
            ("question", rollout.question, problem.question),
            ("gold answer", rollout.gold, problem.answer),
            ("groups", dict(rollout.groups), dict(problem.groups)),
        ):
            if said != expected:
                yield f"{where}: {_name(rollout)} has the {name} {said!r}, the task {expected!r}"


def _decoded_otherwise(where: Path, policy: Policy, rollouts: Iterable[Rollout]) -> Iterator[str]:
    """Texts that their tokens don't give. They may end sooner: before a stop string."""
    for rollout in rollouts:
        for segment in (each for each in rollout.segments if each.sampled):
            decoded = policy.decode(segment.tokens)
            if not decoded.startswith(segment.text):
                yield f"{where}: {_name(rollout)} has {segment.text!r}, its tokens give {decoded!r}"


def _seeded_otherwise(where: Path, run: Stored, rollouts: Iterable[Rollout]) -> Iterator[str]:
    for r in rollouts:
        expected = derive(run.config["seed"], r.iteration, r.phase, r.problem, r.sample)
        expected = 0 if r.phase in run.written else expected
        if r.seed != expected:
            yield f"{where}: {_name(r)} has the seed {r.seed}, expected {expected}"


def _judged(task: Task, rollouts: Sequence[Rollout]) -> list[tuple[Rollout, Judgement]]:
    """Without those that the checker failed on, then or now: they are neither right nor wrong."""
    judgements = task.judge([(rollout.asked, rollout.text) for rollout in rollouts])
    pairs = zip(rollouts, judgements, strict=True)
    return [pair for pair in pairs if all(each.failed is None for each in pair)]


def _judged_otherwise(where: Path, judged: Iterable[tuple[Rollout, Judgement]]) -> Iterator[str]:
    for rollout, judgement in judged:
        correct = judgement.correct and not rollout.truncated
        again = {"answer": judgement.answer, "correct": correct, "lenient": judgement.lenient}
        for name, value in again.items():
            stored = getattr(rollout, name)
            if stored != value:
                yield f"{where}: {_name(rollout)} has {name} {stored!r}, its text gives {value!r}"


def _name(rollout: Rollout) -> str:
    return f"{rollout.problem}, sample {rollout.sample}"


def _weights(run: Stored, writers: Mapping[tuple[int, str], set[str]]) -> Check:
    """Whether each model's rollouts name one model, and the last one's the model that was saved."""
    check, models = Check("weights"), defaultdict[str, dict[str, str]](dict)
    for (iteration, phase), names in writers.items():
        where, of = f"rollouts/iter_{iteration:03d}/{phase}", _writer(run, iteration, phase)
        if len(names) > 1:
            check.faults.append(f"{where}: several models wrote it: {', '.join(sorted(names))}")
        elif names and of is not None:
            models[of][where] = min(names)
    last, saved = _writer(run, max(run.lines, default=0), "dev"), _saved(run, check)
    if saved is not None and last in models:
        models[last] = {"model/": saved, **models[last]}
    for model, names in models.items():
        common, _ = Counter(names.values()).most_common(1)[0]
        others = [where for where in names if names[where] == common]
        check.faults += [
            f"{where} names {name}, and not {common} as {others[0]}, which is of {model} too"
            for where, name in names.items()
            if name != common
        ]
    check.faults += _scored_by_others(run)
    check.said = ", ".join(models)
    return check


def _writer(run: Stored, iteration: int, phase: str) -> str | None:
    """The model that writes a phase; None for those that no model writes, and unknown ones."""
    if run.generator is not None:
        return "the generator's last model"
    if BEFORE.fullmatch(phase):
        return f"M_{iteration - 1}"
    return f"M_{iteration}" if AFTER.fullmatch(phase) else None


def _saved(run: Stored, check: Check) -> str | None:
    """The fingerprint of the model that wrote last, as it was saved."""
    module = run.lightning_module
    if module is None:
        what = "model/ is missing" if run.finished else "there is no model/ yet"
        (check.faults if run.finished else check.left_out).append(what)
    elif not run.finished or run.outdated:
        check.left_out.append("model/ may be of another iteration than the last one here")
    elif num_adapter_weights(module.policy.model):
        check.left_out.append("model/ holds merged adapters, whose fingerprint is another")
    else:
        return fingerprint(module.policy.model)
    return None


def _scored_by_others(run: Stored) -> Iterator[str]:
    """Files of one verifier's scores that name several, and the last that is not the saved one."""
    folder, module = run.root / "scores", run.lightning_module
    names: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.glob("iter_*/*/*.parquet")):
        weights = read_table(path, ["weights"]).column("weights").to_pylist()
        names[path.relative_to(folder).parts[0]] |= set(weights)
    saved, last = run.root / verifying.WEIGHTS, f"iter_{max(run.lines, default=0):03d}"
    if names and run.finished and module is not None and saved.exists() and _all_trained(module):
        put_trained(module, saved)
        names[last].add(fingerprint(module))
    for where, found in names.items():
        if len(found) > 1:
            yield f"scores/{where}: several models gave them: {', '.join(sorted(found))}"


def _all_trained(module: LanguageModel) -> bool:
    """Whether no weights of it are M_0's, which the saved file doesn't hold."""
    return all(weights.requires_grad for weights in module.parameters())
