"""A loss or gradient that is not finite reaches no weight, and is told with where it was."""

import json
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.schema import Recipe
from llmkd.run_plan import Run
from llmkd.training.checkpoints import checkpoint_steps
from llmkd.training.distill_trainer import MOST_SKIPPED_IN_A_ROW, DistillTrainer
from llmkd.training.finite_steps import _check_reduced
from llmkd.training.train import _skip_refusal, build_trainer, run_train

CROSS_ENTROPY = {"losses": [{"kind": "cross_entropy"}], "teacher": None}
CONSTANT = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0}


class OneExpertRests(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in "ab"])

    def forward(self, x):
        return self.experts[0](x)


@pytest.mark.parametrize(
    ("looks", "refused"),
    [(True, nullcontext()), (False, pytest.raises(InputError, match=r"2 weights .* experts\.1"))],
)
def test_a_step_in_which_ddp_waits_for_gradients_in_vain_is_refused(looks, refused):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        for module, expected in (
            (OneExpertRests(), refused),
            (torch.nn.Linear(2, 2), nullcontext()),
        ):
            model = DistributedDataParallel(module, find_unused_parameters=looks)
            model(torch.ones(1, 2)).sum().backward()
            with expected:
                _check_reduced(model)
    finally:
        dist.destroy_process_group()


