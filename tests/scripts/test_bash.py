"""What the real bash hands to `accelerate`, against our reading and after our edits."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from checkpoint_core.scripts.script import TrainScript
from checkpoint_core.scripts.tokens import Dialect, ScriptNotUnderstood, Word
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


EXPANSIONS = [
    *(
        "$$",
        "$X",
        "$1",
        "$#",
        "$?",
        "$-",
        "$!",
        "$_",
        "$@",
        "$*",
        "$0",
        "${X}",
        "${X:-b c}",
        "${#X}",
        "${X#'a}'}",
    ),
    *("${X:-(}", "${!X}", "${Y[@]}", "${X:-{}", "$(echo a b)", "$( (echo a) )", "$(echo ')')", "$((1+(1)))"),
    *(
        "$((16#a))",
        "$[1+1]",
        "$[ 1 + (1) ]",
        "$'a\\'b'",
        '$"a b"',
        '$"$@"',
        "`echo a b`",
        "`echo \\`echo a\\``",
    ),
    *(
        '"$@"',
        '"$*"',
        '"$X"',
        '"a$"',
        '"$[1+1]"',
        '"$(echo "a b")"',
        '"`echo "a b"`"',
        '"${X:-"a}"}"',
        "$",
        "$%",
    ),
    *("~", "~/a", "a=~", "a:~", "{a,b}", "-{a,b}", "{1..3}", "*", "a?", "[a]", "!", "!!", "$(echo ${X:-)})"),
]
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
                " >>log",
                " &>>log",
                " >|log",
                " <<<a",
                " {fd}>log",
                " 3>&-",
                " <& -",
                " | a",
                " |& a",
                " && a",
                " || a",
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
        st.sampled_from(EXPANSIONS),
    ),
    max_size=8,
).map("".join)


def torn(text: str, places: list[int]) -> str:
    """The text with a continuation put in at each of these places, whatever stands there."""
    for place in sorted(places, reverse=True):
        at = place % (len(text) + 1)
        text = f"{text[:at]}\\\n{text[at:]}"
    return text


tails = st.builds(torn, fragments, st.lists(st.integers(0, 60), max_size=4))


def fits(words: tuple[Word, ...], handed: list[str]) -> bool:
    """Whether bash may have handed this over for these words: each known one is exact, each other begins as told."""
    if not words:
        return not handed
    word, rest = words[0], words[1:]
    if word.value is not None:
        return handed[:1] == [word.value] and fits(rest, handed[1:])
    many = word.may_be_several or any(character in word.raw for character in "*?[{")
    counts = range(int(not word.may_be_several or word.head != ""), len(handed) + 1 if many else 2)
    return any(
        count <= len(handed)
        and all(argument.startswith(word.head) for argument in handed[: 1 if word.may_be_several else count])
        and fits(rest, handed[count:])
        for count in counts
    )


def read_and_handed(bash: FakeAccelerate, tail: str) -> tuple[TrainScript, list[str]] | None:
    """The script with this tail and what bash makes of it; None where either has no opinion of it."""
    text = f"X='a b'; Y=(1 2); set -- p q\naccelerate launch t.py --seed 1{tail}"
    try:
        script = parsed(text)
    except ScriptNotUnderstood:
        return None
    calls = bash.calls(text.encode())
    # A syntax error behind the command keeps bash from running it; our reader does not look for those.
    return (script, calls[0]) if len(calls) == 1 and "\r\n" not in text else None


def compare(bash: FakeAccelerate, tail: str) -> bool:
    """Hold our reading of a tail against bash's; returns whether both have an opinion of it."""
    both = read_and_handed(bash, tail)
    if both is not None:
        script, handed = both
        assert handed[:2] == ["launch", "t.py"], tail
        assert fits(script.command.arguments, handed[2:]), tail
    return both is not None


#: What is torn in two at every place, alone and in the middle of a word.
TORN = [
    *EXPANSIONS,
    *(
        "'a b'",
        '"a b"',
        "a\\ b",
        "\\$X",
        '"\\$X"',
        "\\\\",
        '"\\\\"',
        "'\\'",
        "$'\\\\'",
        "#a",
        " # a b",
        " #a\n b",
    ),
    *(
        " && a",
        " || a",
        " |& a",
        " >>log",
        " 2>>log",
        " 2>&1",
        " >&2",
        " &>log",
        " &>>log",
        " <>log",
        " >|log",
    ),
    *(
        " <<<a",
        " {fd}>log a",
        " 2 >log",
        "; done",
        " & a",
        " | { a; }",
        " -- a",
        " --resume x",
        " --resume=x",
    ),
]


