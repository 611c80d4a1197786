"""KDGAN: the value of the game, who learns what from it, and its walk over chunks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels import chunked_kdgan_loss
from seqdistill.losses.kdgan import (
    Discriminator,
    KdganSettings,
    KdganSums,
    TeacherPlayer,
    draw_gumbels,
    kdgan_loss,
)
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics

N, V, D = 5, 7, 4


def value(tensor: Tensor) -> float:
    return float(tensor.detach())


class Game:
    """Players and inputs, float64."""

    def __init__(self, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.logits = torch.randn(N, V, dtype=torch.float64)
        self.mean_probs = torch.randn(N, V, dtype=torch.float64).softmax(-1)
        self.references = torch.randint(V, (N,))
        self.features = torch.randn(N, D, dtype=torch.float64)
        self.embeddings = torch.randn(V, D, dtype=torch.float64)
        self.discriminator = Discriminator(D, 6).double()
        self.teacher = TeacherPlayer(D, 6).double()
        torch.nn.init.normal_(self.teacher.up.weight)
        self.gumbels = [draw_gumbels(self.logits) for _ in range(4)]

    def play(self, logits: Tensor | None = None, **settings: Any) -> Tensor:
        return self.sums(logits, **settings).total

    def sums(self, logits: Tensor | None = None, **settings: Any) -> KdganSums:
        return kdgan_loss(
            self.logits if logits is None else logits,
            self.mean_probs,
            self.references,
            self.features,
            self.embeddings,
            self.discriminator,
            self.teacher,
            KdganSettings(**settings),
            self.gumbels,
        )


@torch.no_grad()
def by_hand(game: Game, settings: KdganSettings) -> float:
    """The game a token and a piece at a time."""
    total = 0.0
    for n in range(N):
        x = game.features[n]

        def score(embedded: Tensor, x: Tensor = x) -> float:
            d = game.discriminator
            inner = d.context.weight @ x + d.context.bias + d.piece.weight @ embedded
            return float(d.score.weight[0] @ inner.clamp_min(0) + d.score.bias[0])

        def normalised(values: list[float]) -> list[float]:
            largest = max(values)
            mass = sum(math.exp(value - largest) for value in values)
            return [value - largest - math.log(mass) for value in values]

        t = game.teacher
        factor = t.up.weight @ (t.down.weight @ x + t.down.bias).clamp_min(0)
        log_s = normalised([float(z) for z in game.logits[n]])
        log_t = normalised(
            [
                math.log(float(game.mean_probs[n, v])) + float(game.embeddings[v] @ factor)
                for v in range(V)
            ]
        )
        drawn = []
        for log_probs, noise in ((log_s, game.gumbels[0]), (log_t, game.gumbels[1])):
            soft = normalised(
                [(log_probs[v] + float(noise[n, v])) / settings.temperature for v in range(V)]
            )
            embedded = sum(math.exp(soft[v]) * game.embeddings[v] for v in range(V))
            assert isinstance(embedded, Tensor)
            drawn.append(score(embedded))
        y = int(game.references[n])
        reals = [score(game.embeddings[y])] * 2
        if settings.references == "relaxed":
            for i, log_probs in enumerate((log_s, log_t)):
                noise = game.gumbels[2 + i]
                top = float(noise[n, y])
                values = [
                    -math.log(math.exp(-top) + math.exp(-log_probs[v] - float(noise[n, v])))
                    for v in range(V)
                ]
                values[y] = top
                soft = normalised([one / settings.temperature for one in values])
                embedded = sum(math.exp(soft[v]) * game.embeddings[v] for v in range(V))
                assert isinstance(embedded, Tensor)
                reals[i] = score(embedded)
        for share, real, fake in zip(
            (settings.student_share, 1 - settings.student_share), reals, drawn, strict=True
        ):
            total += share * math.log(1 + math.exp(-real)) + share * math.log(1 + math.exp(fake))
        pairs = list(zip(log_s, log_t, strict=True))
        total += settings.student_weight * sum(math.exp(b) * (b - a) for a, b in pairs)
        total += settings.teacher_weight * sum(math.exp(a) * (a - b) for a, b in pairs)
    return total


@pytest.mark.parametrize("references", ["relaxed", "one_hot"])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_value_is_that_of_the_formula(temperature: float, references: str) -> None:
    game = Game()
    settings = {
        "student_share": 0.3, "student_weight": 1.7, "teacher_weight": 0.6,
        "temperature": temperature, "references": references,
    }  # fmt: skip
    expected = by_hand(game, KdganSettings(**settings))
    assert value(game.play(**settings)) == pytest.approx(expected, rel=1e-10)


def test_the_teacher_begins_as_the_ensemble() -> None:
    game = Game()
    teacher = TeacherPlayer(D, 6).double()
    log_probs = teacher(game.features, game.embeddings, game.mean_probs)
    torch.testing.assert_close(log_probs.exp(), game.mean_probs)


def test_without_a_game_the_student_distils() -> None:
    game = Game()
    game.teacher = TeacherPlayer(D, 6).double()
    z = game.logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(game.play(z, adversarial_weight=0.0), z)
    torch.testing.assert_close(gradient, z.detach().softmax(-1) - game.mean_probs)


def test_gradients_of_the_discriminator_are_those_of_the_value() -> None:
    game = Game()
    parameters = list(game.discriminator.parameters())
    found = torch.autograd.grad(game.play(), parameters)
    step = 1e-6
    for parameter, gradient in zip(parameters, found, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 5):
            kept = float(flat[i])
            flat[i] = kept + step
            above = value(game.play())
            flat[i] = kept - step
            below = value(game.play())
            flat[i] = kept
            assert value(gradient.view(-1)[i]) == pytest.approx(
                (above - below) / 2 / step, abs=1e-6
            )


def test_student_and_teacher_learn_against_the_discriminator() -> None:
    """The game's part of their gradients is −weight times the value's derivative."""
    game = Game()
    # (Relaxed references move with the students' probabilities, and no gradient goes into them.)
    alone: dict[str, Any] = {"student_weight": 0.0, "teacher_weight": 0.0, "references": "one_hot"}
    weight = 0.25
    z = game.logits.clone().requires_grad_()
    total = game.play(z, adversarial_weight=weight, **alone)
    of_student, of_teacher = torch.autograd.grad(total, [z, game.teacher.down.bias])
    step = 1e-6
    for n, v in ((0, 0), (2, 3), (4, 6)):
        moved = torch.zeros_like(game.logits)
        moved[n, v] = step
        slope = game.play(game.logits + moved, **alone) - game.play(game.logits - moved, **alone)
        assert value(of_student[n, v]) == pytest.approx(
            -weight * value(slope) / 2 / step, rel=1e-5, abs=1e-9
        )
    bias = game.teacher.down.bias.data
    kept = float(bias[1])
    bias[1] = kept + step
    above = value(game.play(**alone))
    bias[1] = kept - step
    below = value(game.play(**alone))
    bias[1] = kept
    assert value(of_teacher[1]) == pytest.approx(-weight * (above - below) / 2 / step, rel=1e-4)


def test_nothing_goes_into_contexts_and_embeddings() -> None:
    game = Game()
    game.features.requires_grad_()
    game.embeddings.requires_grad_()
    game.logits.requires_grad_()
    game.play().backward()
    assert game.features.grad is None
    assert game.embeddings.grad is None
    assert game.logits.grad is not None


def play_alone(references: str) -> tuple[Tensor, Tensor]:
    """Play without distillation; return the true distribution and the late students' mean."""
    torch.manual_seed(3)
    true = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])
    embeddings, features = torch.eye(5), torch.zeros(256, 5)
    logits = torch.zeros(5, requires_grad=True)
    discriminator, teacher = Discriminator(5, 16), TeacherPlayer(5, 4)
    settings = KdganSettings(1.0, 0.0, 0.0, 1.0, temperature=0.5, references=references)
    optimizer = torch.optim.Adam(
        [{"params": [logits], "lr": 0.01}, {"params": discriminator.parameters(), "lr": 0.02}],
        betas=(0.5, 0.99),
    )
    late = torch.zeros(5)
    for update in range(600):
        rows = logits.expand(256, 5)
        noise = [draw_gumbels(rows.detach()) for _ in range(4)]
        noise = noise if references == "relaxed" else noise[:2]
        drawn = torch.multinomial(true, 256, replacement=True)
        arguments = (rows, true.expand(256, 5), drawn, features, embeddings)
        played = kdgan_loss(*arguments, discriminator, teacher, settings, noise)
        optimizer.zero_grad()
        (played.total / 256).backward()
        optimizer.step()
        if update >= 400:
            late += logits.detach().softmax(-1) / 200
    return true, late


