"""Which tokens of a conversation are the assistant's."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmkd.data.chat import ChatEncoder, last_answer, read_chat_template
from llmkd.data.tokenize import Tokenize
from llmkd.errors import InputError
from llmkd.recipe.data import Sequences

MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As reasoning models do: what was thought in earlier turns is left out once others follow.
FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TWO_TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hé?"},
    {"role": "assistant", "content": "Yes — naïve 🙂."},
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "No.\n"},
]


def said(tokenizer, messages, **settings):
    """The text of each trained stretch."""
    ((ids, spans),) = ChatEncoder(tokenizer, **settings).encode([messages], 1)
    return [tokenizer.decode(ids[start:end]) for start, end in spans]


@pytest.mark.parametrize("is_marked", [False, True])
def test_only_what_the_assistant_says_is_trained_on_with_the_end_of_its_turn(
    chat_tokenizer, is_marked
):
    if is_marked:
        chat_tokenizer.chat_template = MARKED
    assert said(chat_tokenizer, TWO_TURNS, assistant_only_loss=True) == [
        "Yes — naïve 🙂.<|im_end|>",
        "No.\n<|im_end|>",
    ]


def test_both_ways_of_finding_it_agree_token_by_token(chat_tokenizer):
    results = []
    for template in (chat_tokenizer.chat_template, MARKED):
        chat_tokenizer.chat_template = template
        results.append(ChatEncoder(chat_tokenizer, True).encode([TWO_TURNS], 1))
    assert results[0] == results[1]


def test_all_can_be_trained_on(chat_tokenizer):
    (whole,) = said(chat_tokenizer, TWO_TURNS, assistant_only_loss=False)
    assert whole == chat_tokenizer.apply_chat_template(TWO_TURNS, tokenize=False)


def test_a_template_that_rewrites_earlier_turns_is_refused_unless_it_marks_them(chat_tokenizer):
    chat_tokenizer.chat_template = FORGETFUL
    with pytest.raises(InputError, match=r"row 7, `messages`: .*\{% generation %\}"):
        ChatEncoder(chat_tokenizer, True).encode([TWO_TURNS], 7)
    # A single turn is written the same way with and without what follows.
    assert said(chat_tokenizer, TWO_TURNS[:3], assistant_only_loss=True) == [
        "<think></think>Yes — naïve 🙂.<|im_end|>"
    ]


def test_a_template_that_refuses_a_conversation_names_the_row(chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="row 3, `messages`: roles must alternate"):
        ChatEncoder(chat_tokenizer, True).encode([TWO_TURNS], 3)
    chat_tokenizer.chat_template = "{% for %}"
    with pytest.raises(InputError, match="row 1, `messages`: "):
        ChatEncoder(chat_tokenizer, False).encode([TWO_TURNS], 1)


def test_a_token_that_reaches_over_the_edge_belongs_to_the_answer(chat_tokenizer):
    # The generation prompt ends in a space, which this tokenizer joins to the letter behind it.
    chat_tokenizer.add_tokens([" P"])
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Paris"}]
    assert said(chat_tokenizer, turns, assistant_only_loss=True) == [" Paris<|im_end|>"]


def test_marks_that_end_in_no_token_do_not_run_on():
    """This tokenizer drops white space, so the last character of each marked turn is in no token."""
    words = ["<|im_start|>", "<|im_end|>", "user", "assistant", "a", "b", "c", "d", "[UNK]"]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|> {{ m.role }} {% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }} <|im_end|>{{ '\n' }}{% endgeneration %}"
        "{% else %}{{ m.content }} <|im_end|>{{ '\n' }}{% endif %}{% endfor %}"
    )
    roles = ["user", "assistant"] * 2
    turns = [{"role": role, "content": word} for role, word in zip(roles, "abcd", strict=True)]
    assert said(tokenizer, turns, assistant_only_loss=True) == ["b <|im_end|>", "d <|im_end|>"]


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_conversation_may_begin_with_the_assistant(chat_tokenizer, is_marked):
    if is_marked:
        chat_tokenizer.chat_template = MARKED
    turns = [{"role": "assistant", "content": "Hello."}, *TWO_TURNS[1:3]]
    expected = ["Hello.<|im_end|>", "Yes — naïve 🙂.<|im_end|>"]
    assert said(chat_tokenizer, turns, assistant_only_loss=True) == expected
    assert last_answer(turns[:1], chat_tokenizer) == ("", "")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content + 1 }}",
        {"tools": "{{ messages }}"},
        # transformers renders in a sandbox.
        "{{ messages.__class__.__mro__ }}",
    ],
)
def test_whatever_a_template_raises_names_the_row(chat_tokenizer, template):
    chat_tokenizer.chat_template = template
    with pytest.raises(InputError, match="row 5, `messages`: "):
        ChatEncoder(chat_tokenizer, False).encode([TWO_TURNS], 5)


def test_no_template_says_what_to_write(chat_tokenizer, tmp_path):
    (tmp_path / "chatml.jinja").write_text(chat_tokenizer.chat_template)
    assert read_chat_template(str(tmp_path / "chatml.jinja")) == chat_tokenizer.chat_template
    chat_tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"no chat template; write data\.chat_template: FILE"):
        ChatEncoder(chat_tokenizer, True)
    with pytest.raises(InputError, match="cannot be read"):
        read_chat_template(str(tmp_path / "none.jinja"))


def test_conversations_become_examples_cut_dropped_and_without_an_eos_of_ours(chat_tokenizer):
    rows = [{"messages": TWO_TURNS}, {"messages": TWO_TURNS[:2]}, {"messages": TWO_TURNS[:3]}]
    whole = Tokenize(chat_tokenizer, Sequences(max_length=500))
    first, last = whole(rows)
    assert whole.num_dropped == 1  # nobody answers in the second
    assert first.input_ids[-2:] == chat_tokenizer.encode("<|im_end|>\n")
    assert first.num_trained == len("Yes — naïve 🙂.".encode()) + 1 + 5
    # Cut in the middle of the first answer: the second is gone, and counted as cut.
    start = first.trained_spans[0]
    cut, _ = Tokenize(chat_tokenizer, Sequences(max_length=start + 3))(rows)
    assert (cut.trained_spans, cut.num_cut) == ([start, start + 3], first.length - start - 3)
    assert last.trained_spans == first.trained_spans[:2]
