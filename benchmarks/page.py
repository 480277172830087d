"""How fast is the page? First paint, and the time from the last stroke to the prediction that is shown.

``python benchmarks/page.py MODEL [-o benchmarks/results/page.json]``: MODEL is one of pictures that were drawn, such as
``softmaxnet demo --serve`` writes. Needs playwright and Debian's Chromium. The server and the browser share this
machine, which should do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_in_words, describe_machine

STROKE = [(66, 22), (48, 11), (31, 22), (36, 38), (62, 54), (72, 72), (52, 88), (30, 74), (37, 56), (62, 40), (66, 22)]

FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"

LISTEN = """
window.waits = [];
let lifted = null;
document.querySelector(".canvas").addEventListener("pointerup", () => (lifted = performance.now()), { capture: true });
document.addEventListener("softmaxnet:shown", () => {
  if (lifted === null) return;
  const since = lifted;
  // The frame after the one in which the bars were changed: what was drawn is on the screen.
  requestAnimationFrame(() => setTimeout(() => window.waits.push(performance.now() - since)));
  if (!document.hidden) lifted = null;
});
"""


def first_paints(browser: Any, url: str, n: int) -> list[float]:
    """Return the times [ms] to the first picture of the page, each in a browser without a cache."""
    times = []
    for _ in range(n):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.wait_for_timeout(300)
        times.append(float(page.evaluate(FIRST_PAINT)))
        context.close()
    return times


def waits(browser: Any, url: str, n: int) -> list[float]:
    """Return the times [ms] from lifting the pen to the frame that shows the first answer after it."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_timeout(500)
    page.evaluate(LISTEN)
    if not page.locator(".canvas").count():
        raise SystemExit("the page of this model has nothing to draw on: a model of pictures is needed")
    box = page.locator(".canvas").bounding_box()
    for _ in range(n):
        page.click("#clear")
        places = [(box["x"] + x * box["width"] / 100, box["y"] + y * box["height"] / 100) for x, y in STROKE]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=3)
        page.mouse.up()
        page.wait_for_timeout(600)
    found = page.evaluate("window.waits")
    page.close()
    return [float(one) for one in found]


def summary(times: list[float]) -> dict[str, float]:
    """Return median and 95th percentile [ms]."""
    return {"n": len(times), "median_ms": float(np.median(times)), "p95_ms": float(np.percentile(times, 95))}


def url_of(server: subprocess.Popen[str]) -> str:
    """Return where a server that has just been started says that it is."""
    assert server.stdout is not None
    text = ""
    for line in server.stdout:
        text += line
        if line.rstrip().endswith("}"):
            break
    return str(json.loads(text)["url"])


def measured(browser: Any, url: str, n: int) -> dict[str, Any]:
    """Return the times of the page and the state of the machine."""
    return {
        "first_paint": summary(first_paints(browser, url, max(5, n // 3))),
        "last_stroke_to_prediction": summary(waits(browser, url, n)),
        "load_average": os.getloadavg()[0],
        "machine": describe_machine(),
    }


def main() -> None:
    """Serve, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="of pictures: one to draw for")
    parser.add_argument("-n", type=int, default=30)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "softmaxnet", "serve", str(args.model), "--port", "0", "--json"]
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as play:
        try:
            browser = play.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"] if root else []
            )
            result = measured(browser, url_of(server), args.n)
            browser.close()
        finally:
            server.terminate()
    for name in ("first_paint", "last_stroke_to_prediction"):
        print(f"{name:<26} median {result[name]['median_ms']:7.1f} ms, p95 {result[name]['p95_ms']:7.1f} ms")
    print(f"load average {result['load_average']:.1f}; {describe_in_words(result['machine'])}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
