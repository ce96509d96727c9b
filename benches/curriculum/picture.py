"""Draws what `run` measured: picture.py RESULTS.jsonl OUT.svg. The newest line of each work counts.

One panel per work: accuracy on fresh questions over processor minutes, a colour per level, a mark where the level moved;
for `replay`, right answers to the sealed questions of level 1 over optimizer steps, with replay and without.
"""

import html
import json
import sys

WIDTH, PANEL, GAP, LEFT, RIGHT = 760, 200, 62, 56, 20
COLOURS = ["#0f7a68", "#b4541a", "#5b4bb7", "#a3265c", "#3f6d1f"]
TITLES = {"binary": "Binary, the tiny model of the demo", "syllo": "SYLLO"}


def nice(top):
    """A round step that gives at most eight marks."""
    step = 1
    for candidate in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        step = candidate
        if top / candidate <= 8:
            break
    return step


class Panel:
    def __init__(self, index, title, x_label, x_from, x_to):
        self.top = GAP * (index + 1) - 18 + PANEL * index
        self.x_from, self.x_to = x_from, max(x_to, x_from + 1e-9)
        self.parts = [f'<text x="{LEFT}" y="{self.top - 12}" class="title">{html.escape(title)}</text>']
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = self.y(share)
            self.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            self.parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="tick" text-anchor="end">{share:.0%}</text>')
        step = nice(self.x_to - self.x_from)
        at = -(-self.x_from // step) * step
        while at <= self.x_to:
            self.parts.append(f'<text x="{self.x(at):.1f}" y="{self.top + PANEL + 16}" class="tick" text-anchor="middle">{at:g}</text>')
            at += step
        self.parts.append(f'<text x="{WIDTH - RIGHT}" y="{self.top + PANEL + 32}" class="tick" text-anchor="end">{html.escape(x_label)}</text>')

    def x(self, value):
        return LEFT + (value - self.x_from) / (self.x_to - self.x_from) * (WIDTH - LEFT - RIGHT)

    def y(self, share):
        return self.top + PANEL * (1 - share)

    def line(self, points, colour, label, place):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for x, y in points:
            self.parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.2" fill="{colour}"/>')
        at = WIDTH - RIGHT - 8 - 90 * place
        self.parts.append(f'<text x="{at}" y="{self.top - 12}" class="key" style="fill:{colour}" text-anchor="end">{html.escape(label)}</text>')

    def threshold(self, share):
        y = self.y(share)
        self.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="threshold"/>')

    def mark(self, x, label):
        at = self.x(x)
        self.parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{self.top}" y2="{self.top + PANEL}" class="move"/>')
        # Left of the mark where there is no room behind it.
        place, anchor = (at - 4, "end") if at > WIDTH - RIGHT - 60 else (at + 4, "start")
        self.parts.append(f'<text x="{place:.1f}" y="{self.top + PANEL - 6}" class="tick" text-anchor="{anchor}">{html.escape(label)}</text>')


def climb(index, work):
    evaluations = work["evaluations"]
    size = f", {work['parameters'] / 1e6:.1f} M parameters" if "parameters" in work else ""
    title = f"{TITLES[work['work']]}{size}: right answers to fresh questions"
    panel = Panel(index, title, "minutes of one core", 0, evaluations[-1]["processor_minutes"])
    panel.threshold(0.8)
    levels = sorted({each["level"] for each in evaluations})
    for place, level in enumerate(levels):
        points = [(each["processor_minutes"], each["accuracy"]) for each in evaluations if each["level"] == level]
        panel.line(points, COLOURS[(level - 1) % len(COLOURS)], f"level {level}", len(levels) - 1 - place)
    for move in work["moves"]:
        at = next((each["processor_minutes"] for each in evaluations if each["step"] == move["checkpoint"]), None)
        if at is not None:
            panel.mark(at, f"to level {move['to']}")
    return panel.parts


def forgetting(index, forks):
    steps = [step for fork in forks for step, _ in fork["sealed"].get("binary/1", []) if step >= fork["fork_step"]]
    panel = Panel(index, "Binary level 1 while later levels train: sealed questions", "optimizer steps", min(steps), max(steps))
    for place, fork in enumerate(forks):
        points = [(step, share) for step, share in fork["sealed"].get("binary/1", []) if step >= fork["fork_step"]]
        label = "with replay" if fork["replay_share"] else "without"
        panel.line(points, COLOURS[place], label, len(forks) - 1 - place)
    return panel.parts


def main(results, out):
    newest = {}
    for work in map(json.loads, open(results)):
        newest[work["work"], work.get("replay_share")] = work
    panels = [(climb, newest[name, None]) for name in TITLES if (name, None) in newest]
    forks = [work for (name, _), work in newest.items() if name == "replay"]
    if forks:
        panels.append((forgetting, forks))
    height = (PANEL + GAP) * len(panels) + 20
    parts = [part for index, (draw, work) in enumerate(panels) for part in draw(index, work)]
    style = (
        "text{font-family:system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}.tick{font-size:11px;fill:#666}"
        ".key{font-size:12px;font-weight:600}.grid{stroke:#e3e3e3}.threshold{stroke:#888;stroke-dasharray:5 4}.move{stroke:#bbb;stroke-dasharray:2 3}"
    )
    with open(out, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n')
        file.write(f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n')
        file.write("\n".join(parts) + "\n</svg>\n")


main(*sys.argv[1:3])
