"""The progress bar in a log file and in a terminal."""

import io
import os
import re
import struct
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from tiny import train_tiny

from cifar_utils.progress import bar


@contextmanager
def terminal(monkeypatch, columns: int = 120):
    """Puts a pseudo-terminal in the place of standard output; yields a list that gets its text at the end."""
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    received, text = bytearray(), []

    def read():
        try:
            while chunk := os.read(master, 4096):
                received.extend(chunk)
        except OSError:  # Linux says so when the other side is closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(slave, "w", encoding="utf-8") as out:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", str(columns))
        yield text
    reader.join(10)
    os.close(master)
    text.append(received.decode().replace("\r\n", "\n"))  # a terminal's newline


def test_a_log_file_gets_lines_and_no_carriage_returns(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    with bar(3, "Working", "step") as progress:
        progress.mininterval = 0
        for _ in range(3):
            progress.update()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert all(re.match(r"Working: +\d+%\|", line) for line in lines)
    assert [re.search(r"(\d)/3", line)[1] for line in lines[:4]] == ["0", "1", "2", "3"]


def test_a_log_file_is_not_flooded(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    with bar(1000, "Working", "step") as progress:
        for _ in range(1000):
            progress.update()
    assert len(log.getvalue().splitlines()) == 2  # the beginning and the end


@pytest.mark.parametrize("columns,width", [(200, 110), (60, 60)])
def test_a_terminal_is_redrawn_in_place(monkeypatch, columns, width):
    with terminal(monkeypatch, columns) as text, bar(3, "Working", "step") as progress:
        progress.mininterval = 0
        for _ in range(3):
            progress.update()
    states = text[0].removesuffix("\n").split("\r")
    assert text[0].count("\n") == 1 and text[0].endswith("\n")
    assert sum(state.startswith("Working") for state in states) >= 4
    assert max(map(len, states)) == width  # a longer line would wrap, and stay behind when it is redrawn


def test_the_training_bar_shows_loss_accuracy_and_the_time_left(monkeypatch, tmp_path):
    with terminal(monkeypatch) as text:
        # Slowly enough for the bar to be redrawn: in the first epoch, and after the first validation.
        history, _ = train_tiny(tmp_path, epochs=4, between=lambda state: state.epochs in (0.5, 1) and time.sleep(0.25))
    start, _, redrawn = text[0].partition("\n")
    assert start == f"Training in {tmp_path.parent.name}/{tmp_path.name}"
    states = redrawn.removesuffix("\n").split("\r")
    assert "\n" not in "".join(states)
    running = r"Training +\d+%\|.*\| epoch \d\.\d of 4 \[\d\d:\d\d, \d\d:\d\d left, loss \d\.\d{3}, accuracy \d+\.\d%"
    validation = r"; validation \d\.\d{3}, \d+\.\d%\]"
    assert any(re.search(running, state) for state in states)
    assert any(re.search(running + validation, state) for state in states[:-1])
    assert re.search("100%.*epoch 4.0 of 4", states[-1])
    assert "validation {validation_loss:.3f}, {validation_accuracy:.1%}]".format(**history[-1]) in states[-1]


def test_the_training_bar_in_a_log_file(capsys, tmp_path):
    history, _ = train_tiny(tmp_path)
    start, first, last = capsys.readouterr().out.splitlines()
    assert start.startswith("Training in ")
    assert "0%" in first and "epoch 0.0 of 2" in first
    assert "100%" in last and f"{history[-1]['validation_accuracy']:.1%}]" in last
