"""The command line: flags from a dataclass, one message per mistake, and the `nlptl` command.

The one file that imports tyro. Nothing here imports torch: the module of a command is imported when it runs.
"""

import ast
import contextlib
import csv
import ctypes
import errno
import gc
import importlib
import importlib.util
import inspect
import io
import itertools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO, TypeVar, cast

from nlptl import __version__
from nlptl.config import load_config
from nlptl.errors import ConfigError, ResourceError, UserError
from nlptl.flags import check_flags, flags_of, nearest
from nlptl.printable import printable
from nlptl.training.interruption import stop_on_signals

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Settings of glibc's malloc, with the numbers that its malloc.h gives them."""


class Command(NamedTuple):
    """A command of `nlptl`: its module, the names of its dataclass and its function there, and a line of help."""

    module: str
    config: str
    function: str
    help: str


COMMANDS = {
    "check": Command("training.check_command", "CheckConfig", "check_data", "find problems in a data set"),
    "predict": Command("serving.predict", "PredictConfig", "predict", "label texts with a trained model"),
    "evaluate": Command("serving.evaluate", "EvaluateConfig", "evaluate", "score a trained model on a data set"),
    "compare": Command("judging.compare", "CompareConfig", "compare", "say which of several runs is better"),
    "calibrate": Command(
        "serving.calibrate", "CalibrateConfig", "calibrate", "fit probabilities and decisions to other data"
    ),
    "export": Command(
        "serving.export", "ExportConfig", "export", "write a trained model for ONNX Runtime, and say what that costs"
    ),
    "baselines": Command(
        "judging.baselines", "BaselinesConfig", "compare_baselines", "say whether transfer helps on a data set"
    ),
    "push": Command("serving.push", "PushConfig", "push", "put a trained model on the Hub"),
    "report": Command(
        "judging.report", "ReportConfig", "report", "write the report of a run again, as a page or as Markdown"
    ),
    "cache": Command(
        "training.cache_command", "CacheConfig", "manage_cache", "list or clear the features of frozen encoders"
    ),
}

LONGEST_FIELD = 10 * 2**20
"""Characters that a field of a CSV file may have, where Python's own limit is 131,072."""

# An installed wheel has the recipes inside the package, a checkout beside it.
RECIPE_FOLDERS = (Path(__file__).parent / "recipes", Path(__file__).parents[1] / "recipes")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `nlptl` command; `argv` are the words after it, by default those of this process."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    command, *rest = [word for word in words if word != "--debug"] or ["--help"]
    flags = rest + ["--debug"] * debug
    with _errors_as_messages(debug=debug):
        if command in ("-h", "--help"):
            print(_usage())
        elif command == "--version":
            print(f"nlptl {__version__}")
        elif command == "run":
            _run_recipe(rest, debug=debug)
        elif command in COMMANDS:
            chosen = COMMANDS[command]
            module = importlib.import_module(f"nlptl.{chosen.module}")
            config, function = getattr(module, chosen.config), getattr(module, chosen.function)
            # Standard output belongs to the predictions, so that log lines go to standard error.
            log_to = sys.stderr if command == "predict" else sys.stdout
            run(function, config, flags, doc=inspect.getdoc(config), prog=f"nlptl {command}", log_to=log_to)
        else:
            near = nearest(command, ["run", *COMMANDS, *(f"run {name}" for name in _recipes(RECIPE_FOLDERS))])
            raise ConfigError(
                f"Unknown command {command}. "
                + (f"Did you mean nlptl {near}?" if near else "nlptl --help lists the commands.")
            )


