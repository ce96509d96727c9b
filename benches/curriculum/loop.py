"""A workspace and the processes of its loop, watched from outside through what scripts may read: `status/*.json`."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def processor_seconds(pid):
    """Of a process and all its descendants, those that ended and were waited for included."""
    ticks, families = 0, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended meanwhile
            continue
        families.setdefault(int(fields[1]), []).append((int(stat.parent.name), sum(map(int, fields[11:15]))))
        if int(stat.parent.name) == pid:
            ticks += sum(map(int, fields[11:15]))
    waiting = [pid]
    while waiting:
        for child, used in families.get(waiting.pop(), []):
            ticks += used
            waiting.append(child)
    return ticks / os.sysconf("SC_CLK_TCK")


class Loop:
    """`hone up` on a workspace of its own. `settings` are configuration keys; ports and roles are chosen here."""

    def __init__(self, hone, root, skill, settings, model=None):
        self.hone, self.root, self.skill = hone, pathlib.Path(root), skill
        serve, monitor, port = free_ports(3)
        settings = {
            "serve.listen": f"127.0.0.1:{serve}",
            "monitor.listen": f"127.0.0.1:{monitor}",
            "skills": [{"name": skill, "url": f"http://127.0.0.1:{port}"}],
            "roles": [f"skill:{skill}", "serve", "daemon"],
            **settings,
        }
        self.flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")]
        if not (self.root / "hone.db").exists():
            base = ["--model", str(model)] if model else ["--tiny"]
            self.run("init", *base)
        self.up, self.clock = None, []
        # What earlier runs of this bench measured on the same workspace.
        self.kept = self.root / "measured.json"
        before = json.loads(self.kept.read_text()) if self.kept.exists() else {"minutes": 0, "processor_minutes": 0, "evaluations": []}
        self.before = (before["minutes"], before["processor_minutes"])
        self.seen = {(each["step"], each["level"], each["seed"]): each for each in before["evaluations"]}

    def run(self, *arguments):
        command = [self.hone, "--root", str(self.root), *self.flags, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL).stdout

    def start(self):
        log = open(self.root / "up.log", "a")
        command = [self.hone, "--root", str(self.root), *self.flags, "up"]
        self.up = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.started = time.time()

    def stop(self):
        """As Ctrl-C would: all in order."""
        if self.clock:
            self.keep()
        if self.up and self.up.poll() is None:
            self.up.send_signal(signal.SIGTERM)
            try:
                self.up.wait(timeout=120)
            except subprocess.TimeoutExpired:
                self.up.kill()
                self.up.wait()

    def look(self):
        """What the curriculum says now; notes when each evaluation was first seen, in minutes and processor minutes."""
        if self.up.poll() is not None:
            raise SystemExit(f"hone up ended; its last lines:\n{''.join(open(self.root / 'up.log').readlines()[-20:])}")
        minutes, used = self.before[0] + (time.time() - self.started) / 60, self.before[1] + processor_seconds(self.up.pid) / 60
        self.clock = [minutes, used]
        try:
            view = json.loads((self.root / "status/curriculum_state.json").read_text())
        except FileNotFoundError:
            return None
        skill = next((each for each in view["skills"] if each["skill"] == self.skill), None)
        for evaluation in skill["history"] if skill else []:
            key = (evaluation["checkpoint"], evaluation["level"], evaluation["seed"])
            if key not in self.seen:
                shares = {name: evaluation[name] for name in ("level", "seed", "accuracy", "questions", "unparsed", "cut", "errored")}
                self.seen[key] = {"step": evaluation["checkpoint"], **shares, "minutes": minutes, "processor_minutes": used}
                self.keep()
        return skill

    def keep(self):
        """For the next run on this workspace."""
        measured = {"minutes": self.clock[0], "processor_minutes": self.clock[1], "evaluations": list(self.seen.values())}
        self.kept.write_text(json.dumps(measured))

    def watch(self, minutes, ends):
        """Looks until `ends(skill)` holds or the time is over; returns the last look."""
        while True:
            skill = self.look()
            is_over = self.clock[0] - self.before[0] >= minutes
            if skill and (ends(skill) or is_over):
                return skill
            if is_over:
                raise SystemExit(f"{self.skill} was not evaluated once within {minutes} minutes")
            time.sleep(2)

    def report(self, skill):
        """What a line of the result holds of this loop."""
        rounded = [{key: round(value, 4) if isinstance(value, float) else value for key, value in each.items()} for each in self.seen.values()]
        moves = [{key: each[key] for key in ("from", "to", "checkpoint", "reason")} for each in skill["moves"]]
        return {
            "skill": self.skill, "level": skill["level"], "minutes": round(self.clock[0], 1),
            "processor_minutes": round(self.clock[1], 1), "evaluations": rounded, "moves": moves,
        }
