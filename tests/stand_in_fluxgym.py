"""A stand-in for FluxGym: the structure of its ``app.py``, none of its code, and no base model needed.

A test copies this file as ``app.py`` into a folder with ``outputs/`` and runs it, or mounts the tab in it. It keeps
what a tab meets in the real one (cocktailpeanut/fluxgym, app.py): ``demo`` and ``tabs`` at module level; argument
boxes whose ``elem_id`` is set after they are made; a hidden ``#refresh`` that writes the script into "Train script";
advanced values appended unquoted; a script that ends in a dangling continuation; a page that scrolls to its bottom
every 500 ms once the log has text, and refreshes a second after any ``input`` event; a fixed ``nav``; headings,
``.tabs`` and labels styled for the whole page. Unlike there, "Start training" is visible and trains nothing: it
writes the run's files as FluxGym does. GRADIO_SERVER_PORT sets the port. Runs on gradio 4.44.1 and later.
"""

import os
import re
from pathlib import Path

import gradio as gr

ROOT = Path(__file__).resolve().parent
CONTINUED = " \\\n  "
ADVANCED = {
    "--initial_epoch": str,
    "--network_weights": str,
    "--resume": str,
    "--resume_from_huggingface": bool,
    "--save_last_n_epochs_state": str,
    "--save_state": bool,
    "--save_state_on_train_end": bool,
    "--skip_until_initial_step": bool,
}
ADAFACTOR = CONTINUED.join(
    [
        "--optimizer_type adafactor",
        '--optimizer_args "relative_step=False" "scale_parameter=False" "warmup_init=False"',
        "--lr_scheduler constant_with_warmup",
        "--max_grad_norm 0.0 \\",
    ]
)
OPTIMIZERS = {"20G": "--optimizer_type adamw8bit \\", "16G": ADAFACTOR}

CSS = """
h1 { font-family: georgia; font-style: italic; font-weight: bold; font-size: 30px; }
h3 { margin-top: 0 }
nav { position: fixed; top: 0; left: 0; right: 0; z-index: 1000; padding: 10px; display: flex;
      backdrop-filter: blur(10px); }
nav button { background: none; color: firebrick; border: 2px solid firebrick; }
.tabs { margin-top: 50px; }
.hidden { display: none !important; }
label { font-weight: bold !important; }
"""
JS = """
function() {
    const autoscroll = document.querySelector("#autoscroll")
    window.clearInterval(window.followingLog)
    window.followingLog = window.setInterval(() => {
        const line = document.querySelector(".codemirror-wrapper .cm-line")
        if (!line || line.innerText.trim().length === 0) return
        autoscroll.classList.remove("hidden")
        const on = autoscroll.classList.contains("on")
        autoscroll.textContent = on ? "Autoscroll ON" : "Autoscroll OFF"
        if (on) window.scrollTo(0, document.body.scrollHeight)
    }, 500)
    autoscroll.addEventListener("click", () => autoscroll.classList.toggle("on"))
    let waiting
    document.addEventListener("input", () => {
        clearTimeout(waiting)
        waiting = setTimeout(() => document.querySelector("#refresh").click(), 1000)
    })
}
"""
LOOK = {"theme": gr.themes.Monochrome(), "css": CSS}
LOOK_GOES_TO_LAUNCH = int(gr.__version__.split(".")[0]) >= 6


def quoted(relative):
    """The absolute path of something in FluxGym's folder, in double quotes."""
    return f'"{ROOT / relative}"'


def slug(name):
    """The folder of a run: its name in lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def train_script_text(name, vram, epochs, sample_prompts, sample_every, advanced):
    """The script in FluxGym's form; ``advanced`` are the advanced boxes' values in the order of ADVANCED."""
    run = f"outputs/{name}"
    samples = ""
    if sample_prompts and sample_every > 0:
        samples = f'--sample_prompts={quoted(f"{run}/sample_prompts.txt")} --sample_every_n_steps="{sample_every}" \\'
    basic = [
        "accelerate launch",
        "--mixed_precision bf16",
        "--num_cpu_threads_per_process 1",
        "sd-scripts/flux_train_network.py",
        f"--pretrained_model_name_or_path {quoted('models/unet/flux1-dev.sft')}",
        "--cache_latents_to_disk",
        "--sdpa --persistent_data_loader_workers",
        "--network_module networks.lora_flux",
        "--network_dim 4",
        # The optimizer brings its own continuation mark, and the samples follow it on the same line.
        f"{OPTIMIZERS[vram]}{samples}\n  --learning_rate 8e-4",
        f"--max_train_epochs {epochs}",
        "--save_every_n_epochs 4",
        f"--dataset_config {quoted(f'{run}/dataset.toml')}",
        f"--output_dir {quoted(run)}",
        f"--output_name {name}",
        "--loss_type l2 \\",
    ]
    flags = []
    for flag, value, untouched in zip(ADVANCED, advanced, untouched_values, strict=True):
        if value != untouched:
            flags.append(flag if value is True else f"{flag} {value}")
    script = CONTINUED.join(basic)
    return script + "\n  " + CONTINUED.join(flags) if flags else script


def update(name, vram, epochs, sample_prompts, sample_every, *advanced):
    """What ``#refresh`` runs: the script, the dataset's toml, the dataset's folder."""
    run = slug(name)
    script = train_script_text(run, vram, epochs, sample_prompts, sample_every, advanced)
    config = (
        f"[[datasets]]\nbatch_size = 1\n\n  [[datasets.subsets]]\n  image_dir = '{ROOT / 'datasets' / run}'"
    )
    return gr.update(value=script), gr.update(value=config), f"datasets/{run}"


