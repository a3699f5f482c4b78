"""Transcripts by a speech recogniser, for corpora that come without."""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from speechbrain.utils.distributed import get_local_rank, if_main_process, run_on_main
from tqdm import tqdm
from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    pipeline,
)

from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.data.manifests import TRANSCRIPT_COLUMNS, find_manifests, read_manifest
from ser_ts_lobes.devices import check_device
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import locked
from ser_ts_lobes.processes import gather_in_turn, join, my_share
from ser_ts_lobes.text_files import read_rows, write_csv

if TYPE_CHECKING:
    from transformers import AutomaticSpeechRecognitionPipeline

#: The recogniser on a GPU: the strongest open one.
GPU_ASR = "openai/whisper-large-v3"
#: The recogniser on a CPU: one that a laptop can run over a corpus.
CPU_ASR = "openai/whisper-tiny.en"

# The corpora are English, and so is the text encoder; Whisper would otherwise guess each clip's language.
LANGUAGE = "en"
# Longer audio is recognised in overlapping windows of this length; Whisper brings its own (30 s as well).
WINDOW_S = 30.0
# How much work a killed run may lose.
SAVE_EVERY_S = 30.0
# OpenAI's multilingual Whisper models have at least this many tokens, the English ones one less.
MULTILINGUAL_VOCABULARY = 51865


def transcribe(
    manifest_folder: str | Path,
    asr: str | Path | None = None,
    out: str | Path | None = None,
    batch_size: int = 8,
    device: str | None = None,
    data_root: str | Path | None = None,
) -> Path:
    """Transcribe the utterances of all manifests in a folder that nobody has transcribed.

    The longest come first, so that too large a batch fails at once. What is done is saved every half minute
    and when the run ends for whatever reason; the same call goes on from there. A transcript does not depend
    on the batch: Whisper pads each clip to its window, and CTC models hear one window at a time whatever
    ``batch_size`` says.

    Processes that `torchrun` starts share the work out (`ser_ts_lobes.processes`).

    Parameters
    ----------
    manifest_folder
        Where a prepare script wrote the manifests.
    asr
        Speech recogniser (CTC or sequence-to-sequence): a name on the Hugging Face Hub, or a folder. By
        default `GPU_ASR` where ``device`` is a GPU, `CPU_ASR` otherwise.
    out
        The CSV to write or to go on with, ``transcripts.csv`` in ``manifest_folder`` by default.
    batch_size
        Windows recognised at a time, by each process.
    device
        Such as ``"cpu"`` or ``"cuda:0"``; by default the first GPU where there is one, or each process's own.
    data_root
        What ``$data_root`` in the manifests stands for; None takes the folder that was prepared.

    Returns
    -------
    pathlib.Path
        The CSV of ID, transcript (on one line, empty where no words were heard), model and revision (commit
        on the Hub, or SHA-256 of a folder's weights). It is not made when no transcript is missing.

    Raises
    ------
    InputError
        When a manifest, an audio file, the recogniser or the device can't be used, or when the CSV holds
        transcripts by another recogniser.
    """
    out = Path(out or Path(manifest_folder) / "transcripts.csv")
    if not out.parent.is_dir():
        raise InputError(f"The folder of {out} does not exist. Make it, or name another file.")
    if batch_size < 1:
        raise InputError(f"A batch size of {batch_size} is not at least 1.")
    join({"distributed_backend": "gloo"})
    on = check_device(device or (f"cuda:{get_local_rank() or 0}" if torch.cuda.is_available() else "cpu"))
    asr = str(asr or (GPU_ASR if on.type == "cuda" else CPU_ASR))
    name = Path(asr).resolve().name if Path(asr).is_dir() else asr

    # All must share out the same, and one of them may save when another has not looked yet.
    before, pending, revision = run_on_main(_look, [manifest_folder, data_root, out, asr, name])
    if not pending:
        if if_main_process():
            print(f"No transcript is missing in {manifest_folder}.")
        return out

    own = my_share(list(pending))
    recogniser = load_recogniser(asr, revision, on)
    rows: dict[str, dict[str, str]] = {}
    started = last_saved = time.monotonic()
    try:
        texts = recognise(recogniser, [pending[id]["wav"] for id in own], batch_size)
        texts = tqdm(texts, "Transcribing", len(own), unit="utt", disable=not if_main_process())
        for id, text in zip(own, texts, strict=True):
            rows[id] = {"ID": id, "transcript": text, "model": name, "revision": revision}
            if time.monotonic() - last_saved > SAVE_EVERY_S:
                _save(out, rows)
                last_saved = time.monotonic()
        done = gather_in_turn(rows.values())
    except BaseException:
        if rows:
            _save(out, rows)
        raise

    if if_main_process():
        _write(out, before | {row["ID"]: row for row in done})  # in the order that one process gives
        seconds = time.monotonic() - started
        audio_s = sum(utterance["duration"] for utterance in pending.values())
        empty = sum(not row["transcript"] for row in done)
        print(
            f"Transcribed {len(done)} utterances ({empty} empty), {audio_s / 3600:.2f} h of audio, "
            f"in {seconds:.0f} s (real-time factor {seconds / audio_s:.3f}): {out}"
        )
    return out


