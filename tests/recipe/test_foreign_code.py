"""What counts as code of a recipe's author, and that it runs with `--allow-code` only."""

import ast
import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest

import llmkd
from llmkd import pipeline
from llmkd.errors import InputError
from llmkd.recipe.base import RecipePart
from llmkd.recipe.foreign_code import foreign_code, refuse_code
from llmkd.recipe.load import checked_recipe
from llmkd.recipe.training_arguments import package_folder

DATA = {"kind": "task", "digits": 1, "num_examples": 9}
TRAINED = {
    "kind": "train",
    "student": {"model_name_or_path": "student"},
    "teacher": {"model_name_or_path": "teacher"},
    "data": DATA,
    "losses": [{"kind": "forward_kl"}],
    "trainer": {"max_steps": 1},
}
SERVER = {"kind": "server", "base_url": "http://localhost:8000"}
TRUSTED = {"trust_remote_code": True}
STAGES = {
    "student": TRAINED | {"student": {"model_name_or_path": "m"} | TRUSTED},
    "teacher": TRAINED | {"teacher": {"model_name_or_path": "m"} | TRUSTED},
    "served": TRAINED
    | {"teacher": {"model_name_or_path": "m", "kind": "server", "server": SERVER} | TRUSTED},
    "asked": {
        "kind": "generate",
        "teacher": {"model_name_or_path": "m"} | TRUSTED,
        "data": DATA,
    },
    "pruned": {
        "kind": "prune",
        "model": {"model_name_or_path": "m"} | TRUSTED,
        "data": DATA,
        "depth": {"remove_layers": 1},
    },
    "routed": {
        "kind": "kdrl",
        "student": {"model_name_or_path": "student"},
        "teacher": {
            "kind": "routed",
            "column": "answer",
            "teachers": {"3": {"model_name_or_path": "m"} | TRUSTED},
        },
        "data": DATA | {"keep_columns": ["answer"]},
        "reward_funcs": [{"kind": "length", "max_length": 5, "soft_length": 5}],
        "objective": {"coefficient": 0.5},
        "trainer": {"num_generations": 4, "per_device_train_batch_size": 4},
    },
    "measured": {"kind": "evaluate", "models": ["m"], "suite": "procedural"} | TRUSTED,
}


def recipe(stage):
    return checked_recipe({"name": "foreign", "stages": {"one": stage}})


@pytest.mark.parametrize("name", STAGES)
def test_a_models_code_counts_wherever_a_recipe_names_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipe(STAGES[name])
    (code,) = foreign_code(found.stages["one"], ("stages", "one"))
    assert code.key[-1] == "trust_remote_code"
    assert code.shown == "the code of m"
    with pytest.raises(InputError, match=r"trust_remote_code: runs `the code of m`.*--allow-code"):
        pipeline.run(found)
    assert not (tmp_path / "runs" / "foreign" / "stages").exists()


def test_no_part_of_a_recipe_is_in_a_container_that_is_not_looked_into():
    def look(annotation, holder):
        inside = get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, RecipePart):
            assert holder in (None, list, tuple, dict, Union, UnionType, Annotated), holder
        for each in inside:
            look(each, get_origin(annotation))

    every = RecipePart.__subclasses__()
    while every:
        part = every.pop()
        every += part.__subclasses__()
        for field in part.model_fields.values():
            look(field.annotation, None)


def test_a_recipe_that_trusts_nobody_has_no_code():
    refuse_code(recipe(TRAINED), ["one"])


@pytest.mark.parametrize(
    ("file", "problems"),
    [("global_step7/x.pt", 1), ("optimizer_0/.metadata", 1), ("optimizer.pt", 0)],
)
def test_a_checkpoint_whose_pickles_may_call_counts_as_code(tmp_path, file, problems):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    found = foreign_code(recipe(TRAINED | {"resume": str(tmp_path)}).stages["one"])
    assert len(found) == problems
    assert [code.key for code in found] == [("resume",)] * problems


@pytest.mark.parametrize(
    "student",
    [{"model_name_or_path": "m"}, {"kind": "scratch", "config": {"model_type": "llama"}}],
)
def test_a_kernel_of_the_hub_that_a_recipe_names_counts_as_code(student):
    kernel = {"attn_implementation": "kernels-community/flash-attn2@1a2b"}
    (code,) = foreign_code(recipe(TRAINED | {"student": student | kernel}).stages["one"])
    assert code.key == ("student", "attn_implementation")
    assert code.shown == "the kernel kernels-community/flash-attn2@1a2b"
    plain = TRAINED | {"student": student | {"attn_implementation": "flash_attention_2"}}
    assert foreign_code(recipe(plain).stages["one"]) == []


