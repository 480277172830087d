"""``softmaxnet export``: a model file -> the same model for programs that do not know this one."""

from __future__ import annotations

import argparse

from softmaxnet.cli.files import checked_output
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, aligned, counted
from softmaxnet.errors import UsageError

__all__ = ["run"]


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Write the file, after it has given the same probabilities as the model."""
    if args.out is None:
        raise UsageError("the file to write must be named.", hint="For instance: -o model.onnx.")
    if args.out == "-":
        raise UsageError("an ONNX file is not written to standard output; name a file with -o.")
    out = checked_output(args.out, force=args.force, inputs=[args.model])
    from softmaxnet.model_file import load_model
    from softmaxnet.onnx_export import export_onnx

    model = load_model(args.model)
    with interrupts.deferred():
        report = export_onnx(
            model, out, opset=args.opset, part=args.part, input_dtype=args.input_dtype, force=args.force
        )
    rows = [
        ("inputs", ", ".join(f"{name} {kind}{_shape(shape)}" for name, (kind, shape) in report.inputs.items())),
        ("operator set", f"{report.opset}"),
        ("checked", f"{counted(report.n_rows, 'row')}, probabilities differ by {report.max_difference:.1e} at most"),
    ]
    if report.left_out:
        rows.insert(1, ("no inputs", ", ".join(report.left_out) + ": the model makes nothing of them"))
    text = aligned(rows, widest=500) + f"\nwritten: {out}, {report.n_bytes:,} bytes"
    terminal.answer(text, {"model": args.model, **report.to_dict()})
    return interrupts.exit_code


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if n is None else str(n) for n in shape) + "]"
