"""The training losses: concordance with the labels, distance to the teacher's embedding; sentences told apart.

All are computed in float32 (or float64 for float64 input), under autocast too; all but the last over the global batch
in distributed training (see `ser_ts_lobes.training.distributed.gather_batch`).
"""

import functools
from collections.abc import Callable, Sequence

import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.distributed import gather_batch

#: A loss of student embeddings, teacher embeddings and what is kept: a mask, or weights.
DistanceLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def ccc_loss(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    weights: Sequence[float | torch.Tensor] | None = None,
    trust: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the concordance loss, the sum over dimensions of alpha_j (1 - CCC_j).

    CCC = 2 cov / (var_p + var_y + (mean_p - mean_y)^2), with population moments over the batch (Lin, 1989;
    paper, Eq. 3 and 5). Constant predictions or labels have a CCC of 0, and so has a batch of one utterance;
    where the denominator is 0 as well (both constant and equal), CCC is defined as 0 with a gradient of 0.

    Parameters
    ----------
    predictions
        Shape (B, D), any floating dtype; D = 3 in the order of `ser_ts_lobes.DIMENSIONS`.
    targets
        Labels on the same scale, shape (B, D).
    weights
        alpha_j, shape (D,), used as given. By default all equal 1 / D, and the loss lies in [0, 2].
    trust
        bool or weights >= 0, shape (B, D), of each target: moments are weighted means. By default all count alike. A
        dimension of which nothing is trusted has a CCC of 0 with a gradient of 0.

    Returns
    -------
    torch.Tensor
        Scalar, the same on every rank.

    Raises
    ------
    ValueError
        If the shapes differ or aren't (B, D), or there isn't one weight a dimension, or one trust a target.

    Example
    -------
    >>> labels = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 4.0]])
    >>> ccc_loss(labels, labels).item()
    0.0
    >>> ccc_loss(-labels + torch.tensor([4.0, 6.0, 7.0]), labels).item()
    2.0
    """
    if predictions.shape != targets.shape or predictions.dim() != 2:
        raise ValueError(
            f"ccc_loss needs predictions and targets of one shape (batch, dimensions), "
            f"not {tuple(predictions.shape)} and {tuple(targets.shape)}."
        )
    if trust is not None and trust.shape != targets.shape:
        raise ValueError(f"ccc_loss needs trust of shape {tuple(targets.shape)}, not {tuple(trust.shape)}.")
    n_dimensions = predictions.shape[1]
    columns = [_at_least_float32(tensor) for tensor in (predictions, targets, trust) if tensor is not None]
    rows = gather_batch(torch.cat(columns, dim=1))
    predictions, targets, *trusts = torch.split(rows, n_dimensions, dim=1)
    alpha = _alpha(weights, n_dimensions, rows)

    # CCC ignores a common shift. This one makes constant labels exactly 0, so that the rounding of their mean
    # can't pass for variance.
    origin, share = targets[:1], None
    if trusts:
        [trust], total = trusts, trusts[0].sum(dim=0)
        share = trust / torch.where(total > 0, total, 1)
        origin = targets.gather(0, share.argmax(dim=0, keepdim=True))  # of one that is trusted

    def mean(values: torch.Tensor) -> torch.Tensor:
        return values.mean(dim=0) if share is None else (share * values).sum(dim=0)

    predictions, targets = predictions - origin, targets - origin
    mean_p, mean_y = mean(predictions), mean(targets)
    centred_p, centred_y = predictions - mean_p, targets - mean_y
    covariance = mean(centred_p * centred_y)
    denominator = mean(centred_p.square()) + mean(centred_y.square()) + (mean_p - mean_y).square()
    # torch.where outside the division would still send 0 * inf = NaN back through it.
    ccc = 2 * covariance / torch.where(denominator > 0, denominator, 1)
    return (alpha * (1 - ccc)).sum()


def _alpha(weights: Sequence[float | torch.Tensor] | None, n_dimensions: int, like: torch.Tensor) -> torch.Tensor:
    """Give the weights alpha_j of the dimensions, (D,); by default they are equal."""
    equal = [1 / n_dimensions] * n_dimensions
    alpha = torch.as_tensor(equal if weights is None else weights, dtype=like.dtype, device=like.device)
    if alpha.shape != (n_dimensions,):
        raise ValueError(f"A loss needs {n_dimensions} weights, one a dimension, not shape {tuple(alpha.shape)}.")
    return alpha


def soft_label_loss(
    logits: torch.Tensor, soft_labels: torch.Tensor, weights: Sequence[float | torch.Tensor] | None = None
) -> torch.Tensor:
    """Return how far predicted distributions are from the raters', the sum over dimensions of alpha_j mean KL_j.

    KL = sum over points k of p_k (log p_k - log q_k), where p is the raters' distribution over the points of the scale
    and q the softmax of the logits; the mean is over the utterances that somebody rated in the dimension.

    Parameters
    ----------
    logits
        Shape (B, D, K), any floating dtype.
    soft_labels
        Shape (B, D, K), shares that add up to 1 (`ser_ts_lobes.data.ratings.soft_labels`); NaN where nobody rated.
    weights
        alpha_j, as in `ccc_loss`.

    Returns
    -------
    torch.Tensor
        Scalar >= 0 in nats, the same on every rank; 0 with a gradient of 0 when nobody rated anything.

    Raises
    ------
    ValueError
        If the shapes differ or aren't (B, D, K), or there isn't one weight a dimension.

    Example
    -------
    >>> loss = soft_label_loss(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]]))
    >>> f"{loss.item():.4f}"  # log 2
    '0.6931'
    """
    if logits.shape != soft_labels.shape or logits.dim() != 3:
        raise ValueError(
            f"soft_label_loss needs logits and soft labels of one shape (batch, dimensions, points), "
            f"not {tuple(logits.shape)} and {tuple(soft_labels.shape)}."
        )
    log_q = _at_least_float32(logits).log_softmax(dim=2)
    rated = ~soft_labels.isnan().any(dim=2)
    p = soft_labels.to(log_q.dtype).masked_fill(~rated.unsqueeze(2), 0)
    divergence = gather_batch((torch.special.xlogy(p, p) - p * log_q).sum(dim=2))
    n_rated = gather_batch(rated.to(log_q.dtype)).sum(dim=0)
    return (_alpha(weights, logits.shape[1], log_q) * divergence.sum(dim=0) / n_rated.clamp(min=1)).sum()


def emotion_loss(logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of emotion classes, the weighted mean of -log q_i over the utterances of a class.

    q_i is the softmax of the logits at the class of utterance i, whose weight is that of its class.

    Parameters
    ----------
    logits
        Shape (B, C), any floating dtype.
    classes
        int64, shape (B,), in 0 to C - 1; -1 for an utterance that is of none, which counts for nothing.
    weights
        Of the classes, > 0, shape (C,) (`balance`).

    Returns
    -------
    torch.Tensor
        Scalar >= 0 in nats, the same on every rank; 0 with a gradient of 0 when no utterance is of a class.

    Raises
    ------
    ValueError
        If the shapes do not belong together.

    Example
    -------
    >>> loss = emotion_loss(torch.zeros(2, 4), torch.tensor([3, -1]), torch.ones(4))
    >>> f"{loss.item():.4f}"  # log 4
    '1.3863'
    """
    if logits.dim() != 2 or classes.shape != logits.shape[:1] or weights.shape != logits.shape[1:]:
        raise ValueError(
            f"emotion_loss needs logits (batch, classes), classes (batch,) and weights (classes,), not "
            f"{tuple(logits.shape)}, {tuple(classes.shape)} and {tuple(weights.shape)}."
        )
    log_q = _at_least_float32(logits).log_softmax(dim=1)
    known, places = classes >= 0, classes.clamp(min=0)
    surprise = -log_q.gather(1, places.unsqueeze(1)).squeeze(1)
    return _mean_over_batch(surprise, weights.to(log_q)[places] * known)