def _look(manifest_folder, data_root, out, asr, name):
    """See what is done and what is to be done; find the recogniser's revision, if anything is."""
    rows = _read(out)
    pending = _find_pending(manifest_folder, data_root, rows)
    _refuse_others(out, rows, "model", name)
    revision = None
    if pending:
        revision = find_revision(asr)
        _refuse_others(out, rows, "revision", revision)
    return rows, pending, revision


def _read(out):
    return {row["ID"]: row for _, row in read_rows(out, TRANSCRIPT_COLUMNS, key="ID")} if out.exists() else {}


def _write(out, rows):
    write_csv(out, TRANSCRIPT_COLUMNS, ([row[column] for column in TRANSCRIPT_COLUMNS] for row in rows.values()))


def _save(out, rows):
    """Add rows to what others have saved."""
    with locked(out.with_name(f".{out.name}.lock")):
        _write(out, _read(out) | rows)


def find_revision(source: str) -> str:
    """Find out exactly which weights the name of a model stands for.

    Parameters
    ----------
    source
        A name on the Hugging Face Hub, or a folder.

    Returns
    -------
    str
        The commit on the Hub (the one in the cache when offline), or ``"sha256:"`` and the first 16 digits of
        the SHA-256 of a folder's weights.

    Raises
    ------
    InputError
        When there is no such model.
    """
    if not Path(source).is_dir():
        try:
            # The cache keeps each commit's files in a folder of that name.
            return Path(hf_hub_download(source, "config.json")).parent.name
        except (OSError, ValueError) as error:
            raise _not_loaded(source, error) from error
    digest = hashlib.sha256()
    for path in sorted(Path(source).glob("*.safetensors")) or sorted(Path(source).glob("*.bin")):
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"


def load_recogniser(source: str, revision: str, device: torch.device) -> "AutomaticSpeechRecognitionPipeline":
    """Load a speech recogniser, in float16 on a GPU and in float32 elsewhere.

    Parameters
    ----------
    source
        A name on the Hugging Face Hub, or a folder.
    revision
        From `find_revision`; a folder has only one.
    device
        Where it is to run.

    Returns
    -------
    transformers.AutomaticSpeechRecognitionPipeline

    Raises
    ------
    InputError
        When there is no such model, or it can't transcribe.
    """
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        generates = type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
        auto_class = AutoModelForSpeechSeq2Seq if generates else AutoModelForCTC
        model, loading = auto_class.from_pretrained(source, revision=revision, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        feature_extractor = AutoFeatureExtractor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, TypeError) as error:  # the last where a tokenizer has no vocabulary
        raise _not_loaded(source, error) from error
    # transformers may also make up a tokenizer that knows no word, only where a text ends.
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        raise _not_loaded(source, "its tokenizer's files are missing")
    # Only training masks, and so some recognisers were saved without the vector that it masks with.
    untrained = sorted(key for key in loading["missing_keys"] if not key.endswith("masked_spec_embed"))
    if untrained:
        raise InputError(
            f"'{source}' was not trained to recognise speech: it has no weights for {', '.join(untrained)}. "
            f"Name a model that was fine-tuned for it."
        )
    if generates:
        # Greedy: transformers' default, 5 beams, takes four times as long on a CPU and changes few clips.
        model.generation_config.num_beams = 1
    if config.model_type == "whisper":
        _complete_whisper(source, model, tokenizer)
    return pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        device=device,
    )


