import pytest
from transformers import TrainingArguments

from llmkd.recipe.foreign_names import FOREIGN_NAMES
from llmkd.recipe.schema import EvaluateStage, GenerateStage, TrainStage
from llmkd.recipe.schema_walk import field_places
from llmkd.recipe.training_arguments import OWNED, TRAINING, trainer_problems, training_arguments

# Refused for the sake of those who know them from older versions of transformers.
FORMER = {"overwrite_output_dir", "evaluation_strategy"}
# Fields that the schema is yet to have.
PLANNED = {"top_k"}


def test_the_names_are_those_of_transformers():
    assert set(training_arguments()) == set(TrainingArguments.__dataclass_fields__)


def test_what_llmkd_owns_exists():
    assert OWNED.keys() - FORMER <= training_arguments().keys()


def test_names_of_other_toolkits_lead_to_names_of_llmkd():
    places = {
        place
        for model in (TrainStage, GenerateStage, EvaluateStage)
        for place in field_places(model).items()
    }
    names = {name for name, _ in places} | {place for _, place in places} | {"stages"}

    assert set(FOREIGN_NAMES.values()) <= names | training_arguments().keys() | PLANNED
    assert not FOREIGN_NAMES.keys() & training_arguments().keys()


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"learning_rate": 1e-4, "max_steps": -1, "num_train_epochs": 2, "warmup_steps": 0.1},
        {"bf16": True, "fp16": False, "report_to": ["wandb"], "deepspeed": {"zero": 2}},
        {"report_to": "none", "lr_scheduler_type": "cosine", "optim": "adamw_torch_fused"},
        {"save_total_limit": None, "tf32": None, "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        {"parallelism_config": {"anything": 1}, "max_grad_norm": 0},
    ],
)
def test_good_blocks_pass(block):
    assert list(trainer_problems(block, TRAINING)) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", 0, "input should be greater than 0; got 0"),
        ("learning_rate", "1e-4", 'input should be a number; got "1e-4" in quotes; write 1e-4'),
        ("learning_rate", True, "input should be a number; got true"),
        ("learning_rate", float("nan"), "input should be a finite number; got .nan"),
        ("max_steps", 1e3, "input should be an integer; got 1000.0; write 1000"),
        ("max_steps", 0, "input should be greater than 0, or -1 for none; got 0"),
        ("max_steps", None, "input should be an integer; got null"),
        ("adam_beta2", 1, "input should be from 0 to below 1; got 1"),
        ("bf16", "yes", 'input should be true or false; got "yes"; write true'),
        ("bf16", 1, "input should be true or false; got 1; write true"),
        ("report_to", 3, "input should be null or text or a list; got 3"),
        ("optim", "adamw", 'no such choice "adamw"; did you mean `adamw_torch`?'),
        ("save_strategy", "x", 'no such choice "x"; write one of no, steps, epoch, best'),
        ("learning_rat", 1, "no such training argument; did you mean `learning_rate`?"),
        (
            "micro_batch_size",
            1,
            "no such training argument; llmkd calls it `per_device_train_batch_size`",
        ),
        ("zzz", 1, "no such training argument; see transformers.TrainingArguments"),
        (
            "seed",
            1,
            "not taken here: a run has one seed; write `seed` at the top of the recipe",
        ),
        (
            "eval_strategy",
            "steps",
            "not taken here: training measures nothing; write a stage of kind evaluate",
        ),
    ],
)
def test_a_bad_argument_is_explained(name, value, message):
    assert list(trainer_problems({name: value}, TRAINING)) == [(name, message)]


def test_two_precisions_exclude_each_other():
    assert list(trainer_problems({"bf16": True, "fp16": True}, TRAINING)) == [
        ("fp16", "bf16 is true too, and only one can be; leave one out")
    ]


@pytest.mark.parametrize("report_to", ["none", "all", "tensorboard", ["wandb", "trackio"], []])
def test_trackers_that_transformers_knows_are_taken(report_to):
    assert list(trainer_problems({"report_to": report_to}, TRAINING)) == []


@pytest.mark.parametrize("report_to", ["wandbb", ["tensorboard", "wandbb"]])
def test_a_misspelt_tracker_is_found_before_anything_runs(report_to):
    ((name, message),) = trainer_problems({"report_to": report_to}, TRAINING)
    assert (name, message) == ("report_to", 'no such tracker "wandbb"; did you mean `wandb`?')


def test_words_that_only_the_help_lists_are_known():
    ((_, message),) = trainer_problems({"train_sampling_strategy": "group_by_len"}, TRAINING)
    assert 'no such choice "group_by_len"; did you mean `group_by_length`?' in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("save_steps", 1.5, "a share of all steps is below 1"),
        ("logging_steps", 1.5, "a share of all steps is below 1"),
        ("save_strategy", "best", "write steps, epoch or no"),
        (
            "fsdp",
            "full_shard",
            "an engine is not the recipe's; leave it out, and write --launch fsdp2",
        ),
        ("accelerator_config", "abc.json", "write a mapping without dispatch_batches, even"),
        ("accelerator_config", {"even_batches": False}, "llmkd says how rows are shared"),
        ("accelerator_config", 5, "a mapping"),
        ("report_to", [5], "input should be the name of a tracker; got 5; write one of none, all"),
    ],
)
def test_what_would_end_the_training_before_it_begins_is_refused(name, value, message):
    ((found, said),) = trainer_problems({name: value}, TRAINING)
    assert found == name
    assert message in said


@pytest.mark.parametrize(
    "block",
    [{"save_steps": 0.5}, {"logging_steps": 2.0}, {"accelerator_config": {"non_blocking": True}}],
)
def test_shares_and_whole_numbers_of_steps_are_taken(block):
    assert list(trainer_problems(block, TRAINING)) == []
