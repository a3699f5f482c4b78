"""The paper's method once more, written from its equations alone: nothing of the package is used here.

Equations and sections are those of the paper. An utterance is heard and read on its own, so that there is no padding
which could be wrong. A set is a dict of utterances: their sequences (frames, and tokens for a network that reads) and
their standardised label.
"""

import copy

import numpy as np
import torch


class Network(torch.nn.Module):
    """Eq. 1 and 2 and the linear prediction; sequences of each of the `sizes` go through a GRU of their own."""

    def __init__(self, *sizes):
        super().__init__()
        self.grus = torch.nn.ModuleList(torch.nn.GRU(size, 128, num_layers=2) for size in sizes)
        self.project = torch.nn.Linear(128 * len(sizes), 128)
        self.predict = torch.nn.Linear(128, 3)

    def forward(self, sequences):
        last_outputs = [gru(sequence)[0][-1] for gru, sequence in zip(self.grus, sequences, strict=True)]
        embedding = self.project(torch.cat(last_outputs))
        return embedding, self.predict(embedding)


def concordance(predictions, labels):
    """Eq. 3, a value for each dimension."""
    mean_p, mean_y = predictions.mean(0), labels.mean(0)
    covariance = ((predictions - mean_p) * (labels - mean_y)).mean(0)
    return 2 * covariance / (predictions.var(0, correction=0) + labels.var(0, correction=0) + (mean_p - mean_y) ** 2)


def concordance_loss(predictions, labels):
    """Eq. 5; the equal weights add up to 1 (ours)."""
    return sum((1 - ccc) / 3 for ccc in concordance(predictions, labels))


def teaching_loss(embeddings, teacher_embeddings, trusted):
    """Eq. 6, its mean over the utterances where the teacher can be trusted (section 3.2; that it is a mean, ours)."""
    pairs = zip(embeddings, teacher_embeddings, trusted, strict=True)
    distances = [((e_at - e_a) ** 2).sum().sqrt() for e_a, e_at, is_trusted in pairs if is_trusted]
    return sum(distances) / max(len(distances), 1)


def residuals(predictions, labels):
    """Eq. 8: what the least-squares line from prediction to label leaves, for each dimension on its own."""
    columns = []
    for prediction, label in zip(np.transpose(predictions), np.transpose(labels), strict=True):
        design = np.stack([prediction, np.ones(len(label))], axis=1)
        columns.append(design @ np.linalg.lstsq(design, label, rcond=None)[0] - label)
    return np.stack(columns, axis=1)


def trusted(residual):
    """Section 4.2: no residual of the utterance is beyond 2 standard deviations."""
    return np.all(np.abs(residual) <= 2 * np.std(residual, axis=0), axis=1)


def standardise(labels, train_labels):
    """Give labels in standard deviations from the mean of the training set's (ours)."""
    return (labels - np.mean(train_labels, axis=0)) / np.std(train_labels, axis=0)


def train(network, layer, batches, train_set, valid_set, teacher=None):
    """Section 4.2: train `network` on the `batches` of each epoch; return what happened, and leave the best weights.

    `layer`, the encoder's top one if it learns, does so at a quarter of the rate. `teacher` gives the embedding of each
    utterance and whether it can be trusted (Eq. 7).
    """
    learning = torch.nn.ModuleList([network] if layer is None else [network, layer])
    groups = [{"params": part.parameters(), "lr": lr} for part, lr in zip(learning, (5e-4, 5e-4 / 4), strict=False)]
    optimizer = torch.optim.Adam(groups)
    happened = {"losses": [], "gradients": [], "rates": [], "valid_losses": []}
    best, n_waiting = None, 0
    for epoch in batches:
        happened["rates"].append([group["lr"] for group in optimizer.param_groups])
        for batch in epoch:
            embeddings, predictions = run(network, layer, train_set, batch)
            loss = concordance_loss(predictions, torch.stack([train_set[u][1] for u in batch]))
            if teacher is not None:
                loss = loss + 30 * teaching_loss(embeddings, *zip(*(teacher[u] for u in batch), strict=True))
            optimizer.zero_grad()
            loss.backward()
            happened["losses"].append(loss.item())
            happened["gradients"].append([parameter.grad.clone() for parameter in learning.parameters()])
            optimizer.step()
        with torch.no_grad():
            labels = torch.stack([label for _, label in valid_set.values()])
            valid_loss = concordance_loss(run(network, layer, valid_set, valid_set)[1], labels).item()
        happened["valid_losses"].append(valid_loss)
        n_waiting += 1
        if valid_loss == min(happened["valid_losses"]):
            best, n_waiting = copy.deepcopy(learning.state_dict()), 0
        if n_waiting > 2:
            n_waiting = 0
            for group in optimizer.param_groups:
                group["lr"] *= 0.75
    learning.load_state_dict(best)
    return happened


def run(network, layer, a_set, utterances):
    """Embed and predict utterances of a set, (N, 128) and (N, 3)."""
    outputs = []
    for utterance in utterances:
        frames, *tokens = a_set[utterance][0]
        outputs.append(network([frames if layer is None else layer(frames[None])[0], *tokens]))
    embeddings, predictions = zip(*outputs, strict=True)
    return torch.stack(embeddings), torch.stack(predictions)
