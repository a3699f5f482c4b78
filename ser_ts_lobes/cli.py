"""The command `ser-ts`.

Each subcommand is one function that adds its parser and names, by `set_defaults(run=...)`, what runs it. The
work is imported where it runs, so that help comes at once.
"""

import argparse
import sys

from ser_ts_lobes import __version__
from ser_ts_lobes.errors import needs_extra, plain_errors


def main(argv: list[str] | None = None) -> int:
    """Run `ser-ts`.

    Parameters
    ----------
    argv
        Arguments; None takes the program's own.

    Returns
    -------
    int
        Exit status: 0, 1 when something could not be done, or 130 when interrupted.

    Raises
    ------
    SystemExit
        With status 2 for wrong arguments, and with a sentence (status 1) for input that can't be used.
    """
    parser = argparse.ArgumentParser(
        prog="ser-ts",
        description="Tools around the recipes for dimensional speech emotion recognition.",
        epilog="example: ser-ts transcribe results/manifests\nhelp on a command: ser-ts COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in (
        _add_transcribe,
        _add_table,
        _add_report,
        _add_submit,
        _add_features,
        _add_export,
        _add_push,
        _add_predict,
        _add_evaluate,
        _add_demo_app,
    ):
        add_command(commands)

    arguments = vars(parser.parse_args(argv))
    run = arguments.pop("run")
    try:
        with plain_errors():
            return run(**arguments) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _add_transcribe(commands):
    """Add `ser-ts transcribe`."""
    parser = commands.add_parser(
        "transcribe",
        help="transcribe utterances that have no transcript",
        description="Transcribe the utterances of a prepared corpus that have no transcript, into a\n"
        "transcripts.csv that the prepare script takes up. A run that was cut short goes on where it was.",
        epilog="examples:\n"
        "  ser-ts transcribe results/manifests\n"
        "  ser-ts transcribe results/manifests --asr facebook/wav2vec2-large-960h-lv60-self --device cuda:0\n"
        "  ser-ts transcribe results/manifests --asr models/whisper-tiny.en --device cpu --out tiny.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest_folder", metavar="MANIFEST_FOLDER", help="where a prepare script wrote")
    parser.add_argument(
        "--asr",
        metavar="SOURCE",
        help="speech recogniser: a name on the Hugging Face Hub, or a folder "
        "(default: openai/whisper-large-v3 on a GPU, openai/whisper-tiny.en on a CPU)",
    )
    parser.add_argument("--data-root", metavar="DIR", help="the corpus, if it is no longer where it was prepared")
    parser.add_argument("--out", metavar="FILE", help="default: MANIFEST_FOLDER/transcripts.csv")
    parser.add_argument("--batch-size", metavar="N", type=_positive, default=8, help="windows at a time (default: 8)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the first GPU, or else the CPU)")
    parser.set_defaults(run=_transcribe)


def _transcribe(**arguments):
    from ser_ts_lobes.data.transcription import transcribe

    transcribe(**arguments)


def _add_table(commands):
    """Add `ser-ts table`."""
    parser = commands.add_parser(
        "table",
        help="train what a table of systems lacks, and write the table",
        description="Train the systems of a recipe, with the teachers that they need, and write a table of their test\n"
        "CCCs to RESULTS_FOLDER/table: results.csv, table.md, table.tex and figures. What is finished isn't run\n"
        "again, so the same command goes on after an interruption or a failure.",
        epilog="Options of the training scripts follow `--`, as they are in the recipe's folder; each goes to the\n"
        "systems that have such a key, --SYSTEM.KEY=VALUE to that system alone.\n\n"
        "examples:\n"
        "  ser-ts table --recipe recipes/Template --seeds 1,2,3 --gpus 0,1 -- --data_folder /path/to/recordings\n"
        "  ser-ts table --systems teacher,ts,cts --folds 1,2 -- --data_folder /path/to/corpus\n"
        "  ser-ts table --systems cts --sweep residual_threshold=1.5,2,2.5,none -- --data_folder /path/to/corpus\n"
        "  ser-ts table --slurm partition=gpu,time=24:00:00,gpus_per_node=1 -- --data_folder /path/to/corpus\n"
        "  ser-ts table --slurm partition=gpu,time=9:00:00,gpus_per_node=4 --processes 4 -- --data_folder /path\n"
        "  ser-ts table --report-only",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", metavar="DIR", default=".", help="a folder of recipes/ (default: this folder)")
    parser.add_argument("--systems", metavar="A,B", type=_names, help="stems of hparams/*.yaml (default: all)")
    parser.add_argument("--seeds", metavar="N,N", type=_numbers, help="default: the one in the hparams")
    parser.add_argument("--folds", metavar="K,K", type=_numbers, help="of a corpus that has folds (default: all)")
    parser.add_argument("--sweep", metavar="KEY=V,V", help="a table of these values of a setting; none is YAML's null")
    parser.add_argument("--against", metavar="ROW", help="row that p-values compare with (default: ft)")
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        "--gpus", metavar="I,J", type=_names, default=(), help="one job at a time on each (N) of these GPUs"
    )
    places.add_argument("--slurm", metavar="KEY=V,...", type=_pairs, help="submit the jobs, with sbatch's options")
    parser.add_argument("--jobs", metavar="N", type=_positive, help="jobs at a time (default: 1; Slurm: all)")
    parser.add_argument(
        "--processes", metavar="N", type=_positive, default=1, help="of each job, on a GPU each (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    parser.add_argument("--report-only", action="store_true", help="only write the tables of what is on disk")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of the training scripts")
    parser.set_defaults(run=_table)


