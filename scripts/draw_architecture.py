"""Draw docs/architecture.svg: what a cross-encoder computes for each pair, and what MICE computes when.

Run it after a change: ``python scripts/draw_architecture.py``. The tests hold the committed picture to its output.
"""

from __future__ import annotations

from pathlib import Path

TARGET = Path(__file__).parent.parent / "docs" / "architecture.svg"
INK, QUERY, DOCUMENT, JOINT, STORE = "#1f2a36", "#cfe3f5", "#f6e3c5", "#e8cfdc", "#d9ead3"


def box(x: int, y: int, width: int, height: int, fill: str, *lines: str) -> str:
    """A rounded box with centred lines of text."""
    texts = "".join(
        f'<text x="{x + width / 2:g}" y="{y + height / 2 + 5 + 17 * (place - (len(lines) - 1) / 2):g}">{line}</text>'
        for place, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}"/>{texts}'


def arrow(*points: tuple[int, int]) -> str:
    """An arrow along straight lines."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" marker-end="url(#head)"/>'


def draw() -> str:
    """The picture as SVG."""
    parts = [
        '<text class="title" x="150" y="28">Cross-encoder</text>',
        '<text x="150" y="48">everything, for every pair</text>',
        box(40, 300, 220, 40, JOINT, "[CLS] query [SEP] document [SEP]"),
        box(40, 110, 220, 150, JOINT, "all layers", "every token reads", "every token"),
        box(95, 62, 110, 32, JOINT, "score"),
        arrow((150, 300), (150, 264)),
        arrow((150, 110), (150, 98)),
        '<line x1="300" y1="15" x2="300" y2="345" class="rule"/>',
        '<text class="title" x="565" y="28">MICE</text>',
        box(340, 300, 170, 40, QUERY, "[CLS] query [SEP]"),
        box(340, 215, 170, 52, QUERY, "contextualisation layers", "once per query"),
        box(340, 110, 170, 76, JOINT, "interaction layers", "query reads document,", "one way"),
        box(370, 62, 110, 32, JOINT, "score off [CLS]"),
        arrow((425, 300), (425, 271)),
        arrow((425, 215), (425, 190)),
        arrow((425, 110), (425, 98)),
        box(620, 300, 170, 40, DOCUMENT, "[CLS] document [SEP]"),
        box(620, 215, 170, 52, DOCUMENT, "contextualisation layers", "once per document, ever"),
        box(620, 122, 170, 52, STORE, "document states", "stored"),
        arrow((705, 300), (705, 271)),
        arrow((705, 215), (705, 178)),
        arrow((620, 148), (514, 148)),
        '<text class="small" x="566" y="246">same weights</text>',
    ]
    style = (
        f"text{{font:13px sans-serif;fill:{INK};text-anchor:middle}}.title{{font:bold 16px sans-serif}}"
        f".small{{font:italic 12px sans-serif}}rect{{stroke:{INK};stroke-width:1}}"
        f"polyline{{fill:none;stroke:{INK};stroke-width:1.6}}.rule{{stroke:#b8c0c8;stroke-dasharray:4 4}}"
    )
    marker = (
        '<defs><marker id="head" markerWidth="9" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L9,4 L0,8 z" fill="{INK}"/></marker></defs>'
    )
    background = '<rect width="820" height="355" fill="#ffffff" style="stroke:none"/>'
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 355" width="820" height="355">'
    return "\n".join([head, f"<style>{style}</style>", marker, background, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(draw(), encoding="utf-8")
