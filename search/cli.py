"""The command line. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from ..results import Record, StorageError, Study, StudyError
from ..results.location import below, to_type
from ..spaces import MAY_CHANGE, SpecError, load_spec

if TYPE_CHECKING:
    from .engine import Observer

app = typer.Typer(
    name="sparsevlr",
    help="Search for sparse neural networks whose local robustness is formally verified.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
output = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="The study: STORAGE/NAME, a path or a URI.")]
WhereOption = Annotated[
    str | None, typer.Option(metavar="EXPR", help="Filter, e.g. \"sparsity >= 0.9 and config.score = 'magnitude'\".")
]
AddressOption = Annotated[
    str | None, typer.Option(metavar="ADDR", help="A running Ray cluster; default: this machine alone.")
]
ShipOption = Annotated[
    bool, typer.Option("--ship/--no-ship", help="Give the workers of that cluster this package, or trust in theirs.")
]
DataDirOption = Annotated[str | None, typer.Option(metavar="DIR", help="Where to look for data files first.")]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run module:function of the spec, if you trust it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print an array of JSON objects and nothing else.")]


class Split(StrEnum):
    """Which split's figures to show; the front is always that of the validation split."""

    validation = "validation"
    test = "test"


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Kind(StrEnum):
    """What `list` can list."""

    presets = "presets"
    datasets = "datasets"
    architectures = "architectures"
    pruners = "pruners"
    losses = "losses"
    regularisers = "regularisers"
    initialisations = "initialisations"
    optimizers = "optimizers"
    starts = "starts"
    verifiers = "verifiers"


@app.command()
def search(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY.yaml | PRESET]", show_default="digits")] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Number of trials.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; default: the spec's, numbered if taken.")] = None,
    storage: Annotated[str, typer.Option(metavar="URI", help="Where studies live.")] = "./studies",
    address: AddressOption = None,
    ship: ShipOption = True,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the study.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec; repeatable.")
    ] = None,
    data_dir: DataDirOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Run a new study to its end or to one of its limits, show its front, and say where everything is."""
    from .engine import free_uri
    from .engine import search as run

    overrides = [*(set_ or [])]
    given = {"trials": trials, "seed": seed, "name": name}
    overrides += [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    spec = load_spec(study, overrides)
    uri = below(storage, spec.name) if name is not None else free_uri(storage, spec.name)
    options: dict[str, Any] = {"address": address, "ship": ship, "data_dir": data_dir, "allow_code": allow_code}
    _follow(uri, lambda observe: run(spec, uri, observe=observe, **options))


@app.command()
def resume(
    study: StudyArgument,
    trials: Annotated[int, typer.Option(metavar="N", min=0, help="How many trials to add.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help=f"Change a key of {', '.join(MAY_CHANGE)}; repeatable."),
    ] = None,
    spec: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take those keys from a spec; all others must be the study's.")
    ] = None,
    address: AddressOption = None,
    ship: ShipOption = True,
    data_dir: DataDirOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Go on with a study that was interrupted or came to a limit, or extend a finished one by more trials."""
    from .engine import resume as run

    changes: dict[str, Any] = {
        "spec": load_spec(spec) if spec else None,
        "overrides": set_ or (),
        "more_trials": trials,
    }
    options: dict[str, Any] = {"address": address, "ship": ship, "data_dir": data_dir, "allow_code": allow_code}
    _follow(study, lambda observe: run(study, observe=observe, **changes, **options))


@app.command()
def pareto(
    study: StudyArgument,
    objectives: Annotated[str | None, typer.Option(metavar="A,B,..", help="Columns; default: the study's.")] = None,
    where: WhereOption = None,
    split: Annotated[Split, typer.Option(help="Split whose figures are shown.")] = Split.validation,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    json_: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it, as .png, .svg or .pdf.")] = None,
) -> None:
    """Print the Pareto front of the completed trials."""
    from ..results import open_study
    from .tables import front_table

    opened = open_study(study)
    chosen = [part.strip() for part in objectives.split(",")] if objectives is not None else None
    front = opened.pareto_front(objectives=chosen, where=where, split=split.value)
    if plot is not None:
        opened.plot(plot, objectives=chosen, where=where, split=split.value)
    table = Format.json if json_ else format_
    _print(front, table, lambda: front_table(front, None, chosen or opened.objectives, output.width, opened.by_norm))
    _warn(opened)
    if (missing := front["samples"].null_count) and table is Format.table:
        errors.print(
            f"{missing} of {len(front)} trials have no figures on test: only the front of the study's own objectives "
            "is measured there, once, at the end of the search"
        )