@pytest.fixture
def broken_at(monkeypatch):
    """From now on, the loss or the gradient of some steps (from 1) and micro-batches is not finite."""
    share = DistillTrainer._share

    def break_at(steps, *, micro_batch=0, value=math.nan, in_gradient=False):
        calls = {}

        def broken(self, objective, model, inputs, counts):
            output = share(self, objective, model, inputs, counts)
            step = self.state.global_step + 1
            calls[step] = calls.get(step, -1) + 1
            if step not in steps or calls[step] != micro_batch:
                return output
            if in_gradient:
                # Finite itself; its slope at 0 is not.
                spoiled = output.loss + (output.loss * 0).sqrt()
            else:
                spoiled = output.loss * value
                output.metrics["loss/cross_entropy"] *= value
            return type(output)(spoiled, output.metrics)

        monkeypatch.setattr(DistillTrainer, "_share", broken)

    return break_at


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_and_says_where(
    train_stage, tmp_path, broken_at, value
):
    trainer = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    stage = train_stage(trainer, **CROSS_ENTROPY)
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    broken_at([4], micro_batch=2, value=value)
    built = build_trainer(stage, tmp_path / "cut", seed=0)
    with pytest.raises(LlmkdError) as caught:
        built.train()
    said = str(caught.value)
    assert said.startswith(f"step 4: the loss is not finite: loss/cross_entropy is {value} (rank 0")
    assert "micro-batch 3 of 4" in said
    # The two rows of that micro-batch: the sum is after the `#`.
    rows = re.findall(r"'(\d+)\+(\d+)=[^']*#(\d+)'", said)
    assert len(rows) == 2
    assert all(int(first) + int(second) == int(total) for first, second, total in rows)
    assert said.endswith("or write on_nonfinite_loss: skip")
    assert not isinstance(caught.value, InputError)
    assert list(checkpoint_steps(tmp_path / "cut" / "checkpoints")) == [2]
    # Once what was wrong is mended, it goes on as if nothing had been.
    broken_at([])
    run_train(stage, tmp_path / "cut", name="s", seed=0)
    ours, theirs = weights(tmp_path / "cut" / "model"), weights(tmp_path / "whole" / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_too(
    train_stage, tmp_path, broken_at
):
    broken_at([3], in_gradient=True)
    trainer = build_trainer(train_stage(**CROSS_ENTROPY), tmp_path, seed=0)
    said = r"^step 3: the loss is finite, but the norm of its gradient is nan: whose rows begin '"
    with pytest.raises(LlmkdError, match=said):
        trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize("in_gradient", [False, True])
def test_a_skipped_step_moves_no_weight_and_is_in_no_mean(
    train_stage, tmp_path, broken_at, in_gradient
):
    stage = train_stage(
        CONSTANT | {"save_steps": 1, "save_total_limit": 9},
        on_nonfinite_loss="skip",
        **CROSS_ENTROPY,
    )
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    broken_at([3, 5], in_gradient=in_gradient)
    run_train(stage, tmp_path / "s", name="s", seed=0)
    saved = {n: weights(p) for n, p in checkpoint_steps(tmp_path / "s" / "checkpoints").items()}
    has_moved = [
        any(not torch.equal(saved[step][name], saved[step - 1][name]) for name in saved[step])
        for step in range(2, 7)
    ]
    assert has_moved == [True, False, True, False, True]
    log = metrics(tmp_path / "s")
    assert [line["skipped_steps"] for line in log] == [0, 0, 1, 1, 2, 2]
    assert [math.isfinite(line["loss"]) for line in log] == [True, *has_moved]
    _, two, three, four, five, six = (line["tokens"] for line in metrics(tmp_path / "whole"))
    assert log[-1]["tokens"] == six - (three - two) - (five - four)


def test_the_count_of_skipped_steps_and_their_means_survive_an_interruption(
    train_stage, tmp_path, broken_at
):
    stage = train_stage({"logging_steps": 3, "save_total_limit": 9}, on_nonfinite_loss="skip")
    broken_at([2, 5])
    run_train(stage, tmp_path, name="s", seed=0)
    log = metrics(tmp_path)
    assert [line["skipped_steps"] for line in log] == [1, 2]
    broken_at([2, 5])
    each = stage.model_copy(update={"trainer": stage.trainer | {"logging_steps": 1}})
    run_train(each, tmp_path / "each", name="s", seed=0)
    losses = [line["loss"] for line in metrics(tmp_path / "each")]
    means = [(losses[0] + losses[2]) / 2, (losses[3] + losses[5]) / 2]
    assert [line["loss"] for line in log] == pytest.approx(means)
    broken_at([5])
    back = str(tmp_path / "checkpoints" / "checkpoint-2")
    run_train(stage.model_copy(update={"resume": back}), tmp_path, name="s", seed=0)
    for line, again in zip(log, metrics(tmp_path), strict=True):
        for key in ("loss", "tokens", "skipped_steps", "kl"):
            assert again[key] == line[key]


def test_so_many_skipped_steps_in_a_row_stop_the_training(train_stage, tmp_path, broken_at):
    stage = train_stage({"max_steps": 40}, on_nonfinite_loss="skip", **CROSS_ENTROPY)
    fine = [5, 7]
    broken_at([step for step in range(3, 40) if step not in fine])
    trainer = build_trainer(stage, tmp_path, seed=0)
    last = fine[-1] + MOST_SKIPPED_IN_A_ROW
    with pytest.raises(LlmkdError, match=f"^step {last}: .*so it was with 10 steps in a row; "):
        trainer.train()


def test_skipping_is_refused_where_the_weights_move_before_it_is_known(train_stage, tmp_path):
    layerwise = {"optim": "galore_adamw_layerwise", "optim_target_modules": ["q_proj"]}
    stage = train_stage(layerwise, on_nonfinite_loss="skip")
    said = "^on_nonfinite_loss: skip is not possible with galore_adamw_layerwise, which moves"
    with pytest.raises(InputError, match=said):
        build_trainer(stage, tmp_path, seed=0)


@pytest.mark.parametrize("norm", [math.inf, math.nan, -1.0])
@pytest.mark.parametrize(("is_taken", "said"), [(True, "has taken"), (False, "has left .* out")])
def test_a_norm_that_deepspeed_finds_not_finite_stops_and_says_what_became_of_the_step(
    norm, is_taken, said
):
    engine = SimpleNamespace(was_step_applied=lambda: is_taken)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(
            mixed_precision="bf16",
            is_main_process=True,
            deepspeed_engine_wrapped=SimpleNamespace(engine=engine),
        ),
        _at_step=lambda: "step 3",
    )
    with pytest.raises(LlmkdError, match=f"^step 3: .* is {norm}; DeepSpeed {said}"):
        DistillTrainer._check_taken_step(trainer, norm)
    DistillTrainer._check_taken_step(trainer, 0.0)


@pytest.mark.parametrize(("is_deepspeed", "reason"), [(True, "DeepSpeed"), (False, "fp16")])
def test_skipping_is_refused_where_others_decide_which_steps_are_taken(is_deepspeed, reason):
    trainer = SimpleNamespace(
        is_deepspeed_enabled=is_deepspeed,
        args=SimpleNamespace(fp16=not is_deepspeed, optim="adamw_torch"),
    )
    assert reason in (_skip_refusal(trainer) or "")
    trainer.is_deepspeed_enabled = trainer.args.fp16 = False
    assert _skip_refusal(trainer) is None


def test_a_recipe_that_skips_goes_on_in_the_folder_of_one_that_stopped(train_stage, tmp_path):
    def inputs(**parts):
        stages = {"stages": {"s": train_stage(**CROSS_ENTROPY, **parts)}}
        return Run(Recipe.model_validate({"name": "r", **stages})).inputs("s")

    assert inputs(on_nonfinite_loss="skip") == inputs()
    assert inputs(data={"kind": "task", "num_examples": 9}) != inputs()
