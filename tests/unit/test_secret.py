"""Secrets are hidden by name and by shape, and what is not a secret stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.adapters.files.serving import load_server_flags
from assay.adapters.host import process
from assay.foundation.secret import HIDDEN, has_password, hide, is_secret_name, redacted, values_of, words_without
from assay.serving.command import ServerCommand

SECRET = (
    "PGPASSWORD", "DB_PASS", "NPM_AUTH", "AUTHORIZATION", "API_KEYS", "SECRET_KEY_BASE", "GH_PAT", "HF_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS_JSON", "VLLM_API_KEY", "api-key", "apiKey", "AWS_SECRET_ACCESS_KEY", "MYSQL_PWD",
    "AZURE_CLIENT_SECRET", "password", "REDIS_PW", "accessToken", "ssl-keyfile-password", "SENTRY_DSN", "X_COOKIE",
    "AWS_SESSION_TOKEN", "ACCESS_TOKENS", "GPG_PASSPHRASE", "hf_token", "TOKEN", "KEY", "JWT", "ENCRYPTION_KEY_HEX",
    "TOKEN2", "TOKEN_1", "PASSWORD1", "KEY_1", "ACCESSKEY", "SECRETKEY", "HMAC", "TOTP", "SLACK_WEBHOOK_URL", "OAUTH",
)  # fmt: skip
OPEN = (
    "PWD", "OLDPWD", "", "TOKENIZERS_PARALLELISM", "max-total-tokens", "max-num-batched-tokens", "eos_token", "HOME",
    "CUDA_HOME", "VLLM_USE_V1", "skip-tokenizer-init", "ssl-keyfile", "kv-cache-dtype", "served-model-name", "author",
    "COMPASS", "bypass", "pass-config", "TORCH_CUDA_ARCH_LIST", "monkey", "PATH_TO", "x", "PATH",
)  # fmt: skip
SHAPES = (
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "ghp_abcdefghijklmnopqrstuvwxyz", "npm_abcdefghijklmnopqrstuvwxyz",
    "glpat-abcdefghijklmnopqrst", "sk-abcdefghijklmnopqrstuvwx", "AKIAIOSFODNN7EXAMPLE", "xoxb-123456789012-abcdef",
    "nvapi-abcdefghijklmnopqrstuv", "github_pat_11ABCDEFG0abcdefghij", "pypi-AgEIcHlwaS5vcmcCJDAwMD",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRET)
def test_names_that_hold_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert {name: HIDDEN} == redacted({name: "correct horse"})


@pytest.mark.parametrize("name", OPEN)
def test_names_that_hold_none(name: str) -> None:
    assert not is_secret_name(name)
    assert {name: "correct horse"} == redacted({name: "correct horse"})


@pytest.mark.parametrize("shape", SHAPES)
def test_values_with_the_shape_of_a_secret(shape: str) -> None:
    assert f"see {HIDDEN}, it" == hide(f"see {shape}, it")
    assert {"PLAIN": HIDDEN} == redacted({"PLAIN": shape})


def test_addresses_and_headers_and_settings_in_text() -> None:
    assert "https://***@host/x" == hide("https://user:word@host/x")
    assert "https://***@host/x" == hide("https://user:wo@rd@host/x")
    assert "ssh://git@host/x https://host/a@b" == hide("ssh://git@host/x https://host/a@b")
    assert "Authorization: Bearer ***" == hide("Authorization: Bearer abcdefghijkl")
    assert "Namespace(api_key='***', n=5, eos_token='</s>')" == hide("Namespace(api_key='k 1', n=5, eos_token='</s>')")
    assert '{"password": "***", "a": 1}' == hide('{"password": "a b", "a": 1}')
    assert "run --api-key *** --model x" == hide("run --api-key foo123 --model x")
    assert "a *** b" == hide("a -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- b")
    assert "run --api-key=*** -n 1" == hide("run --api-key=foo123 -n 1")
    assert "GET https://h/x?access_token=***&page=2" == hide("GET https://h/x?access_token=abc&page=2")
    assert "https://h/x?sv=1&sig=***" == hide("https://h/x?sv=1&sig=abc%3D")
    assert "Cookie: ***\nHost: h" == hide("Cookie: session=abcdef; a=b\nHost: h")
    assert "password: ***" == hide("password: hunter22")
    assert "the token: it has expired; KeyError: 'x'" == hide("the token: it has expired; KeyError: 'x'")


def test_command_lines() -> None:
    shown = words_without(
        ["launch", "--env", "PGPASSWORD=x", "--set", "api-key=abc", "--api-key", "foo", "--key", "k.pub"]
    )

    assert ["launch", "--env", "PGPASSWORD=***", "--set", "api-key=***", "--api-key", "***", "--key", "k.pub"] == shown


def test_short_and_plain_values_are_not_looked_for() -> None:
    assert ["long-secret", "abcd"] == values_of({"A_TOKEN": "abcd", "B_AUTH": "true", "C_KEY": ("1", "long-secret")})


@pytest.mark.parametrize(
    ("address", "has"),
    [
        ("https://user:word@host/simple", True),
        ("https://token@host/simple", True),
        ("https://host/simple?access_token=abc", True),
        ("https://host/simple?sv=1&sig=abc", True),
        ("https://host/simple", False),
        ("https://host/a@b", False),
        ("https://host/?page=2", False),
    ],
)
def test_addresses_with_a_password(address: str, has: bool) -> None:
    assert has == has_password(address)


@given(st.text(max_size=200))
def test_hiding_ends_and_is_stable(text: str) -> None:
    assert hide(hide(text)) == hide(text)


@pytest.mark.parametrize(
    "piece", ["a", "a=", "a@", "--", '"a":"', "x://", "sk-", "basic ", "eyJ", "a='", "a='\\", "hf_"]
)
def test_long_texts_take_no_time(piece: str) -> None:
    # A pattern that goes back over what it read takes minutes for this; the time limit of the tests is the bound.
    hide("http://" + piece * (300_000 // len(piece)))


@pytest.mark.parametrize("name", SECRET)
def test_no_record_and_no_log_of_a_server_holds_a_secret(name: str, server: ServerCommand) -> None:
    command = replace(server, env={name: "correct-horse"}, flags={"api-key": "battery-staple", "seed": "7"})

    kept = " ".join([*command.told.argv(), *command.told.env.values()])
    log = command.redacted(
        "env correct-horse args battery-staple inherited", {"OTHER_PASS": "inherited", "TERM": "args"}
    )

    assert "correct-horse" not in kept + log
    assert "battery-staple" not in kept + log
    assert "env *** args *** ***" == log
    assert "--seed 7" in kept


@pytest.fixture(scope="module")
def server() -> ServerCommand:
    root = Path(__file__).parents[2]
    engines = load_server_flags(root / "knowledge" / "server_flags.yaml").engines
    return ServerCommand(engine=engines["vllm"], version="0.11.0", model="m", flags={})


def test_a_failed_program_is_reported_without_its_secrets() -> None:
    done = process.Completed(
        argv=("uv", "--index", "x=https://u:word@h/s"),
        returncode=1,
        stdout=b"",
        stderr=b"GET https://u:word@h",
        seconds=0,
    )

    assert "word" not in process._failure(done)
