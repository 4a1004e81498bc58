import json

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from llmkd.errors import InputError
from llmkd.evaluation import reasoning, reasoning_answers
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.reasoning import measure_reasoning
from llmkd.evaluation.subject import subject_at
from llmkd.models.load import load_model
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.teacher_data import TransformersEngine, VLLMEngine
from llmkd.teacher_data.engine import Written, sample_seed


@pytest.fixture
def model_folder(tiny_llama, tokenizer, tmp_path):
    folder = tmp_path / "model"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sums(tmp_path):
    """A file of so many sums, and a task that asks them."""

    def make(count, **settings):
        path = tmp_path / "sums.jsonl"
        rows = [{"question": f"{i}+{i}=", "answer": 2 * i} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = {"kind": "reasoning", "name": "sums", "grader": "number"}
        data = {"data": {"dataset_name": str(path)}}
        return ReasoningTask.model_validate(content | data | settings)

    return make


def setting_of(subject, folder=None, **more):
    progress = more.pop("progress", lambda done, total: None)
    settings = {"first": subject, "batch_size": 4, "seed": 3, "progress": progress} | more
    return Setting(folder=folder, **settings)


def measured(model_folder, task, folder=None, **more):
    subject = subject_at("m", model_folder, load_model)
    found = measure_reasoning(subject, task, setting_of(subject, folder, **more))
    return {one.metric: one.found.value for one in found.estimates}, found


class Scribe:
    """Stands in for an engine: writes what a script says, and remembers what it was asked."""

    def __init__(self, script, tokenizer):
        self.script, self.tokenizer = script, tokenizer
        self.calls, self.is_closed = [], False

    def generate(self, prompts, seeds):
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts]
        self.calls.append((texts, list(seeds)))
        return [self.script(text, number) for number, text in enumerate(texts)]

    def score(self, sequences, spans):
        raise AssertionError("nothing is to be scored")

    def close(self):
        self.is_closed = True


@pytest.fixture
def scribe(monkeypatch, tokenizer):
    """Puts a script in place of every engine."""

    def make(script):
        engine = Scribe(script, tokenizer)
        engine.settings = []

        def build(source, settings, generation, capture, *, load):
            engine.settings.append(settings)
            return engine

        monkeypatch.setattr(reasoning_answers, "make_engine", build)
        return engine

    return make


def test_every_metric_by_hand(model_folder, sums, scribe):
    # Sums 0+0, 1+1 and 2+2, four answers each.
    answers = {"0+0=": ["0", "0", "1", ""], "1+1=": ["3", "3", "2", "4"], "2+2=": [""] * 4}
    lengths = {"0": 2, "1": 4, "2": 6, "3": 8, "4": 10, "": 1}

    def script(prompt, number):
        text = answers[prompt][number % 4]
        return Written([5] * lengths[text], text, "length" if text == "" else "stop")

    scribe(script)
    sampled = {"temperature": 1.0, "num_samples": 4}
    values, found = measured(model_folder, sums(3, generation=sampled, pass_at=[1, 2, 4]))
    assert values == pytest.approx(
        {
            # 2 of 4, 1 of 4 and none are right.
            "pass@1": (2 / 4 + 1 / 4) / 3,
            # Of 6 pairs, 1 and 3 hold none that is right.
            "pass@2": (5 / 6 + 3 / 6) / 3,
            "pass@4": 2 / 3,
            "avg@4": (2 / 4 + 1 / 4) / 3,
            # 0 wins the first, 3 the second, which is wrong.
            "maj@4": 1 / 3,
            "tokens": ((2 + 2 + 4 + 1) + (8 + 8 + 6 + 10) + 4) / 12,
            "truncated": 5 / 12,
            "unanswered": 5 / 12,
        }
    )
    assert {one.num_examples for one in found.estimates} == {3}
    assert [one.text for one in found.details.samples] == ["0", "3", ""]
    assert [one.is_right for one in found.details.samples] == [True, False, False]
    assert [one.reference for one in found.details.samples] == ["0", "2", "4"]
    assert sorted(found.details.lengths) == [1] * 5 + [2, 2, 4, 6, 8, 8, 10]


def test_a_single_answer_needs_no_vote(model_folder, sums, scribe):
    scribe(lambda prompt, number: Written([5], "0", "stop"))
    values, _ = measured(model_folder, sums(2))
    assert values == {"pass@1": 0.5, "tokens": 1, "truncated": 0, "unanswered": 0}


def test_whole_texts_are_compared_with_the_reference_too(model_folder, sums, scribe):
    scribe(lambda prompt, number: Written([5], "0 4", "stop"))
    values, _ = measured(model_folder, sums(3, metrics=["f1", "rouge1"]))
    # One of two words is that of the references 0 and 4, of which there is one: 2 / 3.
    assert values["f1"] == values["rouge1"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)


def test_every_answer_has_a_seed_of_its_own(model_folder, sums, scribe):
    engine = scribe(lambda prompt, number: Written([5], "0", "stop"))
    measured(model_folder, sums(5, generation={"temperature": 1.0, "num_samples": 2}))
    prompts = [text for texts, _ in engine.calls for text in texts]
    seeds = [seed for _, seeds in engine.calls for seed in seeds]
    assert [len(texts) for texts, _ in engine.calls] == [4, 4, 2]
    assert prompts == [f"{i}+{i}=" for i in range(5) for _ in range(2)]
    assert seeds == [sample_seed(3, i, sample) for i in range(5) for sample in range(2)]
    assert len(set(seeds)) == 10
    assert engine.is_closed


