"""What a teacher is asked, as text and as token ids, from the cache."""

import json

import pytest
from tokenizers import processors
from transformers import LlamaConfig, T5Config

from llmkd.data.cache import tokenized
from llmkd.data.prompts import PromptTokenize, answered
from llmkd.data.tokenize import ROWS_AT_ONCE
from llmkd.errors import DataError, InputError
from llmkd.recipe.data import AdditionTask, PromptRows

BOS, EOS = 1, 2
USER = {"role": "user", "content": "Hé?"}
ANSWER = {"role": "assistant", "content": "Yes."}
AGAIN = {"role": "user", "content": "No?"}
SYSTEM = {"role": "system", "content": "Be kind."}


def cached(source, tokenizer, config):
    tokenize = PromptTokenize(tokenizer, config, source)
    found, num_dropped = tokenized(source, tokenize, seed=0, progress=lambda done, total: None)
    assert num_dropped == 0
    return found


@pytest.fixture
def asked(tmp_path, chat_tokenizer, tiny_llama):
    """Reads the prompts of rows, with fields of the recipe's `data`."""

    def read(rows, tokenizer=chat_tokenizer, config=None, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = PromptRows(dataset_name=str(path), **fields)
        return cached(source, tokenizer, config or tiny_llama(tokenizer).config)

    return read


def conversations(found):
    return [messages and json.loads(messages) for messages in found["messages"]]


@pytest.mark.parametrize("turns", [[USER], [SYSTEM, USER], [USER, ANSWER, AGAIN]])
def test_a_conversation_is_read_in_the_chat_template_up_to_the_answer(asked, chat_tokenizer, turns):
    found = asked([{"messages": turns}, {"messages": [*turns, ANSWER]}])
    bare, with_answer = found
    expected = chat_tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert bare == with_answer
    assert bare["input_ids"] == expected
    assert bare["length"] == len(expected)
    assert bare["trained_spans"] == []
    assert conversations(found) == [turns, turns]
    assert bare["text"].endswith("<|im_start|>assistant\n")
    assert chat_tokenizer.decode(bare["input_ids"]) == bare["text"]


def test_a_plain_prompt_is_a_users_turn_where_that_is_asked_for(asked, chat_tokenizer):
    rows = [{"prompt": "Hé?", "completion": "x"}]
    (plain,), (chat,) = asked(rows), asked(rows, apply_chat_template=True)
    assert (plain["text"], plain["messages"]) == ("Hé?", None)
    assert plain["input_ids"] == chat_tokenizer("Hé?").input_ids
    assert chat == asked([{"messages": [USER]}])[0]


def test_a_prompt_may_be_a_conversation_as_in_trl(asked):
    turns = [USER, ANSWER, AGAIN]
    assert list(asked([{"prompt": turns}])) == list(asked([{"messages": turns}]))
    rows = [{"question": [USER], "prompt": "p"}]
    found = asked(rows, columns={"prompt": "question"})
    assert list(found) == list(asked([{"messages": [USER]}]))


def test_of_a_row_with_both_the_conversation_is_taken_unless_columns_say_otherwise(asked):
    rows = [{"prompt": "Hé?", "messages": [USER, ANSWER, AGAIN]}]
    assert conversations(asked(rows)) == [[USER, ANSWER, AGAIN]]
    assert asked(rows, columns={"prompt": "prompt"})["text"][:] == ["Hé?"]


def test_a_system_prompt_comes_first_where_there_is_none(asked):
    own = [{"role": "developer", "content": "Be brief."}, USER]
    rows = [{"messages": [USER, ANSWER]}, {"messages": [SYSTEM, USER]}, {"messages": own}]
    other = {"role": "system", "content": "Think."}
    found = conversations(asked(rows, system_prompt="Think."))
    assert found == [[other, USER], [SYSTEM, USER], own]
    rows = [{"prompt": "Hé?"}]
    found = conversations(asked(rows, system_prompt="Think.", apply_chat_template=True))
    assert found == [[other, USER]]


@pytest.mark.parametrize("apply_chat_template", [False, True])
def test_the_begin_of_text_token_is_there_once(asked, chat_tokenizer, apply_chat_template):
    chat_tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = chat_tokenizer.bos_token_id
    chat_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    chat_tokenizer.chat_template = "{{ bos_token }}" + chat_tokenizer.chat_template
    (prompt,) = asked([{"prompt": "Hé?"}], apply_chat_template=apply_chat_template)
    assert prompt["input_ids"].index(bos) == 0
    assert prompt["input_ids"].count(bos) == 1


def test_an_answer_makes_a_row_to_train_on(asked):
    (plain,), (chat,) = asked([{"prompt": "Hé?"}]), asked([{"messages": [SYSTEM, USER, ANSWER]}])
    more = {"completion": "No.", "number": 7}
    assert answered(plain, "No.", 7) == {"prompt": "Hé?", **more}
    said = {"role": "assistant", "content": "No."}
    assert answered(chat, "No.", 7) == {"messages": [SYSTEM, USER, said], **more}


@pytest.mark.parametrize("apply_chat_template", [False, True])
def test_kept_columns_come_back_with_the_answer(asked, apply_chat_template):
    rows = [{"prompt": "Hé?", "id": i, "gold": {"é": [i, None]}, "x": 1} for i in range(2)]
    found = asked(rows, keep_columns=["gold", "id"], apply_chat_template=apply_chat_template)
    bare = asked(rows, apply_chat_template=apply_chat_template)
    for number, (row, plain) in enumerate(zip(found, bare, strict=True)):
        kept = {name: rows[number][name] for name in ("gold", "id")}
        assert answered(row, "No.", number) == answered(plain, "No.", number) | kept
        assert row["tokens_key"] == plain["tokens_key"]


def test_a_prompt_from_a_file_is_asked_in_the_chat_template(asked, tmp_path):
    (tmp_path / "p.txt").write_text("Say {word}!\n")
    rows = [{"word": "a", "messages": [ANSWER]}]
    fields = {"prompt_file": str(tmp_path / "p.txt"), "keep_columns": ["word"]}
    (plain,) = asked(rows, **fields)
    assert answered(plain, "b", 0) == {
        "prompt": "Say a!", "completion": "b", "number": 0, "word": "a"
    }  # fmt: skip
    found = asked(rows, apply_chat_template=True, system_prompt="Be kind.", **fields)
    assert conversations(found) == [[SYSTEM, {"role": "user", "content": "Say a!"}]]


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([ANSWER], "have no turn"),
        ([USER, ANSWER, ANSWER], "end with a turn of `assistant`"),
        ([USER, SYSTEM], "end with a turn of `system`"),
        ([USER, {"role": "gpt", "content": "Yes."}], "end with a turn of `gpt`"),
    ],
)
def test_a_conversation_that_no_answer_can_follow_is_named(asked, turns, what):
    with pytest.raises(DataError, match=f"row 2: before the assistant's answer, `messages` {what}"):
        asked([{"messages": [USER]}, {"messages": turns}])