def run(
    main: Callable[[T], object],
    cls: type[T],
    argv: Sequence[str] | None = None,
    *,
    doc: str | None = None,
    prog: str | None = None,
    log_to: TextIO | None = None,
) -> None:
    """Call `main` with the configuration that the flags in `argv` spell, as a script does.

    A mistake of the user ends the process with one message and its exit code; `--debug` shows the traceback. The first
    SIGTERM or Ctrl-C lets a training finish its step and save.

    Args:
        main: The function to call, with the configuration as its argument.
        cls: Frozen dataclass of the configuration.
        argv: The flags; None: those of this process.
        doc: Text above the flags in `--help`; None: the docstring of the module of `cls`.
        prog: The words before the flags; None: the name of the script.
        log_to: Where the log lines of nlptl go; None: standard output.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    flags = [word for word in words if word != "--debug"]
    doc = sys.modules[cls.__module__].__doc__ if doc is None else doc
    stream = sys.stdout if log_to is None else log_to
    with _errors_as_messages(debug="--debug" in words), _process_group(), _logging(stream):
        # Settings of the whole process, so that only the command line changes them.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
        config = parse(cls, flags, prog=prog, description=doc)
        _keep_freed_memory()
        with stop_on_signals():
            main(config)


def parse(
    cls: type[T], argv: Sequence[str] | None = None, *, prog: str | None = None, description: str | None = None
) -> T:
    """Build the dataclass `cls` from flags: its fields and those of the dataclasses in it, all on one level.

    `-` and `_` are the same in a flag. Fields without a default are positional. Where all fields have one,
    `--config FILE` reads settings from JSON, and the other flags override them.

    Raises:
        ConfigError: If a flag is unknown, or the dataclass or the file refuses a value.
        SystemExit: With code 0 after `--help`; with code 2 if a value cannot be read as the type of its field.
    """
    positional, flags = flags_of(cls)
    known = {flag.name: flag.hint for flag in flags} | ({} if positional else {"config": Path})
    tokens = check_flags(list(sys.argv[1:] if argv is None else argv), known, getattr(cls, "not_flags", ()))
    prog = prog or Path(sys.argv[0]).name
    if wanted := {"-h", "--help", "--help-all"} & set(tokens):
        from nlptl.help import help_text

        print(help_text(cls, prog=prog, description=description or "", is_full="--help-all" in wanted))
        raise SystemExit(0)
    path = None if positional else _take_config(tokens) or _config_of_run(cls, tokens)
    defaults: dict[str, Any] = {} if path is None else {"default": load_config(cls, path)}
    import tyro  # takes a while, and help does without

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config = tyro.cli(
                cls,
                args=tokens,
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
                **defaults,
            )
        return cast(T, config)
    except SystemExit as exit:
        # tyro turns the errors of a dataclass about its values into messages of its own.
        cause: BaseException | None = exit
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(errors.getvalue())
        raise


def _take_config(tokens: list[str]) -> Path | None:
    """Take `--config FILE` out of `tokens` and return the file."""
    places = [i for i, token in enumerate(tokens) if token == "--config" or token.startswith("--config=")]
    if not places:
        return None
    place, *others = places
    flag, equals, file = tokens.pop(place).partition("=")
    if not equals and place < len(tokens) and not tokens[place].startswith("--"):
        file = tokens.pop(place)
    if others or not file:
        raise ConfigError("Expected one file after --config, once; found " + ("it twice." if others else "none."))
    return Path(file)


@contextlib.contextmanager
def _errors_as_messages(*, debug: bool) -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        if debug:
            traceback.print_exc()
        elif type(error) is KeyboardInterrupt:  # a training that was interrupted has said so
            print("nlptl: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of standard output has left, as in `nlptl ... | head`: end as other programs do, and write nothing
        # more when the interpreter flushes its buffers.
        _write_to_nowhere(sys.stdout)
        sys.exit(141)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        known = error if isinstance(error, UserError) else _lack(error)
        if known is None or (debug and known is not error):
            raise
        if debug:
            traceback.print_exc()
        else:
            print(f"nlptl: error: {printable(str(known))}", file=sys.stderr)
        sys.exit(known.exit_code)


def _lack(error: Exception) -> ResourceError | None:
    """Return an error of ours if `error` says that the machine lacks disk space or memory, else None."""
    if isinstance(error, OSError):
        is_full = error.errno == errno.ENOSPC
        return ResourceError(f"Expected space on the disk, found: {error.strerror}. Free some.") if is_full else None
    # torch has its own kinds of error for this, and torch is not imported here.
    if not isinstance(error, MemoryError) and "memory" not in f"{type(error).__name__} {error}".lower():
        return None
    return ResourceError(
        f"Expected enough memory, found: {str(error).partition(chr(10))[0] or 'too little'}. "
        "Lower --micro-batch-tokens, --max-length or --hidden, or take a smaller model."
    )


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Leave the group of processes at the end, if there is one: gloo warns and may hang where nobody does.

    An error of one process is passed on to the others, which report it when they fail for want of that process.
    """
    try:
        yield
    except BaseException as error:
        peers = sys.modules.get("nlptl.training.peers")
        known = error if peers is None else peers.explained(error)
        # The frames of the traceback hold the trainer, and with it what must not outlive the group.
        traceback.clear_frames(error.__traceback__)
        if known is error:
            raise
        raise known from error
    finally:
        distributed = sys.modules.get("torch.distributed")
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            gc.collect()
            distributed.destroy_process_group()


