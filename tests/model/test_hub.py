"""Models by their Hub id, against a small Hub on this machine and against none."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from nlptl.errors import ResourceError
from nlptl.model.encoder import find_model

COMMITS = {"main": "a" * 40, "v1.0": "b" * 40}
LOADED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
NEVER_LOADED = {"pytorch_model.bin": b"pickle", "modeling_evil.py": b"raise SystemExit", "README.md": b"# Tiny"}


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one folder as the repository owner/tiny; owner/pickled lacks what is safe to load."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path.strip("/")
        self.requests.append(path)
        match path.split("/"):
            case ["api", "models", "owner", "tiny" | "pickled" | "broken" as name, "revision", revision]:
                if revision in COMMITS:
                    self.answer({"id": f"owner/{name}", "sha": COMMITS[revision], "siblings": self.listing(name)})
                else:
                    self.answer({"error": "Revision not found"}, status=404, error="RevisionNotFound")
            case ["api", "models", "owner", name, "tree", _]:
                self.answer([{"type": "file", "path": row["rfilename"], **row} for row in self.listing(name)])
            case ["owner", name, "resolve", commit, file]:
                self.send(self.files[file], commit, is_broken=name == "broken" and file == "model.safetensors")
            case _:
                self.answer({"error": "Repository not found"}, status=404, error="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def listing(self, name: str) -> list[dict[str, object]]:
        names = ["config.json", *NEVER_LOADED] if name == "pickled" else self.files
        return [
            {"rfilename": file, "size": len(self.files[file]), "oid": hashlib.sha1(self.files[file]).hexdigest()}
            for file in names
        ]

    def answer(self, values: object, *, status: int = 200, error: str | None = None) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error is not None:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send(self, body: bytes, commit: str, *, is_broken: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if is_broken else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tiny_bert: Path) -> Iterator[str]:
    Hub.files = {name: (tiny_bert / name).read_bytes() for name in LOADED} | NEVER_LOADED
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(code: str, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import sys\n" + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=inherited | paths | environment, check=False)


LOAD = """
import json
from nlptl import Classifier, UserError

results = []
for name in sys.argv[1:]:
    try:
        results.append(Classifier.from_pretrained(name, labels=["a", "b"]).predict(["good"])[0].label)
    except UserError as error:
        results.append(f"{type(error).__name__}: {error}")
print(json.dumps(results))
"""


def test_models_are_downloaded_and_errors_say_what_to_do(hub: str, tmp_path: Path):
    names = ["owner/tiny", "owner/tiny@v1.0", "owner/tiny@v9", "owner/none", "owner/pickled", "owner/broken"]
    Hub.requests.clear()
    done = run(LOAD, tmp_path, *names, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    newest, pinned, no_revision, no_repository, pickled, broken = json.loads(done.stdout)
    assert {newest, pinned} <= {"a", "b"}
    for message, name in ((no_revision, "owner/tiny@v9"), (no_repository, "owner/none"), (broken, "owner/broken")):
        assert message.startswith(f"ResourceError: Cannot download the model '{name}' from the Hugging Face Hub")
        assert f"run `hf download {name.partition('@')[0]}`" in message
        assert "\n" not in message
    assert "404" in no_revision
    assert "404" in no_repository
    assert pickled.startswith("ConfigError: Expected model.safetensors in ")

    asked = [path for path in Hub.requests if path.startswith("api/models/owner/tiny/revision/")]
    assert [path.rpartition("/")[2] for path in asked] == ["main", "v1.0", "v9"]
    for commit in COMMITS.values():
        prefix = f"owner/tiny/resolve/{commit}/"
        assert {path.removeprefix(prefix) for path in Hub.requests if path.startswith(prefix)} == set(LOADED)
    assert not any(path.endswith(name) for path in Hub.requests for name in NEVER_LOADED)


@pytest.mark.nightly
def test_what_was_downloaded_is_there_without_a_network(hub: str, tmp_path: Path):
    done = run(LOAD, tmp_path, "owner/tiny", "owner/tiny@v1.0", HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout)
    done = run(LOAD, tmp_path, "owner/tiny", "owner/tiny@v1.0", "owner/none", HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    *labels_again, none = json.loads(done.stdout)
    assert labels_again == labels
    assert "ResourceError: Cannot download the model 'owner/none'" in none


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [("http://127.0.0.1:9", "ConnectError"), ("http://hub.invalid", "ConnectError")],
    ids=["nobody listens", "no such host"],
)
def test_without_a_network_there_is_one_message(endpoint: str, reason: str, tmp_path: Path):
    code = "from nlptl.cli import main\nmain(['predict', 'owner/tiny', '--text', 'good'])"
    done = run(code, tmp_path, HF_ENDPOINT=endpoint)
    assert done.returncode == 6
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("nlptl: error: Cannot download the model 'owner/tiny' from the Hugging Face Hub:")
    assert reason in line
    assert "or pass sample:minilm, which needs no network." in line


def test_offline_mode_is_obeyed():
    with pytest.raises(ResourceError, match=r"'no-such/model' from the Hugging Face Hub: .* disabled.*Check"):
        find_model("no-such/model")
