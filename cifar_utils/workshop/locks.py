"""Which runs are in use at this moment."""

from pathlib import Path


def held(runs: Path) -> list[Path]:
    """The folders of runs in which another kernel or command trains, see `runs.run_lock`; a sweep's lie deeper.

    A lock that nobody holds is released again: Windows renames no folder with an open file. Another account's locks,
    and those on a disk that has none, are passed over.
    """
    from filelock import FileLock, Timeout  # here: the doctor asks where packages may be missing

    found = []
    for file in sorted(runs.rglob(".lock")):
        try:
            FileLock(file, timeout=0).acquire().lock.release()
        except Timeout:
            found.append(file.parent)
        except (OSError, NotImplementedError):
            continue
    return found
