"""Upload a model folder to the Hugging Face Hub: `nlptl push`."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from nlptl.config import HeadConfig, TransferConfig
from nlptl.errors import ConfigError, ResourceError, UntrustedFileError, UserError, one_line
from nlptl.model.folder import CARD
from nlptl.model.pretrained import load_saved
from nlptl.training.cache import describe_size

SUFFIXES = (".json", ".jsonl", ".safetensors", ".model", ".txt", ".md")
"""Suffixes of the files of a saved model; none of them can run code."""
MAY_TELL_PATHS = ("README.md", CARD, "config.json", "tokenizer_config.json")

# /home/me/model, ~/model, C:\\model, file:///model; not a part of a relative path, a link or a tag.
_ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<~-])(?:/[\w.@+-]+/|~/|[A-Za-z]:\\{1,2}|file:///)[\w.@+-][^\s\"'`)>,;]*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Upload the model/ folder of a run to the Hugging Face Hub, from where it is loaded by its name."""

    model_dir: Path
    """The model/ folder of a run."""
    name: str
    """Repository: OWNER/NAME, or NAME in the account of the token. It is created if it does not exist."""
    private: bool = True
    """Create a private repository; an existing one must be private too. --no-private: the same for a public one."""
    revision: str | None = None
    """Branch of the repository, which is created if it does not exist. None: main."""
    dry_run: bool = False
    """List the files and their sizes, and stop."""


def push(config: PushConfig) -> str | None:
    """Upload a model folder, in one commit, and return its address; in a dry run, list its files.

    Raises:
        ConfigError: If the folder is not a saved model, or the name is not valid for a repository.
        UntrustedFileError: If a file of the model is damaged, could run code, or contains a path of this machine.
        ResourceError: If the Hub is out of reach, or does not let the token write.
    """
    try:
        validate_repo_id(config.name)
    except HFValidationError as error:
        raise ConfigError(f"Expected a name such as owner/model, found {config.name!r}: {error}") from error
    files = check_folder(config.model_dir)
    for path in files:
        logger.info("%10s  %s", describe_size(path.stat().st_size), path.name)
    total = describe_size(sum(path.stat().st_size for path in files))
    seen_by = "private" if config.private else "public"
    where = f"{config.name}{'' if config.revision is None else '@' + config.revision} ({seen_by})"
    if config.dry_run:
        logger.info("%s in %d files would go to %s", total, len(files), where)
        return None
    logger.info("uploading %s in %d files to %s", total, len(files), where)
    address = _upload(config)
    logger.info("done: %s", address)
    return address


def check_folder(folder: Path) -> list[Path]:
    """Return the files of a model folder, after checking that they can be published.

    Raises:
        ConfigError: If it is not the folder of a saved model, or holds other files.
        UntrustedFileError: If a file is damaged, could run code, or contains a path of this machine.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ConfigError(f"Expected the model/ folder of a run, found nothing at {folder}. Check the path.")
    paths = sorted(folder.iterdir())
    others = [path.name for path in paths if path.is_symlink() or not path.is_file() or path.suffix not in SUFFIXES]
    # This refuses a folder that cannot be loaded again.
    task = load_saved(str(folder), HeadConfig(), TransferConfig(), reads_pairs=False).card.task
    if others:
        raise ConfigError(
            f"Expected nothing in {folder} but a saved model, found {', '.join(others[:5])}. Move it away: everything "
            "in the folder would be uploaded, and a pickle or a script can run code."
        )
    for path in paths:
        if path.name in MAY_TELL_PATHS:
            _refuse_paths(path, task.names)
    return paths


def _refuse_paths(path: Path, labels: Sequence[str]) -> None:
    """Refuse a file that contains a path of this machine, which may say who trained the model."""
    text = path.read_text(encoding="utf-8")
    found = [each[0] for each in _ABSOLUTE_PATH.finditer(text) if not any(each[0] in name for name in labels)]
    if found:
        raise UntrustedFileError(
            f"Expected no path of this machine in a model for others, found {found[0]} in {path}. Write the name of "
            "the encoder in its place."
        )


def _upload(config: PushConfig) -> str:
    if get_token() is None:
        raise ResourceError(
            "Expected a token of the Hugging Face Hub that may write, found none. Make one at "
            "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )
    api = HfApi(library_name="nlptl")
    try:
        name = api.create_repo(config.name, private=config.private, exist_ok=True).repo_id
        is_private = bool(api.model_info(name).private)
        if is_private != config.private:
            found, flag = ("private", "--private") if is_private else ("public", "--no-private")
            raise ConfigError(
                f"Expected {name} to be {'private' if config.private else 'public'}, found a {found} repository. Pass "
                f"{flag}, another name, or change it in its settings on the Hub."
            )
        if config.revision is not None:
            api.create_branch(name, branch=config.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=config.model_dir.expanduser(),
            revision=config.revision,
            commit_message="Upload a model trained with nlptl",
        )
    except UserError:
        raise
    except Exception as error:  # The HTTP client has errors of its own, and it changed with huggingface_hub 2.
        # huggingface_hub wraps the cause in a RuntimeError that does not repeat it.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        way_out = "Check the network, and HF_ENDPOINT if it is set."
        if status in (401, 403):
            way_out = "Log in with a token that may write there (`hf auth login`), or push under another name."
        raise ResourceError(
            f"Expected to upload to {config.name} on the Hugging Face Hub, found {one_line(cause)} {way_out}"
        ) from error
    return str(done.commit_url)