@pytest.mark.parametrize("text", TORN)
def test_a_continuation_may_stand_anywhere(bash: FakeAccelerate, text: str) -> None:
    for at in range(len(text) + 1):
        compare(bash, " " + torn(text, [at]))
    for around in (" {} --b", " a{}b", ' "{}"'):
        whole = around.format(text)
        compare(bash, torn(whole, list(range(len(whole) + 1))))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$\\\n$", [None]),
        ("$\\\n{X}", [None]),
        ("$\\\n(echo a b)", [None]),
        ("$(\\\n(1 + 1))", [None]),
        ("$\\\n[1 + 1]", [None]),
        ("$\\\n'a b'", [None]),
        ('$\\\n"a b"', [None]),
        ("$\\\nX\\\nY", [None]),
        ("$\\\n1", [None]),
        ("$\\\n?", [None]),
        ("$\\\n#", [None]),
        ("$\\\n!", [None]),
        ("$\\\n-", [None]),
        ("$\\\n@", [None]),
        ("`echo a\\\nb`", [None]),
        ('"$\\\n$"', [None]),
        ('"$[1 + 1]"', [None]),
        ("{1.\\\n.3}", [None]),
        ("{a\\\n,b}", [None]),
        ("~\\\n", [None]),
        ("\\\n~", [None]),
        ("$\\\n%", ["$%"]),
        ('"$\\\n"', ["$"]),
        ("--res\\\nume x", ["--resume", "x"]),
        ("'a\\\nb'", ["a\\\nb"]),
        ('"a\\\nb"', ["ab"]),
        ("a\\\n#b", ["a#b"]),
        ("a \\\n#b", ["a"]),
        ("a # b \\\n", ["a"]),
        ("a &\\\n>log b", ["a", "b"]),
        ("a 2\\\n>\\\n&\\\n1 b", ["a", "b"]),
        ("a >\\\n>log b", ["a", "b"]),
        ("a 3>&\\\n-b 4<& -\\\n--c >log- d", ["a", "b", "--c", "d"]),
        ("a \\\\\n", ["a", "\\"]),
        ("a \\\n\\\n b", ["a", "b"]),
    ],
)
def test_each_kind_of_continuation(bash: FakeAccelerate, text: str, words: list[str | None]) -> None:
    tail = f" {text}"
    script, handed = read_and_handed(bash, tail) or pytest.fail("not understood")
    assert [word.value for word in script.command.arguments[2:]] == words
    assert fits(script.command.arguments, handed[2:])


@pytest.mark.parametrize(
    "expansion", ["$$", "$X", "${X}", "$(X)", "$((1))", "$[1]", "$'a'", '$"a"', "$1", "$?", "$#", "$!", "$-"]
)
@pytest.mark.parametrize("quotes", ["", '"'])
def test_what_only_the_shell_knows_is_unknown_however_it_is_torn(expansion: str, quotes: str) -> None:
    if quotes and expansion[1] in "'\"":
        return  # no expansions inside of quotes
    for at in range(1, len(expansion)):
        script = parsed(f"accelerate launch t.py --output_dir {quotes}{torn(expansion, [at])}{quotes}")
        assert script.value("--output_dir") is None
        assert script.unknown("--output_dir") is not None


def test_keywords_may_be_torn() -> None:
    text = "f\\\nor i in 1; d\\\no :; do\\\nne\naccelerate launch t.py --seed 1"
    assert parsed(text).trainer_arguments == ("--seed", "1")


@pytest.mark.parametrize("name", ["acc\\\nelerate", '"$HOME/acc\\\nelerate"'])
def test_a_torn_program_is_found(name: str) -> None:
    assert parsed(f"{name} la\\\nunch t.\\\npy --se\\\ned 1").value("--seed") == "1"


@pytest.mark.parametrize(
    "inside", ["case a in a) b;; esac", "#)\n", "a;#)\n", "a <<b", "$(" * 60 + ")" * 60, "${X:-<(})}"]
)
def test_a_substitution_whose_end_is_not_certain_is_refused(inside: str) -> None:
    with pytest.raises(ScriptNotUnderstood, match="this reader"):
        parsed(f'accelerate launch t.py --output_dir "$({inside})"')


@pytest.mark.parametrize("tear", range(1, 12))
def test_an_edit_of_a_torn_flag_changes_only_it(bash: FakeAccelerate, tear: int) -> None:
    flag = torn("--resume 'x'", [tear] if tear < 10 else [4, 8])
    before, after = HEAD + '  --seed "$\\\n$"', " --loss_type l\\\n2 \\\n"
    changed = parsed(f"{before} {flag}{after}").with_value("--resume", "/new")
    assert changed.value("--resume") == "/new"
    assert changed.text.startswith(before)
    assert changed.text.endswith(after)
    assert bash.arguments(changed.to_bytes())[len(LAUNCH) + 2 :] == ["--resume", "/new", "--loss_type", "l2"]
    assert changed.without("--resume").text == before + after


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(tail=tails)
@example(tail="$\\\n$")
def test_generated_text_is_read_as_bash_reads_it(bash: FakeAccelerate, tail: str) -> None:
    is_compared = compare(bash, tail)
    event("compared" if is_compared else "refused")
    assume(is_compared)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(tail=tails, path=paths)
def test_generated_text_is_edited_without_harm(bash: FakeAccelerate, tail: str, path: str) -> None:
    both = read_and_handed(bash, tail)
    assume(both is not None)
    script, handed = both
    assume(all(word.value is not None for word in script.command.arguments))
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
