"""Speech encoders: HuBERT, wav2vec 2.0, WavLM, Whisper's encoder, and any of them with a listener on top.

The frames of an utterance do not depend on what it is batched with: padding is left out of the
waveform normalisation, of the group norm of base models and of the attention. (In `transformers`
and in SpeechBrain's own lobe it is not, for base models.)

What `transformers` has for one architecture alone takes long to import, and is imported where that one is made.
"""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint_tensors
from ser_ts_lobes.lobes.encoder import Encoder, load_pretrained, n_valid, read_model_config, run_masked, valid_mask
from ser_ts_lobes.lobes.listener import (
    Listener,
    describe_listener,
    is_listener,
    read_listener_config,
    read_listener_weights,
)
from ser_ts_lobes.lobes.reader import Reader

SAMPLE_RATE = 16000


def load_speech_encoder(
    source: str | Path | dict[str, Any], trainable_layers: int = 0, layers: str = "last", lora_rank: int = 0
) -> "SpeechEncoder | WhisperEncoder | ListenerEncoder":
    """Load a speech encoder of whatever architecture `source` is.

    Parameters
    ----------
    source
        Hub name (``facebook/hubert-base-ls960``, ``openai/whisper-small``, ...), local folder (of a listener, too), or
        `Encoder.configuration`.
    trainable_layers
        How many transformer layers, counted from the top, learn.
    layers
        ``last`` or ``weighted``, see `ser_ts_lobes.lobes.encoder.Encoder`.
    lora_rank
        0: they learn as they are. Above: adapters of this rank learn in their attention.

    Returns
    -------
    SpeechEncoder, WhisperEncoder or ListenerEncoder

    Raises
    ------
    InputError
        If it can't be had, has fewer layers, or is a listener that is to have adapters.

    Example
    -------
    >>> encoder = load_speech_encoder(getfixture("tiny_hubert"), trainable_layers=1)
    >>> frames, lens = encoder(torch.randn(2, 16000), torch.ones(2))
    >>> frames.shape == (2, 49, encoder.output_size)
    True
    """
    if is_listener(source):
        if lora_rank:
            raise InputError(
                f"lora_rank is {lora_rank}, but {source!r} is a listener, whose layers are few and its own: give "
                "--lora_rank 0, or another speech_source."
            )
        return ListenerEncoder(source, trainable_layers, layers)
    config = _read_speech_config(source, (*SpeechEncoder.architectures, *WhisperEncoder.architectures))
    encoder_class = WhisperEncoder if config.model_type in WhisperEncoder.architectures else SpeechEncoder
    return encoder_class(source, trainable_layers, layers, lora_rank, config)


def _read_speech_config(source, architectures):
    return read_model_config(
        source, architectures, "a speech encoder must be a hubert, wav2vec2, wavlm or whisper model"
    )


