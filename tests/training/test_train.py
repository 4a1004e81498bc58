"""A train stage from recipe to model folder, on real models and files."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkd.errors import InputError
from llmkd.objective import Objective
from llmkd.training.checkpoints import checkpoint_steps, publish
from llmkd.training.distill_trainer import DistillTrainer
from llmkd.training.train import build_trainer, run_train


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def gradients_and_losses(stage, folder):
    """Of the first optimizer step, before the update."""
    trainer = build_trainer(stage, folder, seed=0)
    seen = {}
    step = trainer.create_optimizer

    def create_optimizer(*args):
        optimizer = step(*args)

        def keep(*_):
            seen.update((name, p.grad.clone()) for name, p in trainer.model.named_parameters())

        optimizer.register_step_pre_hook(keep)
        return optimizer

    trainer.create_optimizer = create_optimizer
    trainer.train()
    return seen, metrics(folder)


@pytest.mark.parametrize("losses", [[{"kind": "cross_entropy"}], None])
def test_8x1_and_2x4_give_the_same_losses_and_gradients(train_stage, tmp_path, losses):
    parts = {} if losses is None else {"losses": losses, "teacher": None}
    one = {"max_steps": 1, "max_grad_norm": 0.0}
    many = {**one, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    whole, whole_log = gradients_and_losses(train_stage(one, **parts), tmp_path / "8x1")
    split, split_log = gradients_and_losses(train_stage(many, **parts), tmp_path / "2x4")
    assert whole.keys() == split.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(
            split[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
        assert gradient.any(), name
    assert whole_log[0]["tokens"] == split_log[0]["tokens"]
    for key in ("loss", "grad_norm", *(k for k in whole_log[0] if k.startswith("loss/"))):
        assert split_log[0][key] == pytest.approx(whole_log[0][key], rel=1e-5), key


def test_the_product_loads_generates_and_has_a_card(train_stage, teacher_folder, tmp_path):
    run_train(train_stage(), tmp_path / "s", name="small", seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "s" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "s" / "model")
    prompt = tokenizer("12+34=", return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert output.shape[1] > prompt["input_ids"].shape[1]
    card = (tmp_path / "s" / "model" / "README.md").read_text()
    assert card.startswith("---\n")
    assert str(teacher_folder) in card
    assert "forward_kl" in card


def test_the_log_has_every_term_and_the_teachers_own_loss(train_stage, tmp_path):
    run_train(train_stage(), tmp_path / "s", name="s", seed=0)
    log = metrics(tmp_path / "s")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    wanted = {
        "loss", "loss/forward_kl", "loss/cross_entropy", "grad_norm", "teacher_nll", "kl",
        "tokens", "tokens_per_s", "peak_memory_gib", "learning_rate",
    }  # fmt: skip
    assert wanted <= log[0].keys()
    # Temperature 2, squared, weight 1; cross-entropy's weight falls from 1 to 0.1 in 6 steps.
    for step, line in enumerate(log):
        weight = 1 - 0.9 * step / 6
        expected = 4 * line["loss/forward_kl"] + weight * line["loss/cross_entropy"]
        assert line["loss"] == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_run_ends_in_the_same_bits_and_the_same_log(train_stage, tmp_path):
    stage = train_stage({"logging_steps": 3})
    run_train(stage, tmp_path / "whole", name="s", seed=0)

    class CrashError(Exception):
        pass

    def crash(args, state, control, **_):
        if state.global_step == 5:
            raise CrashError

    trainer = build_trainer(stage, tmp_path / "cut", seed=0)
    trainer.callback_handler.callbacks[-1].on_step_end = crash
    with pytest.raises(CrashError):
        trainer.train()
    assert list(checkpoint_steps(tmp_path / "cut" / "checkpoints")) == [2, 4]
    run_train(stage, tmp_path / "cut", name="s", seed=0)

    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    timed = {"tokens_per_s", "peak_memory_gib"}
    strip = lambda log: [{k: v for k, v in line.items() if k not in timed} for line in log]  # noqa: E731
    assert strip(metrics(tmp_path / "cut")) == strip(metrics(tmp_path / "whole"))


def test_resume_never_starts_over_and_a_missing_checkpoint_is_refused(train_stage, tmp_path):
    run_train(train_stage({"max_steps": 2}), tmp_path / "s", name="s", seed=0)
    again = train_stage({"max_steps": 2}, resume="never")
    run_train(again, tmp_path / "s", name="s", seed=0)
    assert [line["step"] for line in metrics(tmp_path / "s")] == [1, 2]
    with pytest.raises(InputError, match="is no whole checkpoint of llmkd"):
        run_train(train_stage(resume=str(tmp_path / "x")), tmp_path / "s", name="s", seed=0)


def test_a_lora_student_is_saved_merged_with_its_adapter_beside_it(
    train_stage, teacher_folder, tmp_path
):
    student = {"model_name_or_path": str(teacher_folder), "lora": {"r": 4, "alpha": 8}}
    losses = [{"kind": "cross_entropy"}]
    run_train(
        train_stage(student=student, losses=losses, teacher=None), tmp_path / "s", name="s", seed=0
    )
    before = AutoModelForCausalLM.from_pretrained(teacher_folder).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "s" / "model").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("_proj" in name for name in changed), "only the adapted layers move"
    assert (tmp_path / "s" / "adapter" / "adapter_model.safetensors").exists()


def test_gradient_checkpointing_and_bf16_change_the_loss_within_rounding_only(
    train_stage, tmp_path
):
    logs = {}
    for name, trainer in {
        "plain": {},
        "checkpointed": {"gradient_checkpointing": True},
        "bf16": {"bf16": True},
    }.items():
        run_train(train_stage(trainer), tmp_path / name, name=name, seed=0)
        logs[name] = [line["loss"] for line in metrics(tmp_path / name)]
    assert logs["checkpointed"] == pytest.approx(logs["plain"], rel=1e-6)
    # bfloat16 has 8 bits of mantissa: 2 ** -8 per product, averaged over a few hundred tokens.
    assert logs["bf16"] == pytest.approx(logs["plain"], rel=2e-2)
    assert logs["bf16"] != logs["plain"]


def test_a_student_equal_to_its_teacher_has_no_divergence_and_no_gradient(
    train_stage, teacher_folder, tmp_path
):
    # Without total_variation, whose slope does not get smaller as the two get closer, nor nkd, a
    # cross-entropy.
    kinds = "forward_kl reverse_kl jsd skew_forward_kl skew_reverse_kl adaptive_kl todi"
    for kind in kinds.split():
        stage = train_stage(
            {"max_steps": 1},
            student={"model_name_or_path": str(teacher_folder)},
            losses=[{"kind": kind}],
        )
        run_train(stage, tmp_path / kind, name=kind, seed=0)
        (line,) = metrics(tmp_path / kind)
        assert line["loss"] == pytest.approx(0, abs=1e-6)
        assert line["grad_norm"] == pytest.approx(0, abs=1e-5)


def test_models_that_do_not_share_a_vocabulary_are_refused(
    train_stage, tokenizer, tiny_llama, tmp_path
):
    other = tmp_path / "other"
    tiny_llama(tokenizer).save_pretrained(other)
    renamed = json.loads(tokenizer.backend_tokenizer.to_str().replace('"7":', '"x":'))
    tokenizer.save_pretrained(other)
    (other / "tokenizer.json").write_text(json.dumps(renamed))
    stage = train_stage(
        student={"kind": "scratch", "config": {"model_type": "llama", "hidden_size": 16,
                 "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16},
                 "tokenizer_name_or_path": str(other)},
    )  # fmt: skip
    with pytest.raises(InputError, match="different tokenizers: 2 tokens differ, such as '7', 'x'"):
        run_train(stage, tmp_path / "s", name="s", seed=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "lama"),
        ({"model_type": "llama", "hidden_sise": 3}, "no field hidden_sise; did you mean hidden_size"),
        ({"model_type": "llama", "vocab_size": 5, "hidden_size": 8, "num_attention_heads": 2,
          "num_hidden_layers": 1, "intermediate_size": 8}, "5 token embeddings"),
    ],
)  # fmt: skip
def test_a_wrong_student_config_is_refused(train_stage, tmp_path, config, message):
    with pytest.raises(InputError, match=message):
        run_train(
            train_stage(student={"kind": "scratch", "config": config}),
            tmp_path / "s",
            name="s",
            seed=0,
        )


def test_push_to_hub_uploads_the_model_folder_once_with_its_card(
    train_stage, tmp_path, monkeypatch
):
    uploaded, alone = [], []
    # Others would wait in it for longer than their limit.
    monkeypatch.setattr("accelerate.Accelerator.end_training", lambda self: alone.append(True))
    monkeypatch.setattr(
        "llmkd.training.running.publish",
        lambda staged, folder: publish(staged, folder) if alone else pytest.fail("not alone"),
    )

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert alone
        uploaded.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    monkeypatch.setattr(
        "transformers.Trainer.init_hf_repo",
        lambda self, token=None: setattr(self, "hub_model_id", self.args.hub_model_id),
    )
    stage = train_stage({"push_to_hub": True, "hub_model_id": "me/small", "max_steps": 2})
    run_train(stage, tmp_path / "s", name="s", seed=0)
    ((repo_id, names),) = uploaded
    assert repo_id == "me/small"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert "training_args.bin" not in names


def test_a_run_killed_after_its_last_step_takes_no_step_more(train_stage, tmp_path):
    # A constant rate: the linear schedule ends at 0 and would hide one.
    stage = train_stage({"lr_scheduler_type": "constant"})
    run_train(stage, tmp_path / "s", name="s", seed=0)
    before, log = weights(tmp_path / "s"), metrics(tmp_path / "s")
    (tmp_path / "s" / "model").rename(tmp_path / "gone")
    run_train(stage, tmp_path / "s", name="s", seed=0)
    after = weights(tmp_path / "s")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert metrics(tmp_path / "s") == log


def test_resuming_in_a_later_epoch_sees_the_same_rows(train_stage, tmp_path):
    parts = {"data": {"kind": "task", "digits": 2, "num_examples": 20}}
    trainer = {"lr_scheduler_type": "constant", "max_steps": 8}  # 3 steps an epoch
    run_train(train_stage(trainer, **parts), tmp_path / "whole", name="s", seed=0)
    run_train(train_stage(trainer, **parts), tmp_path / "cut", name="s", seed=0)
    checkpoint = tmp_path / "cut" / "checkpoints" / "checkpoint-6"
    back = train_stage(trainer, **parts, resume=str(checkpoint))
    run_train(back, tmp_path / "cut", name="s", seed=0)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_resuming_from_a_path_sets_the_later_checkpoints_aside(train_stage, tmp_path):
    run_train(train_stage({"save_total_limit": 9}), tmp_path / "s", name="s", seed=0)
    checkpoints = tmp_path / "s" / "checkpoints"
    stage = train_stage({"max_steps": 3, "save_steps": 1}, resume=str(checkpoints / "checkpoint-2"))
    run_train(stage, tmp_path / "s", name="s", seed=0)
    assert list(checkpoint_steps(checkpoints)) == [2, 3]
    assert (checkpoints / ".checkpoint-6.old-1").is_dir()


def test_a_scratch_students_padded_embeddings_are_not_saved(train_stage, tokenizer, tmp_path):
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "vocab_size": 64,
              "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    run_train(
        train_stage(student={"kind": "scratch", "config": config}), tmp_path / "s", name="s", seed=0
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "s" / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert model.get_output_embeddings().weight.shape == (len(tokenizer), 16)


def test_positions_that_a_model_does_not_have_are_refused_before_training(train_stage, tmp_path):
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
    stage = train_stage(student={"kind": "scratch", "config": config})
    with pytest.raises(
        InputError, match=r"^data.digits: \d+ tokens .* fewer digits, or n_positions"
    ):
        run_train(stage, tmp_path / "s", name="s", seed=0)


@pytest.mark.parametrize("lines", [1, 3])
def test_fewer_rows_than_a_batch_train_all_the_same(train_stage, tmp_path, lines):
    data = {"kind": "task", "digits": 2, "num_examples": lines}
    run_train(train_stage(data=data), tmp_path / "s", name="s", seed=0)
    assert [line["step"] for line in metrics(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]


def test_the_loss_is_taken_in_its_own_types_whatever_the_forward_pass_is_in(
    train_stage, tmp_path, monkeypatch
):
    # With fp16, autocast would make the head's products float16 ones.
    called, seen = Objective.__call__, []

    def noted(self, student, *args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return called(self, student, *args, **kwargs)

    monkeypatch.setattr(Objective, "__call__", noted)
    run_train(train_stage({"max_steps": 1, "bf16": True}), tmp_path, name="s", seed=0)
    assert seen == [False]


DROPPING = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5}
TWO_LOSSES = [
    {"kind": "forward_kl", "temperature": 2.0, "weight": 0.5},
    {"kind": "cross_entropy", "weight": 2.0},
]
NORMS = ("grad_norm/forward_kl", "grad_norm/cross_entropy")


def test_measuring_each_terms_gradient_changes_nothing_though_there_is_dropout(
    train_stage, tmp_path
):
    student = {"kind": "scratch", "config": DROPPING}
    for name, every in (("plain", None), ("measured", 2)):
        stage = train_stage(losses=TWO_LOSSES, student=student, term_gradient_steps=every)
        run_train(stage, tmp_path / name, name="s", seed=0)
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "measured")
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = metrics(tmp_path / "measured")
    assert [NORMS[0] in line for line in log] == [True, False] * 3
    assert not any(NORMS[0] in line for line in metrics(tmp_path / "plain"))

    # Resumed in the middle, it measures the same, the first time too.
    back = str(tmp_path / "measured" / "checkpoints" / "checkpoint-4")
    stage = train_stage(losses=TWO_LOSSES, student=student, term_gradient_steps=2, resume=back)
    run_train(stage, tmp_path / "measured", name="s", seed=0)
    again = metrics(tmp_path / "measured")
    assert [line.get(NORMS[1]) for line in again] == [line.get(NORMS[1]) for line in log]


def test_each_terms_gradient_norm_is_that_of_a_training_on_it_alone(train_stage, tmp_path):
    one_step = {"max_steps": 1}
    stage = train_stage(one_step, losses=TWO_LOSSES, term_gradient_steps=1)
    run_train(stage, tmp_path / "both", name="s", seed=0)
    (log,) = metrics(tmp_path / "both")
    for chosen, name in enumerate(NORMS):
        losses = [
            loss if index == chosen else {**loss, "weight": 0.0}
            for index, loss in enumerate(TWO_LOSSES)
        ]
        run_train(train_stage(one_step, losses=losses), tmp_path / name, name="s", seed=0)
        assert metrics(tmp_path / name)[0]["grad_norm"] == pytest.approx(log[name])


def test_a_norm_is_measured_once_per_log_line(train_stage, tmp_path, monkeypatch):
    measured = []
    norms = DistillTrainer.term_gradient_norms
    monkeypatch.setattr(
        DistillTrainer,
        "term_gradient_norms",
        lambda self, *args: measured.append(self.state.global_step) or norms(self, *args),
    )
    stage = train_stage({"logging_steps": 3}, term_gradient_steps=1)
    run_train(stage, tmp_path / "s", name="s", seed=0)
    assert measured == [0, 3]


def test_a_measured_norm_survives_a_crash_before_it_is_logged(train_stage, tmp_path):
    stage = train_stage({"logging_steps": 3, "save_total_limit": 9}, term_gradient_steps=5)
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    run_train(stage, tmp_path / "cut", name="s", seed=0)
    checkpoint = str(tmp_path / "cut" / "checkpoints" / "checkpoint-2")
    again = stage.model_copy(update={"resume": checkpoint})
    run_train(again, tmp_path / "cut", name="s", seed=0)
    logged = [metrics(tmp_path / name)[0]["grad_norm/forward_kl"] for name in ("whole", "cut")]
    assert logged[0] == logged[1]
