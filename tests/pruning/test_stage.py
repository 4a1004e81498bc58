"""A prune stage, from its part of a recipe to a model folder."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkd import pipeline
from llmkd.check.deep import try_stages
from llmkd.check.report import check
from llmkd.errors import InputError
from llmkd.pruning.importance import measure_importances
from llmkd.pruning.run import run_prune
from llmkd.pruning.sizes import size_of
from llmkd.recipe.load import checked_recipe
from llmkd.recipe.pruning import PruneStage
from llmkd.run_folder import digest
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

SHAPE = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 4,
}  # fmt: skip
BOTH = {
    "depth": {"remove_layers": 2},
    "width": {"intermediate_size": 10, "num_key_value_heads": 2},
}


@pytest.fixture
def teacher(tmp_path, tokenizer, tiny_llama):
    """A folder with a model of five layers and its tokenizer."""
    folder = tmp_path / "teacher"
    tiny_llama(tokenizer, **SHAPE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path):
    """A file of 30 prompts and completions of unlike lengths."""
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"{7**i}+{i}=", "completion": f"{7**i + i}"} for i in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def prune(tmp_path, teacher, rows):
    """Runs a prune stage in this process; gives its folder and what `pruning.json` says."""

    def run(name="pruned", model=None, seed=0, **fields):
        content = {
            "kind": "prune",
            "model": {"model_name_or_path": str(teacher), **(model or {})},
            "data": {"dataset_name": str(rows)},
            "num_examples": 20,
            **fields,
        }
        stage = PruneStage.model_validate_json(json.dumps(content))
        folder = tmp_path / name
        run_prune(stage, folder, name="pruned", seed=seed, progress=lambda done, total: None)
        return folder, json.loads((folder / "pruning.json").read_text())

    return run


def test_it_writes_a_model_of_the_sizes_asked_for(prune, teacher):
    folder, record = prune(**BOTH)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert record["after"]["num_hidden_layers"] == model.config.num_hidden_layers == 3
    assert record["after"]["intermediate_size"] == model.config.intermediate_size == 10
    assert record["after"]["num_key_value_heads"] == model.config.num_key_value_heads == 2
    assert record["after"]["parameters"] == model.num_parameters()
    before = AutoModelForCausalLM.from_pretrained(teacher).config
    assert record["before"]["flops_per_token"] == size_of(before).flops_per_token
    assert record["after"]["flops_per_token"] < record["before"]["flops_per_token"]
    card = (folder / "model/README.md").read_text()
    assert "| num_hidden_layers | 5 | 3 |" in card
    assert "kind: prune" in card
    assert {"generation_config.json", "tokenizer.json"} <= {
        path.name for path in (folder / "model").iterdir()
    }
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_its_record_says_what_was_measured_and_what_went(prune, teacher):
    _, record = prune(**BOTH, num_examples=30)
    model = AutoModelForCausalLM.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    texts = [f"{7**i}+{i}={7**i + i}" for i in range(30)]
    ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    one_by_one = [
        {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))} for row in ids
    ]
    expected = measure_importances(model, one_by_one)
    assert (record["num_examples"], record["num_tokens"]) == (30, sum(map(len, ids)))
    for n in range(1, 6):
        found = record["angular_distances"][n - 1]
        assert found == pytest.approx(expected.of_blocks(n), abs=1e-5)
    assert record["block_influence"] == pytest.approx(expected.block_influence.tolist(), abs=1e-5)
    pairs = record["angular_distances"][1]
    start = min((1, 2), key=pairs.__getitem__)
    assert record["removed_layers"] == [start, start + 1]
    for layer in range(5):
        heads, went = record["head_groups"][layer], record["removed_head_groups"][layer]
        share = record["removed_channels"][layer]
        if layer in record["removed_layers"]:
            assert went is share is None
        else:
            assert sorted(went) == sorted(sorted(range(4), key=heads.__getitem__)[:2])
            smallest = expected.channels[layer].sort().values[:14].sum()
            assert share == pytest.approx(
                float(smallest / expected.channels[layer].sum()), abs=1e-4
            )


def test_layers_that_are_named_need_no_data(prune, teacher):
    folder, record = prune(data=None, depth={"layers": [3]})
    assert record["removed_layers"] == [3]
    assert "block_influence" not in record
    whole = AutoModelForCausalLM.from_pretrained(teacher)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    for ours, theirs in zip(
        model.model.layers, [whole.model.layers[i] for i in (0, 1, 2, 4)], strict=True
    ):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name])


def test_the_checkpoints_type_stays_unless_another_is_written(prune, teacher):
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.to(torch.bfloat16).save_pretrained(teacher)
    folder, _ = prune(**BOTH)
    assert AutoModelForCausalLM.from_pretrained(folder / "model").dtype == torch.bfloat16
    folder, _ = prune(**BOTH, name="wide", model={"dtype": "float32"})
    assert AutoModelForCausalLM.from_pretrained(folder / "model").dtype == torch.float32


def test_an_adapter_is_merged_before(prune, teacher, lora, tmp_path):
    whole = AutoModelForCausalLM.from_pretrained(teacher)
    both = lora(whole, tmp_path / "adapter")
    adapter = {"adapter_name_or_path": str(tmp_path / "adapter")}
    folder, _ = prune(data=None, depth={"layers": [1]}, model=adapter)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    ours, theirs = model.model.layers[1].mlp.up_proj, both.model.layers[2].mlp.up_proj
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours.weight, whole.model.layers[2].mlp.up_proj.weight, atol=1e-2)


def test_the_seed_draws_the_rows(prune):
    records = [prune(**BOTH, name=f"s{i}", seed=seed)[1] for i, seed in enumerate([0, 0, 1])]
    assert records[0] == records[1]
    assert records[0]["block_influence"] != records[2]["block_influence"]


@pytest.mark.parametrize(
    "point", ["llmkd.models.save.publish", "llmkd.pruning.run.write_atomically"]
)
def test_a_stage_that_is_killed_ends_in_the_same_bytes(prune, monkeypatch, point):
    class KilledError(BaseException):
        pass

    def kill(*_):
        raise KilledError

    undisturbed, _ = prune(**BOTH, name="whole")
    with monkeypatch.context() as patched:
        patched.setattr(point, kill)
        # A process that is killed tidies nothing up.
        patched.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KilledError):
            prune(**BOTH, name="killed")
    folder = undisturbed.with_name("killed")
    assert not (folder / "pruning.json").exists()
    prune(**BOTH, name="killed")
    assert digest(folder) == digest(undisturbed)


def test_a_calibration_set_that_is_shorter_than_asked_is_refused(prune):
    with pytest.raises(
        InputError, match=r"num_examples: .* has 30 rows, and 31 .*num_examples: 30"
    ):
        prune(**BOTH, num_examples=31)


def test_rows_that_are_cut_are_counted(prune, rows):
    record = prune(**BOTH, data={"dataset_name": str(rows), "max_length": 40}, num_examples=30)[1]
    assert record["num_truncated"] > 0
    assert record["num_tokens"] <= 30 * 40


def test_more_than_the_model_has_is_told_all_at_once(prune):
    with pytest.raises(InputError) as caught:
        prune(depth={"remove_layers": 4}, width={"intermediate_size": 24})
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "depth.remove_layers",
        "width.intermediate_size",
    ]


def test_weights_that_are_not_finite_are_told_before_anything_is_measured(prune, teacher):
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    model.save_pretrained(teacher)
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds values"):
        prune(**BOTH)


def whole_recipe(tmp_path, teacher, rows):
    data = {"dataset_name": str(rows), "max_length": 64}
    losses = [{"kind": "forward_kl"}]
    trainer = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}
    return {
        "name": "healed",
        "output_dir": str(tmp_path / "run"),
        "stages": {
            "pruned": {
                "kind": "prune", "model": {"model_name_or_path": str(teacher)}, "data": data,
                "num_examples": 12, **BOTH,
            },
            "twice": {
                "kind": "prune", "model": {"model_name_or_path": "stage:pruned"},
                "depth": {"layers": [1]},
            },
            "student": {
                "kind": "train", "student": {"model_name_or_path": "stage:pruned"}, "data": data,
                "teacher": {"model_name_or_path": str(teacher)}, "losses": losses, "trainer": trainer,
            },
        },
    }  # fmt: skip


def test_later_stages_take_what_it_makes(tmp_path, teacher, rows):
    recipe = checked_recipe(whole_recipe(tmp_path, teacher, rows))
    job = Run(recipe)
    assert list(pipeline.unfinished_stages(job)) == ["pruned", "twice", "student"]
    for name in recipe.stages:
        run_stage(job, name)
    assert pipeline.unfinished_stages(job) == []
    made = AutoModelForCausalLM.from_pretrained(job.product("student"))
    assert made.config.num_hidden_layers == 3
    assert AutoModelForCausalLM.from_pretrained(job.product("twice")).config.num_hidden_layers == 2
    # Without its record the model may be of a run that was killed.
    (job.stage_folder("pruned") / "pruning.json").unlink()
    assert pipeline.unfinished_stages(job) == ["pruned"]


def test_the_check_knows_its_parameters_and_tries_it(tmp_path, teacher, rows):
    content = whole_recipe(tmp_path, teacher, rows)
    (tmp_path / "healed.yaml").write_text(json.dumps(content))
    facts = {name: stage.facts for name, stage in check(tmp_path / "healed.yaml").stages.items()}
    job = Run(checked_recipe(content))
    kinds = {tried.name: tried.kind for tried in try_stages(job, told=lambda name: None)}
    assert kinds == {"pruned": "prune", "twice": "prune", "student": "train"}
    assert not job.folder.exists()
    for name in ("pruned", "twice"):
        run_stage(job, name)
        model = AutoModelForCausalLM.from_pretrained(job.product(name))
        fact = facts[name]["parameters after"]
        assert (fact.value, fact.exactness) == (model.num_parameters(), "exact")
    assert facts["student"]["student parameters"].value == facts["pruned"]["parameters after"].value
    assert facts["pruned"]["rows"].value == 30
