"""Our verdict against the real accelerate: broken and good states, judged, then really resumed.

`cases` are the states and scripts, made from the runs of `bases`; `loader` is the program that resumes them
with the accelerate of its interpreter; `agreement` holds the verdicts against the trainer's answers; `document`
writes docs/conformance.md. `python -m tests.conformance --help` tells how to run it.
"""
