from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.report.redaction import Redactor

HF = "hf_" + "aBcD1234" * 4 + "xy"
HEX = "0123456789abcdef0123456789abcdef01234567"
PLAIN = Redactor()
JO = Redactor(homes=("/home/jo",), users=("jo",))


@pytest.mark.parametrize(
    "text",
    [
        "--huggingface_token {}",
        "--huggingface_token={}",
        '--huggingface_token "{}"',
        "--huggingface_token='{}'",
        '"--huggingface_token={}"',
        '"--huggingface_token" "{}"',
        "--huggingface_token \\\n  {}",
        "--huggingface_token ^\r\n  {}",
        "adamw8bit \\--huggingface_token {} \\",
        "--hugg {}",
        "--huggingface_t={}",
        "--huggingface_tok {}",
        "--HUGGINGFACE_TOKEN {}",
        "--wandb_api_key {}",
        "--wandb_api_key={}",
        "--wandb {}",
        "--wandb_a '{}'",
        "--my_api_key {}",
        "HF_TOKEN={}",
        "export HF_TOKEN='{}'",
        "HF_TOKEN={} accelerate launch",
        'set "HF_TOKEN={} "',
        "set WANDB_API_KEY={}",
        "WANDB_API_KEY = {}",
        "$env:HF_TOKEN = '{}'",
        'huggingface_token = "{}"',
        '{{"wandb_api_key": "{}"}}',
        '--huggingface_token "{}',
        "--wandb_api_key=-{}'",
        "AWS_SECRET_ACCESS_KEY={}",
        "Authorization: Bearer {}",
        "https://user:{}@huggingface.co/repo",
        "https://{}@github.com/kohya-ss/sd-scripts",
        "https://example.com/model?token={}&x=1",
    ],
)
@pytest.mark.parametrize("secret", [HF, HEX, "s3cr3t-w0rd"])
def test_a_secret_is_taken_out_wherever_it_is_given(text: str, secret: str) -> None:
    shown = PLAIN.text(text.format(secret))

    assert secret not in shown
    assert "[redacted]" in shown


@pytest.mark.parametrize(
    "text",
    [
        f"a bare {HF} in a sentence",
        f"path/{HF}.txt",
        f"wandb login {HEX}",
        f"wandb: Appending key for api.wandb.ai: {HEX}",
        "wandb_v1_" + "Ab3_-" * 10,
        "ghp_" + "a1B2" * 9,
    ],
)
def test_a_token_tells_by_its_look(text: str) -> None:
    token = max(text.replace(".txt", "").replace("/", " ").split(), key=len)

    assert token not in PLAIN.text(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("--output_dir /home/jo/fluxgym/outputs/x", "--output_dir ~/fluxgym/outputs/x"),
        ('"/Users/jo/fluxgym"', '"~/fluxgym"'),
        (r"C:\Users\jo\fluxgym", r"~\fluxgym"),
        (r"c:\\users\\jo\\fluxgym", r"~\\fluxgym"),
        ("C:/Users/jo/fluxgym", "~/fluxgym"),
        (r'"C:\Users\Jo Ann Doe\fluxgym"', r'"~\fluxgym"'),
        (r"C:\Users\JOANND~1 --save_state", "~ --save_state"),
        (r"cd C:\Users\Jo & train", "cd ~ & train"),
        ("/mnt/c/Users/jo/fluxgym", "~/fluxgym"),
        ("/c/Users/jo/fluxgym", "~/fluxgym"),
        ("file:///home/jo/x", "file://~/x"),
        ("/home/ann and /home/bob", "~ and ~"),
        ("/mnt/disk/home/ann/x", "/mnt/disk/home/[user]/x"),
        ("/media/jo/disk/fluxgym", "/media/[user]/disk/fluxgym"),
        ("/media/JO/disk", "/media/[user]/disk"),
    ],
)
def test_a_home_or_a_user_is_taken_out_and_the_rest_of_the_path_stays(text: str, wanted: str) -> None:
    assert JO.text(text) == wanted


def test_the_users_own_home_is_taken_out_wherever_it_lies() -> None:
    redactor = Redactor(homes=("/data/people/ann", "/"))

    assert redactor.text("/data/people/ann/x /data/people/anna/y /z") == "~/x /data/people/anna/y /z"


@pytest.mark.parametrize(
    "text",
    [
        "accelerate launch \\\n  --max_token_length 225 \\\n  --keep_tokens 1 \\\n  --save_state",
        "--huggingface_repo_id someone/lora --width 512 --weighting_scheme none",
        "--huggingface_token --save_state",
        "keep_tokens = 1\nclass_tokens = 'p3rs0n'",
        "/workspace/fluxgym/outputs/persian-cat/persian-cat-000004-state",
        "/homes/x /myhome/x ~/x home/x",
        "sd-scripts 48d368fa557731ad0488c07304dfeba8c07910eb",
        "root /root-fs jojo /srv/jojo /srv/jo.txt",
        '{"current_epoch": 4, "current_step": 32}',
        "user@example.com",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert JO.text(text) == text


def test_values_are_redacted_at_every_depth_and_keys_too() -> None:
    value = {f"/home/jo/{HF}": [{"a": "/home/jo"}, (1, None, True, 2.5)], "n": 3}

    assert JO.value(value) == {"~/[redacted]": [{"a": "~"}, [1, None, True, 2.5]], "n": 3}


def test_a_text_files_bytes_survive_but_for_its_secrets() -> None:
    data = b"caf\xe9 \xff /home/jo/x\r\n"

    assert JO.data(data) == b"caf\xe9 \xff ~/x\r\n"


def test_a_utf16_file_cannot_hide_its_secrets() -> None:
    assert JO.data(f"--huggingface_token {HF}".encode("utf-16")) == b"--huggingface_token [redacted]"


@pytest.mark.parametrize("data", [b"PK\x03\x04\0\0", b"\xff\xfeabc", HF.encode("utf-16-le")])
def test_what_is_not_text_is_not_given_away(data: bytes) -> None:
    assert JO.data(data) is None


@given(
    before=st.text(alphabet=string.printable, max_size=40),
    after=st.text(alphabet=string.printable, max_size=40),
    flag=st.sampled_from(
        ["--huggingface_token ", "--wandb_api_key=", "HF_TOKEN=", "WANDB_API_KEY='", "Bearer "]
    ),
)
def test_no_surroundings_bring_a_token_through(before: str, after: str, flag: str) -> None:
    assert HF not in PLAIN.text(f"{before} {flag}{HF} {after}")


@given(st.text(max_size=300))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = JO.text(text)

    assert JO.text(once) == once
