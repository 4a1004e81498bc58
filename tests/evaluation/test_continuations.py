import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llmkd.evaluation.continuations import Beginning, beginnings, continued
from llmkd.recipe.evaluation import PerplexityTask
from llmkd.teacher_data.transformers_engine import generate

LONG = "".join(str(i % 10) for i in range(200))


def task(folder, *texts, **parts):
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = {"dataset_name": str(path), "max_length": 64, **parts}
    return PerplexityTask.model_validate({"kind": "perplexity", "name": "text", "data": data})


def test_a_long_text_gives_32_tokens_and_the_next_48(tokenizer, tmp_path):
    (found,) = beginnings(task(tmp_path, LONG), tokenizer, seed=0)
    # The task's tokenizer has one token per character.
    assert found == Beginning(0, LONG[:32], LONG[32:80])


def test_short_texts_are_cut_in_proportion_and_single_tokens_left_out(tokenizer, tmp_path):
    found = beginnings(task(tmp_path, "1+2=3", "7", "12"), tokenizer, seed=0)
    assert found == [Beginning(0, "1+", "2=3"), Beginning(2, "1", "2")]


def test_the_first_four_rows_are_taken_or_fewer_where_the_task_reads_fewer(tokenizer, tmp_path):
    texts = [f"{i}+{i}={2 * i}" for i in range(9)]
    found = beginnings(task(tmp_path, *texts), tokenizer, seed=0)
    assert [one.example for one in found] == [0, 1, 2, 3]
    found = beginnings(task(tmp_path, *texts, num_examples=2), tokenizer, seed=0)
    assert [one.example for one in found] == [0, 1]


def byte_tokenizer():
    """A token per byte, so that characters have several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({"<e>": 0} | {c: i for i, c in enumerate(alphabet, 1)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<e>", pad_token="<e>")


def test_no_character_is_cut_in_two(tmp_path):
    # 33 bytes before the end of the ninth euro: the prompt's 32nd token is the middle of it.
    text = "123456" + "€" * 30 + " und weiter"
    (found,) = beginnings(task(tmp_path, text), byte_tokenizer(), seed=0)
    assert found.prompt == "123456" + "€" * 8
    assert text.startswith(found.prompt + found.reference)
    assert len(found.reference) > 10


def test_answers_are_what_generate_gives_for_the_prompts(tiny_llama, tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    texts = beginnings(task(tmp_path, LONG, "1+2=3", "9+9=18;#18", "55"), tokenizer, seed=0)
    samples = continued(model, tokenizer, texts, batch_size=3, seed=0)
    expected = []
    for part in (texts[:3], texts[3:]):
        expected += generate(
            model,
            tokenizer,
            [text.prompt for text in part],
            temperature=0.0,
            max_completion_length=48,
            seed=1,
        )
    found = [(sample.text, sample.num_tokens) for sample in samples]
    assert found == [(done.text, done.num_tokens) for done in expected]
    assert [sample.example for sample in samples] == [0, 1, 2, 3]
    assert {sample.is_right for sample in samples} == {None}


@pytest.mark.parametrize(("num_positions", "most"), [(10, 9), (2, 1), (1, None)])
def test_no_more_is_written_than_the_model_has_positions_for(tokenizer, num_positions, most):
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": len(tokenizer)}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(n_positions=num_positions, **shape, **ids)).eval()
    # Two tokens: the begin-of-text token and the digit.
    samples = continued(model, tokenizer, [Beginning(0, "1", "2")], batch_size=4, seed=0)
    if most is None:
        assert samples == []
    else:
        assert samples[0].num_tokens <= most


def test_without_texts_there_is_nothing_to_continue(tiny_llama, tokenizer):
    assert continued(tiny_llama(tokenizer), tokenizer, [], batch_size=4, seed=0) == []
