"""What must hold of a written page as a browser shows it. Each check is a script that lists what is wrong."""

from __future__ import annotations

from pathlib import Path

from browser import Browser

TOO_WIDE = """
(() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push('document');
  for (const node of document.body.querySelectorAll('*')) {
    const box = node.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1) && !node.closest('.scroll table')) found.push(node.tagName);
  }
  return found;
})()
"""
HIDDEN_SECTIONS = """
[...document.querySelectorAll('h2')].filter(head => {
  const section = head.parentElement.getBoundingClientRect(), box = head.getBoundingClientRect();
  return !head.checkVisibility({opacityProperty: true, visibilityProperty: true})
    || box.height < 8 || section.height < box.height + 16;
}).map(head => head.textContent)
"""
CUT_OFF_DRAWINGS = """
[...document.querySelectorAll('svg text')].filter(text => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
}).map(text => text.textContent)
"""
PALE_TEXTS = """
(() => {
  const parse = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = colour => {
    const [r, g, b] = parse(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor, parts = parse(colour);
      if (parts.length === 3 || parts[3] === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const node of document.body.querySelectorAll('*')) {
    const own = [...node.childNodes].filter(child => child.nodeType === 3).map(child => child.data.trim()).join('');
    if (!own || !node.checkVisibility() || ['STYLE', 'SCRIPT', 'TITLE', 'title'].includes(node.tagName)) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize);
    const one = light(node.ownerSVGElement ? style.fill : style.color), other = light(behind(node));
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${own.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""
BROKEN_STRUCTURE = """
(() => {
  const found = [], heads = [...document.querySelectorAll('h1, h2, h3, h4')].map(head => Number(head.tagName[1]));
  heads.forEach((level, at) => { if (level > (at ? heads[at - 1] : 0) + 1) found.push(`h${level} follows h${heads[at - 1]}`); });
  for (const cell of document.querySelectorAll('th')) if (!cell.scope) found.push(`no scope: ${cell.textContent}`);
  for (const svg of document.querySelectorAll('svg')) if (!svg.querySelector('title')?.textContent) found.push('svg without a title');
  for (const box of document.querySelectorAll('.scroll')) if (box.tabIndex !== 0) found.push('a box no keyboard can scroll');
  for (const link of document.querySelectorAll('a')) if (!document.querySelector(link.hash)) found.push(`leads nowhere: ${link.hash}`);
  return found;
})()
"""
NOT_FOR_PAPER = """
(() => {
  const found = [];
  for (const box of document.querySelectorAll('.scroll'))
    if (box.scrollWidth > box.clientWidth + 1) found.push(`cut off: ${box.getAttribute('aria-label')}`);
  for (const node of [document.body, ...document.querySelectorAll('figure, .verdict, pre, th')]) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!['rgb(255, 255, 255)', 'rgba(0, 0, 0, 0)'].includes(colour)) found.push(`${node.tagName} is ${colour}`);
  }
  for (const part of document.querySelectorAll('details > :not(summary)'))
    if (!part.checkVisibility({contentVisibilityAuto: true})) found.push('folded away');
  return found;
})()
"""
PAPER_WIDTH = 703
"""CSS pixels between the margins of A4."""
CHECKS = {
    "too wide": TOO_WIDE,
    "hidden": HIDDEN_SECTIONS,
    "cut off in a drawing": CUT_OFF_DRAWINGS,
    "too pale": PALE_TEXTS,
    "structure": BROKEN_STRUCTURE,
}


def problems(
    browser: Browser, page: Path, width: int, *, media: str = "screen", dark: bool = False
) -> list[str]:
    """What is wrong with the page at this width; empty is well."""
    browser.show(width, media=media, dark=dark)
    browser.open(page)
    checks = CHECKS | ({"on paper": NOT_FOR_PAPER} if media == "print" else {})
    found = [f"{name}: {item}" for name, script in checks.items() for item in browser.evaluate(script)]
    asked = [address for address in browser.requests if address != page.resolve().as_uri()]
    return [
        *found,
        *(f"asked for {item}" for item in asked),
        *(f"complained: {item}" for item in browser.complaints),
    ]
