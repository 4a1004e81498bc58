"""Rationales as targets: as a second task in the same batch, or before the completion."""

import json

import pytest

from llmkd.data.kinds import collator_for, tokenizing_for
from llmkd.data.prepare import prepare
from llmkd.data.rationale import WithParts
from llmkd.errors import InputError
from llmkd.recipe.data import DatasetSource, Mixture, TrainedAddition

STEP_BY_STEP = {"kind": "step_by_step", "prefix": ";"}
ROWS = [
    {"prompt": "1+2=", "completion": "3", "rationale": "1+2+0=03"},
    {"prompt": "4+4=", "completion": "8", "rationale": None},
    {"prompt": "5+5=", "completion": "10", "rationale": "5+5+0=10"},
]


def ignore(done, total, **_):
    pass


@pytest.fixture
def model(tiny_llama, tiny_seq2seq, tokenizer):
    def make(kind):
        return tiny_llama(tokenizer) if kind == "llama" else tiny_seq2seq(tokenizer, kind)

    return make


@pytest.fixture
def source(tmp_path):
    def make(rows=ROWS, rationale=STEP_BY_STEP, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DatasetSource.model_validate(
            {"dataset_name": str(path), "rationale": rationale, **fields}
        )

    return make


def prepared(source, tokenizer, model):
    tokenizing = tokenizing_for(model.config, "student")
    return prepare(source, tokenizer, seed=0, progress=ignore, tokenizing=tokenizing)


def read_and_written(batch, tokenizer):
    """What each sequence reads, what it is to write, and which part it is of."""
    found = []
    for ids, mask, targets, parts in zip(
        batch["input_ids"], batch["attention_mask"], batch["target_ids"], batch["part_ids"],
        strict=True,
    ):  # fmt: skip
        decode = lambda tokens: tokenizer.decode(tokens).replace("<bos>", "")  # noqa: E731
        (part,) = set(parts.tolist())
        found.append((decode(ids[mask.bool()]), decode(targets[targets != -100]), part))
    return found


@pytest.mark.parametrize("kind", ["llama", "t5", "bart"])
def test_a_batch_holds_both_sequences_of_its_rows(kind, model, source, tokenizer):
    built = model(kind)
    data = prepared(source(prompt_prefix="#"), tokenizer, built)
    collate = WithParts(collator_for(built.config, tokenizer))
    found = read_and_written(collate(list(data.dataset)), tokenizer)
    written = [("3<eos>", 0), ("1+2+0=03<eos>", 1), ("8<eos>", 0), ("10<eos>", 0), ("5+5+0=10<eos>", 1)]  # fmt: skip
    assert [(target, part) for _, target, part in found] == written
    prompts = ["#1+2=", ";1+2=", "#4+4=", "#5+5=", ";5+5="]
    if kind == "llama":
        prompts = [prompt + target for prompt, (target, _) in zip(prompts, written, strict=True)]
    assert [read for read, *_ in found] == prompts


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_rows_without_a_rationale_are_counted_and_lengths_are_of_one_sequence(
    kind, model, source, tokenizer
):
    data = prepared(source(), tokenizer, model(kind))
    assert (data.counts.num_rows, data.counts.num_without_rationale) == (3, 1)
    # <bos>;1+2=1+2+0=03<eos> is 15 tokens as one sequence; T5 writes <bos>1+2+0=03<eos>, 10.
    assert data.longest == {"llama": 15, "t5": 10}[kind]
    # Both sequences of the first row: <bos>1+2=3<eos> is 7 tokens, T5's <bos>1+2= and <bos>3<eos> 8.
    assert data.lengths is not None
    assert data.lengths[0] == {"llama": 15 + 7, "t5": 6 + 10 + 5 + 3}[kind]


def test_each_sequence_is_cut_by_itself(model, source, tokenizer):
    data = prepared(source(max_length=8), tokenizer, model("llama"))
    batch = WithParts(collator_for(model("llama").config, tokenizer))(list(data.dataset))
    # <bos>;1+2= leaves room for two tokens of the rationale; the completions are whole.
    written = [target for _, target, _ in read_and_written(batch, tokenizer)]
    assert written == ["3<eos>", "1+", "8<eos>", "10<eos>", "5+"]
    assert data.counts.num_truncated == 2


def test_a_chain_of_thought_is_one_target(model, source, tokenizer):
    rationale = {"kind": "chain_of_thought", "separator": "#"}
    data = prepared(source(rows=ROWS[::2], rationale=rationale), tokenizer, model("t5"))
    batch = collator_for(model("t5").config, tokenizer)(list(data.dataset))
    written = [tokenizer.decode(ids[ids != -100][1:]) for ids in batch["target_ids"]]
    assert written == ["1+2+0=03#3<eos>", "5+5+0=10#10<eos>"]


def test_a_chain_of_thought_needs_a_rationale_in_every_row(model, source, tokenizer):
    with pytest.raises(InputError, match="row 2 has no `rationale`"):
        prepared(source(rationale={"kind": "chain_of_thought"}), tokenizer, model("t5"))


def test_data_without_the_column_says_what_it_has(model, source, tokenizer):
    rows = [{"prompt": "1+2=", "completion": "3", "why": "so"}]
    with pytest.raises(InputError, match=r"columns are prompt, completion, why.*`rationale`"):
        prepared(source(rows=rows), tokenizer, model("t5"))
    data = prepared(source(rows=rows, columns={"rationale": "why"}), tokenizer, model("t5"))
    assert data.counts.num_without_rationale == 0


def test_data_whose_rationales_are_all_missing_is_refused(model, source, tokenizer):
    with pytest.raises(InputError, match="none of 1 rows has a rationale"):
        prepared(source(rows=ROWS[1:2]), tokenizer, model("t5"))


def test_a_stream_has_the_examples_of_a_file(model, source, tokenizer):
    whole = prepared(source(), tokenizer, model("llama"))
    stream = prepared(source(streaming=True), tokenizer, model("llama"))
    rows = [row for row, _ in zip(stream.dataset, range(3), strict=False)]
    names = ("input_ids", "trained_spans", "rationale_start")
    of = lambda rows: sorted([[*map(int, row["input_ids"])], row["trained_spans"], row["rationale_start"]] for row in rows)  # noqa: E731  # fmt: skip
    assert of(rows) == of(list(whole.dataset)), names
    assert stream.counts.num_without_rationale == 1


def test_the_embedded_task_explains_its_sums(model, tokenizer):
    task = TrainedAddition.model_validate(
        {"kind": "task", "digits": 1, "num_examples": 3, "steps": "rationale",
         "rationale": STEP_BY_STEP}
    )  # fmt: skip
    data = prepared(task, tokenizer, model("t5"))
    batch = WithParts(collator_for(model("t5").config, tokenizer))(list(data.dataset))
    for (asked, answer, _), (prompt, steps, _) in zip(
        *[iter(read_and_written(batch, tokenizer))] * 2, strict=True
    ):
        assert prompt == f";{asked}"
        first, second = map(int, asked.removesuffix("=").split("+"))
        assert answer == f"{first + second:02d}<eos>"
        assert steps == f"{first}+{second}+0={first + second:02d};<eos>"


def test_a_mixture_explains_rows_of_every_source(model, source, tokenizer):
    file = source().dataset_name
    mixture = Mixture.model_validate(
        {"kind": "mixture", "rationale": STEP_BY_STEP,
         "sources": [{"dataset_name": file}, {"dataset_name": file, "prompt_prefix": "#"}]}
    )  # fmt: skip
    data = prepared(mixture, tokenizer, model("t5"))
    batch = WithParts(collator_for(model("t5").config, tokenizer))(list(data.dataset))
    asked = [read for read, _, part in read_and_written(batch, tokenizer) if part == 1]
    # The rationale's prefix stands in place of each source's own.
    assert sorted(asked) == [";1+2=", ";1+2=", ";5+5=", ";5+5="]


def test_a_prefix_before_rows_without_prompts_is_refused(model, source, tokenizer):
    rows = [{"text": "1+2=3"}]
    with pytest.raises(InputError, match=r"prompt_prefix: .* have no `prompt`"):
        prepared(source(rows=rows, rationale=None, prompt_prefix="#"), tokenizer, model("llama"))
