"""``softmaxnet inspect`` and ``softmaxnet verify``: what a model file says of itself, and whether it is true."""

from __future__ import annotations

import argparse
from typing import Any

from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.tables import column_table
from softmaxnet.cli.terminal import Terminal, aligned

__all__ = ["run_inspect", "run_verify"]


def run_inspect(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Print the description of a model file; its weights are not read."""
    from softmaxnet.model_file import inspect_model

    about: dict[str, Any] = inspect_model(args.model)
    terminal.answer(_description(about), about)
    return 0


def run_verify(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Load a model file and compute its golden rows again."""
    from softmaxnet.model_file import verify_model

    report: dict[str, Any] = verify_model(args.model)
    text = (
        f"{args.model}: sound. {report['golden_rows']} stored rows give the stored probabilities "
        f"(largest error {report['max_error']:.1e}, allowed {report['tolerance']:.0e})\nsha256 {report['digest']}"
    )
    terminal.answer(text, report)
    return 0


def _description(about: dict[str, Any]) -> str:
    network, calibration = about["network"], about["calibration"]
    created, metrics = about["created_by"], about["metrics"]
    classes = ", ".join(map(str, about["classes"][:10])) + (", ..." if about["n_classes"] > 10 else "")
    layers = " -> ".join(map(str, about["layers"]))
    members = f", {network['n_members']} members" if network["n_members"] > 1 else ""
    activation = f", {network['activation']}" if network["hidden_layer_sizes"] else ""
    kind = {"object": "text", "str": "text"}.get(about["classes_kind"], about["classes_kind"])
    inverse = calibration.get("inverse_temperature")
    temperature = f", temperature {1 / inverse:.4g}" if inverse else ""
    rows = [
        ("file", f"{about['path']}, {about['file_bytes']:,} bytes, format {about['format_version']}"),
        ("written by", f"{created.get('package')} {created.get('version')}"),
        ("sha256", about["digest"]),
        ("classes", f"{about['n_classes']} ({kind}): {classes}"),
        ("columns", f"{about['n_features_in']}"),
        ("layers", f"{layers}{activation}{members}, {about['n_parameters']:,} parameters"),
        ("calibration", f"{calibration['method']}{temperature}"),
        ("prediction sets", "yes" if about["conformal"] is not None else "no"),
    ]
    target = about["reader"].get("target")
    if target is not None:
        rows.append(("target", str(target)))
    for name in ("log_loss", "accuracy"):
        if isinstance(metrics.get(name), float):
            rows.append((f"held-out {name.replace('_', ' ')}", f"{metrics[name]:.4f}"))
    return aligned(rows, widest=200) + "\n\n" + column_table(about["columns"])
