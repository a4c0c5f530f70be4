"""Settings for every test: no network, few threads, and the same examples on every run and machine."""

import os
import signal

from hypothesis import HealthCheck, settings

# Before torch is imported: tests are small, and more threads only cost them time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before transformers is imported, as the command does it: no progress bars of its own.
os.environ.setdefault("TQDM_DISABLE", "1")

# The consoles keep the width that these say when they are made: make them before a test sets its own.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)
import pgrpo_cli.cli.terminal  # noqa: F401

# A shell's background job ignores Ctrl-C, one of nohup the end of a terminal, and so do their children: tests
# say themselves when that is so.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

settings.register_profile(
    "pgrpo",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("pgrpo")
