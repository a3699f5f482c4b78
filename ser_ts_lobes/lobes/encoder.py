"""What speech and text encoders have in common: a frozen part, a trainable part, a checkpoint."""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging as transformers_logging

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint, fingerprint_tensors
from ser_ts_lobes.lobes.adapters import add_adapters, merge_adapters


def load_pretrained(auto_class: type[Any], source: str | Path, **kwargs: Any) -> Any:
    """Load with a `transformers` auto class; a source that can't be had is an `InputError`.

    Parameters
    ----------
    auto_class
        `AutoModel`, `AutoConfig`, `AutoTokenizer`, ...
    source
        Hub name (``facebook/hubert-base-ls960``) or local folder.
    **kwargs
        Passed to ``from_pretrained``.

    Returns
    -------
    object
        What ``auto_class.from_pretrained`` returns.
    """
    transformers_logging.disable_progress_bar()  # it would cover the recipe's own
    try:
        return auto_class.from_pretrained(source, **kwargs)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"Can't load {auto_class.__name__} from {source!r}: it must be a folder in transformers' format, or "
            f"a Hugging Face Hub name that this machine can reach or has in its cache ({reason})."
        ) from error


def n_valid(lens: torch.Tensor, size: int) -> torch.Tensor:
    """Turn SpeechBrain's relative lengths into whole numbers.

    Parameters
    ----------
    lens
        (B,), in 0-1.
    size
        Size of the padded dimension.

    Returns
    -------
    torch.Tensor
        (B,), int64, in 1-size.

    Example
    -------
    >>> n_valid(torch.tensor([1.0, 0.5]), 7)
    tensor([7, 4])
    """
    return (lens * size).round().long().clamp(1, size)


def valid_mask(lens: torch.Tensor, size: int) -> torch.Tensor:
    """Mask of the valid positions of a padded batch.

    Parameters
    ----------
    lens
        (B,), relative lengths.
    size
        Size of the padded dimension.

    Returns
    -------
    torch.Tensor
        (B, size), bool, True where valid.

    Example
    -------
    >>> valid_mask(torch.tensor([1.0, 0.5]), 2)
    tensor([[ True,  True],
            [ True, False]])
    """
    return torch.arange(size, device=lens.device) < n_valid(lens, size).unsqueeze(1)


def run_masked(
    layers: Iterable[Any], config: PreTrainedConfig, hidden: torch.Tensor, lens: torch.Tensor
) -> torch.Tensor:
    """Run transformer layers, none of which attends to padding.

    Parameters
    ----------
    layers
        Layers of a `transformers` model that take hidden states and a mask.
    config
        The model's.
    hidden
        (B, T, D).
    lens
        (B,), relative lengths.

    Returns
    -------
    torch.Tensor
        (B, T, D).
    """
    mask = create_bidirectional_mask(config, hidden, valid_mask(lens, hidden.shape[1]))
    for layer in layers:
        hidden = layer(hidden, mask)
    return hidden