def recognise(recogniser: "AutomaticSpeechRecognitionPipeline", paths: Iterable[str], batch_size: int) -> Iterator[str]:
    """Transcribe audio files.

    Parameters
    ----------
    recogniser
        From `load_recogniser`.
    paths
        Audio files.
    batch_size
        Windows recognised at a time.

    Yields
    ------
    str
        What is said in each file, in their order, on one line.
    """
    sample_rate = recogniser.feature_extractor.sampling_rate
    options = {}
    if recogniser.type == "ctc":
        # Padding shifts the group norm of base models, and its first frame can add a letter.
        batch_size = 1
    elif recogniser.type == "seq2seq":
        # transformers can join overlapping windows of CTC models and Whisper only.
        options["stride_length_s"] = 0
    results = recogniser(
        (read_audio(path, sample_rate).numpy() for path in paths),
        batch_size=batch_size,
        chunk_length_s=getattr(recogniser.feature_extractor, "chunk_length", WINDOW_S),
        ignore_warning=True,  # that joining windows is experimental; almost all utterances fit in one
        **options,
    )
    for result in results:
        yield " ".join(result["text"].split())


def _not_loaded(source, error):
    return InputError(
        f"'{source}' can't be loaded as a speech recogniser ({str(error).splitlines()[0]}). Name a folder, or a "
        f"model on the Hugging Face Hub, with a CTC or sequence-to-sequence speech recogniser."
    )


def _complete_whisper(source, model, tokenizer):
    """Set what decides how Whisper generates, also where the model was saved without it."""
    generation = model.generation_config
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if generation.max_length is None:
        generation.max_length = model.config.max_target_positions
    if getattr(generation, "no_timestamps_token_id", None) is None:
        generation.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    if model.config.vocab_size >= MULTILINGUAL_VOCABULARY:
        if getattr(generation, "lang_to_id", None) is None:
            raise InputError(
                f"'{source}' is a multilingual Whisper, but its generation_config.json has no lang_to_id. "
                f"Copy that file from the model that it was made from."
            )
        generation.language, generation.task = LANGUAGE, "transcribe"
    # transformers' Whisper sets these two itself, and then warns of its own doing (seen in 5.23).
    logging.getLogger("transformers.generation.utils").addFilter(
        lambda record: "suppress_tokens" not in record.getMessage()
    )


def _find_pending(manifest_folder, data_root, done):
    """Find the utterances without a transcript, neither prepared nor done: id → row, the longest first."""
    pending: dict[str, dict[str, Any]] = {}
    for path in find_manifests(manifest_folder).values():
        manifest = read_manifest(path, data_root)
        pending |= {id: manifest.utterances[id] for id in manifest.missing_transcripts - done.keys()}
    for id, utterance in pending.items():
        if not Path(utterance["wav"]).is_file():
            raise InputError(
                f"The audio file of {id}, {utterance['wav']}, does not exist. Give --data-root, or prepare "
                f"the corpus again."
            )
    return dict(sorted(pending.items(), key=lambda item: (-item[1]["duration"], item[0])))


def _refuse_others(out, rows, column, ours):
    """Refuse to mix the transcripts of two recognisers."""
    others = {row[column] for row in rows.values()} - {ours}
    if others:
        raise InputError(
            f"{out} has transcripts of another {column} ({', '.join(sorted(others))}; this run's is {ours}). "
            f"Name another file with --out, or delete this one."
        )
