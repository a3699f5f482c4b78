"""What the small encoder learns words with."""

import numpy as np
import pytest
import torch

from tools.encoder_research import word_lessons as tool
from tools.encoder_research.lesson_speech import Utterances

SAID = Utterances(
    torch.zeros(2, 100),
    sounds=torch.tensor([[0, 1, 1, 2, -1, -1], [2, 2, 0, 0, 1, 1]]),
    words=torch.tensor([[-1, 4, 4, 7, 7, 5], [5, 5, -1, 5, 2, 2]]),
)
#: Frames of each word, from the first to the one after the last.
SPANS = [(0, 1, 3, 4), (0, 3, 5, 7), (0, 5, 6, 5), (1, 0, 2, 5), (1, 3, 4, 5), (1, 4, 6, 2)]


@pytest.fixture
def lessons(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(tool, "N_OTHERS", 6)
    return tool.WordLessons(16, 3, torch.nn.functional.normalize(torch.randn(9, 5), dim=-1))


@pytest.fixture
def hidden():
    torch.manual_seed(1)
    return [torch.randn(2, 6, 16) for _ in range(7)]


def test_words_are_averaged_over_their_frames(hidden):
    means, ids = tool.word_means(hidden[-1], SAID.words)
    expected = [hidden[-1][clip, start:end].double().numpy().mean(axis=0) for clip, start, end, _ in SPANS]
    np.testing.assert_allclose(means.numpy(), expected, atol=1e-6)
    assert ids.tolist() == [word for *_, word in SPANS]


def test_loss_agrees_with_the_formulas(lessons, hidden):
    torch.manual_seed(2)
    with torch.no_grad():
        found = lessons(hidden, SAID).double().numpy()
        logits = lessons.to_sounds(hidden[tool.SOUND_LAYER]).double().numpy()
        heard = lessons.to_words(tool.word_means(hidden[-1], SAID.words)[0]).double().numpy()
    torch.manual_seed(2)
    others = torch.randint(9, (6,)).tolist()
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    spelt = [
        -log_probs[clip, frame, sound] for (clip, frame), sound in np.ndenumerate(SAID.sounds.numpy()) if sound >= 0
    ]
    heard /= np.linalg.norm(heard, axis=1, keepdims=True)
    words = lessons.words.double().numpy()
    contrasts, distances = [], []
    for vector, (*_, word) in zip(heard, SPANS, strict=True):
        own = np.exp(20 * vector @ words[word])
        wrong = sum(np.exp(20 * vector @ words[other]) for other in others if other != word)
        contrasts.append(-np.log(own / (own + wrong)))
        distances.append(1 - vector @ words[word])
    np.testing.assert_allclose(found, [np.mean(spelt), np.mean(contrasts), 2 * np.mean(distances)], rtol=1e-4)


def test_heads_learn_what_is_said(lessons, hidden):
    frames = [states.clone().requires_grad_() for states in hidden]
    before = lessons.examine(frames, SAID)
    optimizer = torch.optim.Adam([*frames, *lessons.parameters()], 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        lessons(frames, SAID).sum().backward()
        optimizer.step()
    assert max(before) < 0.8 and lessons.examine(frames, SAID) == (1, 1)
    assert [states.grad is not None for states in frames] == [index in (tool.SOUND_LAYER, 6) for index in range(7)]
