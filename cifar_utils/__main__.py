"""python -m cifar_utils: see cli.py. This file is short so that Ctrl-C is heard while the rest is imported."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a class name that the terminal cannot show stops nothing
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            from cifar_utils.cli import run
        except (ImportError, OSError, RuntimeError) as error:  # as torch fails where its libraries do
            if arguments == ["doctor"]:  # which says what is missing
                from cifar_utils.workshop import doctor

                return 0 if doctor.report() else 1
            # torch ignores an interrupt within its own import of NumPy, and imports it again
            if "more than once per process" not in str(error):
                raise
            raise KeyboardInterrupt from None
        return run(arguments)
    except KeyboardInterrupt:
        exec("")  # CPython remembers an exec() that was interrupted, as in an import, and would exit by the signal
        print("\nStopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
