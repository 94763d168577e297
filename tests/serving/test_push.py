"""What is pushed, to a small Hub on this machine, and what is refused before anything is sent."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

from nlptl import Classifier, ConfigError, ResourceError, UntrustedFileError, cli
from nlptl.serving.push import PushConfig, check_folder, push
from tests.conftest import options

FILES = ["README.md", "config.json", "model.safetensors", "nlptl.json", "tokenizer.json", "tokenizer_config.json"]
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Takes commits into repositories of the account me: the token hf_good may write; me/public is a public one."""

    repositories: ClassVar[dict[str, dict]] = {}
    stored: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path.strip("/")
        self.requests.append(f"{self.command} {path}")
        match path.split("/"):
            case ["api", "models", owner, name]:
                self.tell(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", revision]:
                self.tell(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", _]:
                files = self.repositories[f"{owner}/{name}"]["branches"]["main"]
                self.answer([{"type": "file", "path": path, **listed(path, files[path])} for path in files])
            case [owner, name, "resolve", _, file]:
                files = self.repositories[f"{owner}/{name}"]["branches"]["main"]
                self.send(200 if file in files else 404, files.get(file, b""))
            case _:
                self.answer({"error": "Not found"}, status=404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path.strip("/")
        self.requests.append(f"POST {path}")
        length = self.headers.get("Content-Length")
        body = self.chunks() if length is None else self.rfile.read(int(length))
        if self.headers.get("Authorization") != "Bearer hf_good":
            self.answer({"error": "You don't have the rights to do this"}, status=403)
            return
        match path.split("/"):
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                full = f"{asked.get('organization') or 'me'}/{asked['name']}"
                is_there = full in self.repositories
                is_private = asked.get("private", asked.get("visibility") == "private")  # of huggingface_hub 1 and 2
                self.repositories.setdefault(full, {"private": is_private, "branches": {"main": {}}})
                url = f"http://{self.headers['Host']}/{full}"
                self.answer({"url": url, "id": full}, status=409 if is_there else 200)
            case ["api", "validate-yaml"]:
                self.answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "branch", branch]:
                branches = self.repositories[f"{owner}/{name}"]["branches"]
                is_there = branch in branches
                branches.setdefault(branch, {})
                self.answer({}, status=409 if is_there else 200)
            case ["api", "models", _, _, "preupload", _]:
                self.answer(
                    {
                        "files": [
                            {
                                "path": file["path"],
                                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                                "shouldIgnore": False,
                            }
                            for file in json.loads(body)["files"]
                        ]
                    }
                )
            case [_, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                objects = json.loads(body)["objects"]
                to = f"http://{self.headers['Host']}/upload"
                for each in objects:
                    each["actions"] = {"upload": {"href": f"{to}?oid={each['oid']}"}}
                self.answer({"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", branch]:
                files = self.repositories[f"{owner}/{name}"]["branches"][branch]
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = self.stored[value["oid"]]
                url = f"http://{self.headers['Host']}/{owner}/{name}/commit/{COMMIT}"
                self.answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
            case _:
                self.answer({"error": "Not found"}, status=404)

    def do_PUT(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (oid,) = parse_qs(urlsplit(self.path).query)["oid"]
        assert hashlib.sha256(body).hexdigest() == oid
        self.stored[oid] = body
        self.send(200, b"")

    def chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def tell(self, name: str, revision: str) -> None:
        known = self.repositories.get(name)
        if known is None or revision not in (*known["branches"], COMMIT):
            self.answer({"error": "Not found"}, status=404)
            return
        files = known["branches"]["main" if revision == COMMIT else revision]
        siblings = [listed(path, content) for path, content in files.items()]
        self.answer({"id": name, "sha": COMMIT, "private": known["private"], "siblings": siblings})

    def answer(self, values: object, *, status: int = 200) -> None:
        self.send(status, json.dumps(values).encode(), kind="application/json")

    def send(self, status: int, body: bytes, *, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def listed(path: str, content: bytes) -> dict[str, object]:
    return {"rfilename": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Start the small Hub, let huggingface_hub take it for the large one, and return its address."""
    Hub.repositories = {"me/public": {"private": False, "branches": {"main": {}}}}
    Hub.stored, Hub.requests = {}, []
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        settings = {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "cache")}
        # The protocol for large files that a small server can speak.
        settings |= {"HF_HUB_DISABLE_XET": True}
        settings |= {"HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}"}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        yield address
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """Return a saved model; it tells no path of this machine, though its encoder was named by one."""
    target = tmp_path / "model"
    Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"]).save(target)
    assert json.loads((target / "nlptl.json").read_text())["source"] == tiny_bert.name
    return target


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub, of its HTTP client
def test_what_is_pushed_is_loaded_again(folder: Path, hub: str, capsys: pytest.CaptureFixture[str]):
    cli.main(["push", str(folder), "me/toy"])
    assert Hub.repositories["me/toy"]["private"] is True
    pushed = Hub.repositories["me/toy"]["branches"]["main"]
    assert pushed == {name: (folder / name).read_bytes() for name in FILES}
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"done: {hub}/me/toy/commit/{COMMIT}"
    assert [line.split()[-1] for line in lines[: len(FILES)]] == FILES

    texts = ["a great film", "bad"]
    outputs = [Classifier.from_pretrained(name).predict_outputs(texts) for name in ("me/toy", folder)]
    np.testing.assert_array_equal(*outputs)
    assert "GET me/toy/resolve/" in " ".join(Hub.requests)

    # Once more, on a branch of its own, in the account of the token.
    push(PushConfig(model_dir=folder, name="toy", revision="v2"))
    assert Hub.repositories["me/toy"]["branches"]["v2"].keys() == set(FILES)


@pytest.mark.parametrize(
    ("name", "token", "kind", "message"),
    [
        ("me/toy", "hf_bad", ResourceError, r"Hub, found .*403 Forbidden.* Log in with a token that may write there"),
        (
            "me/toy",
            "",
            ResourceError,
            r"Expected a token of the Hugging Face Hub that may write, found none\. Make one",
        ),
        (
            "me/public",
            "hf_good",
            ConfigError,
            "Expected me/public to be private, found a public repository. Pass --no-p",
        ),
    ],
)
def test_what_the_hub_refuses(
    name: str, token: str, kind: type[Exception], message: str, folder: Path, hub: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(kind, match=message) as error:
        push(PushConfig(model_dir=folder, name=name))
    assert "\n" not in str(error.value)
    assert Hub.stored == {}
    assert Hub.repositories == {"me/public": {"private": False, "branches": {"main": {}}}}


@pytest.mark.parametrize("setting", [{"ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": True}])
def test_without_a_network_there_is_one_message(
    setting: dict[str, object], folder: Path, hub: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in setting.items():
        monkeypatch.setattr(constants, name, value)
    with pytest.raises(
        ResourceError, match=r"Expected to upload to me/toy .*, found .* Check the network, and HF_"
    ) as error:
        push(PushConfig(model_dir=folder, name="me/toy"))
    assert "\n" not in str(error.value)
    assert Hub.requests == []


def test_a_dry_run_lists_the_files_and_asks_nobody(folder: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["push", str(folder), "me/toy", "--dry-run", "--revision", "v2", "--no-private"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == FILES
    size = sum((folder / name).stat().st_size for name in FILES)
    assert last == f"{size / 1000:.1f} kB in 6 files would go to me/toy@v2 (public)"


def refuse(folder: Path, kind: type[Exception], message: str, name: str = "me/toy") -> None:
    with pytest.raises(kind, match=message):
        push(PushConfig(model_dir=folder, name=name, dry_run=True))


def test_what_is_no_saved_model_is_refused(folder: Path, tiny_bert: Path, tmp_path: Path):
    refuse(tmp_path / "none", ConfigError, "Expected the model/ folder of a run, found nothing at .*none")
    refuse(tiny_bert, ConfigError, "found no nlptl.json in ")
    refuse(folder.parent, ConfigError, "Expected the model folder of a run, found the run. Pass .*model")
    refuse(folder, ConfigError, "Expected a name such as owner/model, found 'a/b/c'", name="a/b/c")
    for name in ("pytorch_model.bin", "train.py", ".env", "notes"):
        (folder / name).write_bytes(b"\x80")
        refuse(folder, ConfigError, f"Expected nothing in .*model but a saved model, found {name}. Move it away")
        (folder / name).unlink()
    (folder / "private.txt").symlink_to("/etc/hostname")
    refuse(folder, ConfigError, "but a saved model, found private.txt")
    (folder / "private.txt").unlink()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9])
    refuse(folder, UntrustedFileError, "Expected intact safetensors weights")


@pytest.mark.parametrize(
    "text",
    ["/home/me/encoder", "C:\\Users\\me", "~/encoder", "file:///srv/x", "`/mnt/disk/encoder`", "[card](/srv/a/b)"],
)
def test_paths_of_this_machine_stay_here(text: str, folder: Path):
    card = folder / "README.md"
    plain = card.read_text()
    card.write_text(f"{plain}\nTrained over {text}.\n")
    refuse(folder, UntrustedFileError, r"Expected no path of this machine .*found .* in .*README.md. Write the name")
    card.write_text(plain)
    settings = folder / "nlptl.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"source": text.strip("`")}))
    refuse(folder, UntrustedFileError, r"Expected no path of this machine .*found .* in .*nlptl.json")


@pytest.mark.parametrize(
    "settings", [{"pooling": "mean"}, {"pooling": "max", "hidden": [4]}, {"pooling": "cls", "lora_rank": 2}]
)
@pytest.mark.parametrize("relative", [False, True])
def test_heads_of_our_own_tell_no_path(
    settings: dict[str, Any], relative: bool, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tiny_bert.parent)
    encoder = Path(tiny_bert.name) if relative else tiny_bert
    model, target = Classifier.from_pretrained(encoder, labels=["a", "b"], **options(**settings)), tmp_path / "model"
    model.save(target)
    for path in target.glob("*.json"):
        assert str(tiny_bert.parent) not in path.read_text()
        assert "_name_or_path" not in path.read_text()
    assert [path.name for path in check_folder(target)] == FILES
    stock = AutoModelForSequenceClassification.from_pretrained(target)
    assert stock.config.to_dict()["encoder"]["model_type"] == "bert"
    loaded = Classifier.from_pretrained(target)
    texts = ["a great film", "bad"]
    np.testing.assert_allclose(loaded.predict_outputs(texts), model.predict_outputs(texts), atol=1e-6)
    # The name of a model on the Hub is no path.
    loaded.network.config.encoder._name_or_path = "owner/encoder"
    loaded.save(target)
    assert json.loads((target / "config.json").read_text())["encoder"]["_name_or_path"] == "owner/encoder"


def test_links_relative_paths_and_labels_are_no_paths_of_this_machine(tiny_bert: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tiny_bert.parent)
    model, target = Classifier.from_pretrained(tiny_bert.name, labels=["/r/python", "and/or"]), tmp_path / "model"
    model.save(target)
    text = "https://huggingface.co/a/b, path/to/this/folder, ../data/x.csv, a/b/c, 1/2/3, </b></table>, google/bert"
    with (target / "README.md").open("a") as file:
        file.write(f"\n{text}\n- /r/python\n")
    assert push(PushConfig(model_dir=target, name="me/toy", dry_run=True)) is None


def test_without_a_token_nothing_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nlptl.serving.push.get_token", lambda: None)
    with pytest.raises(ResourceError, match=r"Expected a token of the Hugging Face Hub that may write, found none"):
        push(PushConfig(model_dir=folder, name="me/toy"))
