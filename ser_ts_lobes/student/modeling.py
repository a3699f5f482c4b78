"""A student as a model of `transformers`, which loads it by `AutoModel.from_pretrained`.

`ser-ts export` writes it, and all that it needs of this package, as one file beside the weights; ``auto_map`` in
``config.json`` names it. transformers runs that file, if it is told to trust it (``trust_remote_code=True``).
"""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ser_ts_lobes.lobes.emotion import EmotionOutput
from ser_ts_lobes.lobes.speech import WhisperEncoder
from ser_ts_lobes.student.network import StudentNetwork, make_network

#: The file in a student's folder, and what of ``config.json`` leads transformers to it. Weights are used in float32.
MODELING_FILE = "modeling_student.py"
FOR_TRANSFORMERS = {
    "model_type": "ser_ts_lobes_student",
    "auto_map": {"AutoConfig": "modeling_student.StudentConfig", "AutoModel": "modeling_student.StudentModel"},
    "dtype": "float32",
}


class StudentConfig(PreTrainedConfig):
    """A student's ``config.json``, whatever it holds."""

    model_type = "ser_ts_lobes_student"


class StudentModel(PreTrainedModel):
    """A student's network.

    Parameters
    ----------
    config
        Of a student.
    """

    config_class = StudentConfig

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        network = make_network(config.to_dict())
        # By the names that the weights have.
        self.speech_encoder, self.model, self.label_scale = network.speech_encoder, network.model, network.label_scale
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Make what the file does not hold, and transformers has cleared; weights it holds all."""
        if isinstance(module, WhisperEncoder):
            for name, value in module.make_filters().items():
                module.get_buffer(name).copy_(value)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> EmotionOutput:
        """Embed and predict.

        Parameters
        ----------
        input_values
            (B, N), waveforms at 16 kHz in -1..1, as they are: the network normalises them itself, if it has to.
        attention_mask
            (B, N), 1 where a waveform is, 0 behind its end; None where none is padded.

        Returns
        -------
        EmotionOutput
            ``embedding`` (B, E); ``prediction`` (B, 3): activation, valence, dominance on the corpus's scale.
        """
        mask = torch.ones_like(input_values) if attention_mask is None else attention_mask
        lens = mask.sum(dim=1) / mask.shape[1]
        network = StudentNetwork(self.speech_encoder, self.model, self.label_scale)
        output: EmotionOutput = network(input_values, lens)
        return output
