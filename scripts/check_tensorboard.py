"""Reads what `hone export tensorboard DIR` wrote with TensorBoard's own reader (pip install tensorboard).

    check_tensorboard.py DIR        prints, per run and tag, the number of points and the first and last value
"""

import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

found = 0
for run in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        found += len(points)
        print(f"{run.name} {tag}: {len(points)} points, step {points[0].step} {points[0].value:.6g} "
              f"to step {points[-1].step} {points[-1].value:.6g}")
sys.exit(0 if found else "no scalars found")
