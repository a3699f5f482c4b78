"""Speed and batch independence of `SpeechEncoder`, beside SpeechBrain's own HuBERT lobe.

To run: ``python -m benchmarks.speech_encoder``. HuBERT base in its real size with random weights (no hub), a batch
of eight clips of mixed length. For each encoder: seconds a forward, and by how much the frames of the shortest clip
change between being encoded alone and in the batch.
"""

import argparse
import tempfile
import time

import torch
from speechbrain.integrations.huggingface.hubert import HuBERT
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, SpeechEncoder

SECONDS = (11.0, 8.5, 7.0, 6.0, 5.0, 4.0, 3.0, 2.75)  # MSP-Podcast's clips last 2.75 to 11 s


def measure(encode, wavs, lens, repeats):
    """Time an encoder, and compare the last clip's frames alone and in the batch.

    Parameters
    ----------
    encode : callable
        Waveforms and relative lengths to frames (B, T, D).
    wavs, lens : torch.Tensor
        The batch, (B, N) and (B,).
    repeats : int
        Forwards to time; the fastest counts.

    Returns
    -------
    tuple[float, float]
        Seconds a forward, and the largest absolute difference.
    """
    with torch.inference_mode():
        alone = encode(wavs[-1:, : round(float(lens[-1]) * wavs.shape[1])], torch.ones(1))
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            batch = encode(wavs, lens)
            seconds.append(time.perf_counter() - started)
    return min(seconds), float((batch[-1, : alone.shape[1]] - alone[0]).abs().max())


def main():
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    samples = [round(seconds * SAMPLE_RATE) for seconds in SECONDS]
    wavs = torch.stack([torch.nn.functional.pad(torch.randn(n), (0, samples[0] - n)) for n in samples])
    lens = torch.tensor(samples) / samples[0]
    with tempfile.TemporaryDirectory() as folder:
        HubertModel(HubertConfig()).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        ours = SpeechEncoder(folder)
        peer = HuBERT(folder, folder, freeze=True).eval()
    results = {
        "ser_ts_lobes SpeechEncoder": measure(
            lambda wavs, lens: compute_frozen(ours, wavs, lens)[0], wavs, lens, arguments.repeats
        ),
        "speechbrain HuBERT": measure(peer, wavs, lens, arguments.repeats),
    }
    print(f"{sum(SECONDS):.0f} s of audio in a batch of {len(SECONDS)}, {torch.get_num_threads()} threads\n")
    print("| encoder | seconds a batch | largest change of a frame by batching |\n| --- | --- | --- |")
    for name, (seconds, change) in results.items():
        print(f"| {name} | {seconds:.2f} | {change:.1e} |")
    (our_seconds, _), (peer_seconds, _) = results.values()
    print(f"\nTime, ours / SpeechBrain's: {our_seconds / peer_seconds:.2f}")


if __name__ == "__main__":
    main()
