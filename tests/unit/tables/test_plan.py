"""Plans of the real recipes; nothing is run, what runs leave is written by hand."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ser_ts_lobes.data.manifests import COLUMNS, read_manifest, read_unrated
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.tables.plan import Sweep, known_systems, make_plan, results_folder
from ser_ts_lobes.training.targets import TeacherTargets
from tests.fixtures_msp import write_msp_tree
from tests.integration.programs import ROOT
from tests.unit.training.test_datasets import msp_podcast_prepare

MSP, IEMOCAP = ROOT / "recipes" / "MSP-Podcast", ROOT / "recipes" / "IEMOCAP"


def plan(folder, systems, *options, recipe=MSP, **choices):
    if not any(option.startswith("--data_folder") for option in options):
        options = ["--data_folder=corpus", *options]
    options = [f"--results_folder={folder}", *options]
    return {job.name: job for job in make_plan(recipe, systems.split(), options=options, **choices)}


def finish(job, teacher=None):
    """Leave what a job that succeeds leaves."""
    if job.script == "precompute_targets.py":
        (job.folder / "targets").mkdir(exist_ok=True)
        made_from = {"teacher": json.loads((job.folder / "metrics.json").read_text())["fingerprint"]}
        ones = np.ones((1, 3))
        targets = TeacherTargets(["a"], np.ones((1, 4), np.float32), ones, ones, ones, made_from)
        targets.save(job.folder / "targets" / "train.safetensors")
        return
    (job.folder / "save" / "CKPT+1").mkdir(parents=True)
    data = {"train": "ab12", "valid": "cd34"} | ({"teacher": teacher} if teacher else {})
    made_from = {"settings": job.makes, "data": data}
    (job.folder / "save" / "CKPT+1" / "made_from.ckpt").write_text(json.dumps(made_from))
    (job.folder / "save" / "CKPT+1" / "CKPT.yaml").touch()
    (job.folder / "metrics.json").write_text(
        json.dumps(
            {
                "fingerprint": f"model of {job.name}",
                "manifests": {"train": "ab12", "test1": "ef56"},
                "settings": job.makes,
                "test": {},
            }
        )
    )


def test_a_student_comes_after_its_own_seeds_teacher_and_targets(tmp_path):
    jobs = plan(tmp_path, "cts ft", seeds=[1, 2])
    order = list(jobs)
    assert len(order) == 8
    for seed in (1, 2):
        cts = jobs[f"cts/{seed}"]
        assert cts.needs == [f"teacher/{seed}/targets"]
        assert jobs[cts.needs[0]].needs == [f"teacher/{seed}"]
        assert jobs[f"teacher/{seed}"].needs == jobs[f"ft/{seed}"].needs == []
        assert order.index(f"teacher/{seed}") < order.index(f"teacher/{seed}/targets") < order.index(f"cts/{seed}")
    scripts = {job.name: job.script for job in jobs.values()}
    assert (scripts["cts/1"], scripts["teacher/1"]) == ("train_student.py", "train_teacher.py")
    assert scripts["teacher/1/targets"] == "precompute_targets.py"


def test_each_fold_has_its_teacher(tmp_path):
    jobs = plan(tmp_path, "ts", recipe=IEMOCAP, seeds=[7])
    assert len(jobs) == 15 and list(jobs)[:3] == ["teacher/fold1/7", "teacher/fold1/7/targets", "ts/fold1/7"]
    assert jobs["ts/fold4/7"].needs == ["teacher/fold4/7/targets"]
    assert "--fold=4" in jobs["ts/fold4/7"].arguments
    assert list(plan(tmp_path, "bert_base", recipe=IEMOCAP, folds=[2])) == ["bert_base/fold2/1986"]


def test_a_recipe_says_its_scripts_rows_and_folds(tmp_path):
    recipe = tmp_path / "Another"
    shutil.copytree(IEMOCAP / "hparams", recipe / "hparams")
    for path in recipe.glob("hparams/*.yaml"):
        text = path.read_text(encoding="utf-8")
        for old, new in (
            ("train_student.py", "learn.py"),
            ("train_teacher.py", "teach.py"),
            ("precompute_targets.py", "note.py"),
            ("rows: [attn, atmaja, ", "rows: [ts, "),
            ("folds: [1, 2, 3, 4, 5]", "folds: [2, 7]"),
        ):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    jobs = plan(tmp_path, "ts", recipe=recipe, seeds=[1])
    assert {job.name: job.script for job in jobs.values()} == {
        f"{run}/fold{fold}/1{part}": script
        for fold in (2, 7)
        for run, part, script in (
            ("teacher", "", "teach.py"),
            ("teacher", "/targets", "note.py"),
            ("ts", "", "learn.py"),
        )
    }
    assert known_systems(recipe)[:3] == ["ts", "cpc", "modified_cpc"]
    further = ["best", "cts_reads", "cts_unrated", "cts_words", "ft_augmented", "ft_reads", "ft_words"]
    assert known_systems(recipe)[-10:] == ["cts", "atmaja", "attn", *further]
    with pytest.raises(InputError, match="Another has no fold 1: choose --folds of 2, 7"):
        plan(tmp_path, "ts", recipe=recipe, folds=[1, 2])


def test_the_template_runs_all_systems_of_the_others(tmp_path):
    template = ROOT / "recipes" / "Template"
    assert known_systems(template) == known_systems(MSP)
    systems, options = " ".join(known_systems(template)), ["--word_vectors=vectors.txt"]
    jobs = plan(tmp_path, systems, *options, recipe=template)
    assert jobs.keys() == plan(tmp_path, systems, *options).keys()
    assert all((template / job.script).is_file() for job in jobs.values())


def test_a_file_without_scripts_is_refused(tmp_path):
    recipe = tmp_path / "Another"
    shutil.copytree(MSP / "hparams", recipe / "hparams")
    path = recipe / "hparams" / "ft.yaml"
    path.write_text(re.sub(r"scripts:\n( .*\n)+", "", path.read_text()))
    with pytest.raises(InputError, match="ft.yaml has no `scripts`"):
        plan(tmp_path, "ft", recipe=recipe)


def test_what_a_recipe_is_like_makes_no_other_model(tmp_path):
    job = plan(tmp_path, "ft", recipe=IEMOCAP, folds=[1])["ft/fold1/1986"]
    assert {"folds", "rows", "scripts"} < job.settings.keys()
    assert not {"folds", "rows", "scripts"} & {name.split(".")[0] for name in job.makes}


def test_folders_are_those_of_the_scripts(tmp_path):
    assert plan(tmp_path, "ft")["ft/1986"].folder == tmp_path / "ft" / "1986"
    assert results_folder(MSP) == "results" and results_folder(MSP, ["--results_folder", "r"]) == "r"


def test_an_option_goes_to_the_systems_that_have_its_key(tmp_path):
    options = ["--text_source", "bert", "--lr=0.1", "--teacher.lr=0.2", "--device=cpu", "--noprogressbar"]
    jobs = plan(tmp_path, "teacher ft", *options)
    teacher, ft = (jobs[f"{system}/1986"].arguments for system in ("teacher", "ft"))
    assert "--text_source=bert" in teacher and "--text_source=bert" not in ft
    assert "--lr=0.2" in teacher and "--lr=0.1" not in teacher and "--lr=0.1" in ft
    for arguments in (teacher, ft):
        assert "--device=cpu" in arguments and "--noprogressbar" in arguments


def test_jobs_of_several_processes_are_started_by_torchrun_and_are_other_runs(tmp_path):
    jobs = plan(tmp_path, "cts", processes=4)
    for job in jobs.values():
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
        assert job.command[1:] == [*launcher, job.script, *job.arguments]
        assert job.makes["processes"] == 4
    finish(jobs["teacher/1986"])
    with pytest.raises(InputError, match="teacher/1986 was trained with processes 4, not 1"):
        plan(tmp_path, "cts")


def test_a_teacher_of_the_users_own_is_not_trained(tmp_path):
    assert list(plan(tmp_path, "cts", "--teacher_folder=elsewhere")) == ["cts/1986"]


def test_what_is_finished_needs_nothing(tmp_path):
    jobs = plan(tmp_path, "cts")
    finish(jobs["teacher/1986"])
    jobs = plan(tmp_path, "cts")
    assert [job.finished for job in jobs.values()] == [True, False, False]
    finish(jobs["teacher/1986/targets"])
    finish(jobs["cts/1986"], teacher="model of teacher/1986")
    jobs = plan(tmp_path, "cts", "--text_source=bert-base-uncased", "--teacher.lr=0.0005")  # which nothing needs now
    assert [(name, job.finished) for name, job in jobs.items()] == [("cts/1986", True)]
    shutil.rmtree(tmp_path / "cts")
    assert [job.finished for job in plan(tmp_path, "cts").values()] == [True, True, False]


def write_unrated(folder, words="well"):
    """Write a manifest of one utterance that nobody rated."""
    path = folder / "speech.csv"
    path.write_text(f"{','.join(COLUMNS)}\nx,1.5,/speech/x.wav,Unknown,Unknown,,,,{words},\n")
    return path


def test_targets_are_also_made_of_the_speech_that_a_student_needs(tmp_path):
    path = write_unrated(tmp_path)
    jobs = plan(tmp_path, "cts cts_unrated ts", f"--cts_unrated.unrated_manifest={path}")
    assert list(jobs)[:3] == ["teacher/1986", "teacher/1986/targets", "cts/1986"]
    assert all(jobs[f"{name}/1986"].needs == ["teacher/1986/targets"] for name in ("cts", "cts_unrated", "ts"))
    options = [job.name for job in jobs.values() if f"--unrated_manifest={path}" in job.arguments]
    assert options == ["teacher/1986/targets", "cts_unrated/1986"]
    finish(jobs["teacher/1986"])
    finish(jobs["teacher/1986/targets"])
    assert not jobs["teacher/1986/targets"].finished  # of rated speech alone
    targets = tmp_path / "teacher" / "1986" / "targets"
    shutil.copy(targets / "train.safetensors", targets / f"unrated-{fingerprint_file(path)[:16]}.safetensors")
    assert jobs["teacher/1986/targets"].finished
    write_unrated(tmp_path, "other words")
    assert not jobs["teacher/1986/targets"].finished
    path.unlink()
    assert not jobs["teacher/1986/targets"].finished
    by_default = plan(tmp_path, "cts_unrated")
    assert by_default["teacher/1986/targets"].settings["unrated_manifest"].endswith("/manifests/train.csv")


def test_students_of_a_table_are_taught_on_one_unrated_manifest(tmp_path):
    options = ["--ts.unrated_manifest=a.csv", "--cts_unrated.unrated_manifest=b.csv"]
    with pytest.raises(InputError, match="one unrated_manifest, not on a.csv and b.csv: make a table of each"):
        plan(tmp_path, "ts cts_unrated", *options)
    jobs = plan(tmp_path, "ts cts_unrated", "--unrated_manifest=a.csv")
    assert jobs["teacher/1986/targets"].arguments.count("--unrated_manifest=a.csv") == 1


def test_a_run_of_other_unrated_speech_is_refused(tmp_path):
    path = write_unrated(tmp_path)
    option = f"--cts_unrated.unrated_manifest={path}"
    job = plan(tmp_path, "cts_unrated", option)["cts_unrated/1986"]
    finish(job)
    with pytest.raises(InputError, match="cts_unrated/1986 was made from another unrated than today's"):
        plan(tmp_path, "cts_unrated", option)  # it has heard none
    metrics = job.folder / "metrics.json"
    report = json.loads(metrics.read_text())
    report["manifests"]["unrated"] = read_unrated(path).audio_fingerprint
    metrics.write_text(json.dumps(report))
    assert plan(tmp_path, "cts_unrated", option)["cts_unrated/1986"].finished
    with pytest.raises(InputError, match="another unrated than today's"):
        plan(tmp_path, "cts_unrated", "--cts_unrated.unrated_manifest=null")
    write_unrated(tmp_path).write_text(path.read_text().replace("x.wav", "y.wav"))
    with pytest.raises(InputError, match="another unrated than today's"):
        plan(tmp_path, "cts_unrated", option)
    path.unlink()  # what isn't there can't be compared
    assert plan(tmp_path, "cts_unrated", option)["cts_unrated/1986"].finished


def test_targets_of_another_teacher_are_made_again(tmp_path):
    jobs = plan(tmp_path, "cts")
    finish(jobs["teacher/1986"])
    finish(jobs["teacher/1986/targets"])
    metrics = tmp_path / "teacher" / "1986" / "metrics.json"
    metrics.write_text(metrics.read_text().replace("model of", "another model of"))
    assert [job.finished for job in plan(tmp_path, "cts").values()] == [True, False, False]


def test_a_teacher_is_read_once_a_plan(tmp_path, monkeypatch):
    jobs = plan(tmp_path, "teacher cts ts")
    for name, job in jobs.items():
        finish(job, teacher=None if name.startswith("teacher") else "model of teacher/1986")
    reads, read_text = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *args, **kw: reads.append(path) or read_text(path, *args, **kw))
    assert all(job.finished for job in plan(tmp_path, "teacher cts ts").values())
    assert reads.count(jobs["teacher/1986"].folder / "metrics.json") == 1


def test_a_job_sees_what_was_written_since_it_was_planned(tmp_path):
    jobs = plan(tmp_path, "cts")
    teacher, targets = jobs["teacher/1986"], jobs["teacher/1986/targets"]
    finish(teacher)
    finish(targets)
    assert teacher.finished and targets.finished
    metrics = teacher.folder / "metrics.json"
    metrics.write_text(metrics.read_text().replace("model of", "another model of"))
    assert not targets.finished


def test_a_run_with_other_settings_is_refused(tmp_path):
    finish(plan(tmp_path, "ft")["ft/1986"])
    assert plan(tmp_path, "ft", "--num_workers=0", "--data_folder=moved")["ft/1986"].finished
    with pytest.raises(InputError, match=r"ft/1986 was trained with batch_size 32, not 16: delete it"):
        plan(tmp_path, "ft", "--batch_size=16")
    (tmp_path / "ft" / "1986" / "metrics.json").unlink()  # a run that was cut short must not go on otherwise
    with pytest.raises(InputError, match="batch_size 32, not 16"):
        plan(tmp_path, "ft", "--batch_size=16")
    shutil.rmtree(tmp_path / "ft" / "1986" / "save")  # but it may start otherwise
    assert not plan(tmp_path, "ft", "--batch_size=16")["ft/1986"].finished


def test_a_run_of_other_data_or_another_teacher_is_refused(tmp_path):
    jobs = plan(tmp_path, "cts")
    finish(jobs["teacher/1986"])
    finish(jobs["cts/1986"], teacher="model of somebody else")
    with pytest.raises(InputError, match="cts/1986 was made from another teacher than today's"):
        plan(tmp_path, "cts")
    shutil.rmtree(tmp_path / "cts")
    corpus = write_msp_tree(tmp_path / "msp", {"Train": 2, "Development": 2, "Test1": 2})
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    for name in ("train", "valid"):
        (tmp_path / "manifests" / f"{name}.csv").unlink()
    with pytest.raises(InputError, match="teacher/1986 was made from another test1 than today's"):
        plan(tmp_path, "teacher")
    metrics = tmp_path / "teacher" / "1986" / "metrics.json"
    metrics.write_text(
        metrics.read_text().replace("ef56", read_manifest(tmp_path / "manifests" / "test1.csv").audio_fingerprint)
    )
    assert plan(tmp_path, "teacher")["teacher/1986"].finished


def test_transcribing_later_leaves_what_only_hears_as_it_is(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp", {"Train": 2, "Development": 2, "Test1": 2})
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    paths = sorted((tmp_path / "manifests").glob("t*.csv"))
    jobs = plan(tmp_path, "ft teacher")
    for name, job in jobs.items():
        finish(job)
        data = {}
        for path in paths:
            data |= read_manifest(path).fingerprints(reads=name.startswith("teacher"))
        report = json.loads((job.folder / "metrics.json").read_text()) | {"manifests": data}
        (job.folder / "metrics.json").write_text(json.dumps(report))
        (job.folder / "save" / "CKPT+1" / "made_from.ckpt").write_text(json.dumps({"settings": job.makes, "data": {}}))
    assert all(job.finished for job in plan(tmp_path, "ft teacher").values())
    for text in (corpus / "Transcripts").glob("*.txt"):
        text.write_text("other words")
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    assert plan(tmp_path, "ft")["ft/1986"].finished
    with pytest.raises(InputError, match="teacher/1986 was made from another .*_transcripts than today's"):
        plan(tmp_path, "teacher")


def test_a_sweep_shares_the_teacher_and_keeps_to_its_folders(tmp_path):
    jobs = plan(tmp_path, "cts", sweep=Sweep.parse("residual_threshold=1.5,2,none"))
    assert list(jobs) == [
        "teacher/1986",
        "teacher/1986/targets",
        "cts/residual_threshold/1.5/1986",
        "cts/1986",  # 2 is what cts has anyway
        "cts/residual_threshold/none/1986",
    ]
    none = jobs["cts/residual_threshold/none/1986"]
    assert none.settings["residual_threshold"] is None and none.needs == ["teacher/1986/targets"]
    assert none.folder == tmp_path / "cts" / "residual_threshold" / "none" / "1986"
    assert none.settings["teacher_folder"] == jobs["cts/1986"].settings["teacher_folder"]


def test_jobs_share_what_the_same_frozen_networks_compute(tmp_path):
    jobs = plan(tmp_path, "hubert_base ft ts teacher bert_base", seeds=[1])
    features = {name: {key for key in job.shares if key.startswith("features")} for name, job in jobs.items()}
    assert features["ft/1"] == features["ts/1"] != features["hubert_base/1"]
    assert features["bert_base/1"] < features["teacher/1"]
    # Which are there when it has come to train; manifests are, when their sidecar is.
    told_by = {path.relative_to(tmp_path).as_posix() for path in jobs["ft/1"].shares.values()}
    assert told_by == {"ft/1/train_log.txt", "manifests/manifests.json"}
    assert len({key for job in jobs.values() for key in job.shares if key.startswith("manifests")}) == 1
    uncached = plan(tmp_path, "ft", "--feature_folder=null")["ft/1986"]
    assert not any(key.startswith("features") for key in uncached.shares)


def test_folds_share_what_the_same_frozen_networks_compute(tmp_path):
    one, two = plan(tmp_path, "hubert_base", recipe=IEMOCAP, folds=[1, 2], seeds=[1]).values()
    assert one.settings["manifest_folder"] != two.settings["manifest_folder"]
    assert one.shares.keys() == two.shares.keys() and len(one.shares) == 2
    sidecars = [path for job in (one, two) for path in job.shares.values() if path.name == "manifests.json"]
    assert [path.parent.name for path in sidecars] == ["fold1", "fold2"]


@pytest.mark.parametrize(
    ("systems", "options", "choices", "message"),
    [
        ("fts", [], {}, r"no hparams/fts.yaml; choose systems of .*ft"),
        ("ft", ["--learning_rate=1"], {}, "--learning_rate: no system of this table has that key"),
        ("ft", ["--cts.ts_weight=1"], {}, "--cts.ts_weight: no system of this table"),
        ("ft", ["--batchsize=1"], {}, "--batchsize: no system of this table has that key: did you mean batch_size"),
        ("ft", ["--seed=1"], {}, "--seed can't be given .*: use --seeds"),
        ("ft", ["--output_folder=x"], {}, "--output_folder can't be given"),
        ("ft", ["--debug"], {}, "--debug can't be given to all runs of a table: such runs leave no results"),
        ("ft", ["--lr=1", "--lr=2"], {}, "--lr is given twice; keep one"),
        ("ft", ["--lr=1", "2"], {}, "'2' is no option of the scripts"),
        ("ft", [], {"folds": [1]}, "has no folds"),
        ("ft", [], {"sweep": Sweep("ts_weight", ("1",))}, "ft has no ts_weight to sweep"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_sentence(tmp_path, systems, options, choices, message):
    with pytest.raises(InputError, match=message):
        plan(tmp_path, systems, *options, **choices)


def test_a_missing_data_folder_is_said():
    with pytest.raises(InputError, match="data_folder.*Give it on the command line"):
        make_plan(MSP, ["ft"])


@pytest.mark.parametrize("text", ["ts_weight", "=1", "ts_weight=", "ts_weight=3,3", "speech_source=a/b"])
def test_a_sweep_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="expected a key and different values"):
        Sweep.parse(text)


def test_seeds_are_not_swept():
    with pytest.raises(InputError, match="seed can't be swept: use --seeds"):
        Sweep.parse("seed=1,2")
