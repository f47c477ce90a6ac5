"""A signal may come between any two steps of a process, and while it is inside C: it must count all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

from tests.worker.site import ROOT


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout


def test_a_stop_that_comes_while_the_event_is_being_asked_does_not_wait_for_itself() -> None:
    """The lock of the event is held where the handler would run: `Event.set` in a handler never returned from here."""
    said = run(
        """
        import os, signal
        from jobs.signals import stop_at_signals

        stop = stop_at_signals()
        with stop._cond:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass
        print(stop.wait(20))
        """
    )
    assert said == "True\n"


def test_a_signal_counts_while_the_main_thread_is_inside_a_call_of_c() -> None:
    said = run(
        """
        import ctypes, os, signal, threading
        from jobs.signals import on_signals

        def leave(number):
            os.write(1, b"%d" % number)
            os._exit(0)

        on_signals([signal.SIGTERM], leave)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        libc = ctypes.CDLL(None)
        for _ in range(3):  # The signal itself ends a sleep early.
            libc.sleep(100)
        """
    )
    assert said == str(int(signal.SIGTERM))


def test_each_signal_is_answered_and_others_are_left_alone() -> None:
    said = run(
        """
        import os, queue, signal
        from jobs.signals import on_signals

        heard = queue.SimpleQueue()
        signal.signal(signal.SIGUSR1, lambda *_: None)
        on_signals([signal.SIGTERM, signal.SIGQUIT], heard.put)
        os.kill(os.getpid(), signal.SIGUSR1)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGQUIT):
            os.kill(os.getpid(), number)
            print(heard.get(timeout=20))
        """
    )
    assert said.split() == [str(int(number)) for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGQUIT)]