def balance(classes: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return weights by which each class counts as much as any other, whatever the number of its utterances.

    w_c = N / (C N_c), so that the mean weight of an utterance is 1.

    Parameters
    ----------
    classes
        int64, shape (N,), of the training set, in 0 to C - 1, each of them there; -1 counts for nothing.
    n_classes
        C.

    Returns
    -------
    torch.Tensor
        Shape (C,), float32.

    Example
    -------
    >>> balance(torch.tensor([0, 0, 0, 1, -1]), 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(classes[classes >= 0], minlength=n_classes)
    return counts.sum() / (n_classes * counts)


def embedding_distance_loss(student: torch.Tensor, teacher: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return the mean over kept utterances of the distance ||teacher - student||_2 (paper, Eq. 6).

    It is the Euclidean norm, not its square; at a distance of 0 its gradient is 0. No gradient reaches the
    teacher.

    Parameters
    ----------
    student
        Student embeddings e_a, shape (B, E).
    teacher
        Teacher embeddings e_at, shape (B, E). Rows that aren't kept are never read.
    keep
        bool, shape (B,): where the teacher is trusted (see `ser_ts_lobes.training.residuals.keep_mask`). Or floating
        weights >= 0 of the same shape: what is above 0 is kept, and the mean is weighted.

    Returns
    -------
    torch.Tensor
        Scalar >= 0, the same on every rank; 0 with a gradient of 0 when nothing is kept.

    Raises
    ------
    ValueError
        If the shapes differ, or `keep` isn't bool or floating of shape (B,).

    Example
    -------
    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [9.0, 0.0]])
    >>> embedding_distance_loss(student, teacher, torch.tensor([True, False])).item()
    5.0
    >>> embedding_distance_loss(student, teacher, torch.tensor([0.75, 0.25])).item()
    6.0
    """
    student, teacher, weights = _kept(student, teacher, keep)
    return _mean_over_batch(torch.linalg.vector_norm(teacher - student, dim=1), weights)


def normalised_distance_loss(student: torch.Tensor, teacher: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return the mean over kept utterances of the distance between embeddings brought to unit length.

    It is ||e_at / ||e_at|| - e_a / ||e_a||||_2, the square root of 2 (1 - cosine), so directions alone count; where
    they are the same, its gradient is 0. An embedding of zeros stays one.

    Parameters
    ----------
    student, teacher, keep
        As in `embedding_distance_loss`.

    Returns
    -------
    torch.Tensor
        Scalar in 0-2, the same on every rank; 0 with a gradient of 0 when nothing is kept.

    Raises
    ------
    ValueError
        If the shapes differ, or `keep` isn't bool or floating of shape (B,).

    Example
    -------
    >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[-9.0, 0.0]])
    >>> normalised_distance_loss(student, teacher, torch.tensor([True])).item()
    2.0
    """
    student, teacher, weights = _kept(student, teacher, keep)
    student, teacher = _directions(student, teacher)
    return _mean_over_batch(torch.linalg.vector_norm(teacher - student, dim=1), weights)


def cosine_distance_loss(student: torch.Tensor, teacher: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return the mean over kept utterances of 1 - cos(e_at, e_a).

    Parameters
    ----------
    student, teacher, keep
        As in `embedding_distance_loss`.

    Returns
    -------
    torch.Tensor
        Scalar in 0-2, the same on every rank; 0 with a gradient of 0 when nothing is kept. Of an embedding of zeros the
        cosine is 0.

    Raises
    ------
    ValueError
        If the shapes differ, or `keep` isn't bool or floating of shape (B,).

    Example
    -------
    >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> cosine_distance_loss(student, teacher, torch.tensor([True])).item()
    1.0
    """
    student, teacher, weights = _kept(student, teacher, keep)
    student, teacher = _directions(student, teacher)
    return _mean_over_batch(1 - (student * teacher).sum(dim=1), weights)


def contrastive_distance_loss(
    student: torch.Tensor, teacher: torch.Tensor, keep: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return how badly the student's embeddings tell their own teacher's from the others' of the batch (InfoNCE).

    The mean over kept utterances i of -log(exp(s_ii / t) / sum over kept j of exp(s_ij / t)), where s_ij is the cosine
    of student i and teacher j and t the temperature. What isn't kept is neither drawn nor told apart; what is kept is
    told apart from all others that are, whatever their weights.

    Parameters
    ----------
    student, teacher, keep
        As in `embedding_distance_loss`.
    temperature
        Above 0: the lower, the more the nearest of the others count.

    Returns
    -------
    torch.Tensor
        Scalar >= 0 in nats, the same on every rank; log n for n embeddings that are all alike, and 0 with a gradient of
        0 when nothing is kept, or one utterance.

    Raises
    ------
    ValueError
        If the shapes differ, or `keep` isn't bool or floating of shape (B,).

    Example
    -------
    >>> east_and_north = torch.eye(2)
    >>> loss = contrastive_distance_loss(east_and_north, east_and_north, torch.tensor([True, True]), temperature=0.5)
    >>> f"{loss.item():.4f}"  # log(1 + exp(-1 / 0.5))
    '0.1269'
    """
    student, teacher, weights = _kept(student, teacher, keep)
    student, teacher = (gather_batch(rows) for rows in _directions(student, teacher))
    weights = gather_batch(weights)
    logits = student @ teacher.T / temperature
    # Who isn't kept is told from the others, too, so that its loss is a number; its weight is 0.
    left_out = (weights == 0) & ~torch.eye(len(weights), dtype=torch.bool, device=weights.device)
    wrong = logits.masked_fill(left_out, -torch.inf)
    return _weighted_mean(wrong.logsumexp(dim=1) - logits.diagonal(), weights)


def make_distance_loss(kind: str, temperature: float) -> DistanceLoss:
    """Make the distance that a recipe's ``distance`` key names.

    Parameters
    ----------
    kind
        ``norm`` (the paper's), ``normalised``, ``cosine`` or ``infonce``.
    temperature
        Of ``infonce``; the others have none.

    Returns
    -------
    callable
        Of student, teacher and keep, as `embedding_distance_loss`.

    Raises
    ------
    InputError
        If there is no distance of that name, or the temperature isn't above 0.

    Example
    -------
    >>> make_distance_loss("norm", temperature=0.1) is embedding_distance_loss
    True
    """
    if not temperature > 0:
        raise InputError(f"distance_temperature is {temperature}: give a number above 0.")
    kinds: dict[str, DistanceLoss] = {
        "norm": embedding_distance_loss,
        "normalised": normalised_distance_loss,
        "cosine": cosine_distance_loss,
        "infonce": functools.partial(contrastive_distance_loss, temperature=temperature),
    }
    if kind not in kinds:
        raise InputError(f"distance is {kind!r}; choose one of {', '.join(kinds)}.")
    return kinds[kind]


def _kept(
    student: torch.Tensor, teacher: torch.Tensor, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give this rank's rows, (B, E) each, 0 where they aren't kept, and their weights, (B,), in float32 or better.

    No gradient reaches the teacher. What isn't kept stays, with a weight of 0: to know how many rows there are without
    it, a GPU would have to wait.
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(
            f"A distance needs student and teacher of one shape (batch, embedding), "
            f"not {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    if not (keep.dtype == torch.bool or keep.is_floating_point()) or keep.shape != student.shape[:1]:
        raise ValueError(
            f"A distance needs keep as bool or weights of shape ({len(student)},), "
            f"not {keep.dtype} of shape {tuple(keep.shape)}."
        )
    left_out = ~(keep > 0).unsqueeze(1)
    student, teacher = (_at_least_float32(rows.masked_fill(left_out, 0)) for rows in (student, teacher.detach()))
    return student, teacher, torch.where(left_out.squeeze(1), 0, keep.to(student.dtype))


def _directions(*embeddings: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(torch.nn.functional.normalize(rows, dim=1) for rows in embeddings)


def _mean_over_batch(distances: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Give the weighted mean of this rank's distances, (B,), and all others'."""
    return _weighted_mean(gather_batch(distances), gather_batch(weights))


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Give the weighted mean of values, (n,); of none, 0 with a gradient of 0."""
    total = weights.sum()  # it stays where it is: a number would make a GPU wait
    return (values * weights).sum() / torch.where(total > 0, total, 1)


def sentence_loss(
    heard: torch.Tensor, read: torch.Tensor, others: torch.Tensor, is_other: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how badly heard sentences are told from others (InfoNCE), and how far they are from what was read.

    Parameters
    ----------
    heard
        Shape (B, E), of unit length.
    read
        What the text encoder says of the same sentences, (B, E), of unit length.
    others
        Of other sentences, (N, E), of unit length.
    is_other
        bool, (B, N): whether they are others indeed; a sentence may be said twice.
    scale
        Scalar above 0; cosines times this are the logits.

    Returns
    -------
    contrast : torch.Tensor
        Scalar, the mean over the batch of -log exp(s_i) / (exp(s_i) + sum over others of exp(s)), in nats.
    distance : torch.Tensor
        Scalar in 0-2, the mean of 1 - cosine.

    Example
    -------
    >>> east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> contrast, distance = sentence_loss(east, east, north, torch.tensor([[True]]), torch.tensor(2.0))
    >>> f"{contrast:.4f} {distance:.1f}"  # log(1 + exp(-2))
    '0.1269 0.0'
    """
    heard, read, others = (_at_least_float32(tensor) for tensor in (heard, read, others))
    right = (heard * read).sum(dim=1, keepdim=True)
    # Left out after the scale: its gradient would be 0 * inf.
    wrong = (scale * (heard @ others.T)).masked_fill(~is_other, -torch.inf)
    logits = torch.cat([scale * right, wrong], dim=1)
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean(), 1 - right.mean()


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