def test_a_tools_turn_is_answered_too(asked):
    turns = [USER, ANSWER, {"role": "tool", "content": "42"}]
    assert conversations(asked([{"messages": turns}])) == [turns]


def test_empty_messages_are_refused(asked):
    with pytest.raises(InputError, match=r"no list of \{role: .* first in row 2"):
        asked([{"messages": [USER]}, {"messages": []}])


def test_a_conversation_needs_a_chat_template(asked, tokenizer):
    with pytest.raises(DataError, match=r"no chat template; write data.chat_template: FILE\.jinja"):
        asked([{"messages": [USER]}], tokenizer)
    with pytest.raises(DataError, match=r"data\.chat_template: .* without apply_chat_template"):
        asked([{"prompt": "1+1="}], tokenizer, apply_chat_template=True)


def test_an_encoder_reads_no_conversation(asked, tiny_seq2seq, chat_tokenizer):
    config = tiny_seq2seq(chat_tokenizer, decoder_start_token_id=0).config
    with pytest.raises(DataError, match="a teacher with an encoder and a decoder reads no conv"):
        asked([{"messages": [USER]}], config=config)
    assert asked([{"prompt": "Hé?"}], config=config)[0]["text"] == "Hé?"


@pytest.mark.parametrize("field", ["system_prompt", "chat_template"])
def test_what_plain_text_has_no_use_for_is_refused(asked, field):
    with pytest.raises(DataError, match=rf"data\.{field}: .* write apply_chat_template: true"):
        asked([{"prompt": "Hé?"}], **{field: "x"})