class SpeechEncoder(Encoder):
    """Frames of a pretrained HuBERT, wav2vec 2.0 or WavLM (paper, section 3.1): one each 20 ms.

    Fine-tuning trains the top transformer layers with their dropout; layer drop and the masking of
    pretraining are left out, since the paper mentions neither.

    Parameters
    ----------
    source
        Hub name or local folder, with its ``preprocessor_config.json`` (it says whether the model
        expects waveforms of zero mean and unit variance); or `Encoder.configuration`.
    trainable_layers
        How many transformer layers, counted from the top, learn (paper, section 4.2: 6).
    layers
        ``last``, the paper's, or ``weighted``, see `Encoder`.
    lora_rank, config
        As of `Encoder`; a configuration that has been read already is not read again.
    """

    #: Longest clip that can be encoded, in seconds.
    max_duration_s = math.inf
    #: What it can be, by the names that `transformers` has for it.
    architectures = ("hubert", "wav2vec2", "wavlm")

    def __init__(
        self,
        source: str | Path | dict[str, Any],
        trainable_layers: int = 0,
        layers: str = "last",
        lora_rank: int = 0,
        config: PreTrainedConfig | None = None,
    ) -> None:
        config = config or _read_speech_config(source, self.architectures)
        super().__init__(source, trainable_layers, layers, lora_rank, config)
        if getattr(self.model.config, "add_adapter", False):
            raise InputError(f"{source!r} has an adapter on top, which is not supported.")
        if isinstance(source, dict):
            self.normalize = bool(source["feature_extractor"]["do_normalize"])
        else:
            self.normalize = load_pretrained(AutoFeatureExtractor, source).do_normalize

    def configuration(self) -> dict[str, Any]:
        """All but the weights; see `Encoder.configuration`."""
        return {**super().configuration(), "feature_extractor": {"do_normalize": self.normalize}}

    def _frozen_settings(self):
        return {"normalize": self.normalize}

    def _embed(self, inputs, lens):
        n_samples = n_valid(lens, inputs.shape[1])
        mask = valid_mask(lens, inputs.shape[1])
        if self.normalize:
            inputs = _standardise(inputs, mask, n_samples)
        hidden, n_frames = self._convolve(inputs * mask, n_samples)
        hidden = self.model.feature_projection(hidden.transpose(1, 2))
        # wav2vec 2.0 and WavLM also return the frames before the projection, for their pretraining.
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        frame_lens = n_frames / hidden.shape[1]
        # The positional convolution looks 64 frames ahead: it must see zeros there.
        hidden = hidden * valid_mask(frame_lens, hidden.shape[1]).unsqueeze(-1)
        hidden = hidden + self.model.encoder.pos_conv_embed(hidden)
        if not self.model.config.do_stable_layer_norm:
            hidden = self.model.encoder.layer_norm(hidden)
        return hidden, frame_lens

    def _convolve(self, wavs, n_samples):
        """Convolutional front end: (B, N) -> (B, C, T) and the number of valid frames (B,)."""
        layers = self.model.feature_extractor.conv_layers
        shortest = 1  # samples that give one frame
        for layer in reversed(layers):
            shortest = (shortest - 1) * layer.conv.stride[0] + layer.conv.kernel_size[0]
        wavs = torch.nn.functional.pad(wavs, (0, torch.sym_max(0, shortest - wavs.shape[1])))
        n_valid_frames = n_samples.clamp(min=shortest)
        hidden = wavs.unsqueeze(1)
        for layer in layers:
            kernel_size, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            n_valid_frames = (n_valid_frames - kernel_size) // stride + 1
            if isinstance(getattr(layer, "layer_norm", None), torch.nn.GroupNorm):
                hidden = layer.activation(_group_norm(layer.layer_norm, layer.conv(hidden), n_valid_frames))
            else:
                hidden = layer(hidden)
        return hidden, n_valid_frames

    def _run_layers(self, hidden, lens, layers):
        if self.model.config.model_type != "wavlm":
            return run_masked(layers, self.model.config, hidden, lens)
        mask, bias = valid_mask(lens, hidden.shape[1]), self._wavlm_position_bias(hidden)
        for layer in layers:
            hidden, _ = layer(hidden, mask, position_bias=bias)
        return hidden

    def _wavlm_position_bias(self, hidden):
        """Relative position bias, which WavLM's first layer owns and all layers share."""
        attention: Any = self.layers[0].attention
        bias = attention.compute_bias(hidden.shape[1], hidden.shape[1])
        return bias.unsqueeze(0).expand(hidden.shape[0], -1, -1, -1).flatten(0, 1)

    def _finish(self, hidden):
        return self.model.encoder.layer_norm(hidden) if self.model.config.do_stable_layer_norm else hidden


