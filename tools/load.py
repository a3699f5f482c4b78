"""Load: time and memory of `ser-ts predict` on many files and on long ones, and of the page under many clients.

To run: ``python -m tools.load`` (about half an hour of two cores and 3 GB of disk), or with smaller numbers first, such
as ``--files 100 --hours 0.1 --clients 3 --upload-gib 0.2``. The student is a small one of random weights, so that time
and memory are those of all around the network; the recordings are noise. It prints the tables of docs/students.md.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from ser_ts_lobes.results.text_tables import markdown_table

SAMPLE_RATE = 16000
#: Different recordings among many files, which are links to them.
N_RECORDINGS = 50
_CHUNK = 2**20
_SERVER = """
import sys
from ser_ts_lobes.student import page
from ser_ts_lobes.student.inference import EmotionRegressor
page._IDLE_S, page._SWEEP_S = 2.0, 1.0  # not 10 minutes
page.serve(EmotionRegressor.from_pretrained(sys.argv[1]), port=int(sys.argv[2]))
"""


# ------------------------------------------------------------------ what is heard


def make_student(folder):
    """Write a small student of random weights; give its folder."""
    from tests.tiny_models import save_tiny_ssl
    from tests.tiny_student import save_tiny_student

    return save_tiny_student(folder / "student", save_tiny_ssl(folder / "encoder"))


def write_noise(path, seconds, seed=0):
    """Write 8-bit noise of any length, a minute at a time; give the path."""
    random = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_U8") as file:
        for start in np.arange(0, seconds, 60):
            file.write(random.uniform(-0.3, 0.3, round(min(60, seconds - start) * SAMPLE_RATE)).astype(np.float32))
    return path


def write_many(folder, number):
    """Write a folder of so many short files; give the folder."""
    originals, folder = folder / "recordings", folder / f"{number}_files"
    folder.mkdir()
    if not originals.is_dir():
        originals.mkdir()
        for i in range(N_RECORDINGS):
            write_noise(originals / f"{i}.wav", 0.5 + i / N_RECORDINGS, seed=i)
    for i in range(number):
        os.link(originals / f"{i % N_RECORDINGS}.wav", folder / f"{i:06d}.wav")
    return folder


# ------------------------------------------------------------------ in a shell


def run_predict(*arguments):
    """Run `ser-ts predict`; give its lines, the seconds and the peak of its memory in MB."""
    command = [sys.executable, "-m", "ser_ts_lobes.cli", "predict", *map(str, arguments), "--format", "csv"]
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        return sum(1 for _ in output) - 1, seconds, used.ru_maxrss / 1024


def try_predict(folder, numbers, hours):
    """Print what `ser-ts predict` takes of many files, and of long ones."""
    student = make_student(folder)
    rows = []
    for number in numbers:
        lines, seconds, peak_mb = run_predict(student, write_many(folder, number))
        rows.append([f"{number:,} files of about a second", f"{lines:,}", f"{seconds:.0f}", f"{peak_mb:.0f}"])
    for duration in hours:
        path = write_noise(folder / "long.wav", 3600 * duration)
        lines, seconds, peak_mb = run_predict(student, path, "--timeline", "--hop", 4, "--no-vad")
        rows.append(
            [f"{duration:g} h in one file, a window each 4 s", f"{lines:,}", f"{seconds:.0f}", f"{peak_mb:.0f}"]
        )
        path.unlink()
    print(markdown_table(("`ser-ts predict`", "lines", "seconds", "peak memory, MB"), rows), flush=True)
    return student


# ------------------------------------------------------------------ the page


class Client:
    """What a browser does on the page, without one.

    Parameters
    ----------
    port
        Of the server on this machine.
    """

    def __init__(self, port):
        self.port = port

    def request(self, method, path, body=None, headers=None, timeout=600):
        """Give the status and the content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def upload(self, content, name="clip.wav"):
        """Upload bytes; give the path on the server."""
        head, tail, headers = _multipart(name)
        status, answer = self.request("POST", "/gradio_api/upload", head + content + tail, headers)
        if status != 200:
            raise RuntimeError(f"upload: {status} {answer[:200]!r}")
        return json.loads(answer)[0]

    def hear(self, content, name="clip.wav"):
        """Upload a recording, and give what the page shows of it, as HTML."""
        place = self.upload(content, name)
        _, config = self.request("GET", "/config")
        [change] = [part for part in json.loads(config)["dependencies"] if part["targets"][0][1] == "change"]
        session = uuid.uuid4().hex
        data = [{"path": place, "orig_name": name, "meta": {"_type": "gradio.FileData"}}]
        event = json.dumps({"data": data, "fn_index": change["id"], "session_hash": session, "event_data": None})
        self.request("POST", "/gradio_api/queue/join", event, {"Content-Type": "application/json"})
        _, stream = self.request("GET", f"/gradio_api/queue/data?session_hash={quote(session)}")
        messages = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
        done = next(message for message in messages if message["msg"] == "process_completed")
        if not done["success"]:
            raise RuntimeError(f"the page failed: {done['output']}")
        return done["output"]["data"][0]

    def upload_zeros(self, n_bytes, promised):
        """Begin an upload that promises so many bytes, and cut it off after some; give what the server says.

        Returns
        -------
        tuple of int and str
            Bytes that the server took, and the first line of its answer; empty where there is none.
        """
        head, _, headers = _multipart("zeros.wav")
        headers = {"Host": "127.0.0.1", "Content-Length": promised, **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sent = 0
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"POST /gradio_api/upload HTTP/1.1\r\n{lines}\r\n".encode() + head)
            try:
                while sent < n_bytes:
                    connection.sendall(bytes(min(_CHUNK, n_bytes - sent)))
                    sent += min(_CHUNK, n_bytes - sent)
                    connection.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        if answer := connection.recv(4096):
                            return sent, answer.decode("latin-1").splitlines()[0]
                    connection.settimeout(60)
            except OSError:  # it doesn't listen any more
                return sent, ""
        return sent, ""


