"""`pgrpo`, and `python -m pgrpo_cli`, which is the same."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # -m has put the current folder first, where a file typer.py may lie beside a stranger's recipe. This is
    # the first import of ours, and `sys` is built in.
    del sys.path[0]

from pgrpo_cli.cli.process import run

if __name__ == "__main__":
    run()
