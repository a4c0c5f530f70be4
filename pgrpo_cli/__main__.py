"""`python -m pgrpo_cli` is `pgrpo`."""

from pgrpo_cli.cli.app import app

if __name__ == "__main__":
    app(prog_name="pgrpo")
