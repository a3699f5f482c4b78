"""Networks of the published systems that the paper compares with: chunk-level attention, speech and text LSTMs."""

import torch

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.emotion import EmotionOutput
from ser_ts_lobes.lobes.encoder import n_valid


def split_chunks(frames: torch.Tensor, lens: torch.Tensor, n_chunks: int = 11, chunk_size: int = 62) -> torch.Tensor:
    """Cut each utterance into the same number of chunks of the same size, which overlap as much as they must.

    They begin every floor((T - chunk_size) / (n_chunks - 1)) frames (Lin and Busso 2020). An utterance
    shorter than a chunk, which their code does not take, is filled with zeros, and all its chunks are the same.

    Parameters
    ----------
    frames
        (B, T, D), zero beyond the valid frames.
    lens
        (B,), relative lengths.
    n_chunks
        Chunks an utterance.
    chunk_size
        Frames a chunk.

    Returns
    -------
    torch.Tensor
        (B, n_chunks, chunk_size, D).

    Example
    -------
    >>> chunks = split_chunks(torch.arange(8.0).reshape(1, 8, 1), torch.ones(1), n_chunks=3, chunk_size=4)
    >>> chunks.squeeze(-1)
    tensor([[[0., 1., 2., 3.],
             [2., 3., 4., 5.],
             [4., 5., 6., 7.]]])
    """
    step = (n_valid(lens, frames.shape[1]) - chunk_size).clamp(min=0) // (n_chunks - 1)
    frames = torch.nn.functional.pad(frames, (0, 0, 0, max(0, chunk_size - frames.shape[1])))
    begin = step[:, None] * torch.arange(n_chunks, device=frames.device)
    index = begin[:, :, None] + torch.arange(chunk_size, device=frames.device)
    return frames[torch.arange(len(frames), device=frames.device)[:, None, None], index]


class MeanAggregation(torch.nn.Module):
    """Mean of an utterance's chunks, (B, C, D) -> (B, D)."""

    def __init__(self, size: int) -> None:
        super().__init__()

    def forward(self, chunks: torch.Tensor) -> torch.Tensor:
        """Aggregate."""
        return chunks.mean(1)


class GateAggregation(torch.nn.Module):
    """Mean of chunks that a gate has weighted, each by itself, (B, C, D) -> (B, D).

    Parameters
    ----------
    size
        D, size of a chunk's vector and of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(size, 1)

    def forward(self, chunks: torch.Tensor) -> torch.Tensor:
        """Aggregate."""
        return (chunks * self.gate(chunks).sigmoid()).mean(1)


class RNNAttention(torch.nn.Module):
    """Attention of the last state of a recurrent layer to all its states, (B, C, D) -> (B, D).

    Parameters
    ----------
    size
        D, size of a chunk's vector and of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rnn = torch.nn.RNN(size, size, batch_first=True)
        self.score = torch.nn.Linear(size, size, bias=False)
        self.output = torch.nn.Linear(2 * size, size, bias=False)

    def forward(self, chunks: torch.Tensor) -> torch.Tensor:
        """Aggregate."""
        states, _ = self.rnn(chunks)
        last = states[:, -1]
        weights = (self.score(states) @ last.unsqueeze(-1)).softmax(1)
        context = (weights * states).sum(1)
        return self.output(torch.cat([context, last], -1)).tanh()


class SelfAttention(torch.nn.Module):
    """Mean of chunks to which multi-head self-attention was added, (B, C, D) -> (B, D).

    Parameters
    ----------
    size
        D, size of a chunk's vector and of the result.
    n_heads, head_size
        Attention heads, and the size of each (3 and 50 in Lin and Busso's code).
    """

    def __init__(self, size: int, n_heads: int = 3, head_size: int = 50) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_key_value = torch.nn.Linear(size, 3 * n_heads * head_size, bias=False)
        self.merge = torch.nn.Linear(n_heads * head_size, size)
        self.norm = torch.nn.LayerNorm(size, eps=1e-6)

    def forward(self, chunks: torch.Tensor) -> torch.Tensor:
        """Aggregate."""
        query, key, value = self.query_key_value(chunks).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        heads = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        merged = self.merge(heads.transpose(1, 2).flatten(2)).relu()
        return self.norm(chunks + merged).mean(1)


