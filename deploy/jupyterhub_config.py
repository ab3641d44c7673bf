"""JupyterHub for a room that shares one Linux server; README.md beside this file says how to start it.

One environment and one read-only data set for all; a Linux account, a folder and a part of the processors for each.
What may differ from server to server is read from the environment:

WORKSHOP_PARTICIPANTS   how many share the processors (default: 30)
WORKSHOP_MEMORY_GB      data memory of one process of a participant, a notebook's kernel for example (default: 3)
WORKSHOP_SPAWNER        "processes" (the default), or "systemd", which limits a participant's processes together
CIFAR10_DIR             the data directory (default: data/ in the project's folder)
WORKSHOP_TEACHER        an account that sees, starts and stops all servers at /hub/admin (default: nobody)
WORKSHOP_PROFILE        how much notebooks train: smoke, class or long (default: the notebooks' own, class)
WORKSHOP_COPIES         participants' copies of the notebooks (default: copies/ in the project's folder)
"""

import asyncio
import grp
import os
import sys
from pathlib import Path

c = get_config()  # noqa: F821 (JupyterHub defines it)

PROJECT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CIFAR10_DIR") or PROJECT / "data").resolve()
COPIES = Path(os.environ.get("WORKSHOP_COPIES") or PROJECT / "copies").resolve()
PARTICIPANTS = int(os.environ.get("WORKSHOP_PARTICIPANTS") or 30)
MEMORY_GB = float(os.environ.get("WORKSHOP_MEMORY_GB") or 3)
SPAWNER = os.environ.get("WORKSHOP_SPAWNER") or "processes"
GROUP = "workshop"  # accounts.py puts every participant into it
FOLDER = "workshop"  # in a participant's home
MINUTES = 60  # without a request, until a server is stopped; half of it for a kernel that computes nothing
BIN = Path(sys.executable).parent

if PARTICIPANTS < 1 or SPAWNER not in ("processes", "systemd"):
    sys.exit("WORKSHOP_PARTICIPANTS must be at least 1, and WORKSHOP_SPAWNER must be processes or systemd.")
# Better no hub than thirty participants who each download the data, or cannot log in.
for needed, cure in (
    (DATA / "cifar-10-batches-py", f"CIFAR10_DIR={DATA} {sys.executable} -m cifar_utils download"),
    (COPIES / "notebooks", f"{sys.executable} -m cifar_utils copies {COPIES}"),
):
    if not needed.is_dir():
        sys.exit(f"{needed} is missing. Run: {cure}")
try:
    grp.getgrnam(GROUP)
except KeyError:
    command = f"{sys.executable} {PROJECT}/deploy/accounts.py {PARTICIPANTS} >> /srv/hub/passwords"
    sys.exit(f"There are no participants yet. Run: {command}")

# Logging in: the accounts of this server that are in the group, and no others.
c.JupyterHub.authenticator_class = "pam"
c.PAMAuthenticator.allowed_groups = {GROUP}
c.PAMAuthenticator.open_sessions = False  # sessions are for terminals
if os.environ.get("WORKSHOP_TEACHER"):
    c.Authenticator.admin_users = {os.environ["WORKSHOP_TEACHER"]}

local = PROJECT / "deploy" / "node_modules" / ".bin" / "configurable-http-proxy"
c.ConfigurableHTTPProxy.command = str(local if local.exists() else "configurable-http-proxy")

# A participant's server: JupyterLab in a folder of their own, on the first notebook.
c.Spawner.notebook_dir = f"~/{FOLDER}"
c.Spawner.default_url = "/lab/tree/notebooks/01_data_and_augmentation.ipynb"
c.Spawner.start_timeout = 120  # seconds; many start at once when a workshop begins
c.Spawner.http_timeout = 120
c.Spawner.environment = {
    "CIFAR10_DIR": str(DATA),
    "PYTHONPATH": lambda spawner: f"{Path(f'~{spawner.user.name}').expanduser()}/{FOLDER}",  # their cifar_utils
    "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
    # PyTorch would take every processor for each participant, and thirty of them would wait for one another.
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // PARTICIPANTS)),
}
if os.environ.get("WORKSHOP_PROFILE"):
    c.Spawner.environment["CIFAR_PROFILE"] = os.environ["WORKSHOP_PROFILE"]
single_user = [str(BIN / "jupyterhub-singleuser")]
if SPAWNER == "systemd":
    c.JupyterHub.spawner_class = "systemdspawner.SystemdSpawner"
    c.Spawner.mem_limit = f"{MEMORY_GB}G"
    c.SystemdSpawner.isolate_tmp = True
    c.Spawner.cmd = single_user
else:
    # A process that wants more memory gets an error, which the notebook shows; nobody else notices.
    c.JupyterHub.spawner_class = "localprocess"
    c.Spawner.cmd = ["prlimit", f"--data={int(MEMORY_GB * 1e9)}", "--core=0", *single_user]
# A notebook that was left open holds its memory: kernels that compute nothing are ended, servers without requests too.
c.Spawner.args = [
    f"--MappingKernelManager.cull_idle_timeout={MINUTES * 30}",
    "--MappingKernelManager.cull_interval=60",
    "--MappingKernelManager.cull_connected=True",
    # Started without a terminal, JupyterLab would open login shells, and /etc/profile resets PATH.
    "--ServerApp.terminado_settings={'shell_command': ['/bin/bash']}",
]
c.JupyterHub.load_roles = [
    {
        "name": "idle-culler",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["idle-culler"],
    }
]
c.JupyterHub.services = [
    {"name": "idle-culler", "command": [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={MINUTES * 60}"]}
]


async def copy_notebooks(spawner) -> None:
    """Gives the participant what is new among the copies; a file that is there already is theirs and stays."""
    folder = Path(f"~{spawner.user.name}").expanduser() / FOLDER
    command = ["runuser", "-u", spawner.user.name, "--", "cp", "-rn", "--", f"{COPIES}/.", str(folder)]
    process = await asyncio.create_subprocess_exec(*command)  # awaited: the hub serves the others meanwhile
    try:
        code = await asyncio.wait_for(process.wait(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    # Some versions of cp count a file that they left alone as an error, and a participant may have replaced a folder.
    if code and not (folder / "notebooks").is_dir():
        raise RuntimeError(f"the notebooks cannot be copied into {folder}")


c.Spawner.pre_spawn_hook = copy_notebooks
