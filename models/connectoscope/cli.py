"""The command line, derived from :mod:`connectoscope.tasks`: a command for each task, an option for each parameter.

Nothing heavy is imported here: ``connectoscope --help`` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from connectoscope import __version__
from connectoscope.errors import Cancelled, ConnectoscopeError, Stopped, UserError
from connectoscope.jobs.events import FINAL_EVENTS, Event, Listener
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import Device, JobRequest
from connectoscope.jobs.signals import answered
from connectoscope.paths import expanded
from connectoscope.tasks.base import Task, load_task, parameter_facts, task_names
from connectoscope.terminal import JobReporter, complain, summary_text, write_line

_HELP = """A desktop microscope for volumes that do not fit in memory.

'connectoscope [PATH]...' opens the window, with these volumes. Each command below does one thing and ends; its results
can be opened in the window, and whatever the window computes can be run as a command."""

_JSON = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON on stdout, and nothing else there.")
]
_KEEP_JOB = Annotated[bool, typer.Option("--keep-job", help="Keep the job folder when the run is done.")]
_DEVICE = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="|".join(get_args(Device)),
        help="Where to compute; auto uses a GPU if there is one.",
    ),
]
_THREADS = Annotated[
    str | None,
    typer.Option("--threads", metavar="INTEGER", help="CPU threads. Default: all cores. [at least 1]"),
]
_DRY_RUN = Annotated[
    bool,
    typer.Option("--dry-run", help="Run one block, report what the whole run will need, and write nothing."),
]
_WORKERS = Annotated[
    str | None,
    typer.Option(
        "--workers",
        metavar="INTEGER",
        help="Worker processes (or queue jobs) that share the blocks. Default: this process alone. [at least 1]",
    ),
]
_SCHEDULER = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="local|slurm|pbs|lsf|ADDRESS",
        help="What distributes the blocks to the workers: this machine, a queue, or a running dask scheduler.",
    ),
]
_OVERWRITE = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is at the destination, and start over.")
]


def main() -> None:
    """The console command; exits 0 done, 1 bug, 2 unusable input, 3 cancelled, 4 stopped and resumable."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Do what ``arguments`` (without the program's name) ask for; returns the exit code. Never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # "nm³" in a terminal that knows only ASCII
    try:
        if not arguments or not (arguments[0].startswith("-") or arguments[0] in _commands()):
            return _open_window(arguments)
        code = _app(arguments[0])(args=list(arguments), prog_name="connectoscope", standalone_mode=False)
        return int(code or 0)
    except ConnectoscopeError as error:
        complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("cancelled")
        return Cancelled.exit_code
    except OSError as error:  # a folder that may not be entered, a name that is too long, a disk that is away
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}; check the path and its permissions")
        return UserError.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, found by typer
            complain(
                f"{error.format_message().rstrip('.')} (see 'connectoscope {_command_of(arguments)}--help')"
            )
            return UserError.exit_code
        with tempfile.NamedTemporaryFile(
            "w", prefix="connectoscope-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            traceback.print_exception(error, file=log)
        complain(
            f"unexpected error ({type(error).__name__}); this is a bug, please report it with the log {log.name}"
        )
        return ConnectoscopeError.exit_code


def _commands() -> list[str]:
    return [*dict.fromkeys(name.partition(" ")[0] for name in task_names()), "run"]


def _command_of(arguments: Sequence[str]) -> str:
    name = " ".join(arguments[:2])
    if " " in name and name in task_names():
        return f"{name} "
    return f"{arguments[0]} " if arguments and arguments[0] in _commands() else ""


def _app(first: str) -> typer.Typer:
    """The typer app with the command ``first``; with all of them when that is an option (``--help``)."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=_HELP)(_callback)
    groups: dict[str, typer.Typer] = {}
    for name in task_names():
        command, _, action = name.partition(" ")
        if not (first.startswith("-") or first == command):
            continue
        task = load_task(name)
        if action and command not in groups:
            told = inspect.getdoc(importlib.import_module(f"connectoscope.tasks.{command}"))
            groups[command] = typer.Typer(rich_markup_mode=None)
            app.add_typer(groups[command], name=command, help=told)
        groups.get(command, app).command(
            action or name, help=_long_help(task), short_help=task.summary, hidden=task.hidden
        )(_command(task))
    app.command("run", help="Run or resume a job folder.")(_run_command)
    return app


def _callback(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda wanted: _print_version(wanted),
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def _print_version(wanted: bool) -> None:
    if wanted:
        write_line(f"connectoscope {__version__}", sys.stdout)
        raise typer.Exit


def _run_command(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Job folder (DST.job).")] = None,
    as_json: _JSON = False,
    keep_job: _KEEP_JOB = False,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Keep running, and run the job folders named on stdin, one per line."),
    ] = False,
) -> int:
    if serve:
        from connectoscope.jobs.serve import serve as serve_jobs

        return serve_jobs(sys.stdin)
    if job is None:
        raise UserError("name a job folder to run (DST.job), or give --serve")
    folder = JobFolder(expanded(job))
    task = load_task(folder.request.task)
    return _follow(folder, task, _runner(task), as_json=as_json, keep_job=keep_job)


def _command(task: Task) -> Callable[..., int]:
    """A function whose signature typer turns into the task's arguments and options."""
    mine = inspect.get_annotations(task.parameters)  # shown before those that it shares with others
    fields = sorted(task.parameters.model_fields.items(), key=lambda field: field[0] not in mine)
    options: dict[str, tuple[Any, Any]] = {"as_json": (_JSON, False), "keep_job": (_KEEP_JOB, False)}
    if not task.in_process:
        options |= {"device": (_DEVICE, "auto"), "threads": (_THREADS, None)}
    if task.preflight is not None:
        options["dry_run"] = (_DRY_RUN, False)
    if task.elsewhere:
        options |= {"workers": (_WORKERS, None), "scheduler": (_SCHEDULER, None)}
    if task.destination is not None:
        options["overwrite"] = (_OVERWRITE, False)

    def command(**given: Any) -> int:
        chosen = {name: given.pop(f"run_{name}") for name in options}
        values = {
            name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v not in (None, [])
        }
        as_json = chosen.pop("as_json")
        dry = chosen.pop("dry_run", False)
        asked = load_task(task.preflight) if dry and task.preflight else task
        request, run_it = JobRequest.make(asked, values, **chosen), _runner(asked)
        return _follow(JobFolder.create(request), asked, run_it, as_json=as_json, keep_job=chosen["keep_job"])

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(
            name,
            keyword,
            annotation=_annotation(name, info),
            default=inspect.Parameter.empty if info.is_required() else None,
        )
        for name, info in fields
    ]
    common = [
        inspect.Parameter(f"run_{name}", keyword, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]
    command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    return command


def _annotation(name: str, info: FieldInfo) -> Any:
    """Typer's argument or option for a parameter: text or a flag, since the parameter model parses and checks."""
    facts = parameter_facts(info)
    type_ = _plain_type(info)
    notes = [f"In {facts['unit']}." if facts.get("unit") else "", _bounds_text(info)]
    if not (info.is_required() or info.default in (None, ()) or info.default is False):
        notes.append(f"[default: {info.default}]")
    help = " ".join([info.description or "", *filter(None, notes)])
    flag = "--" + name.replace("_", "-")
    if type_ is bool:
        both = "" if info.default is False else f"/--no-{flag[2:]}"
        return Annotated[bool | None, typer.Option(flag + both, help=help, show_default=False)]
    repeated = get_origin(type_) is tuple
    metavar = _metavar(get_args(type_)[0] if repeated else type_)
    text = list[str] | None if repeated else str if info.is_required() else str | None
    if facts.get("argument"):
        return Annotated[text, typer.Argument(help=help, metavar=name.upper(), show_default=False)]
    return Annotated[text, typer.Option(flag, help=help, metavar=metavar, show_default=False)]


def _plain_type(info: FieldInfo) -> Any:
    """The type of a parameter; ``X`` where it is ``X | None``."""
    if get_origin(info.annotation) in (Union, UnionType):
        return next(part for part in get_args(info.annotation) if part is not NoneType)
    return info.annotation


def _metavar(type_: Any) -> str:
    if get_origin(type_) is Literal:
        return "|".join(str(choice) for choice in get_args(type_))
    return {int: "INTEGER", float: "NUMBER"}.get(type_, "TEXT")


def _bounds_text(info: FieldInfo) -> str:
    """``[1 to 255]``, ``[at least 0]``, ``[more than 0, less than 1]``."""
    bounds = {}
    for entry in info.metadata:
        for kind in ("ge", "gt", "le", "lt"):
            if hasattr(entry, kind):
                bounds[kind] = getattr(entry, kind)
    if bounds.keys() == {"ge", "le"}:
        return f"[{bounds['ge']} to {bounds['le']}]"
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    told = ", ".join(f"{words[kind]} {bound}" for kind, bound in bounds.items())
    return f"[{told}]" if told else ""


def _long_help(task: Task) -> str:
    """The summary, then what the task's module says of its methods."""
    module = inspect.getdoc(sys.modules[task.run.__module__]) or ""
    method = re.sub(r" \(:mod:`[^`]*`\)", "", module.partition("\n")[2]).replace("``", "'")
    return f"{task.summary}\n\n{method.strip()}".strip()


def _runner(task: Task) -> Callable[[JobFolder, Listener], int]:
    """What runs a job of the task. Asked for before there is a job folder: it takes a moment to load."""
    if not task.in_process:
        from connectoscope.jobs.run import run_job

        return run_job
    from connectoscope.jobs.engine import interrupt
    from connectoscope.jobs.serve import run_here

    def here(job: JobFolder, report: Listener) -> int:
        with answered(interrupt, "SIGINT", "SIGTERM"):  # a polite kill means cancel, too
            return run_here(job, report)

    return here


def _follow(
    job: JobFolder, task: Task, run_it: Callable[[JobFolder, Listener], int], *, as_json: bool, keep_job: bool
) -> int:
    """Run a job to its end with progress on stderr, print the summary, tidy up."""
    request = job.request
    reporter = JobReporter()
    end: Event = {}  # as told: the folder may be another command's by the time it could be asked, or had no room for it

    def report(event: Event) -> None:
        if event["type"] in FINAL_EVENTS:
            end.update(event)
        reporter(event)

    try:
        code = run_it(job, report)
    finally:
        reporter.close()
    message = end.get("message") or job.state().message
    resumable = code in (Cancelled.exit_code, Stopped.exit_code) and not task.in_process
    wanted = keep_job or request.keep_job or request.background  # a window keeps its history
    # Bad input leaves nothing behind, except where blocks were done before it went bad; a bug leaves its log.
    needed = code == ConnectoscopeError.exit_code or (code == UserError.exit_code and job.has_begun())
    if not (wanted or needed or resumable):
        job.remove()
    if code == 0:
        if "summary" not in end:
            complain("done; the disk is full, so that there is no summary")
            return code
        text = (
            json.dumps(end["summary"], indent=2) if as_json else (task.render or summary_text)(end["summary"])
        )
        printed = write_line(text, sys.stdout)
        return code if printed or task.destination is not None else Stopped.exit_code
    resume = f" (to resume: connectoscope run {shlex.quote(str(job.path))})" if resumable else ""
    complain(message + resume)
    return code


def _open_window(paths: Sequence[str]) -> int:
    """Hand the volumes to the desktop window, which is found by entry point, not by import."""
    for path in paths:
        if "://" in path or path.startswith("sample:") or expanded(path.partition("::")[0]).exists():
            continue
        if path == paths[0] and Path(path).name == path and not Path(path).suffix:
            close = difflib.get_close_matches(path, _commands(), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "; 'connectoscope --help' lists the commands"
            raise UserError(f"there is no command and no file '{path}'{hint}")
        raise UserError(f"there is no file or folder '{path}'")
    for entry in metadata.entry_points(group="connectoscope.window"):
        try:
            with answered(signal.default_int_handler, "SIGINT"):
                return int(entry.load()(list(paths)) or 0)
        except ImportError as error:
            raise UserError(
                f"the window needs {error.name or 'its extra packages'}: pip install 'connectoscope[desktop]'"
            ) from None
    raise UserError("the window is not installed: pip install 'connectoscope[desktop]'")


if __name__ == "__main__":
    main()