def _table(sweep, **arguments):
    from ser_ts_lobes.tables.plan import Sweep
    from ser_ts_lobes.tables.report import make_tables

    make_tables(sweep=sweep and Sweep.parse(sweep), **arguments)


def _add_report(commands):
    """Add `ser-ts report`."""
    parser = commands.add_parser(
        "report",
        help="write one page on what systems, ours or anybody's, predict of test sets",
        description="Compare predictions of test sets: CCC, rho, RMSE, bias with intervals over speakers and seeds,\n"
        "paired tests, by gender, speaker, duration and label, where teaching helps, learning curves. One HTML file.",
        epilog="examples:\n"
        "  ser-ts report results/teacher results/ft results/cts --against ft\n"
        "  ser-ts report results/cts theirs=their.csv --labels Labels/labels_consensus.csv --out compared.html\n"
        "  ser-ts report here/results/cts there/results/cts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        metavar="[NAME=]PATH",
        nargs="+",
        help="a run, a folder with runs below it, or a CSV with id, activation, valence, dominance; what has the same "
        "name is one system",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        action="append",
        default=[],
        help="a manifest or labels_consensus.csv, for CSVs without labels; may be given again",
    )
    parser.add_argument("--against", metavar="NAME", help="compare all with this system (default: all with all)")
    parser.add_argument(
        "--smallest", metavar="N", type=_positive, default=20, help="fewest utterances of a group shown (default: 20)"
    )
    parser.add_argument("--out", metavar="FILE", default="report.html", help="default: report.html")
    parser.set_defaults(run=_report)


def _report(**arguments):
    from ser_ts_lobes.report.page import make_report

    make_report(**arguments)


def _add_submit(commands):
    """Add `ser-ts submit`."""
    parser = commands.add_parser(
        "submit",
        help="write or check the file that a challenge's leaderboard takes",
        description="Write predictions of a set whose labels are secret as FileName, EmoAct, EmoVal, EmoDom, and\n"
        "check the file as a leaderboard would.",
        epilog="examples:\n"
        "  ser-ts submit results/cts/1986 --files Audios_Test3/ --out test3.csv\n"
        "  ser-ts submit their.csv --out test3.csv\n"
        "  ser-ts submit test3.csv --check --files test3_names.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a run, or a CSV with id, activation, valence, dominance")
    parser.add_argument("--split", metavar="NAME", default="test3", help="of a run (default: test3)")
    parser.add_argument("--files", metavar="PATH", help="the recordings of the set: a folder, or a list of their names")
    parser.add_argument("--out", metavar="FILE", default="submission.csv", help="default: submission.csv")
    parser.add_argument("--check", action="store_true", help="only check SOURCE, a file to be submitted")
    parser.set_defaults(run=_submit)


def _submit(**arguments):
    from ser_ts_lobes.report.submission import submit

    submit(**arguments)


def _add_features(commands):
    """Add `ser-ts features`."""
    parser = commands.add_parser(
        "features",
        help="say what is kept of frozen networks, check it, make room",
        description="List what a feature_folder holds: the networks, of how many utterances each, and the size.\n"
        "What is removed is computed again when a run needs it.",
        epilog="examples:\n"
        "  ser-ts features results/features\n"
        "  ser-ts features results/features --verify\n"
        "  ser-ts features results/features --prune 0123456789abcdef",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="feature_folder of the training scripts")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--verify", action="store_true", help="read all of it, and name damaged files")
    action.add_argument(
        "--prune", metavar="NETWORK", help="remove all that is kept of a network, unless a run is using it"
    )
    parser.set_defaults(run=_features)


