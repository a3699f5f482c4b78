"""A small tree in LibriSpeech's shape, of sounds whose next tenth of a second can be guessed."""

import numpy as np
import soundfile


def write_librispeech_tree(folder, n_files=16, seed=0):
    """Write 2 s files of low and high tones, which last 0.1 to 0.4 s each, in noise."""
    random = np.random.default_rng(seed)
    for index in range(n_files):
        chapter = folder / str(index % 4) / "1"
        chapter.mkdir(parents=True, exist_ok=True)
        lengths = random.integers(1600, 6400, 20)
        hz = np.where(np.arange(20) % 2, random.uniform(150, 400), random.uniform(2000, 4000))
        phase = np.cumsum(2 * np.pi * np.repeat(hz, lengths)[:32000] / 16000)
        wav = 0.3 * np.sin(phase) + 0.03 * random.standard_normal(32000)
        soundfile.write(chapter / f"{index % 4}-1-{index:04}.flac", wav, 16000)