class LayerMix(torch.nn.Module):
    """A learnt mean of what comes out of each layer, as SUPERB and ELMo have it (Yang et al. 2021; Peters et al. 2018).

    Each frame is brought to zero mean and unit variance first: what comes out of an upper layer may be a hundred times
    what goes into the first. All layers weigh the same at the beginning.

    Parameters
    ----------
    n_states
        Layers, and one for what goes into the first.

    Example
    -------
    >>> LayerMix(3)(torch.randn(2, 49, 3, 16)).shape
    torch.Size([2, 49, 16])
    """

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(n_states))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Mix: (B, T, n_states, D) -> (B, T, D)."""
        states = torch.nn.functional.layer_norm(states, states.shape[-1:])
        return torch.einsum("btnd,n->btd", states, self.logits.softmax(dim=0).to(states.dtype))


@register_checkpoint_hooks
class Encoder(torch.nn.Module):
    """A pretrained transformer of which only the top layers may learn.

    Everything below the trainable layers is frozen for good: no gradient, no dropout, whatever mode
    the module is in. So what `frozen_forward` computes for an utterance never changes and can be kept
    on disk (`ser_ts_lobes.training.features`), and `forward` takes either the input or what was kept.

    A subclass gives `layers`, `_embed` and `_run_layers`, and in `_frozen_settings` whatever else these read.

    Parameters
    ----------
    source
        Hub name or local folder in transformers' format; or what `configuration` gave, for an encoder whose
        weights are loaded later.
    trainable_layers
        How many transformer layers, counted from the top, learn (0: none).
    layers
        What is given of them: ``last``, what comes out of the last one, or ``weighted``, a `LayerMix` of all, whose
        weights learn. A `configuration` says it itself.
    lora_rank
        0: they learn as they are. Above: they stay as they are, and adapters of this rank learn in their attention
        (`ser_ts_lobes.lobes.adapters`).
    config
        From `read_model_config`, of an encoder that is a model of `transformers`.
    """

    #: Whether the frozen part is computed on the CPU, utterance by utterance, wherever the inputs are.
    always_on_cpu = False
    #: Whether the frozen part computes anything that is worth keeping.
    computes_frozen = True
    #: Whether layers that are mixed are its own, not those of an encoder within it.
    mixes_own_layers = True

    def __init__(
        self,
        source: str | Path | dict[str, Any],
        trainable_layers: int = 0,
        layers: str = "last",
        lora_rank: int = 0,
        config: PreTrainedConfig | None = None,
    ) -> None:
        super().__init__()
        if isinstance(source, dict):
            layers = source.get("layers", "last")
        if layers not in ("last", "weighted"):
            raise InputError(f"layers is {layers!r}; choose last or weighted.")
        self.source = source
        if config is not None:  # before weights are fetched
            _refuse_more_layers(trainable_layers, config.num_hidden_layers, source)
        self.model = self._load(source, config)
        n_layers = len(self.layers)
        _refuse_more_layers(trainable_layers, n_layers, source)
        self.n_frozen = n_layers - trainable_layers
        self.output_size = self.model.config.hidden_size
        self.model.requires_grad_(False)
        self.has_adapters = lora_rank > 0
        if self.has_adapters:
            add_adapters(self.layers[self.n_frozen :], lora_rank)
        else:
            self.layers[self.n_frozen :].requires_grad_(True)
        self.mix = LayerMix(self._n_mixed()) if layers == "weighted" else None
        self._frozen_weights: str | None = None

    def _load(self, source: Any, config: PreTrainedConfig | None) -> Any:
        if isinstance(source, dict):
            return AutoModel.from_config(config, trust_remote_code=False)
        return load_pretrained(AutoModel, source, config=config, dtype=torch.float32)

    def configuration(self) -> dict[str, Any]:
        """All but the weights: what an encoder of this architecture is made from, without a download.

        Returns
        -------
        dict
            For JSON: ``model``, the configuration of the `transformers` model, and ``layers`` where they are not the
            last.
        """
        config = self.model.config
        values = {name: getattr(config, name) for name in _parameters(type(config))}
        return {"model": {"model_type": config.model_type, **values}, **self._mixing()}

    def _mixing(self) -> dict[str, Any]:
        """Say that layers are mixed; of an encoder that gives the last, nothing, as before there was a choice."""
        return {} if self.mix is None else {"layers": "weighted"}

    def _n_mixed(self) -> int:
        """How many states `mix` is of: each layer's, and what goes into the first."""
        return len(self.layers) + 1

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The transformer layers, bottom first."""
        return self.model.encoder.layers

    def _embed(self, inputs: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All that comes before the transformer layers: (B, N) -> (B, T, D) and relative lengths (B,)."""
        raise NotImplementedError

    def _run_layers(self, hidden: torch.Tensor, lens: torch.Tensor, layers: torch.nn.ModuleList) -> torch.Tensor:
        """Run some transformer layers: (B, T, D) -> (B, T, D)."""
        raise NotImplementedError

    def _finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply what comes after the last layer."""
        return hidden

    def hidden_states(self, inputs: torch.Tensor, lens: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Give what goes into the first transformer layer and what comes out of each, the last of them finished.

        Parameters
        ----------
        inputs, lens
            As of `frozen_forward`.

        Returns
        -------
        states : list of torch.Tensor
            One more than there are layers, each (B, T, D); what is beyond the valid positions does not count.
        state_lens : torch.Tensor
            (B,), relative lengths of all.
        """
        hidden, lens = self._embed(inputs, lens)
        states = [hidden, *self._climb(hidden, lens, self.layers)]
        return [*states[:-1], self._finish(states[-1])], lens

    def _climb(self, hidden: torch.Tensor, lens: torch.Tensor, layers: torch.nn.ModuleList) -> list[torch.Tensor]:
        """Give what comes out of each of some transformer layers."""
        states = []
        for number in range(len(layers)):
            hidden = self._run_layers(hidden, lens, layers[number : number + 1])
            states.append(hidden)
        return states

    @torch.no_grad()
    def frozen_forward(self, inputs: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From the input up to the first trainable layer, all utterances at once.

        `ser_ts_lobes.lobes.parallel.compute_frozen` does the same faster on a CPU.

        Parameters
        ----------
        inputs
            (B, N): 16 kHz waveforms in -1..1, or token ids.
        lens
            (B,), relative lengths.

        Returns
        -------
        hidden : torch.Tensor
            (B, T, output_size), zero beyond the valid positions; of layers that are mixed what goes into the first and
            what comes out of each frozen one, side by side.
        hidden_lens : torch.Tensor
            (B,), relative lengths of `hidden`.
        """
        hidden, lens = self._embed(inputs, lens)
        frozen = self.layers[: self.n_frozen]
        if self.mix is not None and self.mixes_own_layers:
            hidden = torch.cat([hidden, *self._climb(hidden, lens, frozen)], dim=-1)
        else:
            hidden = self._run_layers(hidden, lens, frozen)
            if self.n_frozen == len(self.layers):
                hidden = self._finish(hidden)
        return hidden * valid_mask(lens, hidden.shape[1]).unsqueeze(-1), lens

    def trainable_forward(self, hidden: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """From the first trainable layer to the top; with none, `hidden` as it is, or its layers mixed.

        Parameters
        ----------
        hidden
            (B, T, D), from `frozen_forward`.
        lens
            (B,), relative lengths of `hidden`.

        Returns
        -------
        torch.Tensor
            (B, T, output_size).
        """
        learning = self.layers[self.n_frozen :]
        if self.mix is not None and self.mixes_own_layers:
            states = list(hidden.unflatten(-1, (self.n_frozen + 1, -1)).unbind(dim=-2))
            states += self._climb(states[-1], lens, learning)
            return self.mix(torch.stack([*states[:-1], self._finish(states[-1])], dim=-2))
        return self._finish(self._run_layers(hidden, lens, learning)) if learning else hidden

    def forward(self, inputs: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode: both parts for an input, the trainable part alone for kept frozen features.

        It is one method for both because only `forward` synchronises gradients under
        `torch.nn.parallel.DistributedDataParallel`.

        Parameters
        ----------
        inputs
            (B, N) waveforms or token ids, or (B, T, D) from `frozen_forward`.
        lens
            (B,), relative lengths of `inputs`.

        Returns
        -------
        frames : torch.Tensor
            (B, T, output_size).
        frame_lens : torch.Tensor
            (B,), relative lengths of `frames`.
        """
        if inputs.dim() == 2:
            inputs, lens = self.frozen_forward(inputs, lens)
        return self.trainable_forward(inputs, lens), lens

    def fit(self, training_set: Iterable[Any]) -> None:
        """Take what an encoder needs to know of the training set before it is used; here nothing.

        Parameters
        ----------
        training_set
            For an encoder that reads, the transcripts, each a str; for one that hears, what `frozen_forward` gives,
            in batches.
        """

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode of the trainable layers; the frozen part stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        self.layers[self.n_frozen :].train(mode)
        return self

    def frozen_fingerprint(self) -> str:
        """Fingerprint of all that determines what `frozen_forward` gives for an utterance, and of what adapters add to.

        That is the weights, the configuration and `_frozen_settings`; how the input is made of the utterance
        (`tokenize`) counts too. The kernels that compute the same do not, such as those of the attention.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        if self._frozen_weights is None:  # alone of all this they take long
            trainable = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
            weights = {k: v for k, v in self.model.state_dict().items() if k not in trainable}
            self._frozen_weights = fingerprint_tensors(weights)
        config = {k: v for k, v in self.model.config.to_diff_dict().items() if not k.startswith("_")}
        for key in ("transformers_version", "dtype", "architectures"):
            config.pop(key, None)
        return fingerprint(
            encoder=type(self).__name__,
            weights=self._frozen_weights,
            config=config,
            n_frozen=self.n_frozen,
            settings=self._frozen_settings() | self._mixing(),
        )

    def _frozen_settings(self) -> dict[str, Any]:
        """All that the frozen part reads besides the model's weights and configuration, for JSON."""
        return {}

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """Weights of what learns: of the trainable layers or, where they have some, of their adapters; of a mix.

        Returns
        -------
        dict[str, torch.Tensor]
        """
        learning = self._learning()
        state = learning.state_dict()
        if self.has_adapters:
            learns = {name for name, parameter in learning.named_parameters() if parameter.requires_grad}
            return {name: weight for name, weight in state.items() if name in learns}
        return state

    def _learning(self) -> torch.nn.ModuleList:
        """All that may learn, whole: layers, bottom first, and their mix if there is one."""
        return torch.nn.ModuleList([*self.layers[self.n_frozen :], *([] if self.mix is None else [self.mix])])

    def merge_adapters(self) -> None:
        """Make adapters, if there are any, part of the layers, which then are like any others and no more learn."""
        merge_adapters(self.layers[self.n_frozen :])
        self.model.requires_grad_(False)
        self.has_adapters = False

    @mark_as_saver
    def _save(self, path):
        # Only what has learnt: the frozen part comes from `source`, and would make a checkpoint
        # of HuBERT large 1.2 GB bigger.
        if if_main_process():
            torch.save({"frozen": self.frozen_fingerprint(), "layers": self.trainable_state()}, path)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        del end_of_epoch
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["frozen"] != self.frozen_fingerprint():
            raise InputError(
                f"{path} was trained on top of another encoder (other weights, settings, tokenizer or number of "
                f"trainable layers) than {self.source!r}: use the encoder that it was trained with, or another "
                "output_folder."
            )
        learning = self._learning()
        frozen = learning.state_dict() if self.has_adapters else {}  # which the checkpoint of adapters leaves out
        learning.load_state_dict({**frozen, **saved["layers"]})


def _refuse_more_layers(trainable_layers: int, n_layers: int, source: Any) -> None:
    """Refuse to train more layers than there are, or fewer than none."""
    if not 0 <= trainable_layers <= n_layers:
        name = "the encoder described" if isinstance(source, dict) else repr(source)
        raise InputError(
            f"trainable_layers is {trainable_layers}, but {name} has {n_layers} transformer layers that can learn: "
            f"choose 0 to {n_layers}."
        )


def read_model_config(
    source: str | Path | dict[str, Any], architectures: Sequence[str], expected: str
) -> PreTrainedConfig:
    """Read the configuration of a `transformers` model, without its weights.

    Parameters
    ----------
    source
        Hub name, local folder or `Encoder.configuration`.
    architectures
        That it may be of, by their names in `transformers` (``hubert``, ``whisper``, ``bert``, ...).
    expected
        What it has to be, for the message.

    Returns
    -------
    transformers.PreTrainedConfig

    Raises
    ------
    InputError
        If it can't be had, or is of another architecture; of a configuration also as of `model_config`.
    """
    config = source if isinstance(source, dict) else load_pretrained(AutoConfig, source)
    kind = config["model"].get("model_type") if isinstance(config, dict) else config.model_type
    if kind not in architectures:
        name = "The encoder described" if isinstance(source, dict) else repr(source)
        raise InputError(f"{name} is a {kind!r} model; {expected}.")
    return model_config(config) if isinstance(config, dict) else config


def model_config(configuration: dict[str, Any]) -> PreTrainedConfig:
    """Make the configuration object of a `transformers` model; it names no code and no file.

    Parameters
    ----------
    configuration
        From `Encoder.configuration`, of an architecture that `transformers` knows.

    Returns
    -------
    transformers.PreTrainedConfig

    Raises
    ------
    InputError
        If a value is unknown or of the wrong type.
    """
    values = dict(configuration["model"])
    kind = values.pop("model_type")
    config_class = CONFIG_MAPPING[kind]
    # Also `attn_implementation`, for some names of which transformers fetches code.
    unknown = sorted(set(values) - set(_parameters(config_class)))
    if unknown:
        raise InputError(f"The configuration of a {kind} encoder has no {', '.join(unknown)}: remove it.")
    try:
        return config_class(**values)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The configuration of the {kind} encoder can't be used: {reason}") from error


def _parameters(config_class):
    """Names of what shapes the models of a configuration class; what all models share does not."""
    parameters = inspect.signature(config_class).parameters.values()
    shared = inspect.signature(PreTrainedConfig).parameters
    return [p.name for p in parameters if p.name not in shared and p.kind != p.VAR_KEYWORD]