def _features(folder, verify, prune):
    from ser_ts_lobes.training.feature_folder import list_features, prune_features, verify_features

    if prune is not None:
        prune_features(folder, prune)
    elif verify:
        verify_features(folder)
    else:
        list_features(folder)


def _add_export(commands):
    """Add `ser-ts export`."""
    parser = commands.add_parser(
        "export",
        help="write a trained student as a folder that anyone can load",
        description="Write a finished run of a system that only hears as a folder that loads without the run, a\n"
        "download or this package: weights (safetensors), configuration, model card, interface for SpeechBrain.",
        epilog="examples:\n"
        "  ser-ts export results/cts/1986 --out my-student --corpus my-corpus-1.6\n"
        "  ser-ts export results/cts/1986 --out my-student --half --force\n"
        "  ser-ts export results/cts/1986 --out my-student --onnx --int8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", metavar="RUN", help="such as results/cts/1986")
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder to write")
    parser.add_argument("--corpus", metavar="NAME", help="what the model card calls it (default: name of its folder)")
    parser.add_argument("--half", action="store_true", help="round the weights to float16: half the size")
    parser.add_argument("--force", action="store_true", help="replace the student in DIR")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx too, for onnxruntime in any language")
    parser.add_argument(
        "--int8", action="store_true", help="also write it in 8-bit integers, and measure their cost on the test sets"
    )
    parser.set_defaults(run=_export)


def _export(run_folder, **arguments):
    from ser_ts_lobes.student.export import export

    export(run_folder, **arguments)


def _add_push(commands):
    """Add `ser-ts push`."""
    parser = commands.add_parser(
        "push",
        help="upload an exported student to the Hugging Face Hub",
        description="Show the files of an exported student; with --yes, upload them to the Hugging Face Hub.",
        epilog="examples:\n  ser-ts push my-student user/name\n  ser-ts push my-student user/name --private --yes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", help="what `ser-ts export` wrote")
    parser.add_argument("name", metavar="USER/NAME", help="of the repository, which is created if need be")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--yes", action="store_true", help="upload; without it, nothing is sent")
    parser.set_defaults(run=_push)


def _push(**arguments):
    from ser_ts_lobes.student.hub import push

    push(**arguments)


