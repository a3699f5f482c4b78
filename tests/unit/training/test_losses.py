"""Losses against float64 formulas, at their edges, and over two processes."""

import re

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch._dynamo  # what DDP loads when it is first used: here once, not on each rank
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.losses import (
    balance,
    ccc_loss,
    cosine_distance_loss,
    embedding_distance_loss,
    emotion_loss,
    make_distance_loss,
    normalised_distance_loss,
    sentence_loss,
    soft_label_loss,
)
from tests.ranks import on_each_rank


def random(*shape, seed=0, dtype=torch.float32):
    """Return normally distributed values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ccc_in_numpy(predictions, targets):
    """Return CCC of each column through numpy's covariance matrix."""
    values = []
    for p, y in zip(predictions.numpy().T, targets.numpy().T, strict=True):
        (var_p, cov), (_, var_y) = np.cov(p.astype(np.float64), y.astype(np.float64), ddof=0)
        difference = p.mean(dtype=np.float64) - y.mean(dtype=np.float64)
        values.append(2 * cov / (var_p + var_y + difference**2))
    return np.array(values)


@pytest.mark.parametrize("offset", [0, 1000])  # 1000: one-pass moments would lose all digits
def test_ccc_loss_is_the_mean_of_one_minus_ccc(offset):
    targets = random(32, 3) + offset
    predictions = 0.5 * targets + 0.3 * random(32, 3, seed=1) + 0.5 * offset
    expected = np.mean(1 - ccc_in_numpy(predictions, targets))
    assert ccc_loss(predictions, targets).item() == pytest.approx(expected, rel=1e-4)


