"""Time of one core for 10 s of speech: the shipped encoder, and a HuBERT of base size in the same run.

To run, from the repository's root: ``python -m benchmarks.mini_hubert`` (seconds).
"""

from pathlib import Path

from transformers import HubertConfig, HubertModel

import ser_ts_lobes
from ser_ts_lobes.lobes.speech import SpeechEncoder
from tools.encoder_research.probe_encoder import forward_ms


def main():
    """Time both, print a table with their ratio."""
    shipped = SpeechEncoder(str(Path(ser_ts_lobes.__file__).parent / "mini_hubert")).eval()
    base = HubertModel(HubertConfig()).eval()  # what weights it has makes no difference to the time
    times = {"mini_hubert": forward_ms(shipped), "HuBERT base": forward_ms(lambda wavs, _lens: base(wavs))}
    print("| encoder | ms of one core for 10 s | relative |\n| --- | ---: | ---: |")
    for name, milliseconds in times.items():
        print(f"| {name} | {milliseconds:.0f} | {milliseconds / times['mini_hubert']:.1f} |")


if __name__ == "__main__":
    main()
