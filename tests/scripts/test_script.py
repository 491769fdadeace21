"""Reading and changing a train script: one good script, one thing different in each test."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from checkpoint_core.scripts.script import TrainScript, dialect_of, find_script
from checkpoint_core.scripts.tokens import Dialect, InexpressiblePath, ScriptNotUnderstood

SCRIPT = """accelerate launch \\
  --mixed_precision bf16 \\
  --num_cpu_threads_per_process 1 \\
  sd-scripts/flux_train_network.py \\
  --pretrained_model_name_or_path "/fluxgym/models/unet/flux1-dev.sft" \\
  --sdpa --persistent_data_loader_workers \\
  --network_dim 4 \\
  --optimizer_type adamw8bit \\--sample_prompts="/gym/outputs/my lora/prompts.txt" --sample_every_n_steps="20" \\
  --network_args "train_blocks=single" 'b=2' \\
  --output_dir "/fluxgym/outputs/my lora" \\
  --loss_type l2 \\"""


def parsed(text: str, dialect: Dialect = Dialect.SH) -> TrainScript:
    return TrainScript.parse(text.encode(), dialect)


def test_trainer_and_launcher_are_told_apart() -> None:
    script = parsed(SCRIPT)
    assert script.trainer == "sd-scripts/flux_train_network.py"
    assert script.launcher_arguments == ("--mixed_precision", "bf16", "--num_cpu_threads_per_process", "1")
    assert script.value("--mixed_precision") is None


def test_values_are_what_the_trainer_gets() -> None:
    script = parsed(SCRIPT)
    assert script.value("--output_dir") == "/fluxgym/outputs/my lora"
    assert script.value("--sample_prompts") == "/gym/outputs/my lora/prompts.txt"
    assert script.values("--network_args") == ("train_blocks=single", "b=2")
    assert parsed(SCRIPT.replace("--sdpa", "--optimizer_args=a=1")).values("--optimizer_args") == ("a=1",)
    assert script.values("--optimizer_args") == ()
    assert script.has("--persistent_data_loader_workers")
    assert script.value("--sdpa") is None
    assert script.line_of("--sample_every_n_steps") == 8
    assert script.line_of("--resume") is None
    assert script.unknown("--resume") is None
    assert script.notes == ()


def test_the_last_of_several_wins_as_in_argparse() -> None:
    script = parsed(SCRIPT.replace("--sdpa", "--network_dim=8 --sdpa --network_dim '16'"))
    assert script.value("--network_dim") == "4"
    assert parsed(SCRIPT + "\n --network_dim=32").value("--network_dim") == "32"


@pytest.mark.parametrize(
    ("spelling", "flag"),
    [
        ("--network_di", "--network_dim"),
        ("--resum", "--resume"),
        ("--resu", "--resume"),
        ("--resume_f", "--resume_from_huggingface"),
        ("--resume_from", "--resume_from_huggingface"),
        ("--res", "--res"),
        ("--reso", "--resolution"),
        ("--network_a", "--network_a"),
        ("--not_of_this_trainer", "--not_of_this_trainer"),
    ],
)
def test_abbreviations(spelling: str, flag: str) -> None:
    script = parsed(f"accelerate launch t.py {spelling}=3")
    assert script.value(flag) == "3"
    assert script.has("--resume") == (flag == "--resume")


def test_fluxgyms_style_for_a_new_flag() -> None:
    script = parsed(SCRIPT).with_value("--resume", "/fluxgym/outputs/my lora/x-state")
    assert script.to_bytes().decode() == SCRIPT[:-1] + '\\\n  --resume "/fluxgym/outputs/my lora/x-state" \\'


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("--resume X", '--resume "new"'),
        ("--resume=X", '--resume="new"'),
        ("--resume 'X y'", '--resume "new"'),
        ('--resume="X y"', '--resume="new"'),
        ("--resum X", '--resume "new"'),
        ("--resu=X", '--resume="new"'),
        ('"--resume"   X', '"--resume"   "new"'),
        ("--resume", '--resume "new"'),
        ('--resume ""', '--resume "new"'),
        ("--resume $X", None),
        ('--resume "$X"', '--resume "new"'),
    ],
)
def test_a_flag_is_replaced_where_it_stands(given: str, wanted: str | None) -> None:
    text = SCRIPT.replace("--sdpa", f"{given} --sdpa")
    if wanted is None:
        with pytest.raises(ScriptNotUnderstood, match="double quotes"):
            parsed(text).with_value("--resume", "new")
    else:
        changed = parsed(text).with_value("--resume", "new")
        assert changed.to_bytes().decode() == text.replace(given + " --sdpa", f"{wanted} --sdpa")


def test_of_several_only_the_last_place_remains() -> None:
    text = SCRIPT.replace("--sdpa", "--resume a --sdpa --resume=b").replace("l2 \\", "l2 --resume 'c'")
    changed = parsed(text).with_value("--resume", "new").to_bytes().decode()
    assert changed == SCRIPT.replace("l2 \\", 'l2 --resume "new"')


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("  --resume X \\\n", ""),
        ("  --resume X --seed 1 \\\n", "  --seed 1 \\\n"),
        ("  --seed 1 --resume=X \\\n", "  --seed 1 \\\n"),
        ("   \\\n  --resume X \\\n", "   \\\n"),
        ("  --resume \\\n    'X' \\\n", ""),
        ("  --resume X --seed 1 --resume Y \\\n", "  --seed 1 \\\n"),
    ],
)
def test_a_flag_is_removed_with_its_own_space_only(given: str, left: str) -> None:
    text = SCRIPT.replace("  --sdpa", given + "  --sdpa")
    assert parsed(text).without("--resume").to_bytes().decode() == SCRIPT.replace(
        "  --sdpa", left + "  --sdpa"
    )


@pytest.mark.parametrize(
    "beside", ["--resume_from_huggingface", "--res=1", "--resume_from_hub", "--resolution 512"]
)
def test_what_is_not_ours_is_not_touched(beside: str) -> None:
    text = SCRIPT.replace("--sdpa", beside + " --sdpa")
    assert parsed(text).without("--resume").to_bytes() == text.encode()
    assert beside in parsed(text).with_value("--resume", "x").to_bytes().decode()


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("--seed 1 --resume X>log", "--seed 1 >log"),
        ("--seed 1 --resume >log X", "--seed 1  >log "),
        ("--seed 1 >log --resume X", "--seed 1 >log "),
        ("--resume X --seed 1 >log", "--seed 1 >log"),
    ],
)
def test_a_redirection_beside_a_removed_flag_stays_one(given: str, left: str) -> None:
    changed = parsed(f"accelerate launch t.py {given}\n").without("--resume")
    assert changed.to_bytes().decode() == f"accelerate launch t.py {left}\n"
    assert changed.trainer_arguments == ("--seed", "1")


def test_the_hub_flag_is_seen_and_noted() -> None:
    script = parsed(SCRIPT.replace("--sdpa", "--resume_from_huggingface --sdpa"))
    assert script.has("--resume_from_huggingface")
    assert any("Hugging Face Hub" in note for note in script.notes)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_line_ends_and_byte_order_mark_stay(newline: str, bom: str, dialect: Dialect) -> None:
    mark = dialect.mark
    text = bom + f"accelerate launch {mark}\n  t.py {mark}\n  --seed 1\n".replace("\n", newline)
    changed = parsed(text, dialect).with_value("--resume", "x")
    assert changed.to_bytes().decode() == text[: -len(newline)] + f' {mark}{newline}  --resume "x"{newline}'
    assert changed.without("--resume").to_bytes().decode() == text
    assert any("byte order mark" in note for note in changed.notes) == bool(bom)
    assert any("CR LF" in note for note in changed.notes) == (dialect is Dialect.SH and newline == "\r\n")


def test_bytes_that_are_no_utf8_survive() -> None:
    data = b"accelerate launch t.py --output_name caf\xe9 # \xff\xfe\n"
    changed = TrainScript.parse(data, Dialect.SH).with_value("--resume", "x")
    assert changed.without("--resume").to_bytes() == data
    assert b"caf\xe9 \\" in changed.to_bytes()


def test_switches_and_other_flags() -> None:
    script = parsed(SCRIPT)
    switched = script.with_switch("--save_state")
    assert switched.has("--save_state")
    assert switched.with_switch("--save_state") is switched
    assert switched.without("--save_state").to_bytes() == SCRIPT.encode()
    assert script.with_value("--network_dim", "8").to_bytes().decode() == SCRIPT.replace("_dim 4", '_dim "8"')


@pytest.mark.parametrize("flag", ["--save_state", "--network_args", "resume", "--", "--a b"])
def test_a_flag_that_takes_no_single_value_is_the_callers_mistake(flag: str) -> None:
    with pytest.raises(ValueError, match="not a flag"):
        parsed(SCRIPT).with_value(flag, "x")


def test_several_values_are_replaced_where_they_stand() -> None:
    changed = parsed(SCRIPT).with_values("--network_args", ("train_blocks=all", 'c=it\'s "3" $x'))

    assert changed.values("--network_args") == ("train_blocks=all", 'c=it\'s "3" $x')
    before, after = SCRIPT.splitlines(), changed.to_bytes().decode().splitlines()
    assert [line for line in after if "--network_args" not in line] == [
        line for line in before if "--network_args" not in line
    ]
    assert after.index(next(line for line in after if "--network_args" in line)) == 8


def test_several_values_are_put_at_the_end_where_there_were_none() -> None:
    changed = parsed(SCRIPT).with_values("--optimizer_args", ("a=1", "b=2"))

    assert changed.values("--optimizer_args") == ("a=1", "b=2")
    assert changed.without("--optimizer_args").to_bytes().decode() == SCRIPT
    assert changed.with_values("--optimizer_args", ("a=1", "b=2")) is changed


@pytest.mark.parametrize(
    "given",
    [
        "--network_args a=1 --seed 1 --network_args b=2 c=3",
        "--network_args=a=1",
        "--network_args",
        "--network_args a=1 \\\n   'b=2' \\\n  c=3",
    ],
)
def test_whatever_stood_there_becomes_the_wanted_once(given: str) -> None:
    text = SCRIPT.replace("""--network_args "train_blocks=single" 'b=2'""", given)
    before = parsed(text)
    changed = before.with_values("--network_args", ("x=1", "y=2"))

    assert changed.values("--network_args") == ("x=1", "y=2")
    assert changed.trainer_arguments.count("--network_args") == 1
    assert changed.value("--output_dir") == before.value("--output_dir")
    assert changed.value("--seed") == before.value("--seed")


def test_several_values_in_a_batch_script() -> None:
    text = 'accelerate launch ^\r\n  t.py ^\r\n  --network_args "a=1" b=2 ^\r\n  --loss_type l2\r\n'
    changed = parsed(text, Dialect.BAT).with_values("--network_args", ("a=1 2", "c=100%"))

    assert changed.values("--network_args") == ("a=1 2", "c=100%")
    assert changed.to_bytes().decode().endswith(" ^\r\n  --loss_type l2\r\n")


@pytest.mark.parametrize(
    ("flag", "values"), [("--network_args", ()), ("--seed", ("1",)), ("--save_state", ("x",))]
)
def test_what_takes_no_several_values_is_the_callers_mistake(flag: str, values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not a flag with several values"):
        parsed(SCRIPT).with_values(flag, values)


def test_a_value_that_looks_like_a_flag_is_refused() -> None:
    with pytest.raises(InexpressiblePath, match="next flag"):
        parsed(SCRIPT).with_values("--network_args", ("--x=1",))


def test_a_switch_must_look_like_a_flag() -> None:
    with pytest.raises(ValueError, match="not a flag"):
        parsed(SCRIPT).with_switch("save_state")


@pytest.mark.parametrize("value", ["a\nb", "a\r", "a\0", "\ud800", "--"])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_values_that_no_script_can_carry(value: str, dialect: Dialect) -> None:
    with pytest.raises(InexpressiblePath):
        parsed("accelerate launch t.py", dialect).with_value("--resume", value)


@pytest.mark.parametrize(
    "command",
    [
        "accelerate launch t.py",
        "./env/bin/accelerate launch --quiet t.py",
        '"/my env/bin/accelerate" launch t.py',
        '"$VENV/bin/accelerate" launch t.py',
        "accelerate-launch t.py",
        "python -m accelerate.commands.launch --num_processes 1 t.py",
        "CUDA_VISIBLE_DEVICES=0 X='a b' accelerate launch t.py",
        "nohup nice -n 5 accelerate launch t.py",
        "exec env A=1 accelerate launch t.py",
        "source env/bin/activate && accelerate launch t.py",
        "python sd-scripts/flux_train_network.py",
        "python3.10 -u sd-scripts/train_network.py",
        'accelerate launch "$ROOT/t.py"',
        "python prepare.py --resume no; accelerate launch t.py",
        "echo accelerate launch no.py; accelerate launch t.py",
        'eval "$(conda shell.bash hook)"\naccelerate launch t.py',
        "if [ -d env ]; then\n  source env/bin/activate\nfi\naccelerate launch t.py",
        "case $A in\n  (a) b ;;\n  c) d ;;\nesac\naccelerate launch t.py",
        'log() { echo "$@"; }\nfunction other {\n  :\n}\naccelerate launch t.py',
    ],
)
def test_ways_to_start_the_training(command: str) -> None:
    script = parsed(command + " --seed 7 | tee log")
    assert script.trainer.endswith(".py")
    assert script.trainer_arguments == ("--seed", "7")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("echo hello\n", 1, "no command"),
        ("cd x\n# accelerate launch t.py\n", 2, "no command"),
        ("accelerate launch t.py\naccelerate launch t.py\n", 2, "second training command"),
        ("for i in 1 2; do\n  accelerate launch t.py\ndone\n", 2, "inside a loop"),
        ("if true; then accelerate launch t.py; fi\n", 1, "inside a loop, a condition"),
        ("train() {\n  accelerate launch t.py\n}\ntrain\n", 2, "a function"),
        ("(\naccelerate launch t.py\n)\n", 2, "a group"),
        ("eval 'accelerate launch t.py'\n", 1, "quoted command"),
        ("cd x\nbash -c 'accelerate launch t.py'\n", 2, "quoted command"),
        ("accelerate launch \\\n  # --a\n  t.py\n", 1, "no .py file"),
        ("accelerate launch --seed 1\n", 1, "no .py file"),
        ("accelerate launch -m trainer\n", 1, "module"),
        ("accelerate launch t.py --a 'b\n", 1, "single quote is opened"),
        ('cd x\naccelerate launch t.py --a "b\n', 2, "double quote is opened"),
        ("accelerate launch t.py --a $(b\n", 1, "substitution is opened"),
        ("accelerate launch t.py --a `b\n", 1, "backtick is opened"),
        ("accelerate launch t.py <<EOF\n--a\nEOF\n", 1, "here-document"),
        ("accelerate launch t.py --config <(cat x)\n", 1, "process substitution"),
        ("accelerate launch t.py )\n", 1, "closing parenthesis"),
        ("if true; then\naccelerate launch t.py\n", 1, "never closed"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ScriptNotUnderstood, match=reason) as caught:
        parsed(text)
    assert caught.value.line_number == line
    assert caught.value.line == text.split("\n")[line - 1]
    assert str(caught.value).startswith(f"Line {line} of the train script")


@pytest.mark.parametrize("data", [SCRIPT.encode("utf-16"), SCRIPT.encode("utf-16-be"), b"a\0b"])
def test_utf16_is_refused_with_its_cure(data: bytes) -> None:
    with pytest.raises(ScriptNotUnderstood, match="save it as UTF-8"):
        TrainScript.parse(data, Dialect.SH)


def test_a_refusal_survives_pickling() -> None:
    error = ScriptNotUnderstood(3, "x", "why")
    again = pickle.loads(pickle.dumps(error))
    assert (again.line_number, again.line, again.reason, str(again)) == (3, "x", "why", str(error))


@pytest.mark.parametrize(
    "hiding",
    [
        "$EXTRA",
        '"$@"',
        "$(cat flags)",
        "`cat flags`",
        "${A[@]}",
        '"${A[@]}"',
        "*",
        '--sdpa "$X"',
        "--$X",
        "a$X",
    ],
)
def test_flags_that_may_hide_stop_an_edit_but_not_the_reading(hiding: str) -> None:
    script = parsed(SCRIPT + f"\n  {hiding}")
    assert script.value("--network_dim") == "4"
    assert "line 12" in (script.unknown("--resume") or "")
    for edit in (lambda: script.with_value("--resume", "x"), lambda: script.without("--resume")):
        with pytest.raises(
            ScriptNotUnderstood, match="may hold further flags, --resume among them"
        ) as caught:
            edit()
        assert caught.value.line_number == 12


@pytest.mark.parametrize(
    "value",
    ['"$OUT"', '"$OUT/a b"', "~/x", "a*", '"`pwd`"', "$'a\\tb'", '"${OUT:-x y}"', "a{b,c}", 'x{1..3" "}'],
)
def test_an_unknown_value_is_none_with_a_reason(value: str) -> None:
    script = parsed(SCRIPT.replace('"/fluxgym/outputs/my lora" ', value + " "))
    assert script.value("--output_dir") is None
    assert "decided only when the script runs" in (script.unknown("--output_dir") or "")
    assert script.unknown("--network_dim") is None
    changed = script.with_value("--resume", "x")
    assert f"--output_dir {value} \\" in changed.to_bytes().decode()


def test_a_path_without_its_quotes_is_refused() -> None:
    text = SCRIPT.replace("--sdpa", "--resume /my lora/x-state --sdpa")
    with pytest.raises(ScriptNotUnderstood, match="a path with spaces needs quotes") as caught:
        parsed(text).with_value("--resume", "new")
    assert caught.value.line_number == 6


def test_a_comment_that_cuts_the_command_short_is_noted() -> None:
    script = parsed(SCRIPT.replace("  --network_dim 4", "#  --network_dim 4"))
    assert script.value("--output_dir") is None
    assert any("ends before line 8" in note for note in script.notes)


def test_the_script_of_this_platform_comes_first(tmp_path: Path) -> None:
    assert find_script(tmp_path) is None
    bat, sh = tmp_path / "train.bat", tmp_path / "train.sh"
    bat.write_text("")
    assert find_script(tmp_path, platform="linux") == bat
    sh.write_text("")
    assert find_script(tmp_path, platform="linux") == sh
    assert find_script(tmp_path, platform="win32") == bat


def test_the_suffix_tells_the_language() -> None:
    assert [dialect_of(Path(name)) for name in ("train.sh", "TRAIN.BAT", "x.cmd", "x")] == [
        Dialect.SH,
        Dialect.BAT,
        Dialect.BAT,
        Dialect.SH,
    ]
