"""Makes the accounts of a workshop's participants on this server, and prints their passwords, once.

    sudo python deploy/accounts.py 30          # participant01 to participant30; those that exist stay as they are
    sudo python deploy/accounts.py ada grace   # these names

Each gets a home folder that no other participant can read. To end a workshop: sudo userdel --remove NAME
"""

import argparse
import pwd
import re
import secrets
import subprocess
import sys
from pathlib import Path

GROUP = "workshop"
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without characters that look alike on paper
LENGTH = 12


def names(words: list[str]) -> list[str]:
    """The accounts that are asked for.

    Raises:
        ValueError: neither one whole number from 1 to 999 nor names of accounts.
    """
    if len(words) == 1 and words[0].isdigit():
        if not 1 <= int(words[0]) <= 999:
            raise ValueError(f"{words[0]} participants were asked for; 1 to 999 are possible")
        return [f"participant{number:02}" for number in range(1, int(words[0]) + 1)]
    for word in words:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", word):
            raise ValueError(f"{word!r} is no name of an account: small letters and digits, a letter first")
    return words


def make(name: str) -> str | None:
    """Makes an account, and returns its password; None if there is such an account already.

    Raises:
        ValueError: there is one that is not a participant's.
    """
    members = subprocess.run(["id", "--name", "--groups", name], capture_output=True, text=True).stdout.split()
    if members and GROUP not in members:
        raise ValueError(f"{name} is an account of this server that is no participant's: choose another name")
    if members:
        return None
    shell = ["--shell", "/bin/bash", "--groups", GROUP]
    subprocess.run(["useradd", "--create-home", *shell, "--", name], check=True)
    password = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    try:
        Path(pwd.getpwnam(name).pw_dir).chmod(0o700)
        subprocess.run(["chpasswd"], input=f"{name}:{password}\n", text=True, check=True)
    except BaseException:  # no account stays whose password nobody knows
        subprocess.run(["userdel", "--remove", name])
        raise
    return password


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("participants", nargs="+", help="how many, or their names")
    try:
        wanted = names(parser.parse_args().participants)
        subprocess.run(["groupadd", "--force", GROUP], check=True)
        for name in wanted:
            if password := make(name):
                print(f"{name}\t{password}", flush=True)
            else:
                print(f"{name} exists; its password stays", file=sys.stderr)
    except ValueError as error:
        sys.exit(str(error))
    except (subprocess.CalledProcessError, OSError):  # such as FileNotFoundError: only root's PATH has groupadd
        sys.exit(
            "The accounts could not all be made. Run this with sudo; the same command makes those that are missing."
        )


if __name__ == "__main__":
    main()