def _multipart(name):
    """Give what stands before and behind a file in an upload, and the headers."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return head, f"\r\n--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@contextlib.contextmanager
def serving(student, uploads):
    """Serve the page of a student in a process of its own; give that and the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-c", _SERVER, str(student), str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise RuntimeError("the page's server has ended")
            time.sleep(0.2)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def memory_mb(process, what="VmRSS"):
    """Give the memory of a process, or the peak of it (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(what))


def left_over(uploads):
    """List files of uploads that are not whole."""
    return [path for path in Path(uploads).glob("*") if path.is_file()]


def try_page(folder, student, n_clients, upload_gib):
    """Print what the page takes of clients at once, uploads that are cut off, and a file that is too large."""
    uploads = folder / "uploads"
    clip = write_noise(folder / "clip.wav", 5).read_bytes()
    rows = []
    with serving(student, uploads) as (process, port):
        client = Client(port)
        start = time.perf_counter()
        expected = client.hear(clip)

        def record(what, outcome, start):
            peak_mb = memory_mb(process, "VmHWM")
            rows.append([what, outcome, f"{time.perf_counter() - start:.1f}", f"{peak_mb:.0f}"])

        record("one client, a clip of 5 s", "heard", start)
        start = time.perf_counter()
        with ThreadPoolExecutor(n_clients) as pool:
            heard = list(pool.map(client.hear, [clip] * n_clients))
        same = sum(html == expected for html in heard)
        record(f"{n_clients} clients at once, the same clip", f"{same} heard alike", start)
        start = time.perf_counter()
        with ThreadPoolExecutor(n_clients) as pool:
            list(pool.map(lambda _: client.upload_zeros(20 * _CHUNK, 90 * _CHUNK), range(n_clients)))
        left = sum(path.stat().st_size for path in left_over(uploads)) / 1e6
        alike = client.hear(clip) == expected
        record(f"{n_clients} uploads cut off after 20 MiB", f"the next client is {'heard' if alike else 'lost'}", start)
        n_bytes = round(upload_gib * 2**30)
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            large = pool.submit(client.upload_zeros, n_bytes, n_bytes)
            alike = client.hear(clip) == expected
            sent, answer = large.result()
        outcome = (
            f"{answer or 'hung up'} after {sent / 1e6:.0f} MB; another is {'heard' if alike else 'lost'} meanwhile"
        )
        record(f"a file of {upload_gib:g} GiB", outcome, start)
        time.sleep(5)
        now = sum(path.stat().st_size for path in left_over(uploads)) / 1e6
    print(markdown_table(("the page", "outcome", "seconds", "peak memory, MB"), rows))
    print(f"\nOf what was cut off, {left:.0f} MB were on the disk at once, and {now:.0f} MB when it had been swept.")


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 10_000], help="numbers of short files")
    parser.add_argument("--hours", type=float, nargs="*", default=[1, 10], help="lengths of one file")
    parser.add_argument("--clients", type=int, default=20, help="of the page, at once")
    parser.add_argument("--upload-gib", type=float, default=2, help="size of the largest upload")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        student = try_predict(Path(folder), arguments.files, arguments.hours)
        print()
        try_page(Path(folder), student, arguments.clients, arguments.upload_gib)


if __name__ == "__main__":
    main()
