"""What the small encoder of `ser_ts_lobes/mini_hubert` learns words with (`train_mini_hubert`)."""

import torch

from ser_ts_lobes.training.losses import sentence_loss

SOUND_LAYER = 4  #: Whose frames tell phonemes; those of the last layer tell words.
N_OTHERS = 4096  #: Words that the right one is told from, drawn anew for each batch.
DISTANCE_WEIGHT = 2.0  #: Of 1 - cosine, beside the other losses.


class WordLessons(torch.nn.Module):
    """Heads that tell sounds and words, and the loss of both; dropped when the encoder is taught.

    Parameters
    ----------
    hidden_size : int
        Of the encoder's frames.
    n_sounds : int
        Phonemes.
    words : torch.Tensor
        (N, E): where a text encoder puts each word that may be said, of unit length.
    """

    def __init__(self, hidden_size, n_sounds, words):
        super().__init__()
        self.words = words  # no part of the checkpoint
        self.to_sounds = torch.nn.Sequential(torch.nn.LayerNorm(hidden_size), torch.nn.Linear(hidden_size, n_sounds))
        self.to_words = torch.nn.Linear(hidden_size, words.shape[1])
        self.log_scale = torch.nn.Parameter(torch.tensor(20.0).log())

    def forward(self, hidden, said):
        """Loss of a batch.

        Parameters
        ----------
        hidden : sequence of torch.Tensor
            (B, T, hidden_size): what goes into the first layer, and what each gives.
        said : tools.encoder_research.lesson_speech.Utterances
            What is said in its frames.

        Returns
        -------
        torch.Tensor
            (3,), a sum over them is the loss: cross-entropy of the sounds (nats a frame), each word told from others
            (InfoNCE, nats) and 1 - cosine to the word's embedding, times its weight.
        """
        sounds, heard, words = self._listen(hidden, said)
        others = torch.randint(len(self.words), (N_OTHERS,))
        contrast, distance = sentence_loss(
            heard, self.words[words], self.words[others], words.unsqueeze(1) != others, self.log_scale.exp()
        )
        spelt = torch.nn.functional.cross_entropy(sounds.flatten(0, 1), said.sounds.flatten(), ignore_index=-1)
        return torch.stack([spelt, contrast, DISTANCE_WEIGHT * distance])

    @torch.no_grad()
    def examine(self, hidden, said):
        """Count what is right: the most likely sound of a frame, the word that is nearest of all that may be said.

        Parameters
        ----------
        hidden, said
            As of `forward`.

        Returns
        -------
        tuple of float
            Share of the sounds, share of the words, in 0-1.
        """
        sounds, heard, words = self._listen(hidden, said)
        right = sounds.argmax(dim=-1)[said.sounds >= 0] == said.sounds[said.sounds >= 0]
        return right.double().mean().item(), ((heard @ self.words.T).argmax(dim=1) == words).double().mean().item()

    def _listen(self, hidden, said):
        """Logits of the sounds (B, T, sounds), embeddings of the words that are heard (W, E), and their ids (W,)."""
        frames, span = word_means(hidden[-1].float(), said.words)
        heard = torch.nn.functional.normalize(self.to_words(frames), dim=-1)
        return self.to_sounds(hidden[SOUND_LAYER].float()), heard, span


def word_means(frames, words):
    """Average frames over each word.

    Parameters
    ----------
    frames : torch.Tensor
        (B, T, D).
    words : torch.Tensor
        (B, T) int64, -1 where there is no word; neighbours that are equal are one word.

    Returns
    -------
    means : torch.Tensor
        (W, D), in their order.
    ids : torch.Tensor
        (W,).

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [3.0], [5.0], [7.0]]])
    >>> word_means(frames, torch.tensor([[8, 8, -1, 9]]))
    (tensor([[2.],
            [7.]]), tensor([8, 9]))
    """
    apart = torch.nn.functional.pad(words, (0, 1), value=-1).flatten()  # a clip's last word is not the next one's first
    ids, run, counts = apart.unique_consecutive(return_inverse=True, return_counts=True)
    padded = torch.nn.functional.pad(frames, (0, 0, 0, 1)).flatten(0, 1)
    sums = torch.zeros(len(ids), frames.shape[-1], dtype=frames.dtype).index_add(0, run, padded)
    return (sums / counts.unsqueeze(1))[ids >= 0], ids[ids >= 0]
