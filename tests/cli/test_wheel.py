"""The wheel brings its recipes and suites along."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from llmkd.launch_files import ENGINES

ROOT = Path(__file__).parents[2]


def test_an_installed_wheel_finds_its_recipes_from_an_empty_folder(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    empty = tmp_path / "empty"
    empty.mkdir()

    def llmkd(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "llmkd", *arguments],
            cwd=empty,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import llmkd; print(llmkd.__file__)"],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert str(tmp_path) in where, "the wheel, not the checkout, is what runs"
    assets = "llmkd/report/assets"
    assert {path.name for path in (tmp_path / "site" / assets).iterdir()} == {
        path.name for path in (ROOT / assets).iterdir()
    }
    prompts = tmp_path / "site" / "llmkd" / "shipped" / "recipes" / "prompts"
    assert {path.name for path in prompts.iterdir()} == {
        path.name for path in (ROOT / "recipes" / "prompts").iterdir()
    }
    recipes = (ROOT / "recipes").rglob("*.yaml")
    shipped = {path.stem for path in recipes if path.parent.name != "accelerate"}
    launchers = tmp_path / "site" / "llmkd" / "shipped" / "recipes" / "accelerate"
    assert {path.stem for path in launchers.iterdir()} == set(ENGINES)
    assert json.loads(llmkd("recipes", "--json")).keys() == shipped
    # Its evaluate stage names a shipped suite, which check resolves.
    assert json.loads(llmkd("check", "quickstart", "--json"))["recipe"]["name"] == "quickstart"
