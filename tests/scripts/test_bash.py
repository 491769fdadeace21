"""What the real bash hands to `accelerate`, against our reading and after our edits."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from checkpoint_core.scripts.script import Dialect, ScriptNotUnderstood, TrainScript
from tests.fake_accelerate import FakeAccelerate, trainer_reads, without_resume

LAUNCH = ["launch", "--mixed_precision", "bf16", "sd-scripts/flux_train_network.py"]
HEAD = "accelerate launch \\\n  --mixed_precision bf16 \\\n  sd-scripts/flux_train_network.py \\\n"

TEMPLATES = {
    "dangling": HEAD + '  --seed 42 \\\n  --output_dir "/fluxgym/outputs/my lora" \\\n  --loss_type l2 \\',
    "dangling-newline": HEAD + "  --loss_type l2 \\\n",
    "dangling-blank-lines": HEAD + "  --loss_type l2 \\\n\n   \n",
    "no-final-newline": HEAD + "  --loss_type l2",
    "mark-inside-a-line": HEAD
    + '  --optimizer_type adamw8bit \\--sample_prompts="a b" \\\n  --loss_type l2 \\\n',
    "space-only-line": HEAD + "  --seed 42 \\\n   \\\n  --loss_type l2 \\\n   \n",
    "tabs": HEAD.replace("  ", "\t") + "\t--seed\t42\t\\\n\t--loss_type\tl2\n",
    "no-indent": HEAD.replace("  ", "") + "--seed 42 \\\n--loss_type l2\n",
    "one-line": HEAD.replace(" \\\n ", "").replace(" \\\n", " ") + "--seed 42 --loss_type l2\n",
    "surrounded": "#!/bin/bash\nset -e\nexport A='b c'\ncd . && : \\\n  ok\n"
    "# accelerate launch x.py --resume no\n"
    "if [ 1 = 1 ]; then\n  :\nfi\nCUDA_VISIBLE_DEVICES=0 "
    + HEAD
    + "  --loss_type l2 # the end\nprintf done\n",
    "redirected": HEAD + "  --loss_type l2 > log.txt 2>&1\n",
    "redirected-closely": HEAD + "  --loss_type l2>log.txt; :\n",
    "background": "exec " + HEAD + "  --loss_type l2 & wait\n",
    "piped": HEAD + "  --loss_type l2 2>&1 | while read -r line; do :; done\n",
    "commented-flag": HEAD + "  --loss_type l2 \\\n#  --resume no \\\n  --seed 42\n",
    "resume-there": HEAD + "  --seed 42 \\\n  --resume /old/state \\\n  --loss_type l2 \\\n",
    "resume-joined": HEAD + "  --resume=/old/state --seed 42 \\\n  --loss_type l2\n",
    "resume-single-quoted": HEAD + "  --resume '/old $state' --seed 42\n",
    "resume-twice": HEAD + "  --resume /one \\\n  --seed 42 --resume='/two' \\\n  --loss_type l2\n",
    "resume-abbreviated": HEAD + "  --resum /old \\\n  --resolution 512 --reso=2 --seed 42\n",
    "resume-last": HEAD + "  --seed 42 --resume /old",
    "resume-over-two-lines": HEAD + "  --seed 42 --resume \\\n     '/old' \\\n  --loss_type l2",
    "beside-the-hub": HEAD + "  --resume_from_huggingface --resume_f --loss_type l2 \\\n",
    "resume-without-value": HEAD + "  --seed 42 --resume",
    "end-of-flags": HEAD + "  --seed 42 -- rest\n",
}

CHARACTERS = " '\"$`!%&^()~*#=-\\;|<>{}[]?,.:/abcÄ漢🦊\t"
paths = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=12),
    st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.builds(lambda stem: "/outputs/" + stem, st.text(CHARACTERS, max_size=10)),
).filter(lambda path: path != "--")


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> FakeAccelerate:
    """One stand-in for the whole file."""
    return FakeAccelerate(tmp_path_factory.mktemp("bash"))


def parsed(text: str) -> TrainScript:
    return TrainScript.parse(text.encode(), Dialect.SH)


@pytest.mark.parametrize("name", TEMPLATES)
def test_our_reading_is_what_bash_hands_over(bash: FakeAccelerate, name: str) -> None:
    script = parsed(TEMPLATES[name])
    handed = bash.arguments(TEMPLATES[name].encode())
    assert ["launch", *script.launcher_arguments, script.trainer, *script.trainer_arguments] == handed


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(TEMPLATES)), path=paths)
@example(name="dangling", path="-my run")
@example(name="resume-there", path="--resume")
@example(name="redirected-closely", path="2")
@example(name="one-line", path='it\'s a "$HOME" `run` \\')
@example(name="no-final-newline", path="~")
def test_the_trainer_gets_exactly_the_path(bash: FakeAccelerate, name: str, path: str) -> None:
    text = TEMPLATES[name]
    changed = parsed(text).with_value("--resume", path)
    before, after = bash.arguments(text.encode()), bash.arguments(changed.to_bytes())
    end = after.index("--") if "--" in after else len(after)
    resume, rest = trainer_reads(after[len(LAUNCH) : end])
    assert resume == path
    spelled = [f"--resume={path}"] if f"--resume={path}" in after else ["--resume", path]
    at = next(i for i in range(len(after)) if after[i : i + len(spelled)] == spelled)
    assert after[:at] + after[at + len(spelled) :] == without_resume(before)
    assert after[: len(LAUNCH)] == LAUNCH
    assert not [word for word in rest if word.startswith("--resum")]


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(TEMPLATES)), path=paths, other=paths)
def test_set_is_idempotent_and_undone_by_remove(name: str, path: str, other: str) -> None:
    original = parsed(TEMPLATES[name])
    once = original.with_value("--resume", path)
    assert once.with_value("--resume", path).to_bytes() == once.to_bytes()
    assert once.value("--resume") == path
    assert original.with_value("--resume", other).with_value("--resume", path).value("--resume") == path
    removed = once.without("--resume")
    assert not removed.has("--resume")
    assert removed.to_bytes() == original.without("--resume").to_bytes()
    if not original.has("--resume"):
        assert removed.to_bytes() == TEMPLATES[name].encode()


@pytest.mark.parametrize("name", TEMPLATES)
def test_removing_leaves_all_else_to_the_trainer(bash: FakeAccelerate, name: str) -> None:
    removed = parsed(TEMPLATES[name]).without("--resume")
    assert bash.arguments(removed.to_bytes()) == without_resume(bash.arguments(TEMPLATES[name].encode()))


fragments = st.lists(
    st.one_of(
        st.text("ab-= \t'\"\\#~", max_size=5),
        st.text("ab $`*?[]{},!\"'\\;&|<>()#\n", max_size=4),
        st.sampled_from(
            [
                " \\\n  ",
                "\\\n",
                "\\",
                '"a b"',
                "'a b'",
                " --a ",
                " --b=",
                " # c\n",
                " #c \\\n",
                '"\\$\\x"',
                "$'a\\'b'",
                " >log",
                " 2>&1",
                "2>log",
                " | a",
                " && a",
                ";",
                " &",
                '"',
                "'",
                "\\\r\n",
                " -- ",
                '"$(a "b")"',
                "${A:-b}",
            ]
        ),
    ),
    max_size=8,
).map("".join)


def agreeing(bash: FakeAccelerate, tail: str) -> tuple[TrainScript, list[str]]:
    """The script with this tail and what bash makes of it, where both have an opinion of it."""
    text = "accelerate launch t.py --seed 1" + tail
    try:
        script = parsed(text)
    except ScriptNotUnderstood:
        event("refused")
        assume(False)
    assume(all(word.value is not None for word in script.command.arguments))
    calls = bash.calls(text.encode())
    # A syntax error behind the command keeps bash from running it; our reader does not look for those.
    assume(len(calls) == 1 and "\r\n" not in text)
    event("compared")
    return script, calls[0]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(tail=fragments)
def test_generated_text_is_read_as_bash_reads_it(bash: FakeAccelerate, tail: str) -> None:
    script, handed = agreeing(bash, tail)
    assert ["launch", "t.py", *script.trainer_arguments] == handed


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(tail=fragments, path=paths)
def test_generated_text_is_edited_without_harm(bash: FakeAccelerate, tail: str, path: str) -> None:
    script, handed = agreeing(bash, tail)
    try:
        changed = script.with_value("--resume", path)
    except ScriptNotUnderstood:
        assume(False)
    new = [f"--resume={path}"] if path.startswith("-") else ["--resume", path]
    at = handed.index("--") if "--" in handed else len(handed)
    assert bash.arguments(changed.to_bytes()) == handed[:at] + new + handed[at:]
    assert changed.without("--resume").to_bytes() == script.to_bytes()


@pytest.mark.parametrize(
    "end", ["  --a 1 \\", "  --a 1 \\\n", "  --a 1", "  --a 1\n", "  --a 1\t \\\n\n", "  --a 1  \n"]
)
def test_setting_and_removing_keeps_every_kind_of_end(end: str) -> None:
    text = HEAD + end
    assert parsed(text).with_value("--resume", "/x").without("--resume").to_bytes() == text.encode()
