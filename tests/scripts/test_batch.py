"""Our reading and our edits of batch scripts against an independent reading of cmd's rules."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from checkpoint_core.scripts.script import TrainScript
from checkpoint_core.scripts.tokens import Dialect, InexpressiblePath, ScriptNotUnderstood
from tests.cmd_rules import argv, handed_to_accelerate, percent_phase
from tests.fake_accelerate import trainer_reads, without_resume

HEAD = "accelerate launch ^\r\n  --mixed_precision bf16 ^\r\n  sd-scripts/flux_train_network.py ^\r\n"

TEMPLATES = {
    "dangling": HEAD
    + '  --seed 42 ^\r\n  --output_dir "C:\\fluxgym\\outputs\\my lora" ^\r\n  --loss_type l2 ^',
    "dangling-newline": HEAD + "  --loss_type l2 ^\r\n",
    "no-final-newline": HEAD + "  --loss_type l2",
    "unix-line-ends": HEAD.replace("\r\n", "\n") + "  --loss_type l2\n",
    "mark-inside-a-line": HEAD
    + '  --optimizer_type adamw8bit ^--sample_prompts="a b" ^\r\n  --loss_type l2 ^\r\n  ',
    "space-only-line": HEAD + "  --seed 42 ^\r\n   ^\r\n  --loss_type l2 ^\r\n   \r\n",
    "tabs": HEAD.replace("  ", "\t") + "\t--seed\t42\t^\r\n\t--loss_type\tl2\r\n",
    "no-indent": HEAD.replace("  ", "") + "--seed 42 ^\r\n--loss_type l2\r\n",
    "one-line": "accelerate launch --mixed_precision bf16 sd-scripts/flux_train_network.py --loss_type l2",
    "surrounded": "@echo off\r\nrem accelerate launch x.py ^\r\n:: note\r\nif exist a (\r\n  echo b\r\n)\r\n"
    'set "A=b c"\r\ncd . && echo ok ^\r\n  more\r\n@'
    + HEAD
    + "  --loss_type l2\r\nif errorlevel 1 pause\r\n",
    "redirected": HEAD + "  --loss_type l2 > log.txt 2>&1\r\necho done\r\n",
    "redirected-closely": HEAD + "  --loss_type l2>log.txt & echo done\r\n",
    "piped": HEAD + "  --loss_type l2 2>&1 | more\r\n",
    "resume-there": HEAD + "  --seed 42 ^\r\n  --resume C:\\old\\state ^\r\n  --loss_type l2 ^\r\n",
    "resume-joined": HEAD + '  --resume="C:\\old state\\\\" --seed 42 ^\r\n  --loss_type l2\r\n',
    "resume-twice": HEAD + "  --resume C:\\one ^\r\n  --seed 42 --resume=two ^\r\n  --loss_type l2\r\n",
    "resume-abbreviated": HEAD + "  --resum old ^\r\n  --resolution 512 --seed 42\r\n",
    "resume-over-two-lines": HEAD + "  --seed 42 --resume ^\r\n     old ^\r\n  --loss_type l2",
    "escaped-quote": HEAD + '  --output_name ^"my lora^" --loss_type l2',
    "percent": HEAD + "  --output_name 100%%^% --loss_type l2",
    "beside-the-hub": HEAD + "  --resume_from_huggingface --loss_type l2 ^\r\n",
    "capitals": HEAD.replace("accelerate", "Accelerate.EXE") + "  --loss_type l2\r\n",
}

CHARACTERS = " '$`!%&^()~*#=-\\;|<>{}[]?,.:/abcÄ漢\t"
paths = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=12),
    st.text(st.characters(exclude_characters='\0\n\r"', exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.builds(lambda stem: "C:\\outputs\\" + stem, st.text(CHARACTERS, max_size=10)),
).filter(lambda path: path != "--")


def parsed(text: str) -> TrainScript:
    return TrainScript.parse(text.encode(), Dialect.BAT)


def handed(text: str) -> list[str]:
    """What cmd's rules hand over; blocks and comments, which those plain rules leave out, are cut before."""
    start = text.lower().index("accelerate launch ^" if "surrounded" in text else "accelerate")
    (call,) = handed_to_accelerate(text[start:])
    return call


def body(name: str) -> str:
    """The template's text from its training command on."""
    text = TEMPLATES[name]
    return text[text.index(HEAD) :] if HEAD in text else text


@pytest.mark.parametrize("name", TEMPLATES)
def test_our_reading_is_what_cmd_hands_over(name: str) -> None:
    script = parsed(TEMPLATES[name])
    arguments = ["launch", *script.launcher_arguments, script.trainer, *script.trainer_arguments]
    assert handed_to_accelerate(body(name)) == [arguments]


@settings(max_examples=250, deadline=None)
@given(name=st.sampled_from(sorted(TEMPLATES)), path=paths)
@example(name="dangling", path="-my run")
@example(name="no-indent", path="C:\\ends\\")
@example(name="resume-there", path="100%PATH%")
@example(name="redirected-closely", path="2")
def test_the_trainer_gets_exactly_the_path(name: str, path: str) -> None:
    text = TEMPLATES[name]
    changed = parsed(text).with_value("--resume", path).to_bytes().decode()
    prefix = text[: text.index(body(name))]
    assert changed.startswith(prefix)
    (before,) = handed_to_accelerate(body(name))
    (after,) = handed_to_accelerate(changed[len(prefix) :])
    resume, rest = trainer_reads(after[4:])
    assert resume == path
    _, expected = trainer_reads(without_resume(before[4:]))
    assert rest == expected


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(TEMPLATES)), path=paths)
def test_set_is_idempotent_and_undone_by_remove(name: str, path: str) -> None:
    original = parsed(TEMPLATES[name])
    once = original.with_value("--resume", path)
    assert once.with_value("--resume", path).to_bytes() == once.to_bytes()
    assert once.value("--resume") == path
    removed = once.without("--resume")
    assert not removed.has("--resume")
    if not original.has("--resume"):
        assert removed.to_bytes() == TEMPLATES[name].encode()


