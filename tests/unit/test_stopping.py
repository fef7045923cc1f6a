"""A signal becomes an event, whatever the main thread is doing, and a process that hangs after it shows where."""

import subprocess
import sys
import textwrap
import time


def run(program: str) -> tuple[int, str, float]:
    """(exit code, stderr, seconds)."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr, time.monotonic() - began


def test_it_is_heard_while_the_main_thread_waits_for_it_again_and_again() -> None:
    code, stderr, _ = run("""
        import os, signal, threading
        from headway import stopping

        stop = stopping.on_signals()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while not stop.wait(1e-6):  # in and out of the event's lock
            pass
    """)
    assert (code, stderr) == (0, "")


def test_one_that_hangs_after_the_signal_shows_where_and_ends() -> None:
    code, stderr, took = run("""
        import os, signal, threading
        from headway import stopping

        def the_culprit():
            threading.Lock().acquire() and threading.Event().wait()

        stopping.LAST_S = 0.5
        stopping.on_signals()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        the_culprit()
    """)
    assert code == 1
    assert "the_culprit" in stderr
    assert took < 10