def _add_predict(commands):
    """Add `ser-ts predict`."""
    parser = commands.add_parser(
        "predict",
        help="tell activation, valence and dominance from recordings",
        description="Tell activation, valence and dominance from recordings, on the scale of the student's corpus.\n"
        "A file that can't be used is reported on standard error, and the others go on.",
        epilog="exit status:\n"
        "  0  everything was predicted\n"
        "  1  some of it could not be (or the model could not be loaded)\n"
        "  2  wrong arguments\n\n"
        "examples:\n"
        "  ser-ts predict my-student *.wav\n"
        "  ser-ts predict my-student recordings/ --format csv > emotions.csv\n"
        "  ser-ts predict seed-1 seed-2 seed-3 recordings/\n"
        "  ser-ts predict user/name podcast.mp3 --timeline --window 4 --hop 1\n"
        "  ser-ts predict audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim *.wav\n"
        "  ser-ts predict my-student interview.wav --segments turns.csv\n"
        "  ser-ts predict my-student podcast.mp3 --plot podcast.png\n"
        "  ffmpeg -v error -i film.mkv -f wav - | ser-ts predict my-student - --timeline --format json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder by `ser-ts export`, or a name on the Hugging Face Hub, also of a public model; with further "
        "folders, the mean and the standard deviation of all students",
    )
    parser.add_argument(
        "audio", metavar="AUDIO", nargs="+", help="a file, a folder (with all below it), or - for stdin"
    )
    parser.add_argument("--timeline", action="store_true", help="window by window, for recordings of any length")
    parser.add_argument(
        "--window", metavar="S", type=float, help="seconds a window (default: as half of the training clips)"
    )
    parser.add_argument("--hop", metavar="S", type=float, help="seconds to the next window (default: a quarter of one)")
    parser.add_argument(
        "--segments", metavar="CSV", help="parts to hear: start_s and end_s, and path if there are several recordings"
    )
    parser.add_argument(
        "--vad",
        action=argparse.BooleanOptionalAction,
        help="leave out silence, by Silero's voice activity detector (default: of timelines, where it is installed)",
    )
    parser.add_argument("--embeddings", metavar="FILE", help="also write the recordings' embeddings (.npz)")
    parser.add_argument("--plot", metavar="FILE", help="draw the timeline of one recording (.png, .svg, .pdf)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    parser.add_argument("--batch-size", metavar="N", type=_positive, default=8, help="clips at a time (default: 8)")
    parser.add_argument("--device", default="cpu", help="such as cuda:0 (default: cpu)")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a model on the Hub")
    parser.set_defaults(run=_predict)


def _predict(**arguments):
    from ser_ts_lobes.student.predict import predict

    return predict(**arguments)


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from 1 on")
    return int(text)


def _add_evaluate(commands):
    """Add `ser-ts evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="say how well a student does on any labelled recordings",
        description="Hear labelled recordings, of whatever corpus, and print CCC with intervals, correlation, error\n"
        "and bias: of all, of groups, and of the recordings changed in ways that leave the emotion as it was.",
        epilog="examples:\n"
        "  ser-ts evaluate my-student results/manifests/test1.csv --audio /path/to/corpus --by gender,spk_id\n"
        "  ser-ts evaluate my-student labels.csv --columns wav=file,activation=arousal --scale 1,5 --robustness",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="an exported student or a public model: folder, or name on the Hub"
    )
    parser.add_argument("table", metavar="TABLE", help="a manifest, or a CSV of files and labels")
    parser.add_argument("--audio", metavar="DIR", help="the folder of the recordings (default: that of TABLE)")
    parser.add_argument(
        "--columns",
        metavar="NAME=COLUMN,...",
        type=_pairs,
        help="what wav, spk_id, gender, activation, valence and dominance are called in TABLE",
    )
    parser.add_argument("--scale", metavar="LOW,HIGH", type=_range, help="of TABLE's labels (default: the student's)")
    parser.add_argument("--by", metavar="COLUMN,...", type=_names, default=(), help="scores by gender, spk_id, ...")
    parser.add_argument("--vad", action="store_true", help="leave out silence around the words")
    parser.add_argument("--robustness", action="store_true", help="also with silence, noise, other levels and formats")
    parser.add_argument("--out", metavar="CSV", help="write the predictions")
    parser.add_argument("--batch-size", metavar="N", type=_positive, default=8, help="clips at a time (default: 8)")
    parser.add_argument("--device", default="cpu", help="such as cuda:0 (default: cpu)")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a model on the Hub")
    parser.set_defaults(run=_evaluate)


def _evaluate(**arguments):
    from ser_ts_lobes.student.evaluation import evaluate

    evaluate(**arguments)


def _add_demo_app(commands):
    """Add `ser-ts demo-app`."""
    parser = commands.add_parser(
        "demo-app",
        help="open a page on which a student hears recordings",
        description="Show a page in the browser: upload or record, and see how activated, how positive and how\n"
        "dominant the voice sounds. It runs on this machine and can only be seen from here, unless told otherwise.",
        epilog="examples:\n"
        "  ser-ts demo-app my-student\n"
        "  ser-ts demo-app user/name --port 8080\n"
        "  ser-ts demo-app my-student --host 0.0.0.0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="an exported student or a public model: folder, or name on the Hub"
    )
    parser.add_argument("--host", metavar="ADDRESS", help="to listen on; 0.0.0.0 for all (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="open a public link, through a tunnel of gradio's servers")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    parser.set_defaults(run=_demo_app)


def _demo_app(model, device, **arguments):
    from ser_ts_lobes.student.public_models import load_regressor

    try:
        from ser_ts_lobes.student import page
    except ModuleNotFoundError as error:
        raise needs_extra("The page", error.name or "gradio", "app") from error
    page.serve(load_regressor(model, device), **arguments)


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text):
    if not all(name.isdecimal() for name in _names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} should be whole numbers with commas between")
    return [int(name) for name in _names(text)]


def _range(text):
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should be LOW,HIGH, such as 1,5") from None
    return low, high


def _pairs(text):
    if not all("=" in pair for pair in _names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} should be KEY=VALUE,KEY=VALUE")
    return dict(pair.split("=", 1) for pair in _names(text))


if __name__ == "__main__":
    sys.exit(main())
