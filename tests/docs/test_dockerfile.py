import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_base_images_are_named_by_a_full_version():
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(images) == 3
    for image in images:
        assert re.search(r":\d+\.\d+\.\d+-", image), image


def test_both_python_images_are_the_same_version():
    assert len(set(re.findall(r"FROM python:([\d.]+)", DOCKERFILE))) == 1


def test_extras_and_targets_of_make_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"/src\[(.+?)\]", DOCKERFILE)
    assert set(extras.split(",")) == {"vllm", "deepspeed", "rl", "eval"}
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"setup-vllm-cpu", "test"} <= targets


def test_each_image_leaves_root_before_it_runs_anything():
    stages = [stage for stage in DOCKERFILE.split("FROM ")[1:] if "CMD" in stage]
    assert len(stages) == 2
    for stage in stages:
        assert stage.rindex("USER 1001") < stage.rindex("CMD")
