"""python -m cifar_utils: see cli.py, which takes seconds to import."""

import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a class name that the terminal cannot show stops nothing
    arguments = sys.argv[1:] if arguments is None else arguments
    # While nothing has begun, Ctrl-C ends the process at once, since a package may swallow an exception in its import.
    usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from cifar_utils.cli import run
    except Exception:
        if arguments != ["doctor"]:
            raise
        from cifar_utils.workshop import doctor  # which says what is missing

        return 0 if doctor.report() else 1
    finally:
        signal.signal(signal.SIGINT, usual)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        exec("")  # CPython remembers an exec() that was interrupted, as in an import, and would exit by the signal
        print("\nStopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