def test_a_row_that_the_template_refuses_is_named(asked, chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}x"
    )
    rows = [{"messages": [USER]}, {"messages": [{"role": "user", "content": "bad"}]}]
    with pytest.raises(InputError, match="data: row 2, `messages`: no"):
        asked(rows)


def test_a_row_far_down_is_named_by_its_number(asked):
    rows = [{"messages": [USER]}] * (ROWS_AT_ONCE + 1)
    with pytest.raises(DataError, match=rf"row {ROWS_AT_ONCE + 2}: .* have no turn"):
        asked([*rows, {"messages": [ANSWER]}])


def test_a_row_is_named_by_its_number_even_after_one_that_cannot_be_used(asked):
    rows = [{"messages": []}, {"messages": [ANSWER]}, *[{"messages": [USER]}] * ROWS_AT_ONCE]
    with pytest.raises(InputError, match=r"in 1 of 1002 rows, first in row 1:"):
        asked(rows)


def test_whatever_a_conversation_depends_on_makes_a_new_entry(asked, chat_tokenizer, tmp_path):
    rows = [{"prompt": "Hé?"}]
    texts = [asked(rows, **fields)[0]["text"] for fields in ({}, {"apply_chat_template": True})]
    for system_prompt in ("Think.", "Hurry."):
        fields = {"apply_chat_template": True, "system_prompt": system_prompt}
        texts.append(asked(rows, **fields)[0]["text"])
    chat_tokenizer.chat_template = "Q: {{ messages[-1].content }} A:"
    texts.append(asked(rows, apply_chat_template=True)[0]["text"])
    assert len(set(texts)) == 5
    assert texts[-1] == "Q: Hé? A:"


def test_an_edited_prompt_file_and_other_kept_columns_make_a_new_entry(asked, tmp_path):
    rows, file = [{"a": "1", "b": "2"}], tmp_path / "p.txt"
    found = []
    for text, names in [("{a}", ["a"]), ("{b}", ["a"]), ("{b}", ["b"]), ("{b}", [])]:
        file.write_text(text)
        (row,) = asked(rows, prompt_file=str(file), keep_columns=names)
        found.append((row["text"], row["kept"]))
    assert found == [("1", '{"a": "1"}'), ("2", '{"a": "1"}'), ("2", '{"b": "2"}'), ("2", None)]


def test_what_plain_text_has_no_use_for_is_refused_whatever_was_read_before(asked):
    assert asked([{"prompt": "Hé?"}])["text"][:] == ["Hé?"]
    with pytest.raises(DataError, match=r"data\.chat_template: .* write apply_chat_template: true"):
        asked([{"prompt": "Hé?"}], chat_template="the_tokenizers_own.jinja")


def test_a_task_is_plain_text(tokenizer):
    found = cached(AdditionTask(kind="task", num_examples=3), tokenizer, LlamaConfig())
    assert found["input_ids"][:] == [tokenizer(text).input_ids for text in found["text"]]
    assert conversations(found) == [None] * 3


@pytest.mark.parametrize(("config", "ending"), [(LlamaConfig(), []), (T5Config(), [EOS])])
def test_prompts_have_their_text_and_the_tokens_that_the_kind_of_model_reads(
    asked, framed, config, ending
):
    texts = ["7=", "20+3=", "7="]
    # The tokenizer adds both ends.
    tokenizer = framed("<bos> $A <eos>")
    found = asked([{"prompt": text} for text in texts], tokenizer, config)
    assert found["text"][:] == texts
    digits = {"7=": [11, 15], "20+3=": [6, 4, 14, 7, 15]}
    assert found["input_ids"][:] == [[BOS, *digits[text], *ending] for text in texts]


def test_prompts_are_read_from_their_file_and_do_not_stand_in_memory(asked):
    found = asked([{"prompt": "1+1="}])
    (file,) = found.cache_files
    assert file["filename"].endswith("examples.arrow")
