"""A recipe's rewards in a real training of TRL's."""

import datasets
import pytest
from pydantic import TypeAdapter
from trl import GRPOConfig, GRPOTrainer

from llmkd.recipe.rewards import Reward
from llmkd.rewards.guarded import RewardError
from llmkd.rewards.rollouts import reward_functions

FUNCTIONS = """\
def tokens(completion_ids, trainer_state, log_metric, log_extra, answer, choices, **_):
    assert len(answer) == len(choices) == len(completion_ids)
    log_metric("steps", trainer_state.max_steps)
    log_extra("right", answer)
    return [len(ids) if len(ids) % 2 else None for ids in completion_ids]

async def later(prompts, completions, **_):
    return [float(bool(prompt)) for prompt in prompts]

def raising(prompts, **_):
    raise ValueError("no")
"""
ROWS = [{"prompt": f"{i}+1=", "answer": i + 1, "choices": ["1", "2"]} for i in range(2)]


@pytest.fixture
def rewarded(tokenizer, tiny_llama, tmp_path, monkeypatch):
    """Trains one step by rewards; gives the trainer."""

    def train(*written, rows=ROWS, tokenizer=tokenizer, **config):
        (tmp_path / "mine.py").write_text(FUNCTIONS)
        monkeypatch.chdir(tmp_path)
        rewards = TypeAdapter(list[Reward]).validate_python(list(written))
        trainer = GRPOTrainer(
            model=tiny_llama(tokenizer),
            reward_funcs=reward_functions(rewards),
            args=GRPOConfig(
                output_dir=str(tmp_path / "run"),
                per_device_train_batch_size=4,
                num_generations=2,
                max_completion_length=5,
                max_steps=1,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
                reward_weights=[reward.weight for reward in rewards],
                **config,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
        return trainer

    return train


def test_every_kind_is_called_and_logged_by_its_name(rewarded):
    trainer = rewarded(
        {"kind": "number", "weight": 2.0},
        {"kind": "exact_match"},
        {"kind": "math_verify"},
        {"kind": "multiple_choice", "name": "choice"},
        {"kind": "format", "pattern": "[0-9]*"},
        {"kind": "length", "max_length": 5, "soft_length": 5},
        {"kind": "function", "function": "mine.py:tokens"},
        {"kind": "function", "function": "mine.py:later", "name": "prompted"},
    )
    line = trainer.state.log_history[0]
    # The length's reward at n of 5 tokens is -n / 5.
    assert line["rewards/length/mean"] == pytest.approx(-line["completions/mean_length"] / 5)
    assert line["rewards/prompted/mean"] == 1.0
    assert line["steps"] == 1.0
    assert {line[f"rewards/{name}/errors"] for name in ("format", "math_verify", "function")} == {0}
    names = ["number", "exact_match", "math_verify", "choice", "format", "length"]
    assert trainer.reward_func_names == [*names, "function", "prompted"]
    assert list(trainer._logs["extra"]["right"]) == [1, 1, 2, 2]


def test_conversations_are_rewarded_by_what_the_assistant_says(rewarded, chat_tokenizer):
    chat_tokenizer.pad_token = chat_tokenizer.eos_token
    rows = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    trainer = rewarded(
        {"kind": "format", "pattern": ".*[a-z].*"},
        rows=rows,
        tokenizer=chat_tokenizer,
    )
    said = [turns[-1]["content"] for turns in trainer._logs["completion"]]
    has_letter = [float(any("a" <= letter <= "z" for letter in text)) for text in said]
    assert list(trainer._logs["rewards"]["format"]) == has_letter


def test_a_reward_that_raises_ends_the_training_with_its_example(rewarded):
    function = {"kind": "function", "function": "mine.py:raising"}
    with pytest.raises(RewardError, match=r"^reward_funcs\.1: .*no(?s:.*)prompt: '.\+1='"):
        rewarded({"kind": "number"}, function)