def test_ccc_loss_weighs_dimensions():
    predictions, targets = random(32, 3), random(32, 3, seed=1)
    expected = (1 - ccc_in_numpy(predictions, targets)) @ [0.7, 0.2, 0.1]
    assert ccc_loss(predictions, targets, weights=[0.7, 0.2, 0.1]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_ccc_loss_ignores_a_common_scale(scale):
    predictions, targets = random(32, 3), random(32, 3, seed=1)
    loss = ccc_loss(scale * predictions, scale * targets)
    assert loss.item() == pytest.approx(ccc_loss(predictions, targets).item(), rel=1e-5)


def test_losses_stay_on_the_device_of_the_batch():
    batch = random(4, 3).to("meta")  # a device that every machine has; it doesn't mix with another
    assert ccc_loss(batch, batch, weights=[0.7, 0.2, 0.1]).device.type == "meta"


def test_ccc_loss_has_the_gradient_of_finite_differences():
    predictions = random(5, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(ccc_loss, (predictions, random(5, 3, seed=1, dtype=torch.float64)))


def test_ccc_loss_is_float32_under_autocast():
    network, inputs, targets = torch.nn.Linear(4, 3), random(32, 4), random(32, 3, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = network(inputs)
        loss = ccc_loss(predictions, targets)
    assert predictions.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.item() == ccc_loss(predictions.float(), targets).item()


def weighted_ccc_in_numpy(predictions, targets, trust):
    """Return CCC of each column through numpy's weighted covariance matrix and mean."""
    values = []
    for p, y, weights in zip(predictions.T, targets.T, trust.T, strict=True):
        (var_p, cov), (_, var_y) = np.cov(p, y, ddof=0, aweights=weights)
        difference = np.average(p, weights=weights) - np.average(y, weights=weights)
        values.append(2 * cov / (var_p + var_y + difference**2))
    return np.array(values)


def trust_of(*shape):
    """Give weights in 0-1, some of them 0."""
    return random(*shape, seed=3, dtype=torch.float64).clamp(0, 1)


@pytest.mark.parametrize("trust", [trust_of(32, 3), trust_of(32, 3) > 0.2], ids=["weights", "mask a dimension"])
def test_ccc_loss_weighs_what_is_trusted(trust):
    predictions, targets = random(32, 3, dtype=torch.float64), random(32, 3, seed=1, dtype=torch.float64)
    arrays = (tensor.double().numpy() for tensor in (predictions, targets, trust))
    expected = (1 - weighted_ccc_in_numpy(*arrays)) @ [0.7, 0.2, 0.1]
    assert ccc_loss(predictions, targets, [0.7, 0.2, 0.1], trust).item() == pytest.approx(expected, rel=1e-13)
    single = ccc_loss(predictions.float(), targets.float() + 1000, trust=trust.float())
    far = weighted_ccc_in_numpy(predictions.numpy(), targets.numpy() + 1000, trust.double().numpy())
    assert single.dtype == torch.float32 and single.item() == pytest.approx(np.mean(1 - far), rel=1e-4)
    predictions.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: ccc_loss(rows, targets, None, trust), (predictions,))
    ccc_loss(predictions, targets, None, trust).backward()
    assert ((predictions.grad != 0) == (trust > 0)).all()


def test_trust_in_rows_alone_is_the_ccc_of_these():
    predictions, targets = random(32, 3), random(32, 3, seed=1)
    rows = random(32, seed=2) > 0
    trusted = ccc_loss(predictions, targets, trust=rows[:, None].expand(32, 3))
    assert trusted.item() == pytest.approx(ccc_loss(predictions[rows], targets[rows]).item(), rel=1e-6)
    everywhere = ccc_loss(predictions, targets, trust=torch.ones(32, 3))
    assert everywhere.item() == pytest.approx(ccc_loss(predictions, targets).item(), rel=1e-6)


@pytest.mark.parametrize("n_trusted", [0, 1])
def test_too_little_trusted_is_a_ccc_of_0_with_a_gradient_of_0(n_trusted):
    predictions, targets = random(7, 3).requires_grad_(), random(7, 3) + torch.tensor([0.1, 1.0, 0.0])
    trust = torch.zeros(7, 3)
    trust[2 : 2 + n_trusted] = 0.3
    loss = ccc_loss(predictions, targets, trust=trust)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(predictions.grad, torch.zeros(7, 3), rtol=0, atol=1e-6)


def test_ccc_loss_refuses_trust_of_another_shape():
    with pytest.raises(ValueError, match=re.escape("trust of shape (4, 3), not (4,)")):
        ccc_loss(random(4, 3), random(4, 3), trust=torch.ones(4))


def test_two_processes_see_the_trusted_ccc_of_the_whole_batch(tmp_path):
    parts = (slice(0, 6), slice(6, 8))
    trust = trust_of(8, 3).float()
    trust[parts[1], 0] = 0  # nothing of a dimension on the second

    def task(rank):
        rows = slice(None) if rank is None else parts[rank]
        predictions = random(8, 3)[rows].requires_grad_()
        loss = ccc_loss(predictions, random(8, 3, seed=1)[rows], [0.7, 0.2, 0.1], trust[rows])
        loss.backward()
        return loss.item(), predictions.grad

    loss, gradient = task(None)
    for rank, (of_rank, gradient_of_rank) in enumerate(on_each_rank(task, tmp_path, 2)):
        assert of_rank == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(gradient_of_rank / 2, gradient[parts[rank]])


@pytest.mark.parametrize(
    ("predictions", "targets"),
    [
        (torch.full((4, 3), 0.3), random(4, 3)),
        (random(4, 3), torch.full((4, 3), 0.3)),
        (random(1, 3), random(1, 3, seed=1)),
        (random(1, 3), random(1, 3)),  # denominator 0
        (torch.full((7, 3), 0.1), torch.full((7, 3), 0.1)),  # denominator 0; the mean of seven 0.1 isn't 0.1
    ],
    ids=["constant predictions", "constant targets", "one utterance", "one perfect", "constant and equal"],
)
def test_ccc_loss_is_one_with_a_finite_gradient_where_nothing_varies(predictions, targets):
    predictions = predictions.clone().requires_grad_()
    loss = ccc_loss(predictions, targets)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)
    assert predictions.grad.isfinite().all()


def test_ccc_loss_refuses_shapes_that_would_broadcast():
    for predictions, targets in ((4, 3), (4, 1)), ((4,), (4,)), ((2, 2, 3), (2, 2, 3)):
        with pytest.raises(ValueError, match=re.escape(f"not {predictions} and {targets}")):
            ccc_loss(random(*predictions), random(*targets))
    for weights in ([1.0], 1.0, [[1.0, 1.0, 1.0]]):
        shape = re.escape(str(np.shape(weights)))
        with pytest.raises(ValueError, match=f"3 weights, one a dimension, not shape {shape}"):
            ccc_loss(random(4, 3), random(4, 3), weights=weights)


def test_embedding_distance_is_the_mean_norm_of_kept_utterances():
    student, teacher = random(6, 8), random(6, 8, seed=1)
    keep = torch.tensor([True, False, True, True, False, False])
    distances = np.sqrt(((teacher.double().numpy() - student.double().numpy()) ** 2).sum(axis=1))
    loss = embedding_distance_loss(student, teacher, keep)
    assert loss.item() == pytest.approx(distances[[0, 2, 3]].mean(), rel=1e-5)


def test_embedding_distance_moves_kept_students_only():
    student = random(4, 8).requires_grad_()
    teacher = random(4, 8, seed=1).requires_grad_()
    embedding_distance_loss(student, teacher, torch.tensor([True, True, False, False])).backward()
    # Each kept student is pulled straight to its teacher, at unit strength over the two that are kept.
    expected = torch.nn.functional.normalize(student[:2] - teacher[:2]) / 2
    torch.testing.assert_close(student.grad[:2], expected)
    assert (student.grad[2:] == 0).all()
    assert teacher.grad is None


def test_embedding_distance_is_zero_with_a_zero_gradient_where_it_must_be():
    for keep in ([False, False], [True, True]):  # nothing kept; nothing to move
        student = random(2, 8).requires_grad_()
        loss = embedding_distance_loss(student, random(2, 8), torch.tensor(keep))
        loss.backward()
        assert loss.item() == 0
        assert (student.grad == 0).all()


def test_embedding_distance_is_float32_for_half_precision_embeddings():
    student, teacher = random(6, 128).bfloat16(), random(6, 128, seed=1).bfloat16()
    keep = torch.ones(6, dtype=torch.bool)
    loss = embedding_distance_loss(student, teacher, keep)
    assert loss.dtype == torch.float32
    assert loss.item() == embedding_distance_loss(student.float(), teacher.float(), keep).item()


def test_embedding_distance_refuses_a_mask_of_whole_numbers_or_of_another_shape():
    with pytest.raises(ValueError, match=r"bool or weights of shape \(2,\), not torch.int64 of shape \(2,\)"):
        embedding_distance_loss(random(2, 8), random(2, 8), torch.tensor([1, 0]))
    for shape in ((2, 1), (2, 8), (1,)):
        with pytest.raises(ValueError, match=re.escape(f"weights of shape (2,), not torch.bool of shape {shape}")):
            embedding_distance_loss(random(2, 8), random(2, 8), torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize(("student", "teacher"), [((4, 8), (4, 1)), ((4, 8), (5, 8)), ((4,), (4,))], ids=str)
def test_embedding_distance_refuses_shapes_that_would_broadcast(student, teacher):
    with pytest.raises(ValueError, match=re.escape(f"not {student} and {teacher}")):
        embedding_distance_loss(random(*student), random(*teacher), torch.ones(4, dtype=torch.bool))


def test_the_teacher_beside_a_kept_one_is_never_read():
    teacher = torch.tensor([[3.0, 4.0], [float("nan")] * 2])
    student = torch.zeros(2, 2, requires_grad=True)
    loss = embedding_distance_loss(student, teacher, torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == 5
    assert student.grad.isfinite().all()


def test_losses_keep_double_precision():
    predictions, targets = random(8, 3, dtype=torch.float64), random(8, 3, seed=1, dtype=torch.float64)
    weights = [0.1, 0.2, 0.7]  # in float32, they'd be wrong from the eighth digit on
    loss = ccc_loss(predictions, targets, weights)
    assert loss.item() == pytest.approx((1 - ccc_in_numpy(predictions, targets)) @ weights, rel=1e-14)
    distance = embedding_distance_loss(predictions, targets, torch.ones(8, dtype=torch.bool))
    expected = np.linalg.norm(predictions.numpy() - targets.numpy(), axis=1).mean()
    assert distance.item() == pytest.approx(expected, rel=1e-14)


def distances_in_numpy(student, teacher, keep, temperature):
    """Return each kind of distance of the kept rows, in float64; `keep` may be weights."""
    weights = keep.double().numpy()
    s, t = (rows.double().numpy()[weights > 0] for rows in (student, teacher))
    weights = weights[weights > 0]
    unit_s, unit_t = (rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)) for rows in (s, t))
    cosines = unit_s @ unit_t.T
    odds = np.exp(cosines / temperature)
    distances = {
        "norm": np.sqrt(((s - t) ** 2).sum(axis=1)),
        "normalised": np.sqrt(((unit_s - unit_t) ** 2).sum(axis=1)),
        "cosine": 1 - np.diag(cosines),
        "infonce": -np.log(np.diag(odds) / odds.sum(axis=1)),
    }
    return {kind: np.average(values, weights=weights) for kind, values in distances.items()}


DISTANCES = ("norm", "normalised", "cosine", "infonce")


@pytest.mark.parametrize("kind", DISTANCES)
def test_each_distance_is_its_formula_over_kept_utterances(kind):
    student, teacher = 3 * random(6, 8, dtype=torch.float64), random(6, 8, seed=1, dtype=torch.float64)
    keep = torch.tensor([True, False, True, True, False, True])
    expected = distances_in_numpy(student, teacher, keep, temperature=0.2)[kind]
    distance = make_distance_loss(kind, temperature=0.2)
    assert distance(student, teacher, keep).item() == pytest.approx(expected, rel=1e-13)
    half = distance(student.bfloat16(), teacher.bfloat16(), keep)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected, rel=0.02)