_AGGREGATIONS = {"mean": MeanAggregation, "gate": GateAggregation, "rnn": RNNAttention, "self": SelfAttention}


class ChunkNetwork(torch.nn.Module):
    """One emotion dimension from chunks (Lin and Busso 2020).

    Two LSTM layers read each chunk; their last states are normalised over all chunks of the batch, aggregated, and
    pass two linear layers. Dropout leaves out the same inputs of a layer in all frames of a chunk, as Keras does (which
    draws them for each gate anew).

    Parameters
    ----------
    size
        Size of a frame and of all layers.
    aggregation
        ``mean``, ``gate``, ``rnn`` or ``self``.
    dropout
        Share of the LSTM layers' inputs that is left out, in 0-1.
    """

    def __init__(self, size: int, aggregation: str, dropout: float) -> None:
        super().__init__()
        self.lstms = torch.nn.ModuleList(torch.nn.LSTM(size, size, batch_first=True) for _ in range(2))
        self.dropout = torch.nn.Dropout1d(dropout)
        self.norm = torch.nn.BatchNorm1d(size, eps=1e-3, momentum=0.01)  # Keras' defaults
        self.aggregation = _AGGREGATIONS[aggregation](size)
        self.hidden = torch.nn.Linear(size, size)
        self.output = torch.nn.Linear(size, 1)

    def forward(self, chunks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict.

        Parameters
        ----------
        chunks
            (B, C, M, size).

        Returns
        -------
        hidden : torch.Tensor
            (B, size), from which the output layer predicts.
        prediction : torch.Tensor
            (B, 1).
        """
        frames = chunks.flatten(0, 1)
        for lstm in self.lstms:
            frames, _ = lstm(self.dropout(frames.transpose(1, 2)).transpose(1, 2))
        encoded = self.norm(frames[:, -1]).unflatten(0, chunks.shape[:2])
        hidden = self.hidden(self.aggregation(encoded)).relu()
        return hidden, self.output(hidden)


class ChunkAttention(torch.nn.Module):
    """Chunk-level attention over low-level descriptors (Lin and Busso, Interspeech 2020), one network a dimension.

    The original trains a model for each dimension. Here three networks that share nothing are trained on the sum of
    their losses: with Adam, to which a loss's scale makes no difference, each of them is trained as it would be alone.
    Only the epoch that is kept is one for all three.

    Parameters
    ----------
    input_size
        Size of a frame, and of all layers (Lin and Busso 2020: 130).
    n_chunks
        Chunks an utterance, whatever its duration (Lin and Busso 2020: 11).
    chunk_size
        Frames a chunk (Lin and Busso 2020: 62).
    aggregation
        How chunks become an utterance: ``mean``, ``gate``, ``rnn`` or ``self``.
    dropout
        Share of the LSTM layers' inputs that is left out, in 0-1 (Lin and Busso's code: 0.5).

    Example
    -------
    >>> model = ChunkAttention(input_size=8, n_chunks=3, chunk_size=4)
    >>> output = model(torch.randn(2, 20, 8), torch.tensor([1.0, 0.2]))
    >>> output.embedding.shape, output.prediction.shape
    (torch.Size([2, 24]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        input_size: int = 130,
        n_chunks: int = 11,
        chunk_size: int = 62,
        aggregation: str = "rnn",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if aggregation not in _AGGREGATIONS:
            raise InputError(f"aggregation is {aggregation!r}; choose one of {', '.join(_AGGREGATIONS)}.")
        self.n_chunks = n_chunks
        self.chunk_size = chunk_size
        self.embedding_size = len(DIMENSIONS) * input_size
        self.networks = torch.nn.ModuleList(ChunkNetwork(input_size, aggregation, dropout) for _ in DIMENSIONS)

    def forward(self, frames: torch.Tensor, frame_lens: torch.Tensor) -> EmotionOutput:
        """Embed and predict.

        Parameters
        ----------
        frames
            (B, T, input_size), zero beyond the valid frames.
        frame_lens
            (B,), relative lengths.

        Returns
        -------
        ser_ts_lobes.lobes.emotion.EmotionOutput
            The embedding is what the three output layers read, (B, 3 * input_size).
        """
        chunks = split_chunks(frames, frame_lens, self.n_chunks, self.chunk_size)
        hidden, predictions = zip(*(network(chunks) for network in self.networks), strict=True)
        return EmotionOutput(torch.cat(hidden, -1), torch.cat(predictions, -1))


class SpeechTextLSTM(torch.nn.Module):
    """LSTMs over speech statistics and over words, joined (Atmaja and Akagi 2020, section 4).

    The words' last state is taken at the last word, and nothing is read before the first; the original pads all
    transcripts to one length in front. Weights begin as PyTorch's layers do, not as Keras'.

    Parameters
    ----------
    speech_size
        Statistics an utterance (Atmaja and Akagi 2020: 68).
    word_size
        Size of a word vector (Atmaja and Akagi 2020: 300).
    lstm_size
        Size of the three layers for either input (Atmaja and Akagi 2020: 256).
    speech_dropout, text_dropout, joint_dropout
        Dropout, in 0-1, behind the two LSTMs and before the output layer (Atmaja and Akagi 2020: 0.1, 0.4, 0.4).

    Example
    -------
    >>> model = SpeechTextLSTM()
    >>> output = model(torch.randn(4, 1, 68), torch.ones(4), torch.randn(4, 9, 300), torch.ones(4))
    >>> output.embedding.shape, output.prediction.shape
    (torch.Size([4, 32]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        speech_size: int = 68,
        word_size: int = 300,
        lstm_size: int = 256,
        speech_dropout: float = 0.1,
        text_dropout: float = 0.4,
        joint_dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(speech_size, eps=1e-3, momentum=0.01)  # Keras' defaults
        self.speech_lstm = torch.nn.LSTM(speech_size, lstm_size, num_layers=3, batch_first=True)
        self.speech_dropout = torch.nn.Dropout(speech_dropout)
        self.text_lstm = torch.nn.LSTM(word_size, lstm_size, num_layers=3, batch_first=True)
        self.text_projection = torch.nn.Linear(lstm_size, 64)
        self.text_dropout = torch.nn.Dropout(text_dropout)
        self.joint = torch.nn.Sequential(
            torch.nn.Linear(lstm_size + 64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU()
        )
        self.joint_dropout = torch.nn.Dropout(joint_dropout)
        self.embedding_size = 32
        self.output = torch.nn.Linear(self.embedding_size, len(DIMENSIONS))

    def forward(
        self, frames: torch.Tensor, frame_lens: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor
    ) -> EmotionOutput:
        """Embed and predict.

        Parameters
        ----------
        frames
            (B, 1, speech_size).
        frame_lens
            (B,), all 1.
        tokens
            (B, U, word_size).
        token_lens
            (B,), relative lengths of `tokens`.

        Returns
        -------
        ser_ts_lobes.lobes.emotion.EmotionOutput
            The embedding is what the output layer reads, (B, 32).
        """
        speech, _ = self.speech_lstm(self.norm(frames.squeeze(1)).unsqueeze(1))
        text, _ = self.text_lstm(tokens)
        last = n_valid(token_lens, tokens.shape[1]) - 1
        text = self.text_projection(text[torch.arange(len(text), device=text.device), last])
        embedding = self.joint(torch.cat([self.speech_dropout(speech.squeeze(1)), self.text_dropout(text)], -1))
        return EmotionOutput(embedding, self.output(self.joint_dropout(embedding)))
