"""The report of a run, from its files: `nlptl report`."""

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlptl.data.writers import check_output, write_text
from nlptl.errors import UntrustedFileError, UserError
from nlptl.judging import figures, judgements, scores, sections
from nlptl.judging.card import write_model_card
from nlptl.judging.document import FIRST, LAST, Section, plain
from nlptl.judging.markdown import to_markdown
from nlptl.judging.run_files import RunFiles, read_run

logger = logging.getLogger(__name__)

TEMPLATE = "report.html.jinja"
"""The page: the style sheet, and one macro for each kind of part."""

LETTERS_SHOWN = 600
"""Longer texts are collapsed to the first half of this many characters."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the report of a run again from its files: one page that needs no network, or Markdown."""

    run: Path
    """Folder of the run."""
    output: Path | None = None
    """File for the report; an existing one is replaced. None: report.html in the folder of the run; Markdown goes to
    standard output."""
    markdown: bool = False
    """Write GitHub Markdown, with tables and without figures, instead of a page."""


def report(config: ReportConfig) -> None:
    """Write the report of a run.

    Raises:
        ConfigError: If the folder is not a run with scores.
        UntrustedFileError: If a file of the run is damaged.
        ResourceError: If the report cannot be written.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".md",) if config.markdown else (".html",))
    run = read_run(config.run.expanduser())
    if config.markdown and config.output is None:
        logger.info("%s", to_markdown(sections.title(run), report_sections(run)).rstrip("\n"))
        return
    if config.output is None and run.scores and (run.folder / "model").is_dir():
        write_model_card(run)
    write_report(run, config.output or run.folder / "report.html")


def report_run(folder: Path) -> None:
    """Write the report and the model card of a finished run. A failure is logged and leaves the run as it is."""
    try:
        run = read_run(folder)
        if run.scores:  # otherwise it is a folder of several runs
            write_model_card(run)
        write_report(run, folder / "report.html")
    except Exception as error:  # the trained model and its scores are saved: no failure here may end the run
        logger.error(
            "Cannot write the report of %s: %s. The model and its scores are saved. Run nlptl report %s to try again, "
            "or train with report=False (judging in a --config file).",
            folder,
            error if isinstance(error, UserError) else repr(error),
            shlex.quote(str(folder)),
        )


def write_report(run: RunFiles, path: Path) -> None:
    """Write the report of a run to a file, as Markdown if its name ends in .md, otherwise as one page.

    Raises:
        UntrustedFileError: If a file of the run is damaged.
        ResourceError: If the report cannot be written.
    """
    convert = to_markdown if path.suffix.lower() == ".md" else to_html
    write_text(path, convert(sections.title(run), report_sections(run)))
    logger.info("wrote the report to %s", path)


def report_sections(run: RunFiles) -> list[Section]:
    """Return the sections of the report for which the run has files.

    Raises:
        UntrustedFileError: If a file of the run is damaged.
    """
    makers: tuple[Callable[[RunFiles], Section | None], ...] = (
        sections.verdict,
        sections.training,
        scores.scores,
        scores.curves,
        judgements.calibration,
        judgements.decisions,
        judgements.confusion,
        judgements.slices,
        judgements.errors,
        judgements.probes,
        judgements.attributions,
        sections.data,
        sections.costs,
        sections.settings,
        sections.versions,
        sections.use,
    )
    if not run.scores:
        makers = (scores.repeats_verdict, scores.repeats_scores, sections.settings)
    try:
        made = [maker(run) for maker in makers]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, StopIteration) as error:
        raise UntrustedFileError(
            f"Expected the files of a run in {run.folder}, found one that nlptl did not write: {error!r}. Restore it "
            "from a copy; the report can also be written without analysis.json or baselines.json."
        ) from error
    return [section for section in made if section is not None]


def to_html(title: str, parts: Sequence[Section]) -> str:
    """Return a report as one page that loads and runs nothing."""
    import jinja2
    from markupsafe import Markup, escape

    def isolated(text: str) -> Markup:
        """Isolate the user's data, so that its text direction does not affect the words around it."""
        return Markup(str(escape(text)).replace(FIRST, "<bdi>").replace(LAST, "</bdi>"))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(isolated=isolated, plain=plain, drawing=Markup)
    environment.tests["kind"] = lambda part, kind: type(part).__name__ == kind
    template = environment.get_template(TEMPLATE)
    settings = {"strongest": figures.STRONGEST, "shown": LETTERS_SHOWN, "can_draw": figures.can_draw()}
    return template.render(title=title, sections=parts, **settings)
