"""What the progress bar shows of a training."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmkd.training.progress import ProgressBar


@pytest.fixture
def shown(tmp_path):
    """Logs lines; gives what was shown after the last."""

    def log(*lines):
        found = []
        bar = ProgressBar(lambda done, total, **figures: found.append((done, total, figures)))
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        state = TrainerState(global_step=3, max_steps=9)
        for line in lines:
            bar.on_log(arguments, state, TrainerControl(), logs=line)
        bar.on_step_end(arguments, state, TrainerControl())
        return found[-1]

    return log


def test_the_last_that_was_logged_of_each_is_shown(shown):
    assert shown({"loss": 2.0, "other": 1.0}, {"loss": 1.5, "reward": 0.25}) == (
        3,
        9,
        {"loss": 1.5, "reward": 0.25},
    )


def test_what_was_not_measured_is_not_shown(shown):
    assert shown({"kd/reverse_kl": None, "reward": 0.5}) == (3, 9, {"reward": 0.5})
    assert shown({"kd/reverse_kl": 0.125}, {"kd/reverse_kl": None})[2] == {"kl": 0.125}
