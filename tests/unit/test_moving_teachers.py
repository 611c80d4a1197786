"""Teachers that move: the student's average, and the chain of posterior samples."""

import copy
import math

import pytest
import torch
from torch import nn

from seqdistill.errors import InputError
from seqdistill.losses.cross_entropy import projected_cross_entropy
from seqdistill.teachers.cheap.langevin import Langevin
from seqdistill.teachers.cheap.posterior import PosteriorChain, PosteriorPlan
from seqdistill.teachers.moving_average import MovingAverage


class Tied(nn.Module):
    """An embedding that is the projection, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.project = nn.Linear(3, 5, bias=False)
        self.project.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(1))


def test_a_tied_weight_is_averaged_once() -> None:
    student = Tied()
    average = MovingAverage(student, decay=0.9)
    first = student.embed.weight.detach().clone()
    path = [first]
    for step in range(3):
        with torch.no_grad():
            student.embed.weight.add_(1.0 + step)
            student.seen.fill_(step)  # type: ignore[operator]
        path.append(student.embed.weight.detach().clone())
        average.follow(student)
    expected = 0.9**3 * path[0] + 0.1 * (0.81 * path[1] + 0.9 * path[2] + path[3])
    own = average.model
    torch.testing.assert_close(own.embed.weight, expected)  # type: ignore[union-attr]
    assert own.project.weight is own.embed.weight  # type: ignore[union-attr]
    assert float(own.seen) == 2  # type: ignore[arg-type]
    assert not any(weight.requires_grad for weight in own.parameters())
    assert student.embed.weight.requires_grad


def test_the_average_of_a_half_precision_student_is_float32() -> None:
    student = nn.Linear(2, 2).half()
    average = MovingAverage(student, decay=0.999)
    start = average.model.weight.clone()  # type: ignore[union-attr]
    with torch.no_grad():
        student.weight.add_(0.125)
    average.follow(student)
    moved = average.model.weight - start  # type: ignore[union-attr]
    torch.testing.assert_close(moved, torch.full((2, 2), 0.125 * 0.001), rtol=1e-2, atol=0)


def test_the_average_goes_on_from_its_state() -> None:
    student = nn.Linear(2, 1)
    average = MovingAverage(student, decay=0.5)
    with torch.no_grad():
        student.weight.fill_(3.0)
    average.follow(student)
    other = MovingAverage(nn.Linear(2, 1), decay=0.5)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    for one in (average, other):
        one.follow(student)
    torch.testing.assert_close(other.model.weight, average.model.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_bad_decays(decay: float) -> None:
    with pytest.raises(InputError, match=r"decay in \[0, 1\)"):
        MovingAverage(nn.Linear(1, 1), decay)


X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]])
Y = torch.tensor([[1.0], [0.0], [2.0]])


def loss_of(model: nn.Module, rows: slice = slice(None)) -> torch.Tensor:
    return ((model(X[rows]) - Y[rows]) ** 2).sum()


def chain_of(plan: PosteriorPlan, **options: float) -> PosteriorChain:
    torch.manual_seed(0)
    return PosteriorChain(nn.Linear(2, 1), plan, data_size=30, **options)


def test_the_chain_takes_the_steps_of_its_optimizer() -> None:
    chain = chain_of(PosteriorPlan(0.1, window=2, thinning=2), seed=5)
    torch.manual_seed(0)
    alone = nn.Linear(2, 1)
    optimizer = Langevin(alone.parameters(), 0.1, 30, preconditioner="rmsprop", seed=5)
    for _ in range(4):
        # In two batches, which one update sees together.
        for rows in (slice(0, 1), slice(1, 3)):
            loss = loss_of(chain.model, rows)
            chain.learn(loss, len(X[rows]))
        chain.step()
        optimizer.zero_grad()
        (loss_of(alone) / 3).backward()
        optimizer.step()
    torch.testing.assert_close(chain.model.weight, alone.weight)  # type: ignore[arg-type]


def test_the_window_has_the_newest_samples_and_its_list_stays() -> None:
    chain = chain_of(PosteriorPlan(0.1, window=3, thinning=2))
    held = chain.samples
    path = [chain.model.weight.detach().clone()]
    for _ in range(11):
        chain.learn(loss_of(chain.model), 3)
        chain.step()
        path.append(chain.model.weight.detach().clone())
    assert held is chain.samples
    assert len(held) == 3
    # Samples after 2, 4, …, 10 updates: the last three are of 6, 8 and 10.
    found = sorted(float(one.weight.sum()) for one in held)
    assert found == pytest.approx(sorted(float(path[at].sum()) for at in (6, 8, 10)))
    assert not any(weight.requires_grad for one in held for weight in one.parameters())


def test_cycles_give_a_sample_at_their_ends_and_explore_without_noise() -> None:
    plan = PosteriorPlan(0.1, window=4, thinning=7, cycle=4, exploration=0.5)
    assert [plan.gives_sample(update) for update in range(1, 9)] == [
        False, False, False, True, False, False, False, True,
    ]  # fmt: skip
    rates, explores = zip(*(plan.step(done) for done in range(5)), strict=True)
    assert rates == pytest.approx(
        [0.05 * (math.cos(math.pi * place) + 1) for place in (0, 0.25, 0.5, 0.75, 0)]
    )
    assert explores == (True, True, False, False, True)
    noisy, quiet = chain_of(plan), chain_of(plan, temperature=0.0)
    for update in range(4):
        for chain in (noisy, quiet):
            chain.learn(loss_of(chain.model), 3)
            chain.step()
        same = torch.equal(noisy.model.weight, quiet.model.weight)  # type: ignore[arg-type]
        assert same == (update < 2)


def test_the_chain_goes_on_from_its_state() -> None:
    plan = PosteriorPlan(0.1, window=2, thinning=1)
    whole, part = chain_of(plan, weight_decay=0.1), chain_of(plan, weight_decay=0.1)
    for _ in range(3):
        for chain in (whole, part):
            chain.learn(loss_of(chain.model), 3)
            chain.step()
    state = copy.deepcopy(part.state_dict())
    rest = PosteriorChain(nn.Linear(2, 1), plan, data_size=30, weight_decay=0.1)
    rest.load_state_dict(state)
    for chain in (whole, rest):
        chain.learn(loss_of(chain.model), 3)
        chain.step()
    assert rest.updates == 4
    for own, other in zip([whole.model, *whole.samples], [rest.model, *rest.samples], strict=True):
        assert torch.equal(own.weight, other.weight)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a window of 2 samples, and 1 are asked for"):
        chain_of(PosteriorPlan(0.1)).load_state_dict(state)


def test_the_samples_of_a_linear_model_are_those_of_its_posterior() -> None:
    """y = θx + noise of variance 1 has the posterior N(Σxy/Σx², 1/Σx²)."""
    x = torch.linspace(-1, 1, 20).unsqueeze(1)
    torch.manual_seed(1)
    y = 2 * x + torch.randn(20, 1)
    torch.manual_seed(0)
    chain = PosteriorChain(
        nn.Linear(1, 1, bias=False), PosteriorPlan(0.05), data_size=20, preconditioner="none"
    )
    drawn = []
    for update in range(6000):
        chain.learn(0.5 * ((chain.model(x) - y) ** 2).sum(), 20)
        chain.step()
        if update >= 1000:
            drawn.append(float(chain.samples[0].weight))  # type: ignore[arg-type]
    values = torch.tensor(drawn)
    precision = float((x**2).sum())
    assert float(values.mean()) == pytest.approx(float((x * y).sum()) / precision, abs=0.12)
    assert float(values.std()) == pytest.approx(precision**-0.5, rel=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "above 0 for rate"),
        ({"window": 0}, "1 or more samples"),
        ({"thinning": 0}, "1 or more updates"),
        ({"exploration": 1.0}, "below 1 for exploration"),
    ],
)
def test_bad_plans(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PosteriorPlan(**{"rate": 0.1, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [2, 100])
def test_cross_entropy_of_features_is_that_of_logits(chunk: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    references = torch.tensor([0, 4, 1, 1, 3, 2, 0])
    given = (features, weight, bias)
    found = projected_cross_entropy(features, weight, references, bias, chunk_tokens=chunk)
    logits = features @ weight.T + bias
    expected = -logits.log_softmax(-1)[torch.arange(7), references].sum()
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, given), torch.autograd.grad(expected, given), strict=True
    ):
        torch.testing.assert_close(one, other)