fragments = st.lists(
    st.one_of(
        st.text('ab-=^" \t\\%;,', max_size=5),
        st.sampled_from(
            [
                " ^\r\n  ",
                "^\r\n",
                "^",
                '"a b"',
                " --a ",
                " --b=",
                "%%",
                "^^",
                '^"',
                '\\"',
                '""',
                " >log",
                " 2>&1",
                "2>log",
                " & a",
            ]
        ),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(tail=fragments, path=paths)
def test_generated_text_is_read_and_edited_as_cmd_would(tail: str, path: str) -> None:
    text = "accelerate launch t.py --seed 1" + tail
    # What a caret or a redirection meets in a variable is for the running cmd to know.
    assume(not re.search(r"[\^>]\s*[^\s]*%", tail.replace("%%", "")))
    try:
        script = parsed(text)
        changed = script.with_value("--resume", path)
    except ScriptNotUnderstood:
        event("refused")
        assume(False)
    assume(all(word.value is not None for word in script.command.arguments))
    event("compared")
    (call,) = handed_to_accelerate(text)
    assert ["launch", "t.py", *script.trainer_arguments] == call
    (after,) = handed_to_accelerate(changed.to_bytes().decode())
    new = [f"--resume={path}"] if path.startswith("-") else ["--resume", path]
    at = call.index("--") if "--" in call else len(call)
    if not script.has("--resume"):
        assert after == call[:at] + new + call[at:]
        assert changed.without("--resume").to_bytes() == text.encode()


@pytest.mark.parametrize(
    ("text", "path", "character"),
    [
        ("", 'a "quoted" name', '"'),
        ("setlocal EnableDelayedExpansion\r\n", "wow!", "!"),
        ("call ", "100%", "%"),
        ("call ", "a^b", "^"),
    ],
)
def test_what_cmd_cannot_carry_is_refused(text: str, path: str, character: str) -> None:
    script = parsed(text + "accelerate launch t.py --seed 1")
    with pytest.raises(InexpressiblePath, match="rename the folder") as caught:
        script.with_value("--resume", path)
    assert repr(character) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("accelerate launch t.py ^\r\n  --seed 1 ^\r\n\r\necho done", 3, "is empty"),
        ("accelerate launch t.py ^\r\nrem --resume x ^\r\n  --seed 1", 2, "no comment"),
        ("accelerate launch t.py ^\r\n  :: --resume x ^\r\n  --seed 1", 2, "no comment"),
        ("@echo off\r\nif exist a (\r\n  accelerate launch t.py --seed 1\r\n)\r\n", 3, "a condition"),
        ("for %%i in (1 2) do accelerate launch t.py --seed %%i", 1, "a loop"),
        ("if exist a accelerate launch t.py", 1, "a condition"),
        (
            "setlocal enabledelayedexpansion\naccelerate launch t.py --output_name wow!",
            2,
            "enabledelayedexpansion",
        ),
        ("call accelerate launch t.py --output_name 100%%", 1, "call"),
        ("rem accelerate^\r\naccelerate launch t.py", 1, "swallows"),
        ('cmd /c "accelerate launch t.py"', 1, "quoted command"),
    ],
)
def test_what_batch_makes_unknowable_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ScriptNotUnderstood, match=reason) as caught:
        parsed(text)
    assert caught.value.line_number == line


@pytest.mark.parametrize("hiding", ["%*", "%EXTRA%", '"%*"', "%1"])
def test_flags_that_may_hide_in_a_variable_stop_an_edit(hiding: str) -> None:
    script = parsed(f"accelerate launch t.py ^\n  --seed 1 ^\n  {hiding}")
    assert "line 3" in (script.unknown("--resume") or "")
    with pytest.raises(ScriptNotUnderstood, match="may hold further flags") as caught:
        script.without("--resume")
    assert caught.value.line_number == 3


@pytest.mark.parametrize(
    "before",
    [
        "echo a>>b.txt",
        "echo )(",
        "if 1==1 (\r\n  if 2==2 (\r\n    echo x\r\n  ) else (echo y)\r\n)",
        ":label ^\r\n more",
    ],
)
def test_commands_before_the_training_do_not_matter(before: str) -> None:
    script = parsed(f"{before}\r\naccelerate launch t.py 1>>log.txt --seed %%7\r\n")
    assert script.trainer_arguments == ("--seed", "%7")


def test_a_quoted_variable_is_one_unknown_value() -> None:
    script = parsed('accelerate launch t.py --output_dir "%OUT%\\run" --seed 1')
    assert script.value("--output_dir") is None
    assert "decided only when the script runs" in (script.unknown("--output_dir") or "")
    assert script.with_value("--resume", "C:\\x").value("--resume") == "C:\\x"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (r'a "b c" d', ["a", "b c", "d"]),
        (r'"ab\"c" "\\" d', ['ab"c', "\\", "d"]),
        (r'a\\\b d"e f"g h', ["a\\\\\\b", "de fg", "h"]),
        (r"a\\\"b c d", ['a\\"b', "c", "d"]),
        (r'a\\\\"b c" d e', ["a\\\\b c", "d", "e"]),
        ('a"b"" c d', ['ab" c d']),
    ],
)
def test_the_independent_rules_agree_with_the_documented_examples(line: str, expected: list[str]) -> None:
    assert argv(line) == expected


def test_the_independent_percent_rules() -> None:
    assert percent_phase("100%% %PATH% %~dp0x %* 5%") == "100%  x  5"
