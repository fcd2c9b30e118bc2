"""What ``--help`` of each verb teaches: what it is for, an example, and where the next step is."""

from __future__ import annotations

from agent.usage import examples

#: verb → what it is for, and the end of its page.
PAGES = {
    "inspect": (
        "What a bundle is: labels, figures, threshold, what it was trained on, who signed it. Nothing of it is run.",
        examples(
            "weldwatch bundle inspect weld-demo",
            "weldwatch bundle inspect al5083-1.0.0.pipeline --trusted-keys keys/",
            then="weldwatch bundle verify runs its self-test on this machine.",
        ),
    ),
    "verify": (
        "Verify a bundle whole, load it, and compare its answers to its golden images on this machine with those in "
        "training: what an agent does before it judges with one.",
        examples(
            "weldwatch bundle verify al5083-1.0.0.pipeline",
            "weldwatch bundle verify al5083-1.0.0.pipeline --trusted-keys keys/ --json",
            then="weldwatch bundle install puts it into the station's store.",
        ),
    ),
    "install": (
        "Copy a bundle into the station's store, verified, side by side with the others. What judges stays as it is.",
        examples(
            "weldwatch bundle install al5083-1.0.0.pipeline --config agent.yaml",
            then="weldwatch bundle shadow tries it beside the active one; weldwatch bundle activate lets it judge.",
        ),
    ),
    "list": (
        "What is installed, which bundle was activated, and which one a running agent judges with.",
        examples(
            "weldwatch bundle list --config agent.yaml",
            then="weldwatch bundle inspect NAME.pipeline says more of one; weldwatch bundle activate changes it.",
        ),
    ),
    "activate": (
        "Let an installed bundle judge from now on. It is self-tested here first; a running agent takes it up within "
        "2 s, without a restart. What judged before stays, to go back to.",
        examples(
            "weldwatch bundle activate al5083-1.0.0 --config agent.yaml",
            "weldwatch bundle activate weld-demo",
            then="weldwatch bundle list shows what judges; weldwatch bundle rollback undoes it.",
        ),
    ),
    "rollback": (
        "Go back to the bundle that judged before the active one. A running agent takes it up within 2 s.",
        examples("weldwatch bundle rollback --config agent.yaml", then="weldwatch bundle list shows what judges."),
    ),
    "shadow": (
        "Let an installed candidate judge the same frames beside the active bundle. Its verdicts are kept aside, and "
        "no result changes.",
        examples(
            "weldwatch bundle shadow al5083-1.1.0 --config agent.yaml",
            "weldwatch bundle shadow --off",
            then="weldwatch bundle compare, after some frames, says how the two differ.",
        ),
    ),
    "compare": (
        "Compare the candidate with the active bundle on what both judged: agreement, time, and, with reviewed "
        "labels, escapes and overkill of both with 95% intervals over parts.",
        examples(
            "weldwatch bundle compare --config agent.yaml",
            "weldwatch bundle compare --labels reviewed.csv --since 2026-11-22",
            then="weldwatch bundle activate lets the better one judge; weldwatch bundle shadow --off ends the trial.",
        ),
    ),
    "keygen": (
        "Make a key pair for signing bundles. The private key stays with whoever releases bundles.",
        examples(
            "weldwatch bundle keygen release.key",
            then="weldwatch bundle sign; release.key.pub goes into the folder bundle.trusted_keys of each station.",
        ),
    ),
    "sign": (
        "Sign a bundle with a private key, so that stations with bundle.trusted_keys take it.",
        examples(
            "weldwatch bundle sign al5083-1.0.0.pipeline --key release.key",
            "weldwatch bundle sign al5083-1.0.0.pipeline --key release.key --out s.pipeline",
            then="weldwatch bundle verify --trusted-keys DIR shows what a station will say to it.",
        ),
    ),
}
