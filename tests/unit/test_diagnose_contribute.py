"""A log that is given to the corpus: without secrets and names, shown first, written only when confirmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay.cli import main
from assay.diagnose import examine
from assay.diagnose.corpus import cases
from assay.diagnose.strip import excerpt, strip
from assay.pipeline.contribute import contribution

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    ("secret", "line"),
    [
        ("hf_abcdefghijklmnop1234", "HF_TOKEN=hf_abcdefghijklmnop1234"),
        ("hf_abcdefghijklmnop1234", "401 for token hf_abcdefghijklmnop1234 at the Hub"),
        ("sk-proj-aaaaaaaaaaaaaaaaaaaaa", "--api-key sk-proj-aaaaaaaaaaaaaaaaaaaaa"),
        ("hunter2", "vllm serve x --api-key hunter2"),
        ("hunter2", "password: hunter2"),
        ("hunter2", '{"api_key": "hunter2", "n": 1}'),
        ("abc.def.ghi-jkl", "Authorization: Bearer abc.def.ghi-jkl"),
        ("ghp_0123456789abcdefABCD", "git clone https://ghp_0123456789abcdefABCD@github.com/acme/x"),
        ("pw1", "https://jane:pw1@git.example.org/x"),
        ("jane.doe@acme.com", "by jane.doe@acme.com"),
        ("jane", 'File "/home/jane/venv/x.py", line 1'),
        ("jane", r"C:\Users\jane\x.log"),
        ("jane", "jane@box:~/src$ docker run"),
        ("10.1.2.3", "ip=10.1.2.3 is gone"),
        ("203.0.113.9", "connect to 203.0.113.9:8000"),
        ("fe80::1ff:fe23:4567:890a", "listening on fe80::1ff:fe23:4567:890a"),
        ("ai-box", "Jun 12 04:40:11 ai-box kernel: NVRM: Xid"),
        ("registry.acme.corp", "push to https://registry.acme.corp/v2/x failed"),
        ("ip-10-0-0-8", "node ip-10-0-0-8.ec2.internal left"),
        ("02:42:ac:11:00:02", "link 02:42:ac:11:00:02"),
        ("1b2c3d4e", "GPU-1b2c3d4e-0000-1111-2222-333344445555"),
        ("divorce", "GenerateReqInput(rid='7c', text='my divorce papers', sampling_params={})"),
        ("divorce", '{"role": "user", "content": "my divorce papers"}'),
        ("MIIEow", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"),
    ],
)
def test_secrets_and_names_are_replaced(secret: str, line: str) -> None:
    text, taken = strip(f"{line}\n")

    assert secret not in text
    assert sum(taken.values()) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "max_new_tokens=512, tokenizer='auto', skip_tokenizer_init=False, total_tokens: 3456, api_key=None",
        "nvidia-curand-cu12==10.3.9.90 nvidia-cublas-cu12 12.8.4.1",
        "http://127.0.0.1:8000/health and http://localhost:30000",
        "https://github.com/vllm-project/vllm and https://huggingface.co/acme/x",
        "INFO 04-17 09:41:35 [core.py:1090] cuda 13.0 sm_120",
        OOM,
    ],
)
def test_shortened_log_keeps_the_lines_of_its_diagnosis(line: str) -> None:
    assert strip(f"{line}\n")[0] == f"{line}\n"


def test_one_host_keeps_one_name() -> None:
    text, _ = strip("Jun 12 04:40:11 ai-box kernel: x\nfrom ai-box<41122> to https://other.acme.corp/y\n")

    assert text == "Jun 12 04:40:11 host-1 kernel: x\nfrom host-1<41122> to https://host-2/y\n"


def test_an_excerpt_holds_head_tail_and_what_stands_around_the_evidence() -> None:
    log = [b"\x1b[32mline %d\x1b[0m\r\n" % number for number in range(1, 2001)]
    lines = excerpt(log, 2000, [1000], around=5, most=100).splitlines()

    assert lines[:2] == ["line 1", "line 2"]
    assert lines[20] == "[... 974 lines left out ...]"
    assert lines[21:32] == [f"line {number}" for number in range(995, 1006)]
    assert lines[-1] == "line 2000"


def test_a_contribution_is_diagnosed_as_the_log_was_and_can_be_labelled() -> None:
    log = [b"hello\n"] * 3000 + [f"{OOM}\n".encode()] + [b"bye\n"] * 3000
    made = contribution(log, examine(log), name="My Log (2)")
    label = json.loads(made.label)

    assert made.name == "my-log-2"
    assert examine(made.log.encode()).diagnoses[0].cause == "h-oom"
    assert (label["class"], label["cause"]) == ("capacity", ["h-oom"])


# ---------------------------------------------------------------------------------------------------- command


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "oom.log"
    path.write_text(f"HF_TOKEN=hf_abcdefghijklmnop1234\n{OOM}\n")
    return path


def test_a_contribution_is_shown_and_not_written_without_confirmation(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(log), "--contribute", "--into", str(tmp_path / "seen" / "contributed")]) == 1
    told = capsys.readouterr()

    assert "HF_TOKEN=[token]" in told.out
    assert "hf_abc" not in told.out
    assert "replaced: 1 x token" in told.err
    assert "nothing was written" in told.err
    assert not (tmp_path / "seen").exists()


def test_yes_writes_the_log_and_its_label_into_the_corpus(log: Path, tmp_path: Path) -> None:
    assert main(["diagnose", str(log), "--contribute", "--yes", "--into", str(tmp_path / "seen" / "contributed")]) == 0
    [case] = cases(tmp_path, "seen")

    assert (case.family, case.name, case.label.cause) == ("contributed", "oom", ("h-oom",))
    assert "hf_abc" not in case.log.read_text()


def test_a_contribution_replaces_no_other(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "oom.json").write_text("mine")

    assert main(["diagnose", str(log), "--contribute", "--yes", "--into", str(tmp_path)]) == 2
    assert "already exist" in capsys.readouterr().err
    assert (tmp_path / "oom.json").read_text() == "mine"


def test_only_a_file_can_be_contributed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "-", "--contribute"]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_an_uncertain_answer_says_may_be_with_its_line_and_clues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.log"
    path.write_text("vLLM API server version 0.23.1\nncclInternalError: Internal check failed.\n")

    assert main(["diagnose", str(path), "--lines", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("may be env-nccl  [environment]  low confidence")
    assert "line 2: ncclInternalError" in out
    assert "the log names vllm 0.23.1" in out


def test_a_log_without_a_failure_shows_what_comes_nearest_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.log"
    path.write_text("all is well\nconfig file not found, using defaults\n")

    assert main(["diagnose", str(path)]) == 0
    assert "line 2: config file not found" in capsys.readouterr().err
