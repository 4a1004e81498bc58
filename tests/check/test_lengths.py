import json

import pytest

from llmkd.check.facts import Fact
from llmkd.check.lengths import data_facts
from llmkd.check.row_facts import DataFacts
from llmkd.check.tasks import NOT_CUT
from llmkd.check.vocabulary import ADDITION, read_tokenizer, tokenizer_of_task
from llmkd.data import addition
from llmkd.data.prepare import UNCUT, prepare, rows_of_parts
from llmkd.data.sources import iter_rows
from llmkd.data.tasks import build_tokenizer
from llmkd.data.tokenize import Tokenize
from llmkd.errors import DataError
from llmkd.recipe.data import (
    AdditionTask,
    DatasetSource,
    MixedDataset,
    MixedTask,
    Mixture,
    NamedIntentTask,
    TrainedAddition,
)


def none_generated(name):
    raise AssertionError(name)


def silent(done, total):
    pass


def facts(source, tokenizer=ADDITION, generated=none_generated):
    return data_facts(source, tokenizer, generated)


@pytest.fixture
def write(tmp_path):
    def write(rows, name="data.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("steps", ["completion", "rationale"])
@pytest.mark.parametrize("digits", range(1, 10))
def test_a_sum_has_as_many_tokens_as_when_training(digits, steps, tokenizer):
    task = AdditionTask(kind="task", digits=digits, num_examples=5, steps=steps)
    lengths = {example.length for example in Tokenize(tokenizer, UNCUT)(iter_rows(task, seed=1))}

    assert lengths == {facts(task).tokens_per_row.value}


def test_named_intents_have_as_many_tokens_as_when_training():
    task = NamedIntentTask(kind="task", task="named_intents", num_examples=64)
    data = prepare(task, build_tokenizer(task), seed=0, progress=silent)
    found = facts(task, tokenizer_of_task(task))
    assert found.rows == Fact(64, "exact", "data.num_examples")
    assert found.longest.value == max(data.lengths) == data.longest
    assert found.tokens_per_row.value == pytest.approx(sum(data.lengths) / 64, abs=1e-4)
    # Another seed gives other requests.
    assert found.longest.exactness == found.tokens_per_row.exactness == "estimate"
    assert found.truncated == NOT_CUT
    assert data.counts.num_truncated == 0
    # Of each row, the label's name and the end are trained on.
    assert data.counts.num_trained_tokens == 2 * 64


def test_more_named_intents_than_there_are_and_an_unknown_tokenizer():
    task = NamedIntentTask(kind="task", task="named_intents", num_examples=4001, split="test")
    with pytest.raises(DataError, match="write num_examples: 4000 or less"):
        facts(task)
    found = facts(task.model_copy(update={"num_examples": 5}), "not here")
    assert (found.rows.value, found.longest.value) == (5, None)


@pytest.mark.parametrize("max_length", [6, 9, 12, 40])
@pytest.mark.parametrize("append_eos", [True, False])
@pytest.mark.parametrize("columns", ["text", "prompt and completion"])
def test_rows_are_as_long_as_when_training(
    columns, append_eos, max_length, write, tokenizer, tmp_path
):
    tokenizer.save_pretrained(tmp_path)
    rows = [{"prompt": "1+2=", "completion": "3" * n} for n in range(1, 20)]
    if columns == "text":
        rows = [{"text": row["prompt"] + row["completion"]} for row in rows]
    source = DatasetSource(dataset_name=write(rows), max_length=max_length, append_eos=append_eos)
    examples = list(Tokenize(tokenizer, source)(iter_rows(source, seed=0)))

    found = facts(source, read_tokenizer(tmp_path))

    assert found.tokens_per_row.exactness == "exact"
    assert found.tokens_per_row.value == round(sum(e.length for e in examples) / 19, 4)
    assert found.longest.value == max(example.length for example in examples)
    assert found.truncated.value == round(sum(e.num_cut > 0 for e in examples) / 19, 4)


@pytest.mark.parametrize(
    "rationale",
    [{"kind": "step_by_step", "prefix": ";"}, {"kind": "chain_of_thought", "separator": "#"}],
)
@pytest.mark.parametrize("max_length", [9, 40])
def test_rows_with_rationales_are_as_long_as_when_training(
    rationale, max_length, write, tokenizer, tmp_path
):
    tokenizer.save_pretrained(tmp_path)
    rows = [
        {"prompt": "1+2=", "completion": "3" * n, "rationale": "7" * (20 - n)} for n in range(1, 20)
    ]
    source = DatasetSource.model_validate(
        {"dataset_name": write(rows), "max_length": max_length, "prompt_prefix": "#"}
        | {"rationale": rationale}
    )
    data = prepare(source, tokenizer, seed=0, progress=lambda *_, **__: None)

    found = facts(source, read_tokenizer(tmp_path))

    assert found.tokens_per_row.value == round(data.counts.num_tokens / 19, 4)
    assert (found.longest_side.value or found.longest.value) == data.longest
    assert found.truncated.value == round(data.counts.num_truncated / 19, 4)


@pytest.mark.parametrize("rationale", ["step_by_step", "chain_of_thought"])
def test_a_sum_with_its_rationale_has_as_many_tokens_as_when_training(rationale, tokenizer):
    task = TrainedAddition.model_validate(
        {"kind": "task", "digits": 2, "num_examples": 5, "steps": "rationale"}
        | {"prompt_prefix": "#", "rationale": {"kind": rationale}}
    )
    data = prepare(task, tokenizer, seed=0, progress=lambda *_, **__: None)

    found = facts(task)

    assert set(data.lengths or []) == {found.tokens_per_row.value}
    assert (found.longest_side.value or found.longest.value) == data.longest


def test_rows_whose_prompt_leaves_no_room_are_dropped_as_when_training(write, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    rows = [{"prompt": "1" * n, "completion": "33"} for n in (1, 4, 5, 6, 7, 20)]
    source = DatasetSource(dataset_name=write(rows), max_length=7)
    tokenize = Tokenize(tokenizer, source)
    examples = list(tokenize(iter_rows(source, seed=0)))

    found = facts(source, read_tokenizer(tmp_path))

    assert 0 < tokenize.num_dropped < 6
    assert (found.rows.value, found.rows.exactness) == (len(examples), "exact")
    assert found.dropped.value == round(tokenize.num_dropped / 6, 4)
    assert found.truncated.value == round(sum(e.num_cut > 0 for e in examples) / 6, 4)


def test_data_of_which_every_row_is_dropped_is_refused(write):
    rows = [{"prompt": "1" * 20, "completion": "2"}]
    with pytest.raises(DataError, match="no row has a token to train on within 7 tokens"):
        facts(DatasetSource(dataset_name=write(rows), max_length=7))


def test_dropped_rows_scale_an_estimated_number_of_rows(write):
    rows = [{"prompt": "1" * (1 + 19 * (n % 2)), "completion": "2"} for n in range(400)]
    found = facts(DatasetSource(dataset_name=write(rows), max_length=7))

    assert (found.rows.value, found.rows.exactness) == (200, "estimate")


def test_a_long_text_is_tokenized_only_as_far_as_it_is_read(write):
    source = DatasetSource(dataset_name=write([{"text": "1" * 10**6}] * 3), max_length=64)

    found = facts(source)

    assert (found.longest.value, found.truncated.value) == (64, 1.0)


def test_messages_are_counted_without_their_template(write):
    messages = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    found = facts(DatasetSource(dataset_name=write([{"messages": messages}] * 2)))

    assert found.tokens_per_row.exactness == "estimate"
    assert "without their chat template" in found.tokens_per_row.how


def test_only_the_first_rows_that_are_asked_for_count(write):
    rows = [{"text": "1" * n} for n in range(1, 11)]
    found = facts(DatasetSource(dataset_name=write(rows), num_examples=2, append_eos=False))

    assert (found.rows.value, found.longest.value) == (2, 3)


def test_a_mixture_takes_what_there_is_without_repeating(write):
    name = write([{"text": "11"}] * 30)
    sources = [
        MixedDataset(dataset_name=name, weight=3.0),
        MixedTask(kind="task", digits=1, num_examples=20, weight=1.0),
    ]
    found = facts(Mixture(kind="mixture", sources=sources, max_length=100))

    assert found.rows.value == sum(rows_of_parts([30, 20], [3.0, 1.0], None))
    # 30 / 0.75 is less than 20 / 0.25; rows of 4 (<bos>, two, <eos>) and 18 tokens.
    assert found.rows.value == 40
    assert found.tokens_per_row.value == 0.75 * 4 + 0.25 * 18
    assert found.longest.value == 18


def test_weights_of_any_size_make_shares(write):
    name = write([{"text": "11"}] * 3)
    weights = (1e308, 1e308, 5e-324)
    sources = [MixedDataset(dataset_name=name, weight=weight) for weight in weights]

    assert facts(Mixture(kind="mixture", sources=sources)).rows.value == 6


def test_of_a_split_or_a_column_that_a_stage_keeps_no_length_is_known():
    source = DatasetSource(dataset_name="stage:ask", max_length=64)
    own = DataFacts(*[Fact(n, "at most", "") for n in (10, 30, 30)], Fact(0, "exact", ""))

    def found(**fields):
        made = facts(source.model_copy(update=fields), generated=lambda name: own)
        return made.rows.value, made.longest.value

    assert found() == (10, 30)
    assert found(columns={"prompt": "question"}) == (10, 64)
    assert found(dataset_split="undecided") == (None, 64)
    assert found(dataset_split="undecided", num_examples=5) == (None, 64)


def test_one_made_up_sum_has_the_form_of_all(tokenizer):
    from llmkd.check.tasks import example_of

    task = AdditionTask(kind="task", digits=4, num_examples=1)
    row = addition.make_rows(task, seed=0)[0]
    prompt, completion = example_of(task)

    assert (len(prompt), len(completion)) == (len(row["prompt"]), len(row["completion"]))
