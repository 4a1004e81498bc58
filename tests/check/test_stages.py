import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

from llmkd.check.machine import Machine, Memory
from llmkd.errors import InputError


def facts(report, stage="train"):
    return report.stages[stage].facts


def test_a_recipe_on_local_models_is_known_through_and_through(local, checked):
    found = facts(checked(local / "local.yaml"))

    for role in ("student", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(local / role)
        assert found[f"{role} parameters"].value == model.num_parameters()
    assert found["vocabulary"].value == 18
    assert "the teacher's are the same" in found["vocabulary"].how
    assert found["rows"].value == 10
    # <bos>, "0+1=", "1", <eos>: seven tokens, and one more where the sum is 10.
    assert found["tokens per row"].value == 7.1
    assert found["longest row"].value == 8
    # Three epochs of ceil(10 / 4) steps.
    assert found["steps"].value == 9
    assert (found["epochs"].value, found["epochs"].exactness) == (3, "exact")
    # Three times the ten rows' 71 tokens: the last step of an epoch has but two rows.
    assert (found["tokens"].value, found["tokens"].exactness) == (213, "exact")
    assert all(fact.value is not None for fact in found.values())
    assert checked(local / "local.yaml").stages["train"].verdict == "fits"


def test_lora_trains_few_parameters(local, checked):
    found = facts(checked(local / "local.yaml", "student.lora={r: 2}"))

    assert 0 < found["trainable parameters"].value < found["student parameters"].value
    for part in ("gradients", "adapters"):
        assert found["memory"].parts[part] == 4 * found["trainable parameters"].value


def test_different_tokenizers_are_refused(local, checked):
    path = local / "teacher" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["+"], vocabulary["="] = vocabulary["="], vocabulary["+"]
    path.write_text(json.dumps(content))

    with pytest.raises(InputError) as caught:
        checked(local / "local.yaml")
    assert caught.value.problems == [
        f"{local}/local.yaml:4 teacher: student and teacher have different tokenizers: 2 tokens "
        "differ, such as '+', '='; token-level divergences need one tokenizer: give the student "
        "the teacher's (student.tokenizer_name_or_path), or write losses: [{kind: cross_entropy}] "
        "and train on text that the teacher wrote"
    ]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_too_few_embeddings_are_refused_and_padded_ones_are_fine(
    role, local, checked, tokenizer, tiny_llama
):
    tiny_llama(tokenizer, vocab_size=32).save_pretrained(local / role)
    found = facts(checked(local / "local.yaml"))["vocabulary"]
    assert f"the {role}'s head is padded to 32, which is fine" in found.how

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    tiny_llama(tokenizer, vocab_size=12, **ids).save_pretrained(local / role)
    with pytest.raises(InputError, match=rf"{role}: {role}: the model has 12 token embeddings"):
        checked(local / "local.yaml")


def test_a_scratch_student_with_too_small_a_vocabulary_is_refused(local, checked):
    student = "student={kind: scratch, config: {model_type: llama, vocab_size: 5}}"

    with pytest.raises(InputError, match="the model has 5 token embeddings, its tokenizer 18"):
        checked(local / "local.yaml", student)


def test_a_misspelt_field_of_the_configuration_is_refused(local, checked):
    student = "student={kind: scratch, config: {model_type: llama, hiden_size: 16, zzz: 1}}"

    with pytest.raises(InputError) as caught:
        checked(local / "local.yaml", student)
    assert caught.value.problems == [
        f"override {student} student.config.hiden_size: llama has no such field; did you mean "
        "`hidden_size`?",
        f"override {student} student.config.zzz: llama has no such field; leave it out",
    ]


def test_data_without_the_columns_is_refused_at_its_key(local, checked):
    (local / "data.jsonl").write_text('{"txt": "a"}\n')

    with pytest.raises(InputError, match=r"local.yaml:5 data.dataset_name: .*the columns are txt"):
        checked(local / "local.yaml")
    with pytest.raises(
        InputError, match=r"override data.columns={text: body}: .* has no column for text"
    ):
        checked(local / "local.yaml", "data.columns={text: body}")


def test_a_source_of_a_mixture_is_named_by_its_place(local, checked):
    (local / "other.jsonl").write_text("")
    rows, empty = f"dataset_name: {local}/data.jsonl", f"dataset_name: {local}/other.jsonl"
    mixture = f"data={{kind: mixture, sources: [{{{rows}}}, {{{empty}}}]}}"

    with pytest.raises(InputError, match=r"data.sources.1.dataset_name: .*the data set is empty"):
        checked(local / "local.yaml", mixture)
    with pytest.raises(InputError) as caught:
        checked(local / "local.yaml", mixture.replace(f"{{{rows}}}", f"{{{empty}}}"))
    assert len(caught.value.problems) == 2


def test_more_sums_than_there_are_are_refused(checked):
    key = "stages.twin.data.num_examples"
    with pytest.raises(InputError, match=r"399539 sums of 3 digits .* gives 399538 at most"):
        checked("quickstart", f"{key}=399539")


def test_more_sums_to_evaluate_on_than_there_are_are_refused(local, checked):
    data = "{kind: task, digits: 1, split: test, num_examples: 9}"
    task = f"{{kind: exact_match, name: sums, data: {data}}}"
    (local / "e.yaml").write_text(
        f"name: e\nkind: evaluate\nmodels: [hub/a]\nsuite: {{name: s, tasks: [{task}]}}\n"
    )
    with pytest.raises(InputError, match=r"tasks.0.data.num_examples: .* gives 8 at most"):
        checked(local / "e.yaml")


def test_too_many_digits_for_the_positions_are_told_without_max_length(tmp_path, checked):
    config = "{model_type: gpt2, n_embd: 8, n_head: 2, n_layer: 1, n_positions: 6}"
    (tmp_path / "a.yaml").write_text(
        f"name: a\nkind: train\nstudent: {{kind: scratch, config: {config}}}\n"
        "data: {kind: task, digits: 1, num_examples: 5}\nlosses: [{kind: cross_entropy}]\n"
    )
    with pytest.raises(InputError, match=r"data.digits: .* write fewer digits, or n_positions: "):
        checked(tmp_path / "a.yaml")


def test_learned_positions_must_reach(local, checked):
    config = "{model_type: gpt2, n_embd: 8, n_head: 2, n_layer: 1, n_positions: 6}"
    with pytest.raises(
        InputError, match="8 tokens are read at once, and the student has 6 positions"
    ):
        checked(local / "local.yaml", f"student={{kind: scratch, config: {config}}}")


def test_rows_beyond_the_longest_are_counted_and_warned_of(local, checked):
    report = checked(local / "local.yaml", "data.max_length=7")

    assert facts(report)["rows cut"].value == 0.1
    assert facts(report)["longest row"].value == 7
    assert report.warnings == [
        "train: 10 % of the rows looked at are longer than max_length and would be cut; change "
        "stages.train.data.max_length"
    ]


def test_rows_that_training_drops_are_warned_of(local, checked):
    rows = [{"prompt": "1" * n, "completion": "2"} for n in (1, 1, 1, 60)]
    (local / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = checked(local / "local.yaml")

    assert (facts(report)["rows"].value, facts(report)["rows dropped"].value) == (3, 0.25)
    assert "25 % of the rows looked at have no token to train on" in report.warnings[0]


def test_packing_makes_fewer_sequences(local, checked):
    found = facts(checked(local / "local.yaml", "data.packing=true"))

    # 71 tokens in sequences of 40: two, and so one step per epoch.
    assert (found["steps"].value, found["steps"].exactness) == (3, "estimate")
    assert found["tokens per step"].value == 80


def test_steps_are_counted_in_epochs_as_training_counts_them(local, checked):
    batch = "trainer.per_device_train_batch_size=8"
    found = facts(checked(local / "local.yaml", batch, "trainer.num_train_epochs=1"))
    assert (found["epochs"].value, found["tokens"].value) == (1, 71)
    assert found["steps"].how == "1 epoch of 2 steps"

    found = facts(checked(local / "local.yaml", batch, "trainer.max_steps=5"))
    assert found["epochs"].value == 2.5
    # Two epochs, and eight rows of the third.
    assert (found["tokens"].value, found["tokens"].exactness) == (142 + 57, "estimate")


def test_what_does_not_fit_is_a_warning_with_keys_to_change(local, checked):
    small = Machine(Memory("main memory", 2**30, 2**29), [], "none", 1)
    report = checked(local / "local.yaml", on=small)

    assert report.stages["train"].verdict == "does not fit"
    (warning,) = report.warnings
    assert warning.startswith("train: memory does not fit (")
    for key in ("per_device_train_batch_size", "data.max_length", "gradient_checkpointing"):
        assert key in warning
    assert "student.lora" in warning
    assert "teacher.dtype: bfloat16" in warning


def test_an_accelerator_is_what_counts_unless_it_is_not_used(local, checked):
    full = Memory("GPU 0", 2**35, 2**20)
    machine = Machine(Memory("main memory", 2**35, 2**35), [full], "by nvidia-smi", 1)

    assert checked(local / "local.yaml", on=machine).stages["train"].verdict == "does not fit"
    report = checked(local / "local.yaml", "trainer.use_cpu=true", on=machine)
    assert report.stages["train"].verdict == "fits"


def test_what_only_the_hub_has_is_not_known_and_no_problem(checked, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    report = checked("tinystories")
    found = facts(report, "student")

    assert found["teacher parameters"].value is None
    assert "roneneldan/TinyStories-33M is not on this machine" in found["teacher parameters"].how
    assert found["steps"].value == 300
    assert found["rows"].exactness == "at most"
    assert report.stages["student"].verdict == "not known"


def test_a_model_in_the_hubs_cache_is_on_this_machine(local, checked, monkeypatch):
    cached = local / "hub" / "models--me--teacher"
    shutil.copytree(local / "teacher", cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(local / "hub"))

    found = facts(checked(local / "local.yaml", "teacher.model_name_or_path=me/teacher"))

    assert found["teacher parameters"].value is not None
    assert "the teacher's are the same" in found["vocabulary"].how


def test_each_revision_has_a_tokenizer_of_its_own(local, checked, monkeypatch, tokenizer):
    cached = local / "hub" / "models--me--model"
    for revision in ("old", "new"):
        shutil.copytree(local / "teacher", cached / "snapshots" / revision)
    path = cached / "snapshots" / "old" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["+"], vocabulary["="] = vocabulary["="], vocabulary["+"]
    path.write_text(json.dumps(content))
    monkeypatch.setenv("HF_HUB_CACHE", str(local / "hub"))

    both = [
        f"{role}={{model_name_or_path: me/model, revision: {revision}}}"
        for role, revision in (("student", "new"), ("teacher", "old"))
    ]
    with pytest.raises(InputError, match="student and teacher have different tokenizers"):
        checked(local / "local.yaml", *both)


def test_models_are_evaluated_in_the_type_of_their_files(local, checked):
    model = AutoModelForCausalLM.from_pretrained(local / "teacher")
    model.bfloat16().save_pretrained(local / "teacher")
    task = "{kind: exact_match, name: sums, data: {kind: task, num_examples: 5}}"
    (local / "e.yaml").write_text(
        f"name: e\nkind: evaluate\nmodels: [{local}/teacher]\nsuite: {{name: s, tasks: [{task}]}}\n"
    )

    found = facts(checked(local / "e.yaml"), "evaluate")

    assert found["memory"].parts["weights"] == 2 * model.num_parameters()


def test_questions_are_counted_and_their_columns_looked_for(local, checked):
    (local / "sums.jsonl").write_text('{"problem": "1+2=", "answer": 3}\n' * 7)
    data = f"dataset_name: {local}/sums.jsonl"
    for settings, count in [("", 7), ("num_examples: 5", 5)]:
        task = (
            f"{{kind: reasoning, name: sums, grader: number, data: {{{data}, {settings}}}, "
            "generation: {max_completion_length: 9}}"
        )
        (local / "e.yaml").write_text(
            f"name: e\nkind: evaluate\nmodels: [{local}/teacher]\n"
            f"suite: {{name: s, tasks: [{task}]}}\n"
        )
        found = facts(checked(local / "e.yaml"), "evaluate")
        assert (found["sums rows"].value, found["sums rows"].exactness) == (count, "exact")
        assert found["memory"].value is not None
    task = task.replace(data, f"{data}, columns: {{answer: result}}")
    (local / "e.yaml").write_text(
        f"name: e\nkind: evaluate\nmodels: [{local}/teacher]\nsuite: {{name: s, tasks: [{task}]}}\n"
    )
    with pytest.raises(
        InputError, match=r"tasks.0.data.columns: .* has no column result for answer"
    ):
        checked(local / "e.yaml")


def test_a_later_stage_knows_what_an_earlier_one_makes(checked):
    report = checked("quickstart")

    made = facts(report, "teacher")["student parameters"].value
    assert made == facts(report, "student")["teacher parameters"].value == 1_054_336
    assert facts(report, "student")["rows"].value == 4000
    assert facts(report, "student")["rows"].exactness == "at most"
    # 9 tokens of prompt and 40 of completion.
    assert facts(report, "student")["longest row"].value == 49


def test_a_padded_scratch_student_is_saved_without_the_padding(checked):
    report = checked("quickstart", "stages.teacher.student.config.vocab_size=100")

    trained = facts(report, "teacher")["student parameters"].value
    saved = facts(report, "student")["teacher parameters"].value
    assert trained - saved == 2 * (100 - 18) * 128


def test_checkpoints_fill_the_disk(local, checked):
    def kept(*overrides):
        found = facts(checked(local / "local.yaml", *overrides))
        return found["disk"].parts["checkpoints"] / (12 * found["student parameters"].value)

    # Weights, and twice as much of optimizer; one more than are kept.
    assert kept() == 3
    assert kept("trainer.save_total_limit=5") == 6
    # A tenth of nine steps is one whole step.
    assert kept("trainer.save_total_limit=null") == 10
    assert kept("trainer.save_total_limit=null", "trainer.save_steps=5") == 3
    assert kept("trainer.save_strategy=no") == 0


def test_a_full_disk_is_warned_of(local, checked, monkeypatch):
    monkeypatch.setattr("llmkd.check.report.free_disk", lambda folder: (folder, 1000))

    assert any("disk: the stages write" in text for text in checked(local / "local.yaml").warnings)