WEIGHTS = torch.tensor([0.9, 0.0, 0.2, 0.5, 1.0, 0.03], dtype=torch.float64)


@pytest.mark.parametrize("kind", DISTANCES)
def test_each_distance_is_a_weighted_mean_where_trust_is_a_weight(kind):
    student, teacher = 3 * random(6, 8, dtype=torch.float64), random(6, 8, seed=1, dtype=torch.float64)
    teacher[1] = torch.nan  # of no weight, so it is never read
    distance = make_distance_loss(kind, temperature=0.2)
    expected = distances_in_numpy(student, teacher, WEIGHTS, temperature=0.2)[kind]
    assert distance(student, teacher, WEIGHTS).item() == pytest.approx(expected, rel=1e-13)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: distance(rows, teacher, WEIGHTS), (student,))
    distance(student, teacher, WEIGHTS).backward()
    assert (student.grad[WEIGHTS > 0] != 0).all() and (student.grad[1] == 0).all()
    student.grad = None
    nothing = distance(student, teacher, torch.zeros(6))
    nothing.backward()
    assert nothing.item() == 0 and (student.grad == 0).all()


def test_a_mask_gives_the_papers_mean_to_the_bit():
    student, teacher = random(37, 128).requires_grad_(), random(37, 128, seed=1)
    keep = random(37, seed=2) > -1
    torch.linalg.vector_norm(teacher[keep] - student[keep], dim=1).mean().backward()
    expected, student.grad = student.grad, None
    loss = embedding_distance_loss(student, teacher, keep)
    loss.backward()
    norms = torch.linalg.vector_norm(teacher[keep] - student[keep], dim=1)
    assert loss.item() == norms.mean().item() and student.grad.equal(expected)


