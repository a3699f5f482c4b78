import numpy as np
import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.report import condition
from ser_ts_lobes.report.sources import read_test_sets
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.residuals import keep_mask
from ser_ts_lobes.training.targets import TeacherTargets
from tests.unit.report import runs


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    [test_set] = read_test_sets([str(runs.write_study(tmp_path_factory.mktemp("study")))])
    return test_set


def test_residuals_are_in_standard_deviations_of_the_training_set(test_set):
    found = condition.find_condition(test_set)
    run = test_set.systems["teacher"].runs[0][0]
    train, tested = (TeacherTargets.load(run.targets_path(split)) for split in ("train", "test1"))
    assert found.teacher == "teacher" and found.threshold == 1.5  # what the taught student says
    sigma = [np.sqrt(np.mean(train.residual[:, j] ** 2)) for j in range(3)]
    expected = [max(abs(r) / s for r, s in zip(row, sigma, strict=True)) for row in tested.residual]
    assert found.residual == pytest.approx(expected)
    # The rule that training follows, on the training set itself.
    own = condition.Condition("teacher", np.abs(train.residual / sigma).max(axis=1), 1.5)
    assert own.kept.tolist() == keep_mask(train.residual, 1.5).tolist()


def test_bins_hold_each_utterance_once(test_set):
    bins = condition.find_condition(test_set).bins()
    assert [name for name, _ in bins][:2] == ["0–0.5", "0.5–1"] and bins[-1][0] == "≥ 3"
    assert np.sum([rows for _, rows in bins], axis=0).tolist() == [1] * runs.N


def test_a_gain_is_what_the_reference_errs_more(test_set):
    gain = condition.gain(test_set, test_set.systems["cts"], test_set.systems["ft"])
    errors = {
        name: np.mean([(seed - test_set.label) ** 2 for seed in test_set.systems[name].prediction], axis=0)
        for name in ("ft", "cts")
    }
    assert gain == pytest.approx(errors["ft"] - errors["cts"])


def test_a_student_that_errs_as_the_teacher_gains_where_it_can_be_trusted(test_set):
    found = condition.find_condition(test_set)
    gain = condition.gain(test_set, test_set.systems["cts"], test_set.systems["ft"])
    compared = condition.compare_sides(found, gain, test_set)
    assert (compared.difference > 0).all() and (compared.p_value < 0.05).all()
    assert compared.difference == pytest.approx(gain[found.kept].mean(axis=0) - gain[~found.kept].mean(axis=0))
    assert condition.compare_sides(condition.Condition("teacher", found.residual, 99), gain, test_set) is None


def test_without_targets_there_is_no_condition(test_set, tmp_path):
    manifests = runs.write_corpus(tmp_path)
    runs.write_run(tmp_path, manifests, "ft", 1)
    [found] = read_test_sets([str(tmp_path / "made-up")])
    assert condition.find_condition(found) is None


def test_targets_that_lack_an_utterance_are_refused(tmp_path):
    run = runs.write_run(tmp_path, runs.write_corpus(tmp_path), "teacher", 1)
    path = RunFolder(run.path).targets_path("test1")
    said = TeacherTargets.load(path)
    rest = [values[1:] for values in (said.embedding, said.prediction, said.label, said.residual)]
    TeacherTargets(said.ids[1:], *rest, {}).save(path)
    [found] = read_test_sets([str(run.path)])
    with pytest.raises(InputError, match="its targets lack u000: make the teacher targets again"):
        condition.find_condition(found)
