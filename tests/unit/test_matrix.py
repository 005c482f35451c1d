"""The configuration is checked wholly, and says what is wrong where."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assay.errors import ConfigError
from assay.matrix import loading as matrix


def problems(matrix_text: str, image_text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        matrix.load(matrix_text, {"serving": image_text})
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def place(text: str, word: str) -> str:
    """Return `line:column` of a word that stands once."""
    before = text[: text.index(word)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_yaml_versions_stay_as_written(matrix_text: str, image_text: str) -> None:
    project = matrix.load(matrix_text, {"serving": image_text})
    value = project.axis_value("torch", "2.10")

    assert value is not None
    assert (value.version, value.pin) == ("2.10", "==2.10")


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("targets:", "targts:", "unknown key 'targts'; did you mean 'targets'?"),
        ("    driver:", "    drivr:", "unknown key 'drivr'; did you mean 'driver'?"),
        ("compute_capability: 9.0", "compute_capability: nine", "compute_capability: 'nine' is not allowed here"),
        ('cuda: ">=12.8"', 'cuda: "12,8"', "'12,8' is not a version condition"),
        ("[2.7.0, 2.8.0, 2.10,", "[2.7.0, 2.8.0, two,", "'two' is not a version"),
        ("[2.7.0, 2.8.0, 2.10,", "[2.7.0, 2.8.0, 2.8.0,", "the value '2.8.0' occurs twice"),
        ("index: nightly,", "index: nigthly,", "no index 'nigthly'; did you mean 'nightly'?"),
        ("need: {cuda:", "need: {cda:", "no axis 'cda'; did you mean 'cuda'?"),
        ("starter: [serving-cu128-torch2.8.0]", "starter: [all-of-it]", "the group selects itself"),
        ("default_group: starter", "default_group: startr", "no group 'startr'; did you mean 'starter'?"),
        ("  starter: [", "  serving: [", "'serving' is also an image"),
        ("1.0+cu128]", "'1.0; rm -rf /']", "is not allowed here"),
        ("suite: bookworm", "suite: 'bookworm; true'", "is not allowed here"),
        ("packages: [python3]", "packages: ['python3 && reboot']", "is not allowed here"),
        ('"https://nightly.example/whl/cu130"', "'https://x/$(id)'", "is not allowed here"),
        (
            '"https://nightly.example/whl/cu130"',
            "'https://user:s3cr3t@x/simple'",
            "must hold no user, password or token",
        ),
        ('"https://nightly.example/whl/cu130"', "'https://t0ken@x/simple'", "name a netrc file with it: NETRC"),
        (
            '"https://nightly.example/whl/cu130"',
            "'https://x/simple?access_token=s3cr3t'",
            "must hold no user, password",
        ),
        ('"https://nightly.example/whl/cu130"', "'https://x/hf_s3cr3ts3cr3ts3cr3t/simple'", "must hold no user"),
        ("memory_gib: 32", "memory_gib: lots", "targets.sm_120.memory_gib: must be a number, not 'lots'"),
        ("kind: bootstrap", "kind: bootstrp", "must be one of 'registry', 'bootstrap', not 'bootstrp'"),
        ('need: {cuda: ">=12.8"}', 'need: {cuda: ">=12,8x"}', "'>=12,8x' is not a version condition"),
    ],
)
def test_a_wrong_matrix_says_where(matrix_text: str, image_text: str, old: str, new: str, message: str) -> None:
    assert old in matrix_text
    changed = matrix_text.replace(old, new, 1)
    found = problems(changed, image_text)

    assert any(message in problem for problem in found), found
    assert all(problem.startswith("matrix.yaml:") for problem in found if message in problem)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("description:", "descripton:", "unknown key 'descripton'; did you mean 'description'?"),
        ("targets: [sm_120]", "targets: [sm_121]", "no target 'sm_121'; did you mean 'sm_120'?"),
        ("  cuda: [12.6, 12.8]", "  cuda: [12.6, 12.9]", "the axis cuda has no value '12.9'"),
        ("  torch: [2.7.0, 2.8.0]", "  trch: [2.7.0]", "no axis 'trch'; did you mean 'torch'?"),
        ("id: [cuda, torch]", "id: [cuda, sglang]", "the id names the axis 'sglang', which no cell"),
        ("defaults: {base: slim, ", "defaults: {", "no base: add `base`"),
        ("base: slim,", "base: slm,", "the axis base has no value 'slm'; did you mean 'slim'?"),
        ('reason: "PyTorch 2.7.0 for CUDA 12.8 was withdrawn by us."', 'reason: ""', "reason"),
        (', reason: "PyTorch 2.7.0 for CUDA 12.8 was withdrawn by us."', "", "reason: is missing"),
        ("system_packages: [libnuma1]", "system_packages: ['libnuma1\\nRUN id']", "is not allowed here"),
        ("env: {GREETING:", "env: {'A B':", "is not allowed here"),
        ("GREETING: 'say", 'GREETING: "a\\nb", X: \'say', "must be one line without control characters"),
        ("engine: none", "engine: trt", "must be 'sglang', 'vllm' or 'none', not 'trt'"),
        (
            "exclude:",
            "  - {cuda: 13.0, torch: 2.10, kernel: 1.0+cu128}\nexclude:",
            "include[1] is the same point as include[0]",
        ),
    ],
)
def test_a_wrong_image_says_where(matrix_text: str, image_text: str, old: str, new: str, message: str) -> None:
    assert old in image_text
    found = problems(matrix_text, image_text.replace(old, new, 1))

    assert any(message in problem for problem in found), found
    assert all(problem.startswith("images/serving/image.yaml:") for problem in found)


def test_the_refused_password_is_not_repeated(matrix_text: str, image_text: str) -> None:
    text = matrix_text.replace("https://nightly.example/whl/cu130", "https://user:s3cr3t@x/simple")

    assert "s3cr3t" not in str(problems(text, image_text))


def test_line_and_column_are_those_of_the_word(matrix_text: str, image_text: str) -> None:
    changed = image_text.replace("base: slim,", "base: slm,")
    found = problems(matrix_text, changed)

    assert [f"images/serving/image.yaml:{place(changed, 'slm')}"] == [problem.split(": ")[0] for problem in found]


def test_all_problems_of_all_files_are_reported_at_once(matrix_text: str, image_text: str) -> None:
    broken = matrix_text.replace("default_group: starter", "default_group: x").replace("need: {cuda", "need: {cuba")
    found = problems(broken, image_text.replace("[sm_120]", "[sm_9]").replace("base: slim", "base: s"))

    assert len(found) == 4
    assert {problem.split(":")[0] for problem in found} == {"matrix.yaml", "images/serving/image.yaml"}


@pytest.mark.parametrize("name", ["Bad Name; rm", "under_score", "-x"])
def test_a_folder_that_cannot_name_an_image(matrix_text: str, image_text: str, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name an image") as caught:
        matrix.load(matrix_text, {name: image_text})

    assert [f"images/{name}/image.yaml"] == [problem.file for problem in caught.value.problems]
