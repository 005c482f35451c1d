"""Run one job of probes where no assay is installed: in an image under test, on a node of a pool.

Usage: python3 run_probes.py SUITE.zip JOB RESULT [WORK]

JOB is a sealed job document (a file, or the word env: it is in ASSAY_JOB). RESULT is a file, written whole or not at
all, or `-`: frames in standard output, between the lines of the harness. After each probe there is a sealed result;
the last one is complete. A job whose complete result is there already is not run again.

Needs nothing but Python 3.9 and a Linux kernel.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from datetime import datetime, timezone

CHUNK = 3000
"""Characters of a frame: a line stays below the 4096 bytes that a pipe takes whole, and below what engines cut."""
GRACE_SECONDS = 5.0
LOG_BYTES = 1 << 20


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sealed(document):
    """Return the document with the digest of all that follows in front, as assay.ports.jobs.seal does."""
    rest = json.dumps(document).encode()[1:] + b"\n"
    return b'{"checksum":"' + sha256(rest).encode() + b'",' + rest


def unsealed(data):
    """Return the document, or None if it was cut off or changed."""
    head, rest = data[:86], data[86:]
    if not head.startswith(b'{"checksum":"sha256:') or head[13:84].decode("latin-1") != sha256(rest):
        return None
    return json.loads(b"{" + rest)


def job_digest(job):
    return sha256(json.dumps(job, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


class Files:
    """Results in a folder that machines share."""

    def __init__(self, path):
        self.path = path

    def done(self, digest):
        try:
            with open(self.path, "rb") as file:
                found = unsealed(file.read())
        except OSError:
            return False
        return found is not None and found["job"] == digest and found["ended"] != "unfinished"

    def write(self, data):
        part = f"{self.path}.{os.uname().nodename}.{os.getpid()}.part"
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)


class Frames:
    """Results as lines of a log; each holds a piece, its number, and the digest of the whole."""

    def done(self, _digest):
        return False

    def write(self, data):
        text = base64.b64encode(zlib.compress(data, 9)).decode()
        pieces = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
        mark = sha256(data)[7:39]
        for number, piece in enumerate(pieces, 1):
            say(f"assay-result {mark} {number}/{len(pieces)} {piece}")


LOCK = threading.Lock()


def say(line):
    with LOCK:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class Run:
    """One run of the harness, and what is written of it."""

    def __init__(self, job, sink, work):
        self.job, self.sink, self.work = job, sink, work
        self.digest = job_digest(job)
        self.began = time.monotonic()
        self.written = None
        self.stopped = False

    def document(self, ended, message=""):
        harness, unreadable = None, ""
        try:
            with open(os.path.join(self.work, "result.json"), "rb") as file:
                harness = json.loads(file.read())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            unreadable = f"the result document cannot be read: {error}"
        moment = datetime.now(timezone.utc)
        return {
            "schema_version": 1,
            "job": self.digest,
            "executor": os.environ.get("ASSAY_EXECUTOR", "local"),
            "ended": ended,
            "message": message,
            "harness": harness,
            "unreadable": unreadable,
            "log": None,
            "seconds": round(time.monotonic() - self.began, 3),
            "machine": os.environ.get("ASSAY_MACHINE") or os.uname().nodename,
            "written": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
        }

    def keep(self):
        """Write down what there is, if a probe has ended since."""
        document = self.document("unfinished")
        probes = len((document["harness"] or {}).get("probes", {}))
        if probes and probes != self.written:
            self.written = probes
            self.sink.write(sealed(document))

    def execute(self, programs):
        with open(os.path.join(programs, "declared.json")) as file:
            declared = json.load(file)
        job = {
            "probes": [declared[feature] for feature in self.job["features"]],
            "work": os.path.join(self.work, "run"),
            "cache": os.path.join(self.work, "cache"),
            "warm": self.job["warm"],
            "sabotage": self.job["sabotage"],
            "seed": self.job["seed"],
        }
        with open(os.path.join(self.work, "job.json"), "w") as file:
            json.dump(job, file)
        argv = [
            sys.executable,
            "-u",
            os.path.join(programs, "probes", "harness.py"),
            os.path.join(self.work, "job.json"),
            os.path.join(self.work, "result.json"),
        ]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **self.job["env"]}
        environment.pop("ASSAY_JOB", None)
        harness = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        reader = threading.Thread(target=self.follow, args=(harness.stdout,), daemon=True)
        reader.start()

        def end(*_):
            self.stopped = True
            harness.terminate()

        signal.signal(signal.SIGTERM, end)
        timed_out = False
        try:
            harness.wait(self.job["limits"]["seconds"])
        except subprocess.TimeoutExpired:
            timed_out = True
            harness.terminate()
            try:
                harness.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                harness.kill()
        code = harness.wait()
        reader.join(GRACE_SECONDS)
        self.end(code, timed_out)

    def end(self, code, timed_out):
        if self.stopped and code != 0:
            # Preempted or cancelled: whoever asks again gets what was measured, and the job is run anew.
            return self.keep()
        if timed_out:
            limit = self.job["limits"]["seconds"]
            document = self.document("timed_out", f"the whole run took longer than its {limit:.0f} s and was killed")
        elif code == 0:
            document = self.document("finished")
        elif code < 0:
            # Something outside of the harness: the pool decides whether to run it again.
            return self.keep()
        else:
            document = self.document("failed", f"the harness ended with code {code}")
        self.sink.write(sealed(document))
        return None

    def follow(self, stream):
        kept = 0
        for line in stream:
            kept += len(line)
            if kept < LOG_BYTES:
                say(line.decode("utf-8", "replace").rstrip("\n"))
            if line.startswith(b"probe: "):
                self.keep()


def main(argv):
    suite, source, target = argv[:3]
    if source == "env":
        data = os.environ["ASSAY_JOB"].encode()
    else:
        with open(source, "rb") as file:
            data = file.read()
    job = unsealed(data)
    if job is None:
        sys.stderr.write("the job document was cut off or changed; submit it again\n")
        return 2
    sink = Frames() if target == "-" else Files(target)
    if sink.done(job_digest(job)):
        say("the result is there already")
        return 0
    work = argv[3] if len(argv) > 3 else tempfile.mkdtemp(prefix="assay-")
    os.makedirs(work, exist_ok=True)
    try:
        programs = os.path.join(work, "programs")
        with zipfile.ZipFile(suite) as archive:
            archive.extractall(programs)
        Run(job, sink, work).execute(programs)
    finally:
        if len(argv) <= 3:
            shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