def start_training(name, script, config, sample_prompts):
    """Overwrite the run's files with the text boxes, as FluxGym does; nothing is trained."""
    run = ROOT / "outputs" / slug(name)
    run.mkdir(parents=True, exist_ok=True)
    for file, text in (
        ("train.sh", script),
        ("dataset.toml", config),
        ("sample_prompts.txt", sample_prompts),
    ):
        (run / file).write_text(text, encoding="utf-8")
    return f"wrote {run / 'train.sh'}"


def samples_of(name):
    """The sample images of a run."""
    return sorted(str(image) for image in (ROOT / "outputs" / slug(name) / "sample").glob("*.png"))


def trained_runs():
    """The choices of the Publish tab."""
    runs = [str(folder) for folder in sorted((ROOT / "outputs").glob("*")) if folder.is_dir()]
    return gr.Dropdown(label="Trained LoRAs", choices=runs)


def make_advanced():
    """One box for each flag; ids and labels are set after construction, as FluxGym sets them."""
    made = []
    for flag, kind in ADVANCED.items():
        with gr.Column(min_width=300):
            component = gr.Checkbox() if kind is bool else gr.Textbox(value="")
            component.interactive = True
            component.elem_id = flag
            component.label = flag
            component.elem_classes = ["advanced"]
        made.append(component)
    return made


with gr.Blocks(elem_id="app", fill_width=True, **({} if LOOK_GOES_TO_LAUNCH else LOOK)) as demo:
    with gr.Tabs() as tabs:
        with gr.TabItem("Gym"):
            gr.HTML(
                "<nav><div style='flex-grow:1'></div><button id='autoscroll' class='on hidden'></button></nav>"
            )
            with gr.Row():
                with gr.Column():
                    gr.Markdown("# Step 1. LoRA Info")
                    lora_name = gr.Textbox(label="The name of your LoRA")
                    vram = gr.Radio(["20G", "16G"], value="20G", label="VRAM", interactive=True)
                    max_train_epochs = gr.Number(label="Max Train Epochs", value=16, precision=0)
                    sample_prompts = gr.Textbox("", lines=5, label="Sample Image Prompts")
                    sample_every_n_steps = gr.Number(0, precision=0, label="Sample Image Every N Steps")
                with gr.Column():
                    gr.Markdown("# Step 3. Train")
                    refresh = gr.Button("Refresh", elem_id="refresh", visible=False)
                    start = gr.Button("Start training", elem_id="start_training")
                    train_script = gr.Textbox(label="Train script", max_lines=100, interactive=True)
                    train_config = gr.Textbox(label="Train config", max_lines=100, interactive=True)
            with gr.Accordion("Advanced options", elem_id="advanced_options", open=False), gr.Row():
                advanced_components = make_advanced()
            terminal = gr.Code("steps:  33%", label="Train log", elem_id="terminal", interactive=True)
            gallery = gr.Gallery(samples_of, inputs=[lora_name], label="Samples", every=10, columns=6)

        with gr.TabItem("Publish") as publish_tab:
            account = gr.Textbox(label="Account", interactive=False)
            lora_rows = trained_runs()

    publish_tab.select(trained_runs, outputs=lora_rows)
    dataset_folder = gr.State()
    listeners = [
        lora_name,
        vram,
        max_train_epochs,
        sample_prompts,
        sample_every_n_steps,
        *advanced_components,
    ]
    untouched_values = [component.value for component in advanced_components]
    start.click(
        start_training, inputs=[lora_name, train_script, train_config, sample_prompts], outputs=terminal
    )
    demo.load(fn=lambda: "nobody", js=JS, outputs=[account])
    refresh.click(update, inputs=listeners, outputs=[train_script, train_config, dataset_folder])
if __name__ == "__main__":
    cwd = os.path.dirname(os.path.abspath(__file__))
    look = LOOK if LOOK_GOES_TO_LAUNCH else {}
    demo.launch(debug=True, show_error=True, allowed_paths=[cwd], **look)
