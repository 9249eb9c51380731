"""Trials: the same descendants wherever they run, and none is trained twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import CPU, config, gratings, spec

from gtl.config import FewShotSection
from gtl.errors import ClusterError
from gtl.fewshot import Arena, Descendant, Training, Trial, run_here
from gtl.learngene.starts import Initialisation, gene_start, scratch_start
from gtl.models import ArchSpec, ConvNet, build
from gtl.surgery import gather
from gtl.training import TrainingResult, train
from gtl.transfer.lessons import Distillation, Parent
from gtl.trials import Trials

SECTION = FewShotSection.model_validate({**config().fewshot.model_dump(), "steps": 20, "test_images": 10})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as worker processes have where OMP_NUM_THREADS is 1
    yield
    torch.set_num_threads(before)


def gene() -> Initialisation:
    network = build(spec("vgg11"), 3)
    return gene_start(
        spec("vgg11"), network.layout.full(), gather(network.state_dict(), network.layout, network.layout.full())
    )


def taught() -> Training:
    """A way to train that has tensors of its own."""
    return Distillation(Parent(gene()))


def arena(**changes: object) -> Arena:
    starts = {"scratch": scratch_start(spec("vgg11")), "learngene": gene()}
    whole = Arena(starts, gratings(4, 20, "novel", noisy=0.5), SECTION, 5, CPU)
    return replace(whole, **changes)  # type: ignore[arg-type]


def trials(count: int = 2, purpose: str = "novel") -> list[Trial]:
    return [Trial(purpose, name, 3, 0.05, n) for name in ("scratch", "learngene") for n in range(count)]  # type: ignore[arg-type]


def silent(text: str) -> None:
    pass


def test_processes_and_this_one_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said: list[str] = []
    run = Trials(2, remember=False)
    assert run.threads == 1
    ring = arena(starts={**arena().starts, "taught": replace(scratch_start(spec("vgg11")), training=taught())})
    asked = [*trials(), replace(trials()[0], start="taught")]
    found = run(ring, asked, said.append)
    assert found == run_here(ring, asked, silent)
    assert said == [f"{n} of 5: {trial}" for n, trial in enumerate(asked, 1)], "in the order asked for"
    assert len({descendant.accuracy for descendant in found}) > 1


def test_many_trials_are_told_in_few_lines() -> None:
    said: list[str] = []
    start = {"scratch": scratch_start(spec("vgg11"))}
    short = arena(starts=start, section=SECTION.model_copy(update={"steps": 1}))
    Trials(remember=False)(short, [replace(trials()[0], number=n) for n in range(65)], said.append)
    assert len(said) == 21 and said[-1].startswith("63 of 65: scratch, 3 shots")


def test_accuracy_is_the_mean_over_the_classes() -> None:
    for purpose, steps in (("novel", [0, 20]), ("rate", [20])):
        for descendant in run_here(arena(), trials(purpose=purpose), silent):
            assert descendant.accuracy == pytest.approx(sum(descendant.by_class) / 4)
            assert len(descendant.by_class) == 4
            assert [step for step, _ in descendant.curve][:: len(descendant.curve) - 1 or 1] == steps


@dataclass(frozen=True)
class Halved:
    """A way to train: for half as long."""

    digest: str = "halved"

    def train(self, network: torch.nn.Module, *args: Any, steps: int, **options: Any) -> TrainingResult:
        return train(network, *args, steps=steps // 2, **options)


@dataclass(frozen=True)
class Counting:
    """A start that says what it is and counts whom it bore."""

    born: list[int]
    inner: Initialisation
    digest: str = "counting"
    training: Training | None = None

    def __call__(self, classes: int, seed: int) -> ConvNet:
        self.born.append(seed)
        return self.inner(classes, seed)


def test_what_is_finished_is_not_trained_again() -> None:
    counting = Counting([], scratch_start(spec("vgg11")))
    ring = arena(starts={"scratch": counting})
    asked, said = trials()[:2], []
    first = Trials()(ring, asked, silent)
    assert len(counting.born) == 2
    assert Trials()(ring, asked, said.append) == first and len(counting.born) == 2
    more = [replace(asked[0], number=7), *asked]
    assert Trials()(ring, more, said.append)[1:] == first and len(counting.born) == 3, "only the new one"
    assert "2 of 3 trials were finished before" in said


def test_two_names_of_one_start_are_trained_once() -> None:
    counting = Counting([], scratch_start(spec("vgg11")))
    ring = arena(starts={"scratch": counting, "again": replace(counting, digest="counting")})
    first, second = trials()[:2]
    asked, said = [first, replace(first, start="again"), second], []
    one, other, third = Trials()(ring, asked, said.append)
    assert one == other != third and len(counting.born) == 2
    assert said[-1].startswith("3 of 3") and Trials()(ring, asked, silent) == [one, other, third]
    assert len(counting.born) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 6},
        {"images": gratings(4, 20, "novel", seed=1)},
        {"section": SECTION.model_copy(update={"steps": 21})},
        {"starts": {"scratch": Counting([], scratch_start(spec("vgg11")), digest="another")}},
        {"starts": {"scratch": Counting([], scratch_start(spec("vgg11")), training=Halved())}},
        {"compute": replace(CPU, memory_format=torch.contiguous_format)},
    ],
)
def test_what_depends_on_something_else_is_trained(changes: dict[str, object]) -> None:
    """Each of these may change a result, so nothing that was kept may stand for it."""
    counting = Counting([], scratch_start(spec("vgg11")))
    Trials()(arena(starts={"scratch": counting}), trials()[:1], silent)
    ring = arena(**{"starts": {"scratch": counting}, **changes})
    counting.born.clear()
    Trials()(ring, trials()[:1], silent)
    start = ring.starts["scratch"]
    assert isinstance(start, Counting) and len(start.born) == 1


def test_starts_may_train_their_descendants_in_their_own_way() -> None:
    own = replace(scratch_start(spec("vgg11")), training=Halved())
    asked = trials()[:2]
    plain = run_here(arena(starts={"scratch": replace(own, training=None)}), asked, silent)
    found = run_here(arena(starts={"scratch": own}), asked, silent)
    assert found != plain and [each.curve[0] for each in found] == [each.curve[0] for each in plain], "the same newborn"
    alike = arena(starts={"scratch": replace(own, training=None)}, section=SECTION.model_copy(update={"steps": 10}))
    assert [each.by_class for each in found] == [each.by_class for each in run_here(alike, asked, silent)]


def test_seeds_shots_and_rates_of_the_protocol_are_the_trials_own() -> None:
    """Asking for more seeds does not train the old ones again."""
    counting = Counting([], scratch_start(spec("vgg11")))
    ring = arena(starts={"scratch": counting})
    Trials()(ring, trials()[:1], silent)
    longer = SECTION.model_copy(update={"seeds": 9, "shots": (1, 3), "learning_rates": (0.5,)})
    Trials()(replace(ring, section=longer), trials()[:1], silent)
    assert len(counting.born) == 1


def test_a_start_that_nobody_can_recognise_is_not_kept(cache: Path) -> None:
    ring = arena(starts={"scratch": lambda classes, seed: build(ArchSpec("vgg11", spec().widths, classes), seed)})
    Trials()(ring, trials()[:1], silent)
    assert not cache.exists()


def test_a_damaged_record_is_trained_again(cache: Path) -> None:
    found = Trials()(arena(), trials(), silent)
    for path in cache.iterdir():
        path.write_text(path.read_text()[:-30])
    assert Trials()(arena(), trials(), silent) == found


@dataclass(frozen=True)
class Deadly:
    """A start whose second newborn kills the process that bears it, once."""

    inner: Initialisation
    mark: Path
    digest: str = "deadly"

    def __call__(self, classes: int, seed: int) -> ConvNet:
        if seed == self.seed() and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(classes, seed)

    @staticmethod
    def seed() -> int:
        from gtl.seeds import derive

        return derive(derive(5, "novel", 3), "newborn")


def test_a_killed_process_costs_what_was_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ring = arena(starts={"scratch": Deadly(scratch_start(spec("vgg11")), tmp_path / "dead")})
    asked = [replace(trials()[0], number=n) for n in range(5)]
    finished: list[str] = []
    with pytest.raises(ClusterError, match=r"was killed .* Run the same command again"):
        Trials(2)(ring, asked, finished.append)
    said: list[str] = []
    found = Trials(2)(ring, asked, said.append)
    plain = arena(starts={"scratch": scratch_start(spec("vgg11"))})
    assert found == run_here(plain, asked, silent)
    if finished:
        assert f"{len(finished)} of 5 trials were finished before" in said


# --- initialisations -----------------------------------------------------------------------------------------------


def descended(start: Initialisation, steps: int = 4) -> tuple[ConvNet, ConvNet, Sequence[str]]:
    """A newborn of `start`, the same after training, and the names of what moved."""
    born, grown = start(3, 1), start(3, 1)
    recipe = SECTION.training
    train(grown, gratings(3, 8), recipe, steps=steps, seed=0, compute=CPU)
    before = born.state_dict()
    grown.to("cpu")
    return born, grown, [name for name, tensor in grown.state_dict().items() if not torch.equal(tensor, before[name])]


def test_of_a_probe_only_the_head_learns() -> None:
    assert set(descended(gene().probe)[2]) == {"head.weight", "head.bias"}
    assert len(descended(gene())[2]) > 20


def test_a_probe_computes_what_the_whole_does() -> None:
    """Norms folded away: the same features."""
    images = torch.randn(5, 3, 16, 16)
    whole, probe = gene()(3, 1).eval(), gene().probe(3, 1).eval()
    torch.testing.assert_close(whole.features(images), probe.features(images), atol=1e-5, rtol=1e-4)


def test_whole_tensors_are_copied_and_the_rest_is_random() -> None:
    donor = build(spec("vgg11"), 3).state_dict()
    start = Initialisation(spec("vgg11"), {"conv8.conv.weight": donor["conv8.conv.weight"]})
    one, other = start(3, 1).state_dict(), start(3, 2).state_dict()
    assert torch.equal(one["conv8.conv.weight"], donor["conv8.conv.weight"])
    assert not torch.equal(one["conv7.conv.weight"], other["conv7.conv.weight"])


def test_digests_tell_starts_apart() -> None:
    full, other = gene(), {**gene().tensors}
    other["conv1.conv.weight"] = other["conv1.conv.weight"] + 1
    starts = [
        full,
        full.probe,
        replace(full, tensors=other),
        replace(full, genotype=None),
        scratch_start(spec("vgg11")),
    ]
    starts.append(scratch_start(spec("vgg11", width=5)))
    assert len({start.digest for start in starts}) == len(starts)
    assert gene().digest == full.digest
    backwards = dict(reversed(full.tensors.items()))  # as files may hold them
    assert list(backwards) != list(full.tensors) and replace(full, tensors=backwards).digest == full.digest


def test_plain_values_of_a_descendant() -> None:
    assert Descendant(((0, 0.25), (4, 0.5)), (0.5, 0.5)).accuracy == 0.5