HERE = ["http://localhost:8000", "https://127.0.0.1/v1", "http://[::1]:8000", "http://127.8.9.1:1"]
AWAY = ["http://10.0.0.1:8000", "https://localhost.somebody.org", "http://127.0.0.1.nip.io"]


def served(url, variable):
    server = {"kind": "server", "base_url": url, "api_key_variable": variable}
    return TRAINED | {"teacher": {"model_name_or_path": "m", "kind": "server", "server": server}}


@pytest.mark.parametrize("url", AWAY)
@pytest.mark.parametrize("variable", ["HF_TOKEN", "OPENAI_API_KEY", "MY_LLMKD_KEY"])
def test_a_variable_that_may_hold_anothers_key_is_sent_nowhere_unasked(url, variable):
    (code,) = foreign_code(recipe(served(url, variable)).stages["one"])
    assert code.key == ("teacher", "server", "api_key_variable")
    assert code.does == "sends"
    told = (
        rf"api_key_variable: sends `the environment's {variable} to {url}`.* LLMKD_.*--allow-code"
    )
    with pytest.raises(InputError, match=told):
        pipeline.run(recipe(served(url, variable)))


@pytest.mark.parametrize(
    ("url", "variable"), [(AWAY[0], "LLMKD_KEY"), *((url, "HF_TOKEN") for url in HERE)]
)
def test_a_key_for_llmkd_or_for_a_server_on_this_machine_is_sent(url, variable):
    assert foreign_code(recipe(served(url, variable)).stages["one"]) == []


@pytest.mark.parametrize("kind", ["mapping", "file", "text"])
def test_what_deepspeed_would_import_counts_as_code(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    classes = ["torch.nn.Linear", "evil.Layer"]
    given = {"torch_autocast": {"enabled": True, "lower_precision_safe_modules": classes}}
    text = json.dumps(given)
    # transformers reads what begins with a brace, though a file may be called so too.
    (tmp_path / ("zero.json" if kind == "file" else text)).write_text(text)
    config = {"mapping": given, "file": "zero.json", "text": text}[kind]
    stage = TRAINED | {"trainer": {"max_steps": 1, "deepspeed": config}}
    (code,) = foreign_code(recipe(stage).stages["one"])
    assert (code.key, code.shown) == (("trainer.deepspeed",), "the modules of evil.Layer")
    refuse_code(recipe(TRAINED | {"trainer": {"deepspeed": {"zero_optimization": {}}}}), ["one"])


def test_deepspeed_imports_by_name_nothing_else_that_its_configuration_says():
    """What docs/safety.md says of `trainer.deepspeed`; another version may do otherwise."""
    folder = package_folder("deepspeed")
    parts = ["runtime", "monitor", "compression", "profiling", "compile", "moe", "checkpoint"]
    by_name = [
        path.name
        for part in parts
        for path in (folder / part).rglob("*.py")
        if any(word in path.read_text() for word in ("import_module(", "__import__(", "pydoc."))
    ]
    assert by_name == ["torch_autocast.py"]


def test_no_model_is_loaded_without_saying_whether_its_code_runs():
    """Left out, transformers asks on stdin."""
    calls = [
        (path.name, node.lineno)
        for path in Path(llmkd.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in ("AutoConfig.from_pretrained", "AutoTokenizer.from_pretrained")
        and "trust_remote_code" not in {word.arg for word in node.keywords}
    ]
    assert calls == []


def test_yaml_is_read_by_safe_loaders_only():
    """A name of a loader that makes objects is nowhere; what lm-eval adds are functions' names."""
    unsafe = {"full_load", "unsafe_load", "FullLoader", "UnsafeLoader", "Loader", "load_all"}
    used = [
        (path.name, ast.unparse(node))
        for path in Path(llmkd.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "yaml"
        and node.attr in unsafe
    ]
    assert used == []


@pytest.mark.parametrize("module", ["trainer", "trainer_utils", "trainer_pt_utils"])
def test_transformers_reads_tensors_alone_of_a_checkpoints_pickles(module):
    """What docs/safety.md says of `resume`; another version may do otherwise."""
    path = package_folder("transformers") / f"{module}.py"
    unsafe = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and "torch.load" in (ast.unparse(node.func), *map(ast.unparse, node.args))
        and "weights_only=True" not in [ast.unparse(word) for word in node.keywords]
    ]
    assert unsafe == []