def _keep_freed_memory() -> None:
    """Let glibc keep memory that is freed; by default each step's large tensors are mapped and zeroed again.

    The memory kept is not bounded: it is the most that the process has used at once. That is for a process of ours, not
    for one that imports nlptl.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def _logging(stream: TextIO) -> Iterator[None]:
    """Show the log lines of nlptl as plain text; of several processes, only the main one shows progress."""
    logger = logging.getLogger("nlptl")
    handler = _LogHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


class _LogHandler(logging.StreamHandler[TextIO]):
    def format(self, record: logging.LogRecord) -> str:
        text, encoding = printable(super().format(record)), self.stream.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # The reader has left, as in `nlptl run ... | head`: training continues without it.
            _write_to_nowhere(self.stream)
        elif isinstance(sys.exc_info()[1], OSError):
            raise  # noqa: PLE0704
        else:
            super().handleError(record)


def _write_to_nowhere(stream: TextIO) -> None:
    """Redirect `stream` to the null device, including its buffered output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _config_of_run(cls: Any, tokens: Sequence[str]) -> Path | None:
    """Return the settings of the run that `--resume` continues, if there is one in the folder."""
    if "--resume" not in tokens:
        return None
    given = [token.partition("=")[2] for token in tokens if token.startswith("--output-dir=")]
    given += [after for token, after in itertools.pairwise(tokens) if token == "--output-dir"]
    folder = given[-1] if given else getattr(cls, "output_dir", None)
    path = None if folder is None else Path(folder).expanduser() / "config.json"
    return path if path is not None and path.is_file() else None


def _recipes(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the recipes of the first folder that has any, by name."""
    found = ({path.stem: path for path in sorted(folder.glob("[!_]*.py"))} for folder in folders)
    return next(filter(None, found), {})


def _run_recipe(words: Sequence[str], *, debug: bool) -> None:
    recipes = _recipes(RECIPE_FOLDERS)
    if not words or words[0] in ("-h", "--help"):
        print("usage: nlptl run RECIPE [flags]\n\nrecipes, each with its own --help:")
        for name, path in recipes.items():
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            print(f"  {name:<24}{docstring.partition(chr(10))[0]}")
        return
    name = words[0].replace("-", "_")
    if name not in recipes:
        near = nearest(name, recipes)
        hint = f"Did you mean {near}?" if near else "nlptl run lists the recipes."
        raise ConfigError(f"Unknown recipe {words[0]}. {hint}")
    recipe = _import_file(f"nlptl.recipes.{name}", recipes[name])
    run(recipe.main, recipe.Config, [*words[1:], *["--debug"] * debug], prog=f"nlptl run {name}")


def _import_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Where dataclasses look up the types of their fields.
    spec.loader.exec_module(module)
    return module


def _usage() -> str:
    lines = ["usage: nlptl COMMAND ...", "", "Transfer learning on text.", "", "commands, each with its own --help:"]
    lines += [f"  {'run':<18}train with a recipe; without the name of one, list the recipes"]
    lines += [f"  {name:<18}{command.help}" for name, command in COMMANDS.items()]
    lines += ["", "options:", "  --version         print the version", "  --debug           show the traceback"]
    return "\n".join(lines)
