"""What each crash is, does and needs, in words."""

from __future__ import annotations

from checkpoint_core.training.crash.signs import CrashKind as Kind

_OLDER = "Resume from the newest checkpoint that is judged good; the Checkpoints tab names it."

SENTENCES = {
    Kind.OUT_OF_MEMORY: "The graphics card ran out of memory.",
    Kind.KEY_ERROR_STEP: "The checkpoint could not be loaded: accelerate found no step in its random states "
    "(KeyError: 'step').",
    Kind.DISK_FULL: "The disk is full, or its quota is used up.",
    Kind.NAN_LOSS: "The loss has not been a number for {steps}.",
    Kind.KILLED: "The training was killed from outside. A system that runs out of main memory does this too.",
    Kind.ASKED_TO_END: "The training was asked to end: it was stopped, its window closed, or the machine shut down.",
    Kind.MISSING_FILE: "A file that the training needs is not there.",
    Kind.MISSING_MODULE: "A Python package that the training needs is not installed, or does not work.",
    Kind.SCRIPT_ERROR: "The train script could not be run as it is written.",
    Kind.STATE_REFUSED: "The checkpoint could not be loaded.",
    Kind.OPTIMIZER_MISMATCH: "The checkpoint was saved by another optimizer than the script names.",
    Kind.NOTHING_LEFT: "Nothing is left to train: the checkpoint has reached the script's last epoch.",
    Kind.GPU_LOST: "The graphics card, its driver or CUDA failed.",
    Kind.TORCH_BUILD: "The installed PyTorch does not fit this graphics card or its driver.",
    Kind.DEVICE_ASSERT: "A computation on the graphics card was given a number out of its range.",
    Kind.DISTRIBUTED: "The graphics cards of this training lost touch with each other.",
    Kind.SHARED_MEMORY: "The shared memory (/dev/shm) is full.",
    Kind.NATIVE_CRASH: "The training crashed outside of Python{status}.",
    Kind.BASE_MODEL: "A file of the base model is damaged or incomplete.",
    Kind.HUB_DENIED: "Hugging Face does not give this user a file that the training needs.",
    Kind.HUB_UNREACHABLE: "Hugging Face could not be reached, and the training needs a file from there.",
    Kind.DATASET_CONFIG: "The trainer refuses dataset.toml.",
    Kind.DATASET_FILE: "An image or a caption of the dataset cannot be read.",
    Kind.NO_DATA: "Nothing was trained: no images were found where dataset.toml names them.",
    Kind.SETTINGS: "The trainer refuses a setting, or two that exclude each other.",
    Kind.FINISHED: "The training has reached its end; its program failed only afterwards.",
    Kind.HANG: "The training has not moved for {minutes}.",
    Kind.UNKNOWN: "The training ended for a reason that its log does not make clear{status}.",
}

EFFECTS = {
    Kind.OUT_OF_MEMORY: "The training stopped when memory ran out.",
    Kind.KEY_ERROR_STEP: "The training did not begin.",
    Kind.DISK_FULL: "Nothing more can be saved, and the file that was being written is incomplete.",
    Kind.NAN_LOSS: "The weights are ruined and won't recover: everything trained and saved after that is useless.",
    Kind.KILLED: "The training could not save anything before it ended.",
    Kind.ASKED_TO_END: "The training ended before its last step.",
    Kind.MISSING_FILE: "The training cannot continue without it.",
    Kind.MISSING_MODULE: "The training cannot begin.",
    Kind.SCRIPT_ERROR: "The training did not begin, or ran without the settings that were not understood.",
    Kind.STATE_REFUSED: "The training did not begin.",
    Kind.OPTIMIZER_MISMATCH: "The training fails at its first step with this checkpoint, every time.",
    Kind.NOTHING_LEFT: "The training did not begin; its epochs are already done.",
    Kind.GPU_LOST: "The training cannot compute any further in this process.",
    Kind.TORCH_BUILD: "The training cannot begin.",
    Kind.DEVICE_ASSERT: "The training cannot compute any further in this process.",
    Kind.DISTRIBUTED: "The training cannot go on in these processes.",
    Kind.SHARED_MEMORY: "The images could not be handed to the training any more.",
    Kind.NATIVE_CRASH: "The training could not save anything before it ended.",
    Kind.BASE_MODEL: "The training cannot begin.",
    Kind.HUB_DENIED: "The training cannot begin.",
    Kind.HUB_UNREACHABLE: "The training cannot begin until it is there again.",
    Kind.DATASET_CONFIG: "The training cannot begin.",
    Kind.DATASET_FILE: "The training fails at this file, every time.",
    Kind.NO_DATA: "The training did not begin.",
    Kind.SETTINGS: "The training cannot begin.",
    Kind.FINISHED: "",
    Kind.HANG: "It makes no progress; earlier saves are safe.",
    Kind.UNKNOWN: "",
}

