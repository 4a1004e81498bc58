import re

import pytest
from transformers import AutoTokenizer

from llmkd.data.addition import answer_of, build_tokenizer, make_rows
from llmkd.errors import InputError
from llmkd.recipe.data import AdditionTask

SPLITS = ("train", "unlabelled", "validation", "test")


def task(num_examples=200, **fields):
    return AdditionTask(kind="task", num_examples=num_examples, **fields)


def prompts(num_examples, seed=0, **fields):
    return [row["prompt"] for row in make_rows(task(num_examples, **fields), seed)]


def test_a_sum_worked_by_hand():
    # 58 + 64: 8+4 = 12, carry 1; 5+6+1 = 12, carry 1; 122.
    rows = make_rows(task(3900, digits=2, split="unlabelled"), 0)
    completions = {row["prompt"]: row["completion"] for row in rows}
    assert completions["58+64="] == "8+4+0=12;5+6+1=12;#122"


@pytest.mark.parametrize("digits", [1, 2, 3, 4, 9])
def test_every_line_of_the_reasoning_and_the_answer_are_right(digits):
    for row in make_rows(task(20 if digits == 1 else 100, digits=digits), 1):
        first, second = re.fullmatch(r"(\d+)\+(\d+)=", row["prompt"]).groups()
        assert len(first) == len(second) == digits
        assert int(answer_of(row["completion"])) == int(first) + int(second)
        assert len(answer_of(row["completion"])) == digits + 1
        carry = "0"
        columns = row["completion"].split("#")[0].rstrip(";").split(";")
        for a, b, column in zip(reversed(first), reversed(second), columns, strict=True):
            terms, total = column.split("=")
            assert terms == f"{a}+{b}+{carry}"
            assert int(total) == sum(map(int, terms.split("+")))
            carry = total[0]


def test_a_sum_with_its_steps_apart_worked_by_hand():
    # 12 + 34: 2+4 = 06, no carry; 1+3+0 = 04; 046.
    rows = make_rows(task(3900, digits=2, split="unlabelled", steps="rationale"), 0)
    (row,) = [row for row in rows if row["prompt"] == "12+34="]
    assert row == {
        "prompt": "12+34=",
        "rationale": "2+4+0=06;1+3+0=04;",
        "completion": "046",
        "answer": "046",
    }


@pytest.mark.parametrize("digits", [1, 3, 9])
def test_the_steps_are_the_same_sums_wherever_they_stand(digits):
    together = make_rows(task(20, digits=digits), 5)
    apart = make_rows(task(20, digits=digits, steps="rationale"), 5)
    for whole, row in zip(together, apart, strict=True):
        assert whole == {
            "prompt": row["prompt"],
            "completion": f"{row['rationale']}#{row['completion']}",
            "answer": row["completion"],
        }


@pytest.mark.parametrize("digits", [3, 4])
def test_the_seed_alone_decides_the_rows(digits):
    assert prompts(100, 3, digits=digits) == prompts(100, 3, digits=digits)
    assert prompts(100, 3, digits=digits) != prompts(100, 4, digits=digits)


@pytest.mark.parametrize("digits", [3, 4])
def test_fewer_rows_are_the_first_rows(digits):
    assert prompts(50, digits=digits) == prompts(500, digits=digits)[:50]


def test_no_sum_comes_twice():
    assert len(set(prompts(5000))) == 5000
    assert len(set(prompts(100_000, digits=4))) == 100_000


def test_splits_share_no_pair_whatever_the_seed_and_the_digits():
    owner = {}
    for split in SPLITS:
        for seed in (0, 1):
            num_examples = 3500 if split in ("train", "unlabelled") else 900
            for prompt in prompts(num_examples, seed, digits=2, split=split):
                assert owner.setdefault(prompt, split) == split
    for split in SPLITS:
        longer = prompts(40_000, digits=3, split=split)
        small = [f"{p[1:3]}+{p[5:7]}=" for p in longer if p[0] == p[4] == "0"]
        assert len(small) > 100
        assert {owner.get(prompt, split) for prompt in small} == {split}


@pytest.mark.parametrize(("split", "share"), list(zip(SPLITS, (0.4, 0.4, 0.1, 0.1), strict=True)))
def test_a_split_that_is_too_small_says_how_many_sums_it_has(split, share):
    with pytest.raises(InputError, match=r"write num_examples: \d+ or less") as error:
        make_rows(task(10_000, digits=2, split=split), 0)
    num_available = int(re.findall(r"\d+", str(error.value))[-1])
    # Binomial with ten thousand tries: four standard deviations.
    assert abs(num_available - share * 1e4) < 4 * (1e4 * share * (1 - share)) ** 0.5
    assert len(prompts(num_available, digits=2, split=split)) == num_available


def test_too_many_long_sums_are_refused():
    with pytest.raises(InputError, match="5000000 or less"):
        make_rows(task(5_000_001, digits=9), 0)


def test_a_three_digit_example_is_42_tokens():
    tokenizer = build_tokenizer()
    row = make_rows(task(1), 0)[0]
    prompt = tokenizer(row["prompt"]).input_ids
    completion = tokenizer(row["completion"], add_special_tokens=False).input_ids
    assert prompt[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in completion
    assert tokenizer.unk_token_id not in prompt + completion
    assert len(prompt) + len(completion) + 1 == 42


def test_the_tokenizer_survives_saving_and_gives_the_text_back(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = make_rows(task(1), 0)[0]["completion"]
    ids = tokenizer(text).input_ids
    assert ids == build_tokenizer()(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.padding_side == "left"
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")
    assert [getattr(tokenizer, name) for name in names] == [0, 1, 2, 3]
    assert tokenizer("1 x").input_ids == [1, tokenizer.vocab["1"], 3, 3]


def test_the_answer_follows_the_last_marker():
    assert answer_of("#1;#0825") == "0825"
    assert answer_of("8+7+0=15") is None
    assert answer_of("8+7#") == ""
