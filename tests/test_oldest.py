"""The oldest versions that pyproject.toml allows, in an environment of their own, run the quick tests."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "test_data", "test_folder", "test_policy", "test_warp", "test_models", "test_training", "test_runs",
    "test_checkpoint", "test_predictions", "test_metrics", "test_comparison", "test_calibration", "test_plots",
    "test_takehome", "test_transforms", "test_speedrun", "test_widgets",
)  # fmt: skip
LEFT_OUT = (".venv", ".git", "build", "data", "runs", "notebooks", "__pycache__", "*.egg-info", ".*cache", ".gpu")


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not os.environ.get("CIFAR_OLDEST"), reason="it downloads several GB: set CIFAR_OLDEST=1 to run it")
def test_the_center_works_with_the_oldest_versions(tmp_path):
    assert find_spec("uv"), "uv is needed: pip install uv"
    project, python = tmp_path / "project", tmp_path / "venv" / "bin" / "python"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(*LEFT_OUT))
    environment = os.environ | {"UV_NATIVE_TLS": "1"}
    uv = [sys.executable, "-m", "uv"]
    install = ["pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True, env=environment)
    subprocess.run([*uv, *install, "--editable", f"{project}[test]"], check=True, env=environment)
    # Imported once, so that not every worker compiles it all.
    packages = (
        "torch, torchvision, torch._dynamo, tensorboard, hypothesis, IPython, cifar_utils.cli, cifar_utils.widgets"
    )
    code = f"import {packages}; print(torch.__version__)"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=project, env=environment)
    assert shown.stdout.startswith("2.9."), shown
    tests = [f"tests/{name}.py" for name in FILES]
    command = [python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-6000:]
