"""What ``--help`` of each command teaches: what it is for, examples, and where the next step is."""

from __future__ import annotations

from agent.usage import examples

#: command → what it is for, and the end of its page.
PAGES = {
    "synthesize": (
        "Draw recordings of welds that do not exist, to try everything with; they say nothing of real welds.",
        examples(
            "weldwatch-train synthesize --out frames/",
            "weldwatch-train synthesize --out few/ --recordings 12 --size 400x487",
            then="weldwatch-train all --recipe demo --data frames/ --out out/ makes a bundle of them.",
        ),
    ),
    "prepare": (
        "Split frames by recording and bring them to 128×128 gray, with digests. What is odd about the data is said "
        "here, before a training is spent on it.",
        examples(
            "weldwatch-train prepare --recipe demo --data frames/ --out set/",
            "weldwatch-train prepare --recipe aluminium --data al/ --out set/ --strict",
            then="look at set/contact-sheet.png; then weldwatch-train all --recipe demo --data set/ --out out/.",
        ),
    ),
    "train": (
        "Fit the recipe's network, keeping a checkpoint after every epoch. The first step of all, to go on from.",
        examples(
            "weldwatch-train train --recipe demo --data set/ --out out/",
            "weldwatch-train train --recipe demo --data set/ --out out/ --resume",
            then="weldwatch-train bundle --out out/ measures it and makes the bundle.",
        ),
    ),
    "evaluate": (
        "Measure a bundle on labelled frames, as the agent would judge them; or measure recipes by cross-validation "
        "over recordings, where a set is too small to be split. Rates come with 95% intervals over recordings.",
        examples(
            "weldwatch-train evaluate --bundle out/weld-demo-1.0.0.pipeline --data frames/",
            "weldwatch-train evaluate --folds 5 --recipe aluminium --data al5083/ --out r/",
            then="read the escapes first, and their upper bound; docs/training.md says what each figure means.",
        ),
    ),
    "export": (
        "Write the trained model as ONNX files, whole and in eight bits. A step of bundle, to look at by itself.",
        examples(
            "weldwatch-train export --out out/",
            then="weldwatch-train bundle --out out/ measures them and makes the bundle.",
        ),
    ),
    "bundle": (
        "Measure the trained model, choose its threshold on validation recordings, and make bundle and report.",
        examples(
            "weldwatch-train bundle --out out/",
            "weldwatch-train bundle --out out/ --name cell-3 --version 1.2.0",
            then="read out/report.html; then weldwatch bundle install FILE, on the station.",
        ),
    ),
    "all": (
        "Frames to bundle: prepare, train, export, evaluate, bundle. What most people call.",
        examples(
            "weldwatch-train all --recipe demo --data frames/ --out out/",
            "weldwatch-train all --recipe aluminium --data al/ --out o/ --name c3",
            "weldwatch-train all --recipe aluminium --data al/ --out o/ --name c3 --resume",
            then="read out/report.html; then weldwatch bundle install FILE, on the station.",
        ),
    ),
}
