"""One side of a comparison: a program that prints its result as the last line, in JSON."""
import json
import subprocess


def run(command, flags):
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    done = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return {"error": f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])