@app.command()
def trials(
    study: StudyArgument,
    where: WhereOption = None,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    json_: JsonOption = False,
) -> None:
    """Print every trial with its state, also the stopped and the failed ones."""
    from ..results import open_study
    from .tables import trials_table

    opened = open_study(study)
    rows = opened.trials(where=where)
    _print(rows, Format.json if json_ else format_, lambda: trials_table(rows, output.width))
    _warn(opened)


@app.command()
def layers(
    study: StudyArgument,
    where: WhereOption = None,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Instead, which weights pairs of completed trials both keep.")
    ] = False,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    json_: JsonOption = False,
) -> None:
    """Print what each report measured of each layer: densities, gradients, unstable ReLUs, tightness of bounds."""
    from ..results import open_study
    from .tables import layers_table, overlap_table

    opened = open_study(study)
    rows = opened.mask_overlap(where) if overlap else opened.layers(where)
    render = overlap_table if overlap else layers_table
    _print(rows, Format.json if json_ else format_, lambda: render(rows))
    _warn(opened)


@app.command()
def confirm(
    study: StudyArgument,
    trials: Annotated[
        list[str] | None, typer.Argument(metavar="[TRIAL ...]", help="Completed trials; default: the front's.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="K", min=1, help="Fresh seeds for each trial.")] = 3,
    address: AddressOption = None,
    ship: ShipOption = True,
    data_dir: DataDirOption = None,
    allow_code: AllowCodeOption = False,
    json_: JsonOption = False,
) -> None:
    """Train trials again with fresh seeds: what they reach beside what the search saw. Was it luck?"""
    from ..results.rows import format_rows
    from .confirm import confirm as run
    from .tables import confirmation_notes, confirmations_table

    def observe(done: int, planned: int, records: Sequence[Record]) -> None:
        first = records[0]
        reached = first.error if first.event == "failed" else f"{first.verified_accuracy:.1%} verified on validation"
        errors.print(f"{done} of {planned}: trial {first.trial_id}, {reached}")

    options: dict[str, Any] = {"address": address, "ship": ship, "data_dir": data_dir, "allow_code": allow_code}
    try:
        rows = run(study, trials or None, seeds=seeds, observe=observe, **options)
    except KeyboardInterrupt:
        errors.print("interrupted; what has been trained is kept, and the same command goes on from there")
        raise typer.Exit(130) from None
    if json_:
        sys.stdout.write(format_rows(rows, "json"))
        return
    output.print(confirmations_table(rows))
    for note in confirmation_notes(rows):
        errors.print(note)


@app.command()
def status(study: StudyArgument, json_: JsonOption = False) -> None:
    """Say how far a running, interrupted or finished study is."""
    from ..results import open_study
    from .status import status_of, status_text

    facts = status_of(open_study(study))
    if json_:
        print(json.dumps([facts]))
    else:
        output.print(status_text(facts))


@app.command()
def export(
    study: StudyArgument,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A completed trial.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    split: Annotated[Split, typer.Option(help="Split whose samples the certificate is about.")] = Split.test,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="How many of them at most, seeded.")] = 1000,
    all_: Annotated[bool, typer.Option("--all", help="All of them instead.")] = False,
    properties: Annotated[int, typer.Option(metavar="K", min=0, help="How many VNN-LIB properties to write.")] = 10,
    measure: Annotated[bool, typer.Option(help="Measure size, latency and memory beside the dense network.")] = True,
    data_dir: DataDirOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Write a trial to a new folder: ONNX, weights and mask, model card, certificate, VNN-LIB properties."""
    from ..results import open_study
    from ..trainables.export import export_trial

    opened = open_study(study)
    certificate = export_trial(
        opened,
        trial,
        out,
        split=split.value,
        samples=None if all_ else samples,
        properties=properties,
        measure=measure,
        data_dir=data_dir,
        allow_code=allow_code,
    )
    _warn(opened)
    verdicts = Counter(sample.verdict for sample in certificate.samples)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    errors.print(f"trial {trial} is in {out}; of {len(certificate.samples)} {split.value} samples {counted}")
    errors.print(f"next  {_program()} verify {shlex.quote(str(out))}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` wrote.")], json_: JsonOption = False
) -> None:
    """Check an exported network again from its files alone: exit code 0 if everything agrees, 1 if not."""
    from ..trainables.export import recheck
    from .tables import checks_table

    checks = recheck(folder)
    if json_:
        print(json.dumps([{**asdict(check), "holds": check.holds} for check in checks]))
    else:
        output.print(checks_table(checks))
    if not all(check.holds for check in checks):
        errors.print(f"{folder} does not hold what it says")
        raise typer.Exit(1)


@app.command(name="list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], json_: JsonOption = False) -> None:
    """List what can be named in a study."""
    from .catalogue import catalogue
    from .tables import plain_table

    rows = catalogue(kind.value)
    if json_:
        print(json.dumps(rows))
    else:
        output.print(plain_table(rows))


@app.command()
def check(
    address: AddressOption = None,
    data_dir: DataDirOption = None,
    json_: JsonOption = False,
) -> None:
    """Say what this installation and cluster can do."""
    from .check import check_installation
    from .tables import plain_table

    rows = check_installation(address, data_dir)
    if json_:
        print(json.dumps(rows))
    else:
        output.print(plain_table(rows))


@app.command()
def wheel(out: Annotated[Path, typer.Option(metavar="DIR", help="A folder.")] = Path()) -> None:
    """Write this package as the wheel that workers of a cluster are given, to submit a search as a Ray job."""
    from .shipping import build_wheel

    try:
        print(build_wheel(out))
    except OSError as error:
        raise SpecError(f"cannot write a wheel into {out}: {error.strerror}; give a folder that is there") from error


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line: exit code 0 on success, 2 on bad usage or bad input, 130 on Ctrl-C; 1 is
    for an outcome that nobody wanted: a study without a front, an export that does not hold what it says."""
    try:
        code = app(arguments, standalone_mode=False)
    except (SpecError, StudyError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        # Usage errors: typer brings its own copy of click, whose classes have no public name.
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message()} (see sparsevlr --help)")
    sys.exit(code if isinstance(code, int) else 0)


def _follow(uri: str, run: Callable[[Observer], Study]) -> None:
    """Run a study with a display; in the end show its front, where everything is, and what to try next."""
    from .engine import plot_file
    from .progress import Progress, clock
    from .tables import front_table

    try:
        with Progress(to_type(uri), errors) as progress:
            finished = run(progress)
    except KeyboardInterrupt:
        if not progress.begun:
            errors.print("interrupted before the study began; no trial has run")
            raise typer.Exit(130) from None
        again = f"{_program()} resume {shlex.quote(to_type(uri))}"
        errors.print(f"interrupted; everything reported so far is safe; continue with: {again}")
        raise typer.Exit(130) from None
    study, program = shlex.quote(to_type(uri)), _program()
    front, tested = finished.pareto_front(), finished.pareto_front(split="test")
    if failed := finished.trials("state = 'failed'")["error"].to_pylist():
        reason, times = Counter(failed).most_common(1)[0]
        errors.print(f"{len(failed)} trials failed, {times} of them with: {reason}")
    if limit := progress.limit_reached:
        errors.print(f"{limit.story}; {progress.summary}; go on with: {limit.remedy(to_type(uri))}")
        if not len(front):
            return
    if not len(front):
        errors.print(f"no trial was completed, so there is no front; see {program} trials {study}")
        raise typer.Exit(1)
    output.print(front_table(front, tested, finished.objectives, output.width, finished.by_norm))
    for row in tested.to_pylist():
        if row["error"]:
            errors.print(f"trial {row['trial_id']} could not be measured on test: {row['error']}")
    errors.print(f"took {clock(progress.elapsed)}; hypervolume {finished.hypervolume():.3f}")
    errors.print(f"study {to_type(uri)}")
    try:
        errors.print(f"plot  {finished.plot(plot_file(finished))}")
    except StorageError as error:
        errors.print(f"plot  none: {error}")
    last = front["trial_id"][-1].as_py()
    errors.print(
        f"next  {program} trials {study}\n"
        f"      {program} pareto {study} --where 'sparsity >= 0.9' --split test\n"
        f"      {program} pareto {study} --objectives verified_accuracy,macs --plot front.png\n"
        f"      {program} confirm {study} --seeds 3\n"
        f"      {program} export {study} {last} --out network-{last}\n"
        f"      {program} resume {study} --trials 20"
    )


def _program() -> str:
    """What to type to get here again: the bare name, or the path where it is not on the search path."""
    if shutil.which("sparsevlr"):
        return "sparsevlr"
    return shlex.quote(os.path.relpath(sys.argv[0]))


def _print(table: Any, format_: Format, render: Any) -> None:
    from ..results.rows import format_rows

    if format_ is Format.table:
        output.print(render())
    else:
        sys.stdout.write(format_rows(table, format_.value))


def _warn(study: Any) -> None:
    for problem in study.problems:
        errors.print(f"warning: {problem}")


def _fail(message: str) -> NoReturn:
    errors.print(f"error: {' '.join(message.split())}")
    sys.exit(2)
