"""The contrastive loss of CPC: to tell the frame that comes so many steps later from others."""

import torch

from ser_ts_lobes.errors import InputError


class FuturePrediction(torch.nn.Module):
    """InfoNCE over several steps into the future (Oord, Li and Vinyals 2018, equations 3 and 4).

    The frame z that is k steps ahead of the context c is to be told from negatives drawn from the batch:
    L_k = -log exp(s(z)) / sum over z and its negatives of exp(s), with s(z) = z . (W_k c) / C, one matrix W_k a step.
    The division by the number of channels C is CPC_audio's: training starts near the loss of chance.

    Parameters
    ----------
    context_size
        Size of c.
    channels
        C, size of z.
    n_steps
        How many steps to look ahead (Oord et al.: 12).
    n_negatives
        Negatives of each prediction (CPC_audio: 128).

    Example
    -------
    >>> prediction = FuturePrediction(context_size=8, channels=16, n_steps=3)
    >>> losses, accuracies = prediction(torch.randn(4, 20, 8), torch.randn(4, 20, 16))
    >>> losses.shape, accuracies.shape
    (torch.Size([3]), torch.Size([3]))
    """

    def __init__(self, context_size: int, channels: int, n_steps: int = 12, n_negatives: int = 128) -> None:
        super().__init__()
        self.n_negatives = n_negatives
        self.predictors = torch.nn.ModuleList(
            torch.nn.Linear(context_size, channels, bias=False) for _ in range(n_steps)
        )

    def forward(self, context: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict, with new negatives in each call.

        Parameters
        ----------
        context
            (B, T, context_size), T greater than the number of steps.
        frames
            (B, T, channels).

        Returns
        -------
        losses : torch.Tensor
            (n_steps,), in nats; guessing gives log(1 + n_negatives).
        accuracies : torch.Tensor
            (n_steps,), in 0-1: how often the right frame has the highest score.

        Raises
        ------
        InputError
            If no frame has so much of a future.
        """
        batch, time, channels = frames.shape
        n_steps = len(self.predictors)
        if time <= n_steps:
            raise InputError(f"A window has {time} frames: too few to predict {n_steps} steps; make it longer.")
        context = context[:, : time - n_steps].flatten(0, 1)
        frames = frames.flatten(0, 1)
        now = present_frames(batch, time, n_steps, frames.device)
        negatives = draw_negatives(now, len(frames), n_steps, self.n_negatives)
        terms = [
            info_nce(predictor(context) / channels, frames, now + step, negatives)
            for step, predictor in enumerate(self.predictors, 1)
        ]
        losses, accuracies = zip(*terms, strict=True)
        return torch.stack(losses), torch.stack(accuracies)


def present_frames(batch: int, time: int, n_steps: int, device: torch.device | None = None) -> torch.Tensor:
    """Index, in a batch's frames one after another, those with enough of a future in their utterance.

    Parameters
    ----------
    batch, time, n_steps
        B utterances of T frames, of which the last `n_steps` are only predicted.
    device
        Where the result is to be.

    Returns
    -------
    torch.Tensor
        (B * (T - n_steps),), int64.

    Example
    -------
    >>> present_frames(batch=2, time=5, n_steps=3)
    tensor([0, 1, 5, 6])
    """
    return torch.arange(batch * time, device=device).view(batch, time)[:, : time - n_steps].flatten()


def draw_negatives(now: torch.Tensor, n_frames: int, n_steps: int, n_negatives: int) -> torch.Tensor:
    """Draw negatives uniformly, with replacement, from all frames of the batch but the next `n_steps`.

    Parameters
    ----------
    now
        (Q,) int64, from `present_frames`.
    n_frames
        Frames of the batch.
    n_steps
        Those that follow each are to be predicted, and never negatives.
    n_negatives
        How many to draw for each.

    Returns
    -------
    torch.Tensor
        (Q, n_negatives) int64, indices of frames; all steps share them.
    """
    shift = torch.randint(n_frames - n_steps, (len(now), n_negatives), device=now.device)
    return (now.unsqueeze(1) + n_steps + 1 + shift) % n_frames


def info_nce(
    predicted: torch.Tensor, frames: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the right frame among its negatives, and the accuracy.

    Parameters
    ----------
    predicted
        (Q, C); a frame's score is its dot product with it.
    frames
        (M, C), all frames of the batch.
    positives
        (Q,), index of the right frame.
    negatives
        (Q, N), indices of wrong ones.

    Returns
    -------
    loss : torch.Tensor
        Scalar, the mean over predictions, in nats.
    accuracy : torch.Tensor
        Scalar in 0-1; a tie is a miss, or else frames that are all alike would seem to be told apart.
    """
    # All scores, then those that count: the vectors of so many negatives would take far more memory.
    scores = predicted @ frames.T
    right = scores.gather(1, positives.unsqueeze(1))
    wrong = scores.gather(1, negatives)
    loss = (torch.cat([right, wrong], dim=1).logsumexp(dim=1) - right.squeeze(1)).mean()
    return loss, (right > wrong).all(dim=1).float().mean()
