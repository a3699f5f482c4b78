"""The command `ser-ts`.

Each subcommand is one function that adds its parser and names, by `set_defaults(run=...)`, what runs it. The
work is imported where it runs, so that help comes at once.
"""

import argparse
import sys

from ser_ts_lobes import __version__
from ser_ts_lobes.errors import plain_errors


def main(argv=None):
    """Run `ser-ts`.

    Parameters
    ----------
    argv : list of str
        Arguments; None takes the program's own.

    Returns
    -------
    int
        Exit status: 0, or 130 when interrupted.

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
    for add_command in (_add_transcribe,):
        add_command(commands)

    arguments = vars(parser.parse_args(argv))
    run = arguments.pop("run")
    try:
        with plain_errors():
            run(**arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


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
    parser.add_argument("--batch-size", metavar="N", type=int, default=8, help="windows at a time (default: 8)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the first GPU, or else the CPU)")
    parser.set_defaults(run=_transcribe)


def _transcribe(**arguments):
    from ser_ts_lobes.transcription import transcribe

    transcribe(**arguments)


if __name__ == "__main__":
    sys.exit(main())
