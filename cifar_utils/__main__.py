"""python -m cifar_utils: see cli.py. This file is short so that Ctrl-C is heard while the rest is imported."""

import signal
import sys
from collections.abc import Callable


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a class name that the terminal cannot show stops nothing
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        run = _imported(arguments)
        return run(arguments)
    except KeyboardInterrupt:
        exec("")  # CPython remembers an exec() that was interrupted, as in an import, and would exit by the signal
        print("\nStopped.", file=sys.stderr)
        return 130


def _imported(arguments: list[str]) -> Callable[[list[str]], int]:
    """The command line's `run`, or the doctor's where the packages are broken.

    torch swallows an interrupt within its own import of NumPy, of which half is missing from then on: whatever fails
    after an interrupt, the interrupt was the reason.
    """
    interrupts: list[int] = []

    def interrupt(number: int, frame) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, interrupt)
    try:
        from cifar_utils.cli import run
    except Exception:
        if interrupts:
            raise KeyboardInterrupt from None
        if arguments != ["doctor"]:
            raise
        from cifar_utils.workshop import doctor  # which says what is missing

        return lambda arguments: 0 if doctor.report() else 1
    finally:
        signal.signal(signal.SIGINT, usual)
    if interrupts:
        raise KeyboardInterrupt
    return run


if __name__ == "__main__":
    sys.exit(main())
