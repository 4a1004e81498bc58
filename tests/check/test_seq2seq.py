"""What a check knows of models with an encoder and a decoder, held against the real ones."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from llmkd.check.facts import NotKnownError
from llmkd.check.lengths import data_facts
from llmkd.check.seq2seq import is_seq2seq, num_seq2seq_parameters, reading_as
from llmkd.check.vocabulary import read_tokenizer
from llmkd.data.seq2seq import Seq2SeqTokenize
from llmkd.errors import InputError
from llmkd.models.kinds import special_token_ids
from llmkd.models.load import load_model
from llmkd.recipe.data import DatasetSource, Sequences
from llmkd.recipe.models import PretrainedModel

SMALL = {"vocab_size": 97, "d_model": 24}
T5 = {"model_type": "t5", **SMALL, "d_kv": 5, "d_ff": 31, "num_layers": 2, "num_heads": 3}
BART = {
    "model_type": "bart", **SMALL, "encoder_attention_heads": 4, "decoder_attention_heads": 3,
    "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 10, "decoder_ffn_dim": 13,
    "max_position_embeddings": 33,
}  # fmt: skip
CONFIGS = [
    T5,
    {**T5, "num_decoder_layers": 3},
    {**T5, "feed_forward_proj": "gated-gelu"},
    {**T5, "tie_word_embeddings": False},
    {**T5, "relative_attention_num_buckets": 8},
    {"model_type": "t5", "hidden_size": 48},
    BART,
    {**BART, "tie_word_embeddings": False},
    # All of transformers' defaults.
    {"model_type": "t5"},
    {"model_type": "bart"},
]
TINY_T5 = {
    "model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
}  # fmt: skip


def facts(report, stage="train"):
    return report.stages[stage].facts


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: ",".join(map(str, c.values())))
def test_the_formula_counts_what_the_model_has(config):
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**config))
    assert num_seq2seq_parameters(config) == sum(p.numel() for p in model.parameters())


def test_another_architecture_has_no_formula():
    with pytest.raises(NotKnownError, match="no formula for marian, only for t5, bart"):
        num_seq2seq_parameters({"model_type": "marian"})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "t5"}, True),
        ({"model_type": "mbart"}, True),
        ({"model_type": "llama"}, False),
        ({"model_type": "bart", "is_encoder_decoder": False}, False),
        ({"model_type": "no-such-thing"}, None),
        ({"model_type": "../t5"}, None),
        ({"model_type": 5}, None),
        ({}, None),
    ],
)
def test_the_kind_is_known_without_transformers(config, expected):
    assert is_seq2seq(config) is expected


@pytest.fixture
def paired(local, tokenizer, tiny_seq2seq):
    """The folder of `local`, with models of the given kind in place of the causal ones."""

    def make(kind, **config):
        for name, seed in (("student", 0), ("teacher", 1)):
            tiny_seq2seq(tokenizer, kind, seed=seed, **config).save_pretrained(local / name)
            tokenizer.save_pretrained(local / name)
        return local / "local.yaml"

    return make


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_local_models_are_counted_and_their_memory_said_to_be_more(paired, local, checked, kind):
    path = paired(kind)
    found = facts(checked(path))
    for role in ("student", "teacher"):
        model = load_model(PretrainedModel(model_name_or_path=str(local / role)))
        assert found[f"{role} parameters"].value == model.num_parameters()
        assert found[f"{role} parameters"].exactness == "exact"
    assert (found["memory"].exactness, found["vocabulary"].value) == ("at least", 18)
    assert "an encoder and a decoder keep" in found["memory"].how
    assert found["disk"].value is not None


@pytest.mark.parametrize("max_length", [2, 4, 7, 40])
@pytest.mark.parametrize("append_eos", [True, False])
@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("template", ["$A <eos>", "<bos> $A <eos>", "<bos> $A"])
def test_rows_are_as_long_as_when_training(
    template, start, append_eos, max_length, framed, tmp_path
):
    tokenizer = framed(template)
    tokenizer.save_pretrained(tmp_path)
    rows = [{"prompt": f"{10**n}+2=", "completion": "3" * (n + 1)} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DatasetSource(dataset_name=str(path), max_length=max_length, append_eos=append_eos)
    examples = list(Seq2SeqTokenize(tokenizer, source, decoder_start_token_id=start)(rows))

    config = {"model_type": "t5", "decoder_start_token_id": start}
    found = data_facts(source, reading_as(read_tokenizer(tmp_path), config), lambda _: None)

    assert found.tokens_per_row.exactness == "exact"
    assert found.tokens_per_row.value == sum(e.length for e in examples) / 8
    assert found.longest.value == max(e.length for e in examples)
    assert found.truncated.value == sum(e.num_cut > 0 for e in examples) / 8


@pytest.mark.parametrize("model_type", ["t5", "bart", "blenderbot", "marian", "mbart"])
def test_rows_are_as_long_as_when_a_student_from_scratch_is_trained(model_type, framed, tmp_path):
    tokenizer = framed("<bos> $A <eos>")
    tokenizer.save_pretrained(tmp_path)
    start = special_token_ids(model_type, tokenizer)["decoder_start_token_id"]
    made = Seq2SeqTokenize(tokenizer, Sequences(), decoder_start_token_id=start)
    (example,) = made([{"prompt": "1+2=", "completion": "3"}])
    found = reading_as(read_tokenizer(tmp_path), {"model_type": model_type})
    assert not isinstance(found, str)
    # The end-of-text token comes on top.
    assert sum(found.lengths_of_sides("1+2=", "3")) + 1 == example.length


def test_a_teacher_of_another_kind_is_refused(paired, local, checked, tokenizer, tiny_llama):
    path = paired("t5")
    tiny_llama(tokenizer).save_pretrained(local / "teacher")
    with pytest.raises(InputError, match=r"local.yaml:4 teacher: the student is a seq2seq model"):
        checked(path)


@pytest.mark.parametrize(
    ("row", "override", "message"),
    [
        ({"text": "1+2=3"}, "data.max_length=40", r"local.yaml:5 .*: rows of `text`"),
        ({"prompt": "1", "completion": "2"}, "data.packing=true", "packing=true: an encoder and a"),
    ],
)
def test_rows_that_such_models_do_not_read_are_refused(
    paired, local, checked, row, override, message
):
    path = paired("bart")
    (local / "data.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=message):
        checked(path, override)


def test_positions_must_reach_on_each_side_and_not_for_both_together(paired, local, checked):
    path = paired("bart", max_position_embeddings=8)
    rows = [{"prompt": "1234567", "completion": "123456"}]
    (local / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # <bos> and seven characters; six and <eos>, perhaps behind <bos>.
    assert facts(checked(path))["longest row"].value > 8
    rows[0]["prompt"] += "8"
    (local / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as caught:
        checked(path)
    for role in ("student", "teacher"):
        message = f"9 tokens are read at once, and the {role} has 8 positions; write max_length: 8"
        assert any(problem.endswith(message) for problem in caught.value.problems)
    assert facts(checked(path, "data.max_length=8"))["longest row"].value > 8


def test_students_from_scratch_are_counted_and_misspelt_fields_found(local, checked):
    path = local / "local.yaml"
    student = {
        "kind": "scratch",
        "config": TINY_T5,
        "tokenizer_name_or_path": str(local / "student"),
    }
    overrides = [f"student={json.dumps(student)}", "teacher=null", "losses=[{kind: cross_entropy}]"]
    found = facts(checked(path, *overrides))
    assert found["student parameters"].value == num_seq2seq_parameters(
        {**TINY_T5, "vocab_size": 18}
    )
    with pytest.raises(InputError, match="t5 has no such field; did you mean `num_layers`"):
        checked(path, *overrides, "student.config.num_layer=2")


def test_generated_rows_may_be_as_long_as_both_sides(checked):
    found = checked("seq2seq_kl")
    rows = facts(found, "student")["longest row"]
    # Six characters and <bos>, and 30 tokens at most.
    assert (rows.value, rows.exactness) == (37, "at most")
    assert facts(found, "teacher")["tokens per row"].value == 7 + 22 + 1
    assert facts(found, "student")["student parameters"].value == 112_288
