"""`pgrpo serve`: the model of a run over HTTP, for other programs and for a browser."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from pathlib import Path

from pgrpo_cli.conversation.speaker import load_speaker
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.eval.targets import eval_target
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.state.run import run_at

from .callbacks import Callbacks
from .source import StrPath


def serve(
    run: StrPath,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    step: int | None = None,
    device: str | None = None,
    callbacks: Callbacks | None = None,
) -> None:
    """Load the model of a run, also of one that still trains, and answer requests until asked to stop.

    `host` is this machine's own unless there is a `token`. `port` 0 is a free one; `callbacks.serving` hears
    which. `step`: the checkpoint after that step, None for the newest adapter. Raises PgrpoError.
    """
    callbacks = callbacks or Callbacks()
    _require_extra()
    from pgrpo_cli.server.app import build_app
    from pgrpo_cli.server.listening import listen, listening_socket, url_of

    _check_token(token)
    directory = run_at(Path(run))
    recipe = directory.recipe()
    target = eval_target(directory, recipe, directory.recipe_dir, step)
    callbacks.on_run(target.run, target.recipe)
    # The port comes before the model, which takes long to load.
    with closing(listening_socket(host, port, token)) as listening:
        for warning in target.warnings:
            callbacks.on_note(f"note: {warning}")
        chosen = device_for(target.recipe, device)
        callbacks.on_note(describe(chosen))
        speaker = load_speaker(target, chosen)
        app = build_app(speaker, directory.path, host=host, token=token, on_failure=callbacks.on_failure)
        with callbacks.serving(url_of(listening)):
            listen(app, listening, callbacks.stop_requested)


def _require_extra() -> None:
    for module in ("starlette", "uvicorn"):
        try:
            import_module(module)
        except ImportError as error:
            raise RecipeError(
                f"`pgrpo serve` needs the package {module}, which cannot be imported: {error}",
                remedy="pip install 'pgrpo-cli[serve]'",
            ) from error


def _check_token(token: str | None) -> None:
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise RecipeError(
            "--token: a token is one word of letters, digits and signs of ASCII",
            remedy="Choose another one, for instance the output of `openssl rand -hex 16`.",
        )
