"""The training loop does what the plain loop that it stands for does, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from synaptic_intelligence import train
from synaptic_intelligence.tasks import Task, split_by_class


def make_data(train_count: int = 70, test_count: int = 30) -> Task:
    """Six classes of uint8 pixels that a small network can tell apart."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randint(0, 200, (6, 8), generator=generator)

    def examples(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 6
        noise = torch.randint(0, 50, (count, 8), generator=generator)
        return (centres[labels] + noise).to(torch.uint8), labels

    return Task("data", *examples(train_count), *examples(test_count), classes=tuple(range(6)))


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))


def one_epoch(
    model: nn.Module, task: Task, *, batch_size: int = 16, multi_head: bool = False, shuffle_seed: int = 5
) -> train.Epoch:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(shuffle_seed)
    return train.train_epoch(model, optimizer, task, batch_size=batch_size, generator=generator, multi_head=multi_head)


def test_pixels_become_floats_between_0_and_1() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    values = train.as_input(pixels)
    assert values.dtype == torch.float32
    assert torch.equal(values, torch.arange(256, dtype=torch.float32) / 255)
    assert torch.equal(pixels, torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_are_fed_as_they_are(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.0, 300.0], dtype=dtype)
    assert train.as_input(values) is values


def test_masked_logits_leave_the_task_s_classes_alone() -> None:
    logits = torch.randn(5, 6, requires_grad=True)
    masked = train.mask_logits(logits, (1, 4))
    assert torch.equal(masked[:, [1, 4]], logits[:, [1, 4]])
    assert torch.equal(masked[:, [0, 2, 3, 5]], torch.full((5, 4), -torch.inf))
    cross_entropy(masked, torch.tensor([1, 4, 1, 4, 1])).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, [0, 2, 3, 5]], torch.zeros(5, 4))
    assert (logits.grad[:, [1, 4]] != 0).all()


def test_masking_equals_a_head_with_only_the_task_s_classes() -> None:
    logits = torch.randn(5, 6, dtype=torch.float64)
    masked = cross_entropy(train.mask_logits(logits, (1, 4)), torch.tensor([1, 4, 1, 4, 1]))
    small = cross_entropy(logits[:, [1, 4]], torch.tensor([0, 1, 0, 1, 0]))
    assert masked.item() == pytest.approx(small.item(), abs=1e-14)


@pytest.mark.parametrize("classes", [(), (0, 6), (-1, 2)])
def test_classes_without_a_logit_are_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="classes must be some of the logits' 0 to 5, not"):
        train.mask_logits(torch.zeros(1, 6), classes)


@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize("batch_size", [16, 7, 1000])
def test_an_epoch_equals_the_plain_loop(multi_head: bool, batch_size: int) -> None:
    task = split_by_class(make_data(), [(1, 2, 5)])[0]
    model, plain = make_model(), make_model()
    epoch = one_epoch(model, task, batch_size=batch_size, multi_head=multi_head)

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    order = torch.randperm(len(task.train_targets), generator=torch.Generator().manual_seed(5))
    losses, hits = [], []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        x, y = task.train_inputs[batch].float() / 255, task.train_targets[batch]
        logits = plain(x)
        if multi_head:
            logits = logits + torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf, -torch.inf, 0.0])
        optimizer.zero_grad()
        cross_entropy(logits, y).backward()
        optimizer.step()
        losses += cross_entropy(logits.detach(), y, reduction="none").tolist()
        hits += (logits.argmax(dim=1) == y).tolist()

    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(hits) == len(task.train_targets)
    assert epoch.accuracy == sum(hits) / len(hits)
    assert epoch.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert epoch.seconds > 0


def test_multi_head_training_leaves_the_other_heads_where_they_are() -> None:
    task = split_by_class(make_data(), [(0, 1)])[0]
    model = make_model()
    last = model[2]
    assert isinstance(last, nn.Linear)
    before = last.weight.detach().clone()
    one_epoch(model, task, multi_head=True)
    assert torch.equal(last.weight[2:], before[2:])
    assert not torch.equal(last.weight[:2], before[:2])
    one_epoch(model, task, multi_head=False)
    assert not torch.equal(last.weight[2:], before[2:])


def test_the_order_comes_from_the_generator_alone() -> None:
    def weights_after(global_seed: int, shuffle_seed: int) -> Tensor:
        model = make_model()
        torch.manual_seed(global_seed)
        one_epoch(model, make_data(), shuffle_seed=shuffle_seed)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(weights_after(1, 5), weights_after(2, 5))
    assert not torch.equal(weights_after(1, 5), weights_after(1, 6))


def test_several_epochs_learn_the_task() -> None:
    task, model = make_data(), make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    epochs = [
        train.train_epoch(model, optimizer, task, batch_size=16, generator=generator, multi_head=False)
        for _ in range(30)
    ]
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[-1].accuracy > 0.95
    assert train.evaluate(model, task, multi_head=False) > 0.9


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, not {batch_size}"):
        one_epoch(make_model(), make_data(), batch_size=batch_size)


def test_a_task_beyond_the_model_s_logits_is_refused() -> None:
    model = nn.Linear(8, 4)
    with pytest.raises(ValueError, match="classes must be some of the logits' 0 to 3"):
        one_epoch(model, make_data(), multi_head=True)
    with pytest.raises(ValueError, match="classes must be some of the logits' 0 to 3"):
        train.evaluate(model, make_data(), multi_head=True)


class Constant(nn.Module):
    """Logits that are the same for every input; it keeps the sizes of the batches that it saw."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert x.dtype == torch.float32
        self.batches.append(len(x))
        return self.logits.expand(len(x), -1)


def test_accuracy_is_counted_over_all_batches() -> None:
    # A third of 2500 examples, in three batches: 834 have label 0, 833 label 1, 833 label 2.
    labels = torch.arange(2500) % 3
    x = torch.zeros(2500, 1)
    task = Task("thirds", x, labels, x, labels, classes=(0, 1, 2))
    model = Constant([0.0, 3.0, 2.0, 9.0])
    assert train.evaluate(model, task, multi_head=False) == 0.0
    assert train.evaluate(model, task, multi_head=True) == 833 / 2500
    assert sum(model.batches) == 2 * 2500
    assert len(model.batches) > 2


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_put_back_in_its_own_mode(fails: bool) -> None:
    # The usual fine-tuning set-up: a frozen normalisation layer in a network that is otherwise in training.
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    if fails:
        model.append(nn.Linear(1, 6))
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            train.evaluate(model, make_data(), multi_head=False)
    else:
        train.evaluate(model, make_data(), multi_head=False)
    assert [module.training for module in model.modules()][:4] == [True, True, False, True]


def test_testing_changes_neither_weights_nor_statistics_nor_random_state() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    accuracies = {train.evaluate(model, make_data(), multi_head=True) for _ in range(2)}
    assert len(accuracies) == 1
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_epoch_puts_the_model_in_training_mode() -> None:
    model = make_model().eval()
    one_epoch(model, make_data())
    assert all(module.training for module in model.modules())
