"""Asks a model, a batch of questions at a time, and keeps every answer as it comes."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass

from llmkd.build_engine import make_engine
from llmkd.data.prompts import Prompt
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import Subject
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.teacher_data import Engine as EngineSettings
from llmkd.recipe.teacher_data import TransformersEngine
from llmkd.run_folder import fingerprint
from llmkd.teacher_data.engine import Engine, Written, sample_seed
from llmkd.teacher_data.transformers_engine import Loaded

AT_ONCE = 1024
"""Answers asked of engines that batch by themselves, before any of them is kept."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    num_tokens: int
    """The end-of-text token included."""
    is_cut: bool
    """It had no end within the length that was allowed."""


def answers_of(
    subject: Subject, task: ReasoningTask, setting: Setting, prompts: Sequence[Prompt]
) -> list[list[Answer]]:
    """All answers to each prompt, those that were kept and the rest.

    Batches are cut from the whole order, so that an evaluation that was killed gives what an
    undisturbed one gives. A model is loaded only where something is left to ask.
    """
    engine, num_samples = _settings(setting), task.generation.num_samples
    at_once = engine.batch_size if isinstance(engine, TransformersEngine) else AT_ONCE
    asked = fingerprint({"prompts": [prompt.input_ids for prompt in prompts]})
    kept = setting.kept(subject, task, prompts=asked, at_once=at_once)
    batches = _batches(len(prompts), max(1, at_once // num_samples))
    left = [batch for batch in batches if not kept.has_all(batch)]
    num_done = len(prompts) - sum(map(len, left))
    setting.progress(num_done, len(prompts))
    if left:
        with closing(_writer(subject, task, engine)) as writer:
            for batch in left:
                found = _ask(writer, [prompts[i] for i in batch], batch, num_samples, setting.seed)
                kept.add({i: {"answers": [asdict(one) for one in found[i]]} for i in batch})
                num_done += len(batch)
                setting.progress(num_done, len(prompts))
    return [[Answer(**one) for one in row["answers"]] for row in kept.in_order()]


def _writer(subject: Subject, task: ReasoningTask, engine: EngineSettings) -> Engine:
    def loaded(_: PretrainedModel) -> Loaded:
        # Other tasks may have it in memory already.
        return subject.model, subject.tokenizer

    return make_engine(subject.source, engine, task.generation, None, load=loaded)


def _settings(setting: Setting) -> EngineSettings:
    engine = setting.engine or TransformersEngine(batch_size=setting.batch_size)
    if isinstance(engine, TransformersEngine):
        most = min(engine.batch_size, setting.batch_size)
        return engine.model_copy(update={"batch_size": most})
    return engine


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _ask(
    engine: Engine, prompts: Sequence[Prompt], numbers: range, num_samples: int, seed: int
) -> dict[int, list[Answer]]:
    repeated = [prompt.input_ids for prompt in prompts for _ in range(num_samples)]
    seeds = [sample_seed(seed, number, i) for number in numbers for i in range(num_samples)]
    written = iter(engine.generate(repeated, seeds))
    return {number: [_answer(next(written)) for _ in range(num_samples)] for number in numbers}


def _answer(written: Written) -> Answer:
    return Answer(written.text, written.num_tokens, written.finish_reason == "length")
