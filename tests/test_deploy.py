"""What a shared server needs, without starting one: accounts, the hub's configuration, the image."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cifar_utils.workshop import copies

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a server of this kind runs Linux")
ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


@pytest.fixture
def accounts():
    spec = importlib.util.spec_from_file_location("accounts", DEPLOY / "accounts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accounts_are_counted_or_named(accounts):
    assert accounts.names(["3"]) == ["participant01", "participant02", "participant03"]
    assert accounts.names(["ada", "grace-h"]) == ["ada", "grace-h"]


@pytest.mark.parametrize("words", [["0"], ["1000"], ["Ada"], ["a b"], ["../x"], ["-r"], ["root;ls"], ["", "b"]])
def test_other_accounts_are_refused(accounts, words):
    with pytest.raises(ValueError):
        accounts.names(words)


def test_an_account_that_is_no_participant_s_is_left_alone(accounts):
    with pytest.raises(ValueError, match="root is an account of this server"):
        accounts.make("root")


def configured(environment: dict, tmp_path: Path) -> subprocess.CompletedProcess:
    """Prints what the configuration sets, or what it says when it refuses."""
    code = f"""
import grp, json
from traitlets.config import Config
c = Config()
grp.getgrnam = lambda name: None
exec(compile(open({str(DEPLOY / "jupyterhub_config.py")!r}).read(), "config", "exec"),
     {{"get_config": lambda: c, "__file__": {str(DEPLOY / "jupyterhub_config.py")!r}}})
del c.Spawner.pre_spawn_hook
c.Spawner.environment.pop("PYTHONPATH")
print(json.dumps(c, default=sorted))
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, cwd=tmp_path
    )


@pytest.fixture
def server(tmp_path):
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "copies" / "notebooks").mkdir(parents=True)
    return {"CIFAR10_DIR": str(tmp_path / "data"), "WORKSHOP_COPIES": str(tmp_path / "copies")}


def test_processors_and_memory_are_divided(server, tmp_path):
    found = configured(server | {"WORKSHOP_PARTICIPANTS": "1", "WORKSHOP_MEMORY_GB": "2.5"}, tmp_path)
    config = yaml.safe_load(found.stdout)
    assert config["Spawner"]["environment"]["OMP_NUM_THREADS"] == str(os.cpu_count())
    assert config["Spawner"]["cmd"][:2] == ["prlimit", "--data=2500000000"]
    assert config["PAMAuthenticator"]["allowed_groups"] == ["workshop"]
    assert any("cull_idle_timeout=" in argument for argument in config["Spawner"]["args"])
    (culler,) = config["JupyterHub"]["services"]
    assert "jupyterhub_idle_culler" in culler["command"] and culler["command"][-1].startswith("--timeout=")
    many = yaml.safe_load(configured(server | {"WORKSHOP_PARTICIPANTS": "500"}, tmp_path).stdout)
    assert many["Spawner"]["environment"]["OMP_NUM_THREADS"] == "1"


def test_a_teacher_may_see_all_servers_and_the_profile_is_for_all(server, tmp_path):
    config = yaml.safe_load(configured(server, tmp_path).stdout)
    assert "Authenticator" not in config and "CIFAR_PROFILE" not in config["Spawner"]["environment"]
    both = {"WORKSHOP_TEACHER": "ada", "WORKSHOP_PROFILE": "smoke"}
    config = yaml.safe_load(configured(server | both, tmp_path).stdout)
    assert config["Authenticator"]["admin_users"] == ["ada"]
    assert config["Spawner"]["environment"]["CIFAR_PROFILE"] == "smoke"


def test_systemd_limits_memory_itself(server, tmp_path):
    config = yaml.safe_load(configured(server | {"WORKSHOP_SPAWNER": "systemd"}, tmp_path).stdout)
    assert config["Spawner"]["mem_limit"] == "3.0G" and "prlimit" not in config["Spawner"]["cmd"]


@pytest.mark.parametrize("wrong", [{"WORKSHOP_SPAWNER": "cloud"}, {"WORKSHOP_PARTICIPANTS": "0"}])
def test_a_setting_that_cannot_be_is_refused(server, tmp_path, wrong):
    found = configured(server | wrong, tmp_path)
    assert found.returncode and "must be at least 1, and WORKSHOP_SPAWNER must be" in found.stderr


@pytest.mark.parametrize("missing, cure", [("data", "cifar_utils download"), ("copies", "cifar_utils copies")])
def test_a_hub_without_data_or_notebooks_does_not_start(server, tmp_path, missing, cure):
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    found = configured(server, tmp_path)
    assert found.returncode and "is missing. Run:" in found.stderr and cure in found.stderr


def test_the_image_is_made_of_what_is_there():
    lines = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM" and steps[-1][0] == "CMD"
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "CMD", "EXPOSE"}
    assert {word for word, _ in steps} <= known
    copied: set[str] = set()
    for _, rest in (step for step in steps if step[0] == "COPY"):
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources)
        copied |= set(sources)
    assert copied == {*copies.COPIED, copies.NOTEBOOKS}, "else the participants' copies have dead links"
    users = [rest for word, rest in steps if word == "USER"]
    assert users[-1] != "root"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"\.\[([a-z,]+)\]", (DEPLOY / "Dockerfile").read_text())
    assert asked and all(extra in extras for some in asked for extra in some.split(","))


def test_the_chart_s_values_limit_what_one_participant_takes():
    values = yaml.safe_load((DEPLOY / "zero-to-jupyterhub.yaml").read_text())
    user = values["singleuser"]
    assert user["memory"]["limit"] and user["cpu"]["limit"] and values["cull"]["enabled"]
    threads = int(user["extraEnv"]["OMP_NUM_THREADS"])
    assert threads <= user["cpu"]["limit"]
    home = re.search(r"^WORKDIR (/home/\S+)$", (DEPLOY / "Dockerfile").read_text(), re.M)[1]
    assert user["storage"]["homeMountPath"] == home, "elsewhere, participants' work would not outlive their server"
    admission = values["hub"]["config"]["Authenticator"]
    assert admission["admin_users"] and admission["allow_all"], "without, nobody can log in"
    mounts = {mount["name"]: mount for mount in user["storage"]["extraVolumeMounts"]}
    assert mounts["data"]["readOnly"] and mounts["data"]["mountPath"] == user["extraEnv"]["CIFAR10_DIR"]