def test_engines_that_batch_by_themselves_get_more_at_once(model_folder, sums, scribe):
    engine = scribe(lambda prompt, number: Written([5], "0", "stop"))
    measured(model_folder, sums(9))
    measured(model_folder, sums(9), engine=TransformersEngine(batch_size=2))
    measured(model_folder, sums(9), engine=VLLMEngine(kind="vllm"))
    counts = [len(texts) for texts, _ in engine.calls]
    assert counts == [4, 4, 1, 2, 2, 2, 2, 1, 9]
    assert [one.kind for one in engine.settings] == ["transformers", "transformers", "vllm"]


def test_an_evaluation_that_was_killed_goes_on_with_what_is_left(model_folder, sums, tmp_path):
    sampled = {"temperature": 1.0, "num_samples": 2, "max_completion_length": 5}
    task = sums(7, generation=sampled)

    def killed(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(model_folder, task, tmp_path / "killed", progress=killed)
    kept = tmp_path / "killed" / "answers.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    # A head and two batches of two questions; the last line was cut as it was written.
    assert len(lines) == 5
    kept.write_bytes(b"".join(lines)[:-9])
    seen = []
    values, found = measured(
        model_folder, task, tmp_path / "killed", progress=lambda done, total: seen.append(done)
    )
    assert seen == [2, 4, 6, 7]
    whole, undisturbed = measured(model_folder, task, tmp_path / "whole")
    assert values == whole
    assert found.details == undisturbed.details
    answers = [(tmp_path / name / "answers.jsonl").read_text() for name in ("killed", "whole")]
    assert set(answers[0].splitlines()) == set(answers[1].splitlines())


def test_what_is_there_is_not_asked_again_unless_the_prompts_differ(
    model_folder, sums, scribe, tmp_path
):
    engine = scribe(lambda prompt, number: Written([5], "0", "stop"))
    first = measured(model_folder, sums(3), tmp_path / "kept")
    assert measured(model_folder, sums(3), tmp_path / "kept")[0] == first[0]
    assert len(engine.calls) == 1
    # The same task, whose file has another row by now.
    measured(model_folder, sums(4), tmp_path / "kept")
    assert len(engine.calls) == 2
    measured(model_folder, sums(4, prompt="{question}="), tmp_path / "kept")
    assert len(engine.calls) == 3


def test_a_model_of_our_own_answers_and_an_answer_without_end_is_cut(model_folder, sums):
    values, found = measured(model_folder, sums(5, generation={"max_completion_length": 3}))
    assert found.details.lengths == [3] * 5
    assert (values["tokens"], values["truncated"]) == (3, 1)
    again, _ = measured(model_folder, sums(5, generation={"max_completion_length": 3}))
    assert again == values


def test_a_prompt_beyond_the_positions_of_a_model_is_an_error(tokenizer, tmp_path, sums):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 4}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    task = sums(1, prompt="{question}{question}")
    with pytest.raises(InputError, match="tokens, and the model has 4 positions; leave it out"):
        measured(str(tmp_path / "m"), task)


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"grader": "math_verify"}, "math_verify"),
        ({"metrics": ["f1", "rouge1"]}, "rouge_score"),
        ({"metrics": ["rouge2"]}, "rouge_score"),
        ({"metrics": ["rougeL"]}, "rouge_score"),
        ({"metrics": ["bleu_4"]}, "nltk"),
    ],
)
def test_a_package_that_is_missing_is_told_before_anything_is_written(
    model_folder, sums, scribe, monkeypatch, settings, package
):
    engine = scribe(lambda prompt, number: Written([5], "0", "stop"))
    monkeypatch.setattr(reasoning, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"task sums: .* needs {package}, .*'llmkd\[eval\]'"):
        measured(model_folder, sums(1, **settings))
    assert not engine.settings
    # What needs none goes on.
    measured(model_folder, sums(1, metrics=["f1"]))
    assert engine.calls


def test_a_task_that_fails_leaves_the_others(model_folder, sums):
    good = sums(2, generation={"max_completion_length": 2})
    bad = good.model_copy(update={"name": "chat", "apply_chat_template": True})
    suite = Suite(name="s", tasks=[bad, good])
    found = evaluate(
        [("m", model_folder)], suite, batch_size=4, seed=0, progress=lambda done, total: None
    )
    assert {record.task for record in found.records} == {"sums"}
    (failure,) = found.failures
    assert "no chat template; write false" in str(failure)


@pytest.mark.real_data
def test_a_real_model_is_asked_real_questions(real_data):
    path = real_data / "gsm8k" / "train.jsonl"
    task = {
        "kind": "reasoning", "name": "gsm8k", "grader": "number",
        "data": {"dataset_name": str(path), "num_examples": 10},
        "generation": {"max_completion_length": 32},
    }  # fmt: skip
    found = evaluate(
        [("stories", str(real_data / "models" / "stories260K" / "hf"))],
        Suite.model_validate({"name": "reasoning", "tasks": [task]}),
        batch_size=4,
        seed=0,
        progress=lambda done, total: None,
    )
    assert not found.failures
    records = {record.metric: record for record in found.records}
    assert list(records) == ["pass@1", "tokens", "truncated", "unanswered"]
    assert {(one.model, one.suite, one.task, one.num_examples) for one in records.values()} == {
        ("stories", "reasoning", "gsm8k", 10)
    }
    # It tells stories.
    assert records["pass@1"].value == 0
    ((lengths,),) = [[one["counts"] for one in found.details.lengths]]
    assert sum(count for _, count in lengths) == 10
    assert sum(length * count for length, count in lengths) / 10 == records["tokens"].value
    cut = sum(count for length, count in lengths if length == 32)
    assert records["truncated"].value == cut / 10
    samples = list(found.details.samples.values())
    assert len(samples) == 8
    assert samples[0]["prompt"].startswith("Natalia sold clips to 48")
    assert samples[0]["reference"].endswith("#### 72")