CURES = {
    Kind.OUT_OF_MEMORY: "Close other programs that use the graphics card. If it happens again at the same place, "
    "choose a smaller VRAM setting, resolution or batch size.",
    Kind.KEY_ERROR_STEP: "Repair the checkpoint in the Checkpoints tab, or install accelerate 1.1 or newer where the "
    "training runs.",
    Kind.DISK_FULL: f"Free some space: old checkpoints can be removed in the Checkpoints tab. {_OLDER}",
    Kind.NAN_LOSS: "Resume from an earlier checkpoint, with a lower learning rate or another random order.",
    Kind.KILLED: "Close other programs, or give the machine more main memory or swap. " + _OLDER,
    Kind.ASKED_TO_END: "Resume it when you want it to go on.",
    Kind.MISSING_FILE: "Put the file back, or correct its path in the script or in dataset.toml.",
    Kind.MISSING_MODULE: "Install it in the environment in which the training runs, or choose the right environment.",
    Kind.SCRIPT_ERROR: "Correct the line that the message names; usually a line continuation or a quote is missing.",
    Kind.STATE_REFUSED: "Look at what the Checkpoints tab says of this checkpoint: repair it, set the changed settings "
    "back, or resume from an older one.",
    Kind.OPTIMIZER_MISMATCH: "Set --optimizer_type (in FluxGym, the VRAM choice) back to what it was, or start from "
    "the LoRA file with a new optimizer.",
    Kind.NOTHING_LEFT: "Use the finished LoRA file, or raise --max_train_epochs to train longer.",
    Kind.GPU_LOST: "Start it again; if the card fails again, restart the machine and check driver, cooling and power.",
    Kind.TORCH_BUILD: "Install the PyTorch that is made for this card (pytorch.org, “Get started”) in the environment "
    "in which the training runs, and update the card's driver.",
    Kind.DEVICE_ASSERT: "Mostly a setting or a caption does not fit the model, and it fails again: start once with "
    "CUDA_LAUNCH_BLOCKING=1 to see where.",
    Kind.DISTRIBUTED: "Start it again; if it happens again, train on one graphics card, or look for one that hangs.",
    Kind.SHARED_MEMORY: "Give the container more shared memory (docker: --shm-size=8g or --ipc=host), or set "
    "--max_data_loader_n_workers 0.",
    Kind.NATIVE_CRASH: "Mostly main memory or the paging file ran out while the model was loaded: close other "
    "programs, or enlarge it. If it happens again at the same place, update driver and PyTorch.",
    Kind.BASE_MODEL: "Delete the file that the message names, and download it again.",
    Kind.HUB_DENIED: "Accept the model's terms on its page, log in with “huggingface-cli login”, or put the file where "
    "the script names it.",
    Kind.HUB_UNREACHABLE: "Check the connection and the proxy, or download the files beforehand.",
    Kind.DATASET_CONFIG: "Correct the entry of dataset.toml that the message names, or let FluxGym write it again.",
    Kind.DATASET_FILE: "Replace or remove the file; captions must be saved as UTF-8.",
    Kind.NO_DATA: "Put the images into the folder that dataset.toml names (image_dir), or correct the path there.",
    Kind.SETTINGS: "Change the setting that the message names.",
    Kind.FINISHED: "Use the finished LoRA file.",
    Kind.HANG: f"End it and start it again. {_OLDER}",
    Kind.UNKNOWN: f"Read the end of the log. {_OLDER}",
}

MAIN_MEMORY_WORDS = (
    "The computer ran out of main memory.",
    "Close other programs, or give the machine more main memory or swap (on Windows, a larger paging file).",
)
