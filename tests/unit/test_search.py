import json
import sys
from types import SimpleNamespace

import pytest

from ser_ts_lobes.errors import InputError
from tools import search

# It writes what a training leaves. The lowest test score is elsewhere than the lowest validation loss.
SCRIPT = """
import json, pathlib, sys
options = dict(argument[2:].split("=") for argument in sys.argv[2:])
assert sys.argv[1] == "hparams/ft.yaml" and options["data_folder"] == "corpus"
lr = float(options["lr"])
if lr > 5:
    sys.exit(1)
folder = pathlib.Path(options["output_folder"])
folder.mkdir(parents=True)
(folder / "predictions.csv").write_text("")
best = {"epoch": 1, "valid_loss": (lr - 0.3) ** 2 + (options["pooling"] == "gru")}
report = {"best": best, "test": {}, "test_loss": -lr, "options": options}
(folder / "metrics.json").write_text(json.dumps(report))
"""
OPTIONS = {"lr": "uniform(0.1, 9)", "pooling": "choices(gru, transformer)", "data_folder": "corpus"}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "recipe" / "train_student.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return path


class Trial:
    """What stands for a trial of optuna."""

    def __init__(self, number, suggested):
        self.number, self._suggested, self.params, self.asked = number, suggested, {}, {}

    def _suggest(self, name, *space, **options):
        self.asked[name] = (*space, options)
        self.params[name] = self._suggested[name]
        return self._suggested[name]

    suggest_float = suggest_int = suggest_categorical = _suggest


def make_optuna(*suggested):
    """Give what stands for optuna, with trials that suggest these."""

    class Study:
        trials = []  # a database, which outlives the program

        def optimize(self, objective, n_trials):
            for _ in range(n_trials):
                trial = Trial(len(self.trials), suggested[len(self.trials)])
                trial.value = objective(trial)
                self.trials.append(trial)

        @property
        def best_trial(self):
            return min(self.trials, key=lambda trial: trial.value)

        best_value = property(lambda self: self.best_trial.value)
        best_params = property(lambda self: self.best_trial.params)

    seeds = []
    samplers = SimpleNamespace(TPESampler=lambda seed: seeds.append(seed))
    return SimpleNamespace(create_study=lambda **options: Study(), samplers=samplers, seeds=seeds)


def test_the_lowest_validation_loss_wins(script, tmp_path, monkeypatch, capsys):
    suggested = [
        {"lr": 0.1, "pooling": "transformer"},
        {"lr": 0.35, "pooling": "transformer"},
        {"lr": 0.3, "pooling": "gru"},
        {"lr": 4.0, "pooling": "transformer"},  # the best of the tests
    ]
    optuna = make_optuna(*suggested)
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    out = tmp_path / "search"
    search.search(script, "hparams/ft.yaml", out, 2, 7, OPTIONS)
    search.search(script, "hparams/ft.yaml", out, 4, 7, OPTIONS)  # goes on
    assert optuna.seeds == [7, 9]
    tried = [json.loads((out / str(number) / "metrics.json").read_text())["options"] for number in range(4)]
    assert [(float(options["lr"]), options["pooling"]) for options in tried] == [
        (one["lr"], one["pooling"]) for one in suggested
    ]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Lowest validation loss of 4 trials: 0.0025 (trial 1)",
        "--lr=0.35 --pooling=transformer",
    ]


def test_optuna_finds_it(script, tmp_path, capsys):
    pytest.importorskip("optuna")
    search.search(script, "hparams/ft.yaml", tmp_path / "search", 3, 7, OPTIONS | {"lr": "uniform(0.2, 0.4)"})
    assert "Lowest validation loss of 3 trials" in capsys.readouterr().out


def test_spaces_are_optunas():
    trial = Trial(0, dict.fromkeys("abcd", 1))
    spaces = {"a": "uniform(0, 2)", "b": "loguniform(1e-5, 0.1)", "c": "integers(1, 12)", "d": "choices(gru, 2, true)"}
    for name, space in spaces.items():
        search.read_space(space)(trial, name)
    assert trial.asked == {
        "a": (0.0, 2.0, {"log": False}),
        "b": (1e-5, 0.1, {"log": True}),
        "c": (1, 12, {}),
        "d": (["gru", 2, True], {}),
    }
    assert search.read_space("0.5") is None and search.read_space("[gru, uniform]") is None


@pytest.mark.parametrize(
    "space",
    [
        "uniform(2, 1)",
        "uniform(1)",
        "integers(1.5, 3)",
        "uniform(,1)",
        "integers(a, b)",
        "loguniform(0, 1)",
        "uniform(1,2,3)",
    ],
)
def test_what_is_no_range_is_one_sentence(space):
    with pytest.raises(InputError, match="is no range: give two numbers, the lower one first"):
        search.read_space(space)


def test_a_search_that_cant_be_is_one_sentence(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", make_optuna({"lr": 7.0, "pooling": "gru"}))
    with pytest.raises(
        InputError, match=r"^Trial 0 failed; the command was .*train_student.py hparams/ft.yaml --lr=7.0"
    ):
        search.search(script, "hparams/ft.yaml", tmp_path / "search", 1, 7, OPTIONS)
    with pytest.raises(InputError, match="^No option is a space"):
        search.search(script, "hparams/ft.yaml", tmp_path / "search", 1, 7, {"lr": "0.1", "debug": None})
    with pytest.raises(InputError, match="^--trials is 0: give 1 or more.$"):
        search.search(script, "hparams/ft.yaml", tmp_path / "search", 0, 7, OPTIONS)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="^A search needs optuna: `pip install optuna`.$"):
        search.search(script, "hparams/ft.yaml", tmp_path / "search", 1, 7, OPTIONS)