class WhisperEncoder(Encoder):
    """Frames of Whisper's encoder: one each 20 ms, for the utterance's own length.

    Whisper was trained on 30 s windows, padded with silence. Here an utterance is encoded at its own
    length, with padding left out of convolutions and attention: for a clip that fills the window this
    is the original's output; for a short one it costs a fraction of the window and serves emotion as well.

    Parameters
    ----------
    source
        Hub name (``openai/whisper-small``), local folder, or `Encoder.configuration`.
    trainable_layers
        How many transformer layers, counted from the top, learn.
    layers
        ``last`` or ``weighted``, see `Encoder`.
    lora_rank, config
        As of `Encoder`; a configuration that has been read already is not read again.
    """

    mel_filters: torch.Tensor
    window: torch.Tensor
    #: What it can be, by the names that `transformers` has for it.
    architectures = ("whisper",)

    def __init__(
        self,
        source: str | Path | dict[str, Any],
        trainable_layers: int = 0,
        layers: str = "last",
        lora_rank: int = 0,
        config: PreTrainedConfig | None = None,
    ) -> None:
        config = config or _read_speech_config(source, self.architectures)
        super().__init__(source, trainable_layers, layers, lora_rank, config)
        features = (
            source["feature_extractor"]
            if isinstance(source, dict)
            else load_pretrained(AutoFeatureExtractor, source).to_dict()
        )
        self.n_mels, self.n_fft, self.hop_length = (features[name] for name in ("feature_size", "n_fft", "hop_length"))
        self.filters_rate = features.get("sampling_rate", SAMPLE_RATE)
        for name, value in self.make_filters().items():
            self.register_buffer(name, value, False)

    def make_filters(self) -> dict[str, torch.Tensor]:
        """Make what is no weight: it follows from the sizes, and is saved nowhere.

        Returns
        -------
        dict[str, torch.Tensor]
            ``mel_filters`` (mels, frequencies) and ``window`` (n_fft,); on the CPU, also where the rest is made on the
            meta device and gets its weights from a file.
        """
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(
            self.n_mels, sampling_rate=self.filters_rate, hop_length=self.hop_length, n_fft=self.n_fft
        )
        return {
            "mel_filters": torch.tensor(extractor.mel_filters.T, dtype=torch.float32, device="cpu"),
            "window": torch.hann_window(self.n_fft, device="cpu"),
        }

    def _load(self, source, config):
        from transformers import WhisperModel
        from transformers.models.whisper import modeling_whisper

        if isinstance(source, dict):
            return modeling_whisper.WhisperEncoder(config)
        return load_pretrained(WhisperModel, source, config=config, dtype=torch.float32).encoder

    def configuration(self) -> dict[str, Any]:
        """All but the weights; see `Encoder.configuration`."""
        return {
            **super().configuration(),
            "feature_extractor": {
                "feature_size": self.n_mels,
                "n_fft": self.n_fft,
                "hop_length": self.hop_length,
            },
        }

    def _frozen_settings(self):
        # The window follows from n_fft. Its own bits would differ from one processor to the next.
        return {
            "mel_filters": fingerprint_tensors({"mel_filters": self.mel_filters}),
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
        }

    @property
    def max_duration_s(self) -> float:
        """Longest clip that can be encoded, in seconds."""
        return self.model.config.max_source_positions * 2 * self.hop_length / SAMPLE_RATE

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The transformer layers, bottom first."""
        return self.model.layers

    def _embed(self, inputs, lens):
        mask = valid_mask(lens, inputs.shape[1])
        n_frames, longest = (
            (n_samples - 1) // (2 * self.hop_length) + 1
            for n_samples in (n_valid(lens, inputs.shape[1]), inputs.shape[1])
        )
        if longest > self.model.config.max_source_positions:
            raise InputError(
                f"Whisper hears at most {self.max_duration_s:g} s, and a clip of {longest / 50:.1f} s was given: cut "
                "it first, or use a HuBERT, wav2vec 2.0 or WavLM encoder."
            )
        mel_mask = valid_mask(n_frames / longest, longest).repeat_interleave(2, dim=1).unsqueeze(1)
        hidden = self._log_mel(inputs * mask, mel_mask) * mel_mask
        hidden = torch.nn.functional.gelu(self.model.conv1(hidden)) * mel_mask
        hidden = torch.nn.functional.gelu(self.model.conv2(hidden)).transpose(1, 2)
        return hidden + self.model.embed_positions.weight[:longest], n_frames / longest

    def _log_mel(self, wavs, mel_mask):
        """Whisper's log-mel spectrogram: (B, N) -> (B, mels, 2 T); as its own feature extractor's."""
        n_mel_frames = mel_mask.shape[-1]
        # Silence behind the end, as in the original's 30 s window, so that no frame is mirrored there.
        wavs = torch.nn.functional.pad(wavs, (0, n_mel_frames * self.hop_length + self.n_fft - wavs.shape[1]))
        stft = torch.stft(wavs, self.n_fft, self.hop_length, window=self.window, return_complex=True)
        mel = self.mel_filters @ stft[..., :n_mel_frames].abs().square()
        log_mel = mel.clamp(min=1e-10).log10()
        loudest = log_mel.masked_fill(~mel_mask, -torch.inf).amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log_mel, loudest - 8) + 4) / 4

    def _run_layers(self, hidden, lens, layers):
        return run_masked(layers, self.model.config, hidden, lens)

    def _finish(self, hidden):
        return self.model.layer_norm(hidden)


class ListenerEncoder(Encoder):
    """A speech encoder with a listener on top, as one encoder.

    Its frames are those of the listener, of what is said, and behind them those of the speech encoder, of how it is
    said, at the listener's rate, from below those of its layers that have learnt words, which forget the voice. Where
    it reads, too, the vectors of the words that it has heard come last. The transformer layers that may learn are the
    listener's own; what is below them stays as it is.

    Parameters
    ----------
    source
        A folder that `save_listener` wrote, or `Encoder.configuration`.
    trainable_layers
        How many of the listener's layers, counted from the top, learn; of one that reads only the last may, for words
        are told below it.
    layers
        Where how it is said is taken from: ``last``, the uppermost of the speech encoder's layers that have not learnt
        words, or ``weighted``, a mix of all these and what goes into the first.

    Example
    -------
    >>> from ser_ts_lobes.lobes.listener import save_listener
    >>> speech = load_speech_encoder(getfixture("tiny_hubert"))
    >>> folder = getfixture("tmp_path") / "listener"
    >>> save_listener(folder, speech, Listener(speech.output_size, hidden_size=16, num_heads=2))
    >>> frames, lens = load_speech_encoder(folder)(torch.randn(2, 16000), torch.ones(2))
    >>> frames.shape
    torch.Size([2, 13, 48])
    """

    mixes_own_layers = False

    def _load(self, source, config):
        config = source if isinstance(source, dict) else read_listener_config(source)
        sizes = {name: value for name, value in config["model"].items() if name != "model_type"}
        model: Any = torch.nn.Module()
        # Of listeners of before, which don't say so, none.
        model.speech = load_speech_encoder(config["speech"], config.get("learnt_layers", 0))
        model.listener = Listener(**sizes)
        model.reader = Reader(**config["reader"]) if "reader" in config else None
        parts = [model.listener, model.speech, *([model.reader] if model.reader else [])]
        model.config = PreTrainedConfig(hidden_size=sum(part.output_size for part in parts))
        if not isinstance(source, dict):
            read_listener_weights(model, source)
        return model

    def configuration(self) -> dict[str, Any]:
        """All but the weights; see `Encoder.configuration`."""
        return describe_listener(self.model.speech, self.model.listener, self.model.reader) | self._mixing()

    @property
    def max_duration_s(self) -> float:
        """Longest clip that can be encoded, in seconds."""
        longest: float = self.model.speech.max_duration_s
        return longest

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The listener's own transformer layers, bottom first; of one that reads the last, for words are told below."""
        layers: torch.nn.ModuleList = self.model.listener.layers
        return layers if self.model.reader is None else layers[-1:]

    def _frozen_settings(self):
        reader = {} if self.model.reader is None else {"reader": self.model.reader.sizes}
        return {"listener": self.model.listener.sizes, "speech": self.model.speech.frozen_fingerprint(), **reader}

    def _embed(self, inputs, lens):
        listener, reader = self.model.listener, self.model.reader
        states, lens = self.model.speech.hidden_states(inputs, lens)
        untaught = states[: self._n_mixed()]
        how = listener.thin_out(untaught[-1] if self.mix is None else torch.cat(untaught, dim=-1), lens)
        what, lens = listener.enter(states[-1], lens)
        if reader is None:
            return torch.cat([what, how], dim=-1), lens
        inner = listener.run(what, lens, listener.layers[:-1])
        return torch.cat([inner, how, reader(listener.inner_norm(inner), lens)], dim=-1), lens

    def _n_mixed(self):
        return self.model.speech.n_frozen + 1

    def trainable_forward(self, hidden: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """As `Encoder.trainable_forward`; how it is said is mixed, if it is to be."""
        frames = super().trainable_forward(hidden, lens)
        if self.mix is None:
            return frames
        what, rest = self._split(frames)
        how, words = rest.tensor_split([self._n_mixed() * self.model.speech.output_size], dim=-1)
        return torch.cat([what, self.mix(how.unflatten(-1, (self._n_mixed(), -1))), words], dim=-1)

    def _run_layers(self, hidden, lens, layers):
        what, rest = self._split(hidden)
        return torch.cat([self.model.listener.run(what, lens, layers), rest], dim=-1)

    def _finish(self, hidden):
        what, rest = self._split(hidden)
        return torch.cat([self.model.listener.norm(what), rest], dim=-1)

    def _split(self, hidden):
        """Split frames into the listener's, and what goes beside them as it is."""
        n_heard = self.model.listener.output_size
        return hidden[..., :n_heard], hidden[..., n_heard:]


def _standardise(wavs, mask, n_samples):
    """Zero mean and unit variance over the valid samples, as transformers' feature extractor."""
    n_samples = n_samples.unsqueeze(1)
    mean = (wavs * mask).sum(1, keepdim=True) / n_samples
    wavs = wavs - mean
    variance = (wavs * mask).square().sum(1, keepdim=True) / n_samples
    return wavs / torch.sqrt(variance + 1e-7)


def _group_norm(norm, hidden, n_frames):
    """Apply a group norm of one channel a group over the valid frames alone: (B, C, T), changed in place.

    Sums under a mask, not a call an utterance: it waits for no length on a GPU and can be traced. In place, for
    this is the largest tensor of the encoder.
    """
    n_frames = n_frames[:, None, None]
    mask = (torch.arange(hidden.shape[2], device=hidden.device) < n_frames).to(hidden.dtype)
    hidden -= hidden @ mask.transpose(1, 2) / n_frames
    hidden *= mask
    variance = torch.linalg.vector_norm(hidden, dim=2, keepdim=True).square() / n_frames
    hidden *= norm.weight[:, None] * torch.rsqrt(variance + norm.eps)
    hidden += norm.bias[:, None]
    return hidden
