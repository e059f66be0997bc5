"""The workloads: who is measured at what, in which order, and what comes of it.

Decides rounds, warm-up and which rounds count; never how a contender works. Used by `run`.

All contenders of a workload stand ready at once and take turns, one round each, in an order
that moves on by one every round. A round in which others used more than a tenth of the machine
is measured again, up to three times the rounds asked for; the least disturbed ones count.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.contenders import Canvas, Contender, Floor, Iaflow, Stage
from benchmarks.embedded import BareLoop, Embedded, count_statements
from benchmarks.meter import Meter
from benchmarks.scaling import Crew
from benchmarks.serving import Load, Served, Service
from benchmarks.walking import Walker
from tests.servers import ServerRoom

__all__ = [
    "Comparison",
    "Sizes",
    "Workload",
    "measure_embedded",
    "measure_history",
    "measure_on_workers",
    "measure_scaling",
    "measure_serving",
]

MOST_FOREIGN = 0.10
MOST_TURNS = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the workloads are; the defaults are those of the figures that count."""

    chain: int = 100
    short_chain: int = 10
    runs: int = 200
    width: int = 500
    history: int = 1_000_000
    processes: int = 8
    load: Load = field(default_factory=Load)


@dataclass(frozen=True, slots=True)
class Workload:
    """
    What is measured and what it is called.

    Attributes:
        more_is_better: whether a higher figure is the better one.
        bars: reference to (the bar, the bar after it): a ratio to be met.
    """

    name: str
    title: str
    unit: str
    more_is_better: bool = False
    bars: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    iaflow beside one reference, from the same rounds.

    Attributes:
        ratio: iaflow's median over the peer's.
        cpu_ratio: the same of CPU time per step; None where it was not measured.
        foreign: the largest share of the machine that others used in a round that counts.
        rounds_measured: those that count (`n`) and those that do not.
    """

    workload: Workload
    reference: str
    iaflow: float
    peer: float
    n: int
    rounds_measured: int
    cpu_ratio: float | None
    foreign: float | None
    events: bool = False

    @property
    def ratio(self) -> float:
        """iaflow's figure over the peer's."""
        return self.iaflow / self.peer

    @property
    def bar(self) -> float | None:
        """The ratio to be met; None where none was set."""
        return self.workload.bars.get(self.reference, (None, None))[0]

    @property
    def next_bar(self) -> float | None:
        """The ratio to be met after that."""
        return self.workload.bars.get(self.reference, (None, None))[1]

    @property
    def passes(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.bar is None:
            return None
        return self.ratio >= self.bar if self.workload.more_is_better else self.ratio <= self.bar


W1 = Workload(
    "W1",
    "one run of a 100-step chain",
    "ms/step",
    bars={"celery-canvas": (1.0, None), "celery-self": (1.3, None)},
)
W2 = Workload(
    "W2",
    "200 runs of a 10-step chain at once, 2 worker processes",
    "steps/s",
    more_is_better=True,
    bars={"celery-canvas": (1.0, None), "celery-self": (0.95, None)},
)
W3 = Workload("W3", "1 -> 500 -> 1", "s", bars={"celery-canvas": (0.5, None)})
W4_FULL = Workload(
    "W4-sqlite-full",
    "100-step chain in one process, SQLite FULL",
    "ms/step",
    bars={"bare-sqlite": (2.5, 1.5)},
)
W4_MEMORY = Workload("W4-memory", "100-step chain in one process, in memory", "ms/step")
SERVING = Workload(
    "web",
    "one web process: p99 of 50 requests per second beside 200 open event streams",
    "ms",
    bars={"goal": (1.0, None)},
)
GOAL_MS = 250.0
WARM_SECONDS = 2.0
SCALING_CHILDREN = Workload(
    "scaling-children",
    "steps that wait 50 ms: one worker with 8 processes beside one with 1",
    "steps/s",
    more_is_better=True,
    bars={"one-process": (7.0, None)},
)
SCALING_MAINS = Workload(
    "scaling-mains",
    "steps that wait 50 ms: 8 workers with 1 process each beside one",
    "steps/s",
    more_is_better=True,
    bars={"one-process": (7.0, None)},
)
HISTORY_RUNS = Workload(
    "history-runs",
    "a step of a chain, in a database whose runs that ended have 10^6 rows",
    "ms/step",
    bars={"no-history": (1.1, None)},
)
HISTORY_RUN = Workload(
    "history-run",
    "a step of a chain, in a run that has 10^6 rows itself",
    "ms/step",
    bars={"no-history": (1.1, None)},
)
MOST_SCALED_RUNS = 48
WALKED = 100


@dataclass(slots=True)
class _Sample:
    figure: float
    cpu: float | None
    foreign: float | None


def measure_on_workers(
    room: ServerRoom,
    names: list[str],
    *,
    sizes: Sizes,
    rounds: int,
    events: bool = False,
    worker_args: tuple[str, ...] = (),
) -> tuple[list[Comparison], dict[str, float]]:
    """
    Measure the named ones of W1, W2 and W3 on Celery workers.

    Returns:
        The comparisons, and what a step of iaflow sends to Postgres (see `count_statements`).
    """
    stage = Stage(room, events=events, worker_args=worker_args)
    compared: list[Comparison] = []
    with ExitStack() as stack:
        floor = stack.enter_context(closing(Floor(stage)))
        canvas = stack.enter_context(closing(Canvas(stage)))
        ours = stack.enter_context(closing(Iaflow(stage)))
        everybody: list[Contender] = [floor, canvas, ours]
        for contender in everybody:
            contender.run_chains(min(20, sizes.chain), min(8, sizes.runs))
        for name in names:
            workload, steps, work = _find(name, sizes)
            contenders = everybody[1:] if workload is W3 else everybody
            turns = {
                contender.name: _turn(workload, steps, contender, work) for contender in contenders
            }
            compared += compare(workload, turns, rounds, events=events)
    counted = count_statements(stage.postgres.create_database(prefix="benchmark"), sizes.chain)
    return compared, counted


def measure_embedded(folder: Path, *, sizes: Sizes, rounds: int) -> list[Comparison]:
    """Measure W4: SQLite with synchronous FULL, and in memory, each beside its bare floor."""
    compared: list[Comparison] = []
    for workload, stem in ((W4_FULL, "full"), (W4_MEMORY, None)):
        files = [folder / f"{stem}-{part}.db" if stem else None for part in ("a", "b", "c")]
        with ExitStack() as stack:
            chains: dict[str, Embedded | BareLoop] = {
                "iaflow": stack.enter_context(closing(Embedded(files[0]))),
                "bare-sqlite": stack.enter_context(closing(BareLoop(files[1]))),
                "bare-sqlite-claims": stack.enter_context(closing(BareLoop(files[2], claims=True))),
            }
            for one in chains.values():
                one.run_chain(sizes.chain)
            turns = {
                name: _timed(workload, sizes.chain, partial(one.run_chain, sizes.chain))
                for name, one in chains.items()
            }
            compared += compare(workload, turns, rounds)
    return compared


def measure_scaling(room: ServerRoom, *, sizes: Sizes, rounds: int) -> list[Comparison]:
    """Measure eight worker processes beside one, as children of one worker and as workers."""
    compared: list[Comparison] = []
    length, count = sizes.short_chain, min(sizes.runs, MOST_SCALED_RUNS)
    stage = Stage(room, events=False, worker_args=())
    many = sizes.processes
    for workload, mains, children in ((SCALING_CHILDREN, 1, many), (SCALING_MAINS, many, 1)):
        with ExitStack() as stack:
            crews = {
                "iaflow": stack.enter_context(closing(Crew(stage, mains=mains, children=children))),
                "one-process": stack.enter_context(closing(Crew(stage, mains=1, children=1))),
            }
            for crew in crews.values():
                crew.run_chains(2, 16)
            turns = {
                name: _timed(workload, length * count, partial(crew.run_chains, length, count))
                for name, crew in crews.items()
            }
            compared += compare(workload, turns, rounds)
    return compared


def measure_serving(
    room: ServerRoom, *, sizes: Sizes, rounds: int
) -> tuple[list[Comparison], list[Served]]:
    """Measure one web process under load against what it must do; return all its figures too."""
    stage = Stage(room, events=False, worker_args=("--pool", "threads"))
    served: list[Served] = []
    with closing(Service(stage, sizes.load)) as service:
        service.serve(seconds=WARM_SECONDS)

        def take_turn() -> _Sample:
            with Meter() as meter:
                served.append(service.serve())
            return _Sample(served[-1].percentile(0.99), meter.cpu_seconds, meter.foreign)

        turns = {"iaflow": take_turn, "goal": lambda: _Sample(GOAL_MS, None, None)}
        compared = compare(SERVING, turns, rounds)
    return compared, served


def measure_history(room: ServerRoom, *, sizes: Sizes, rounds: int) -> list[Comparison]:
    """Measure a step beside a long past, of other runs and of its own, and without any."""
    compared: list[Comparison] = []
    postgres = room.open_postgres(durable=True)
    walked = min(WALKED, sizes.chain)
    length = walked * (MOST_TURNS * rounds + 2)
    for workload in (HISTORY_RUNS, HISTORY_RUN):
        with ExitStack() as stack:
            walkers = {
                name: stack.enter_context(
                    closing(Walker(postgres.create_database(prefix="benchmark"), length))
                )
                for name in ("iaflow", "no-history")
            }
            if workload is HISTORY_RUNS:
                walkers["iaflow"].add_past_runs(sizes.history)
            else:
                walkers["iaflow"].add_own_past(sizes.history)
            for walker in walkers.values():
                walker.walk(walked)
            turns = {
                name: _timed(workload, walked, partial(walker.walk, walked))
                for name, walker in walkers.items()
            }
            compared += compare(workload, turns, rounds)
    return compared


def compare(
    workload: Workload,
    turns: Mapping[str, Callable[[], _Sample]],
    rounds: int,
    *,
    events: bool = False,
) -> list[Comparison]:
    """Let all take their turns until enough rounds were quiet, and set iaflow beside each."""
    done: list[dict[str, _Sample]] = []
    order = list(turns)
    while len(done) < MOST_TURNS * rounds:
        done.append({name: turns[name]() for name in order})
        _report(workload, done[-1])
        order = order[1:] + order[:1]
        if sum(_disturbance(one) <= MOST_FOREIGN for one in done) >= rounds:
            break
    counted = sorted(done, key=_disturbance)[:rounds]
    ours = [one["iaflow"] for one in counted]
    return [
        Comparison(
            workload=workload,
            reference=name,
            iaflow=statistics.median(sample.figure for sample in ours),
            peer=statistics.median(one[name].figure for one in counted),
            n=len(counted),
            rounds_measured=len(done),
            cpu_ratio=_cpu_ratio(ours, [one[name] for one in counted]),
            foreign=None if ours[0].foreign is None else max(map(_disturbance, counted)),
            events=events,
        )
        for name in turns
        if name != "iaflow"
    ]


def _find(name: str, sizes: Sizes) -> tuple[Workload, int, Callable[[Contender], None]]:
    match name:
        case "W1":
            return W1, sizes.chain, lambda who: who.run_chains(sizes.chain, 1)
        case "W2":
            steps = sizes.short_chain * sizes.runs
            return W2, steps, lambda who: who.run_chains(sizes.short_chain, sizes.runs)
        case "W3":
            return W3, sizes.width + 2, lambda who: who.run_fan(sizes.width)
        case _:
            raise ValueError(f"{name} is no workload on workers")


def _turn(
    workload: Workload, steps: int, contender: Contender, work: Callable[[Contender], None]
) -> Callable[[], _Sample]:
    return _timed(workload, steps, lambda: work(contender))


def _timed(workload: Workload, steps: int, work: Callable[[], None]) -> Callable[[], _Sample]:
    def take_turn() -> _Sample:
        with Meter() as meter:
            work()
        match workload.unit:
            case "ms/step":
                figure = meter.seconds / steps * 1000
            case "steps/s":
                figure = steps / meter.seconds
            case _:
                figure = meter.seconds
        cpu = None if meter.cpu_seconds is None else meter.cpu_seconds / steps * 1000
        return _Sample(figure, cpu, meter.foreign)

    return take_turn


def _report(workload: Workload, samples: Mapping[str, _Sample]) -> None:
    figures = ", ".join(f"{name} {samples[name].figure:.3f}" for name in sorted(samples))
    foreign = f"others used {_disturbance(samples):.0%}"
    print(f"{workload.name}: {figures} {workload.unit}; {foreign}", file=sys.stderr, flush=True)


def _disturbance(samples: Mapping[str, _Sample]) -> float:
    return max(sample.foreign or 0.0 for sample in samples.values())


def _cpu_ratio(ours: list[_Sample], theirs: list[_Sample]) -> float | None:
    # Means: the kernel counts in ticks of 10 ms, too coarse for the median of short rounds.
    total = sum(sample.cpu or 0.0 for sample in theirs)
    return sum(sample.cpu or 0.0 for sample in ours) / total if total else None