@pytest.mark.parametrize("kind", DISTANCES)
def test_each_distance_has_the_gradient_of_finite_differences_and_moves_kept_students_only(kind):
    student = random(5, 8, dtype=torch.float64).requires_grad_()
    teacher = random(5, 8, seed=1, dtype=torch.float64).requires_grad_()
    keep = torch.tensor([True, True, False, True, False])
    distance = make_distance_loss(kind, temperature=0.2)
    assert torch.autograd.gradcheck(lambda rows: distance(rows, teacher.detach(), keep), (student,))
    distance(student, teacher, keep).backward()
    assert (student.grad[keep] != 0).all() and (student.grad[~keep] == 0).all()
    assert teacher.grad is None


@pytest.mark.parametrize("kind", DISTANCES)
def test_each_distance_is_zero_with_a_zero_gradient_where_nothing_is_kept_or_to_be_moved(kind):
    for keep in ([False, False], [True, False]):  # one that is kept is the teacher's own
        student = random(2, 8, dtype=torch.float64).requires_grad_()
        loss = make_distance_loss(kind, 0.2)(student, random(2, 8, dtype=torch.float64), torch.tensor(keep))
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(student.grad, torch.zeros_like(student.grad), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DISTANCES)
def test_no_distance_reads_what_is_not_kept_or_fails_on_zeros(kind):
    teacher = torch.tensor([[3.0, 4.0], [float("nan")] * 2, [1.0, 0.0]])
    student = torch.zeros(3, 2, requires_grad=True)
    loss = make_distance_loss(kind, 0.2)(student, teacher, torch.tensor([True, False, True]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    with pytest.raises(ValueError, match="keep as bool"):
        make_distance_loss(kind, 0.2)(student, teacher, torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="of one shape"):
        make_distance_loss(kind, 0.2)(student, teacher[:, :1], torch.ones(3, dtype=torch.bool))


class WaitsOfAGPU(TorchDispatchMode):
    """Lists what the processor has to know of a result before it can go on, so that a GPU would stand idle."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        masks = [index for index in args[1] if index is not None] if name.startswith("aten.index") else []
        is_wait = any(part in name for part in ("_local_scalar_dense", "nonzero", "masked_select"))
        if is_wait or any(index.dtype == torch.bool for index in masks):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", DISTANCES)
def test_no_distance_makes_a_gpu_wait(kind):
    student, teacher, keep = random(6, 8).requires_grad_(), random(6, 8, seed=1), random(6, seed=2) > 0
    with WaitsOfAGPU() as waits:
        make_distance_loss(kind, 0.2)(student, teacher, keep).backward()
        assert waits.found == []
        student[keep].sum().item()
    assert len(waits.found) == 2


def test_distances_are_those_of_torch():
    student, teacher, keep = random(6, 8), random(6, 8, seed=1), torch.ones(6, dtype=torch.bool)
    cosine = torch.nn.functional.cosine_similarity(student, teacher)
    torch.testing.assert_close(cosine_distance_loss(student, teacher, keep), (1 - cosine).mean())
    norm = torch.nn.functional.pairwise_distance(
        *(torch.nn.functional.normalize(rows) for rows in (student, teacher)), eps=0
    )
    torch.testing.assert_close(normalised_distance_loss(student, teacher, keep), norm.mean())
    logits = torch.nn.functional.cosine_similarity(student[:, None], teacher[None], dim=2) / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(make_distance_loss("infonce", 0.2)(student, teacher, keep), expected)


def test_a_distance_that_there_is_not_is_one_sentence():
    with pytest.raises(InputError, match="distance is 'l1'; choose one of norm, normalised, cosine, infonce"):
        make_distance_loss("l1", 0.1)
    with pytest.raises(InputError, match="distance_temperature is 0: give a number above 0"):
        make_distance_loss("infonce", 0)


@pytest.mark.parametrize("keep", [WEIGHTS > 0.1, WEIGHTS.float()], ids=["mask", "weights"])
@pytest.mark.parametrize("kind", DISTANCES)
def test_two_processes_see_the_distance_of_the_whole_batch(tmp_path, kind, keep):
    parts = (slice(0, 4), slice(4, 6))

    def task(rank):
        rows = slice(None) if rank is None else parts[rank]
        student = random(6, 8)[rows].requires_grad_()
        loss = make_distance_loss(kind, 0.2)(student, random(6, 8, seed=1)[rows], keep[rows])
        loss.backward()
        return loss.item(), student.grad

    loss, gradient = task(None)
    for rank, (of_rank, gradient_of_rank) in enumerate(on_each_rank(task, tmp_path, 2)):
        assert of_rank == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(gradient_of_rank / 2, gradient[parts[rank]])  # DDP takes the mean over both


def training_step(network, student, rows):
    """Return the loss of some rows of a fixed data set; gradients are left in `student`."""
    inputs, targets, teacher = random(8, 4), random(8, 3, seed=1), random(8, 3, seed=2)
    keep = torch.tensor([True, False, True, True, False, True, False, False])
    outputs = network(inputs[rows])
    loss = ccc_loss(outputs, targets[rows]) + 3 * embedding_distance_loss(outputs, teacher[rows], keep[rows])
    loss.backward()
    return loss.item(), student.weight.grad


def linear():
    """Return the same layer on each call."""
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


@pytest.mark.parametrize("sizes", [(4, 4), (6, 2)], ids=["equal", "unequal, nothing kept on the second"])
def test_two_processes_train_like_one(tmp_path, sizes):
    def train(rank):
        start = sum(sizes[:rank])
        student = linear()
        outcome = training_step(DistributedDataParallel(student), student, slice(start, start + sizes[rank]))
        with torch.no_grad():  # validation: no partner may be waited for, the loss is of this rank's rows
            alone = ccc_loss(random(2, 3, seed=rank), random(2, 3, seed=5)) if rank == 0 else None
        return (*outcome, alone)

    student = linear()
    loss, gradient = training_step(student, student, slice(None))
    for rank, (loss_on_rank, gradient_on_rank, alone) in enumerate(on_each_rank(train, tmp_path, len(sizes))):
        assert loss_on_rank == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(gradient_on_rank, gradient)
        if rank == 0:
            assert alone == ccc_loss(random(2, 3, seed=0), random(2, 3, seed=5))


def test_a_sentence_that_is_said_twice_is_not_its_own_negative():
    heard, read = (torch.nn.functional.normalize(torch.randn(2, 5), dim=-1) for _ in range(2))
    others = torch.cat([read[:1], torch.nn.functional.normalize(torch.randn(3, 5), dim=-1)])
    is_other = torch.ones(2, 4, dtype=torch.bool)
    is_other[0, 0] = False
    scale = torch.tensor(4.0, requires_grad=True)
    contrast, distance = sentence_loss(heard, read, others, is_other, scale)
    expected = 0.0
    for row in range(2):
        right = float(4 * heard[row] @ read[row])
        wrong = [float(4 * heard[row] @ other) for other, counts in zip(others, is_other[row], strict=True) if counts]
        expected += (np.logaddexp.reduce([right, *wrong]) - right) / 2
    assert contrast.item() == pytest.approx(expected, rel=1e-5)
    assert float(distance) == pytest.approx(1 - float((heard * read).sum(1).mean()), rel=1e-5)
    contrast.backward()
    assert torch.isfinite(scale.grad)


def test_sentences_are_told_apart_in_float32_or_better():
    half, others = (torch.nn.functional.normalize(torch.randn(2, 5), dim=-1).bfloat16() for _ in range(2))
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        heard = half.to(dtype)
        losses = sentence_loss(heard, heard, others.to(dtype), torch.ones(2, 2, dtype=torch.bool), torch.tensor(2.0))
        assert [loss.dtype for loss in losses] == [expected] * 2


def shares(*shape, seed=0):
    """Return soft labels, some of whose points nobody chose."""
    counts = np.random.default_rng(seed).integers(0, 4, shape)
    counts[..., 0] += counts.sum(axis=-1) == 0
    return torch.from_numpy(counts / counts.sum(axis=-1, keepdims=True))


def divergence_in_scipy(logits, labels):
    """Return the Kullback-Leibler divergence of each distribution, in float64."""
    return scipy.stats.entropy(labels.double().numpy(), scipy.special.softmax(logits.double().numpy(), -1), axis=-1)


def test_soft_label_loss_is_the_mean_divergence_from_the_raters():
    logits, labels = 3 * random(16, 3, 7), shares(16, 3, 7).float()
    expected = divergence_in_scipy(logits, labels)
    assert soft_label_loss(logits, labels).item() == pytest.approx(expected.mean(), rel=1e-5)
    alpha = [0.7, 0.2, 0.1]
    assert soft_label_loss(logits, labels, alpha).item() == pytest.approx(expected.mean(axis=0) @ alpha, rel=1e-5)
    assert soft_label_loss(labels.log().clamp(-90), labels).item() == pytest.approx(0, abs=1e-6)


def test_soft_label_loss_is_of_what_somebody_rated():
    logits, labels = random(6, 3, 5).requires_grad_(), shares(6, 3, 5).float()
    labels[:2] = torch.nan
    labels[2:, 1] = torch.nan
    loss = soft_label_loss(logits, labels)
    expected = divergence_in_scipy(logits.detach()[2:], labels[2:])
    assert loss.item() == pytest.approx((expected[:, 0].mean() + expected[:, 2].mean()) / 3, rel=1e-5)
    loss.backward()
    assert logits.grad[:2].eq(0).all() and logits.grad[:, 1].eq(0).all() and logits.grad[2:, [0, 2]].ne(0).all()
    logits.grad = None
    soft_label_loss(logits, torch.full_like(labels, torch.nan)).backward()
    assert logits.grad.eq(0).all()


def test_soft_label_loss_has_the_gradient_of_finite_differences():
    logits = random(5, 3, 4, dtype=torch.float64).requires_grad_()
    labels = shares(5, 3, 4)
    labels[0, 1] = torch.nan
    assert torch.autograd.gradcheck(soft_label_loss, (logits, labels))


def test_soft_label_loss_is_float32_for_bfloat16():
    logits, labels = random(8, 3, 7).bfloat16(), shares(8, 3, 7).float()
    loss = soft_label_loss(logits, labels)
    assert loss.dtype == torch.float32 and loss.item() == soft_label_loss(logits.float(), labels).item()


def test_soft_label_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"one shape .* not \(2, 3, 7\) and \(2, 3, 5\)"):
        soft_label_loss(random(2, 3, 7), random(2, 3, 5))
    with pytest.raises(ValueError, match="needs 3 weights"):
        soft_label_loss(random(2, 3, 7), shares(2, 3, 7), [1.0])


def test_two_processes_see_the_soft_labels_of_the_whole_batch(tmp_path):
    parts = (slice(0, 4), slice(4, 6))

    def task(rank):
        rows = slice(None) if rank is None else parts[rank]
        logits, labels = random(6, 3, 7)[rows].requires_grad_(), shares(6, 3, 7).float()
        labels[3:] = torch.nan  # the second process has nothing that was rated
        loss = soft_label_loss(logits, labels[rows])
        loss.backward()
        return loss.item(), logits.grad

    loss, gradient = task(None)
    for rank, (of_rank, gradient_of_rank) in enumerate(on_each_rank(task, tmp_path, 2)):
        assert of_rank == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(gradient_of_rank, 2 * gradient[parts[rank]])


def test_emotion_loss_is_the_weighted_mean_surprise_of_who_has_a_class():
    logits, classes = (3 * random(9, 4)).requires_grad_(), torch.tensor([0, 1, 2, 3, 3, 3, -1, 0, -1])
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    loss = emotion_loss(logits, classes, weights)
    log_q = scipy.special.log_softmax(logits.detach().double().numpy(), axis=1)
    told = [(float(weights[c]), -log_q[i, c]) for i, c in enumerate(classes.tolist()) if c >= 0]
    assert loss.item() == pytest.approx(sum(w * s for w, s in told) / sum(w for w, _ in told), rel=1e-5)
    loss.backward()
    assert logits.grad[classes < 0].eq(0).all() and logits.grad[classes >= 0].ne(0).all()
    logits.grad = None
    nobody = emotion_loss(logits, torch.full((9,), -1), weights)
    nobody.backward()
    assert nobody.item() == 0 and logits.grad.eq(0).all()
    half = emotion_loss(logits.detach().bfloat16(), classes, weights)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(loss.item(), rel=0.02)
    with pytest.raises(ValueError, match=r"not \(9, 4\), \(9,\) and \(3,\)"):
        emotion_loss(logits, classes, weights[:3])


def test_balanced_classes_count_alike():
    classes = torch.tensor([0] * 5 + [1] * 2 + [2] + [-1] * 4)
    weights = balance(classes, 3)
    totals = [float(weights[c]) * int((classes == c).sum()) for c in range(3)]
    assert totals == pytest.approx([8 / 3] * 3)


def test_emotion_loss_on_two_ranks_is_that_of_the_whole_batch(tmp_path):
    logits, classes, weights = random(6, 3), torch.tensor([0, 1, 1, -1, 2, 2]), torch.tensor([0.5, 2.0, 1.0])

    def of_rank(rank):
        rows = slice(0, 2) if rank == 0 else slice(2, 6)
        own = logits[rows].clone().requires_grad_()
        loss = emotion_loss(own, classes[rows], weights)
        loss.backward()
        return loss.item(), own.grad / 2  # as DistributedDataParallel does

    whole = logits.clone().requires_grad_()
    loss = emotion_loss(whole, classes, weights)
    loss.backward()
    (first, upper), (second, lower) = on_each_rank(of_rank, tmp_path, 2)
    assert first == second == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(torch.cat([upper, lower]), whole.grad)