def test_the_game_alone_leads_to_the_references() -> None:
    """Without any distillation the student finds the distribution that references come from."""
    true, found = play_alone("relaxed")
    from_uniform = value((true * (5 * true).log()).sum())
    assert value((true * (true / found).log()).sum()) < from_uniform / 20


def test_one_hot_references_teach_to_be_sure() -> None:
    """Why references are relaxed: a soft sample is told from them by its softness."""
    _, found = play_alone("one_hot")
    assert value(found.max()) > 0.9


@pytest.mark.parametrize("bias", [False, True])
def test_chunks_change_nothing(bias: bool) -> None:
    game = Game()
    statistics = game_statistics(game)
    results = []
    for chunk in (2, N):
        torch.manual_seed(9)
        x = game.features.clone().requires_grad_()
        weight = game.embeddings.clone().requires_grad_()
        b = torch.ones(V, dtype=torch.float64).requires_grad_() if bias else None
        # No noise of its own order: samples at a high temperature hardly depend on it.
        result = chunked_kdgan_loss(
            x, weight, statistics, game.references, game.discriminator, game.teacher,
            KdganSettings(temperature=1e9), bias=b, mix_weight=0.3, label_smoothing=0.1,
            chunk_tokens=chunk,
        )  # fmt: skip
        wanted = [x, weight, *game.discriminator.parameters(), *game.teacher.parameters()]
        wanted += [] if b is None else [b]
        gradients = torch.autograd.grad(result.loss_sum, wanted)
        results.append([result.loss_sum, result.log_probs, result.correct, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def game_statistics(game: Game) -> EnsembleStatistics:
    members = torch.stack([game.mean_probs.log(), game.mean_probs.flip(-1).log()])
    return ensemble_statistics(members)


def test_the_walk_is_the_plain_game() -> None:
    game = Game()
    statistics = game_statistics(game)
    game.mean_probs = statistics.mean_probs
    game.logits = game.features @ game.embeddings.T
    torch.manual_seed(4)
    game.gumbels = [draw_gumbels(game.logits) for _ in range(4)]
    torch.manual_seed(4)
    result = chunked_kdgan_loss(
        game.features, game.embeddings, statistics, game.references, game.discriminator,
        game.teacher, KdganSettings(),
    )  # fmt: skip
    plain = game.sums()
    torch.testing.assert_close(result.loss_sum, plain.total)
    torch.testing.assert_close(result.told_apart, plain.told_apart)
    expected = game.logits.log_softmax(-1)[torch.arange(N), game.references].sum()
    torch.testing.assert_close(result.log_probs, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("student_share", 1.5), ("student_weight", -1.0), ("teacher_weight", math.nan),
     ("adversarial_weight", math.inf), ("temperature", 0.0)],
)  # fmt: skip
def test_bad_settings(name: str, value: float) -> None:
    with pytest.raises(InputError, match="expected"):
        KdganSettings(**{name: value})


def test_another_vocabulary_is_refused() -> None:
    game = Game()
    with pytest.raises(InputError, match="must share one vocabulary"):
        game.play(game.logits[:, :-1])
