"""Speed and memory of a student, beside the bare encoder and SpeechBrain's own classifier interface.

To run: ``python -m benchmarks.inference`` (minutes). First, a batch of eight clips of mixed
length through a student on HuBERT base (real size, random weights: no hub), through the bare encoder of `transformers`
and through SpeechBrain's `EncoderClassifier` on its own HuBERT lobe of the same size; turn by turn, so that other
programs slow all of them down alike, and with each one's peak memory in a process of its own. Then files of mixed
length, one by one and by `predict_files`, on the shipped small encoder and on HuBERT base; on a CPU also the ratio
that there would be if all cores heard files one by one, each as fast as one core does alone.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import speechbrain as sb
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.integrations.huggingface.hubert import HuBERT
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.utils import logging as transformers_logging

import ser_ts_lobes
from benchmarks.speech_encoder import SECONDS
from benchmarks.timing import interleave
from ser_ts_lobes.lobes.emotion import EmotionModel, LabelScale
from ser_ts_lobes.lobes.pooling import GRUPooling
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, SpeechEncoder
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.network import StudentNetwork

SYSTEMS = ("bare encoder (transformers)", "EncoderClassifier (SpeechBrain)", "EmotionRegressor (ours)")
N_FILES = 24


class Student(EmotionRegressor):
    """A student of random weights, which has no folder."""

    def __init__(self, encoder_source, device):
        network = StudentNetwork(
            encoder := SpeechEncoder(encoder_source), EmotionModel(GRUPooling(encoder.output_size)), LabelScale()
        )
        modules = {"network": network.eval()}
        super(EmotionRegressor, self).__init__(modules, {}, {"device": device})
        self.max_clip_s = 60.0


class Identity(torch.nn.Module):
    """SpeechBrain's interface normalises features; the recipe for emotion does not."""

    def forward(self, features, lens):
        """Return the features."""
        return features


def make(name, source, device):
    """Make what predicts a batch: a callable of waveforms and relative lengths."""
    if name == SYSTEMS[0]:
        encoder = HubertModel.from_pretrained(source).eval().to(device)
        return torch.inference_mode()(lambda wavs, lens: encoder(wavs.to(device)).last_hidden_state)
    if name == SYSTEMS[1]:
        labels = CategoricalEncoder()
        labels.update_from_iterable(["ang", "hap", "sad", "neu"])
        labels.ignore_len()
        classifier = EncoderClassifier(
            modules={
                "compute_features": HuBERT(source, source, freeze=True),
                "mean_var_norm": Identity(),
                "embedding_model": sb.nnet.pooling.StatisticsPooling(return_std=False),
                "classifier": torch.nn.Linear(768, 4),
            },
            hparams={"label_encoder": labels},
            run_opts={"device": device},
        ).eval()
        return torch.inference_mode()(classifier.classify_batch)
    return Student(source, device).predict_batch


def save_hubert_base(folder):
    """Save HuBERT base, of random weights, as a download from the hub would be."""
    HubertModel(HubertConfig()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def make_batch():
    """Make noise of the lengths in `SECONDS`: waveforms (B, N) and relative lengths (B,)."""
    torch.manual_seed(0)
    wavs = torch.nn.utils.rnn.pad_sequence([torch.randn(round(s * SAMPLE_RATE)) for s in SECONDS], batch_first=True)
    return wavs, torch.tensor(SECONDS) / max(SECONDS)


def peak_memory_mb(name, source, device):
    """Predict a batch and return the peak memory, in MB: of the process, or on a GPU of its tensors."""
    transformers_logging.disable_progress_bar()
    make(name, source, device)(*make_batch())
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # KiB on Linux


def compare_systems(source, device, repeats):
    """Print clips a second, relative time and peak memory of all systems."""
    # First, for the peak of a process begins with what the one that starts it holds.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = [pool.apply(peak_memory_mb, (name, source, device)) for name in SYSTEMS]
    batch = make_batch()
    predict = [make(name, source, device) for name in SYSTEMS]
    seconds = interleave([lambda one=one: one(*batch) for one in predict], repeats)
    print(f"A batch of {len(SECONDS)} clips, {sum(SECONDS):.0f} s of audio, HuBERT base\n")
    print("| system | clips a second | our time / its | peak memory, MB |\n| --- | ---: | ---: | ---: |")
    for j, name in enumerate(SYSTEMS):
        ratio = statistics.median(seconds[:, -1] / seconds[:, j])
        print(f"| {name} | {len(SECONDS) / np.median(seconds[:, j]):.2f} | {ratio:.2f} | {memory[j]:.0f} |")


def compare_files(name, source, device, repeats):
    """Print the files a second of `predict_file` and of `predict_files`, their ratio, and that of ideal cores."""
    student = Student(source, device)
    random = np.random.default_rng(0)
    n_threads = torch.get_num_threads()

    def one_by_one():
        return [student.predict_file(path) for path in paths]

    def one_by_one_on_one_thread():
        torch.set_num_threads(1)
        one_by_one()
        torch.set_num_threads(n_threads)

    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{i}.wav" for i in range(N_FILES)]
        for path in paths:
            n_samples = round(random.uniform(min(SECONDS), max(SECONDS)) * SAMPLE_RATE)
            soundfile.write(path, random.normal(0, 0.1, n_samples), SAMPLE_RATE)
        calls = [one_by_one, lambda: student.predict_files(paths), one_by_one_on_one_thread]
        seconds = interleave(calls if device == "cpu" else calls[:2], repeats)
    rates = N_FILES / np.median(seconds, axis=0)
    ratio, *of_one_thread = (statistics.median(seconds[:, 0] / column) for column in seconds.T[1:])
    ideal = f"{n_threads * of_one_thread[0]:.2f}" if of_one_thread else ""
    print(f"| {name} | {rates[0]:.1f} | {rates[1]:.1f} | {ratio:.2f} | {ideal} |")


def main():
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    print(f"{arguments.device}, {torch.get_num_threads()} threads; medians of {arguments.repeats} turns\n")
    with tempfile.TemporaryDirectory() as folder:
        hubert_base = save_hubert_base(folder)
        compare_systems(hubert_base, arguments.device, arguments.repeats)
        print(f"\n{N_FILES} files of {min(SECONDS)} to {max(SECONDS)} s\n")
        print("| encoder | one by one, files a second | predict_files | ratio | of ideal cores |")
        print("| --- | ---: | ---: | ---: | ---: |")
        mini_hubert = str(Path(ser_ts_lobes.__file__).parent / "mini_hubert")
        compare_files("mini_hubert", mini_hubert, arguments.device, arguments.repeats)
        compare_files("HuBERT base", hubert_base, arguments.device, arguments.repeats)


if __name__ == "__main__":
    main()
