"""docs/studies/xray2em.md from the runs that ``xray2em.py`` keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
from kept import origin, table
from scipy import stats

Found = dict[tuple[str, str, int], dict[str, Any]]
NAMES = {
    "interpolation": "(a) interpolated",
    "wiener": "(b) Wiener filter, then interpolated",
    "plain": "(c) reconstructed, one network by squared error",
    "member": "one of the three networks of (d)",
    "ours": "(d) reconstructed, xray2em-fib",
    "direct": "(e) no image: a network trained on X-ray",
    "truth": "(f) true EM",
}
MEASURES = {
    "membrane_f1": "F1",
    "membrane_ap": "average precision",
    "watershed_vi": "VI, watershed of membranes (bits)",
    "vi": "VI, neurons-fib (bits)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
}
DECIDING = {"membrane_f1": 1, "membrane_ap": 1, "watershed_vi": -1}  # -1: less is better
MAIN = "90-1e4"


def report(found: Found, missing: int, sources: dict[str, str]) -> str:
    """The page; what has not been measured yet is left out, and ``missing`` says how many runs these are."""
    made = origin({"--".join(map(str, run)): entry for run, entry in found.items()}, sources)
    parts = [_head(missing), made, *_main(found), *_trust(found), *_conditions(found), *_strange(found)]
    return "\n\n".join(parts) + "\n"


def _head(missing: int) -> str:
    lack = f"; **{missing} runs are still missing**" if missing else ""
    return (
        "# Do membranes segment better in EM that was made from X-ray?\n\nWritten by `make study-xray2em` from the runs in "
        f"studies/results/xray2em{lack}. All scans are simulated: whether any of this holds for real scans is unknown. Scans "
        "of `fib_medulla` at 30 nm are turned into images at 10 nm, in which `neurons-fib`, trained on true EM, finds "
        "membranes and neurons. Thresholds for membranes are the best ones on the choosing planes; scores are from planes "
        "134–169. PSNR and SSIM are given after fitting gain and offset; nothing is decided by them. Figures are means over "
        "the scans; where there are several, ± the 95 % interval (Student's t)."
    )


def _of(found: Found, way: str, condition: str) -> list[dict[str, Any]]:
    return [entry for (w, c, _), entry in sorted(found.items()) if (w, c) == (way, condition)]


def _interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval: nothing is known of it from one value."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("inf")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(half)


def _mean(values: list[float]) -> str:
    mean, half = _interval(values)
    return f"{mean:.3f}" if np.isinf(half) else f"{mean:.3f} ± {half:.3f}"


def _rows(found: Found, condition: str, ways: list[str]) -> list[list[str]]:
    rows = []
    for way in ways:
        entries = _of(found, way, "em" if way == "truth" else condition)
        if entries:
            cells = [_mean([e[m] for e in entries]) if m in entries[0] else "" for m in MEASURES]
            rows.append([NAMES[way], *cells])
    return rows


def _differences(found: Found, way: str) -> list[dict[str, float]]:
    """(d) less ``way``, of each scan that both have seen."""
    pairs = [
        (entry, found.get((way, MAIN, seed)))
        for (w, c, seed), entry in found.items()
        if (w, c) == ("ours", MAIN)
    ]
    return [{k: ours[k] - other[k] for k in DECIDING} for ours, other in pairs if other]


def _worth(pairs: list[dict[str, float]]) -> str:
    """What reconstruction is good for, beside training on X-ray itself."""
    verdicts: dict[str, list[str]] = {}
    for measure, sign in DECIDING.items():
        mean, half = _interval([d[measure] for d in pairs])
        low, high = sorted((sign * (mean - half), sign * (mean + half)))
        who = "Reconstruction" if low > 0 else "The network trained on X-ray" if high < 0 else ""
        verdicts.setdefault(who, []).append(
            f"{MEASURES[measure].removesuffix(' (bits)')} ({mean:+.3f} ± {half:.3f})"
        )
    said = [f"{who} finds membranes better by {' and by '.join(by)}." for who, by in verdicts.items() if who]
    if "" in verdicts:
        said.append(f"Neither is better by {' or by '.join(verdicts[''])}, as far as these scans can tell.")
    return (
        f"(d) compared with (e): {' '.join(said)} The intervals are not corrected for looking at three measures. If you have "
        "labels of the structure itself, in a scan or in EM aligned with it, you can train on X-ray directly. Reconstruction "
        "learns from pairs of X-ray and EM: any network trained on EM can then be used on the image, also for structures that "
        "nobody has labelled in X-ray, and people can look at it, proofread in it and see where it is unsure.\n\nAs measured "
        "here it is not free of labels: part of the loss of (c) and (d) (weight 0.2) compares what `features-em` sees in the "
        "image and in the EM, and `features-em` learned membranes from labels, among them those of the neurons in planes "
        "0–109 of `fib_medulla`, the planes and labels from which (e) learns. In new tissue no label is needed, but how good "
        "reconstruction is without such a network has not been measured."
    )


def _main(found: Found) -> list[str]:
    header = ["image", *MEASURES.values()]
    parts = ["## Membranes and neurons", "Scans simulated by the surrogate, 90 nm, 10 000 photons per pixel:"]
    parts.append(table([header, *_rows(found, MAIN, list(NAMES))]))
    parts.append(
        "(c), (e) and the single network of (d) are three networks each, with different seeds, each with a scan of its own; "
        "(a), (b) and (d) are three scans. (e) and (c) are trained like a network of (d): with as many updates and patches, "
        "and the same random conditions. (e) learns from the labelled training planes of `fib_medulla` alone, since there are "
        "no other labels. It finds only membranes, so its neurons are their watershed, with fragments joined as was best on "
        "the choosing planes."
    )
    against = {way: _differences(found, way) for way in ("interpolation", "wiener", "plain", "direct")}
    rows = [
        [NAMES[way], *(_mean([d[measure] for d in pairs]) for measure in DECIDING)]
        for way, pairs in against.items()
        if pairs
    ]
    if rows:
        parts.append("(d) minus each of the others, in pairs of the same scan:")
        parts.append(table([["minus", *(MEASURES[measure] for measure in DECIDING)], *rows]))
        parts.append(
            "In an interpolated scan `neurons-fib` finds next to nothing (its best threshold is 0, at which everything is "
            "membrane), so compare with the Wiener filter, too. That filter is told what the network is not told: the resolution "
            "and dose of the scan, and the power spectrum of this tissue's EM. It does not say where not to believe it."
        )
    if against["direct"]:
        parts.append(_worth(against["direct"]))
    waves = _rows(found, "wave", ["interpolation", "wiener", "ours"])
    if waves:
        parts.append("A scan simulated by the wave model, on which the network was not trained (one seed):")
        parts.append(table([header, *waves]))
    return parts


def _trust(found: Found) -> list[str]:
    header = [
        "scan",
        "50 %",
        "80 %",
        "95 %",
        "ECE",
        "AUSE",
        "AUROC: sd",
        "sd around",
        "between members",
        "decision",
        "abs(p - ½)",
    ]
    rows = []
    for name, condition in (("surrogate", MAIN), ("wave model", "wave")):
        entries = _of(found, "ours", condition)
        if not entries:
            continue
        cells = [_mean([e["coverage"][k] for e in entries]) for k in ("0.50", "0.80", "0.95")]
        keys = (
            "ece", "ause", "auroc", "auroc_around", "auroc_between", "auroc_decision", "auroc_probability",
        )  # fmt: skip
        rows.append([name, *cells, *(_mean([e[k] for e in entries]) for k in keys)])
    return [
        "## Can the uncertainty be believed?",
        "Coverage of central intervals on the reporting planes. AUROC: how well an uncertainty finds the voxels where the "
        "membrane decision is wrong. The uncertainties are the total sd of the intensity; its mean over 5³ voxels; the "
        "variance between the membrane probabilities that `neurons-fib` finds in the images of the three members; the "
        "variance of the decision (that plus the mean of p (1 - p)); and, for comparison, how near the membrane probability "
        "is to ½.",
        table([header, *rows]),
        "The sd of the intensity says how dark a voxel may be, not whether there is a membrane: a thin membrane that the "
        "scan has lost looks like certain cytoplasm. What finds wrong decisions is the membrane network's own "
        "probability; how much it varies between members adds nothing to that.",
    ]


def _conditions(found: Found) -> list[str]:
    rows = []
    for condition in sorted({c for way, c, _ in found if way == "ours"} - {"wave"}):
        a, d = _of(found, "interpolation", condition), _of(found, "ours", condition)
        if a and d:
            resolution, counts = condition.split("-")
            cells = [_mean([e["membrane_f1"] for e in each]) for each in (a, d)]
            rows.append(
                [f"{resolution} nm, {counts} photons", *cells, _mean([e["coverage"]["0.80"] for e in d])]
            )
    if not rows:
        return []
    return [
        "## Other resolutions and doses",
        "The same network: F1 of membranes, and coverage of its 80 % interval.",
        table([["scan", "interpolated", "reconstructed", "coverage"], *rows]),
    ]


def _strange(found: Found) -> list[str]:
    rows = [
        [name, f"{entry['epistemic_sd'] / entry['usual']:.1f}", f"{entry['untrusted_share']:.3f}"]
        for (way, name, _), entry in sorted(found.items())
        if way == "strange"
    ]
    if not rows or not _of(found, "ours", MAIN):
        return []
    usual = _of(found, "ours", MAIN)[0]
    share, sd = usual["untrusted_share"], usual["epistemic_sd"]
    ratio = f"{sd / next(iter(e['usual'] for (w, *_), e in found.items() if w == 'strange')):.1f}"
    return [
        "## Does it know what it does not know?",
        "For volumes that are not X-ray, read as if their voxels were 30 nm: median epistemic sd, relative to that of the "
        "choosing planes, and the share of voxels that are not trusted.",
        table(
            [
                ["volume", "epistemic sd", "not trusted"],
                ["a scan as trained on", ratio, f"{share:.3f}"],
                *rows,
            ]
        ),
    ]
