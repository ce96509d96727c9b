#!/usr/bin/env python3
"""A skill server in sixty lines: three generators of reasoning-gym behind Skill API v1.

    pip install reasoning-gym==0.1.25
    python3 examples/skills/reasoning_gym_skill.py 8100
    hone skill conform http://127.0.0.1:8100
"""
import hashlib, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import reasoning_gym

LEVELS = ["basic_arithmetic", "gcd", "prime_factorization"]  # the higher the number, the harder
INFO = {"skill": "reasoning", "name": "Reasoning Gym", "description": "Arithmetic puzzles of reasoning-gym.",
        "version": "1", "api_version": "1", "total_levels": len(LEVELS)}
LEVEL_INFO = [{"level": n, "name": name, "description": f"Questions of {name}.", "eval_samples": 300,
               "pass_threshold": 0.8} for n, name in enumerate(LEVELS, 1)]


def split_of(question):  # decided by the question alone: no question is in both splits
    return "eval" if hashlib.sha256(question.encode()).digest()[0] < 51 else "train"


def generate(level, count, seed=0, split="train"):
    name, samples, seen, part = LEVELS[level - 1], [], set(), 0
    while len(samples) < count:
        data = reasoning_gym.create_dataset(name, size=4 * count, seed=(seed * 1009 + part) % 2**31)
        part += 1
        for entry in data:
            question, answer = entry["question"], str(entry["answer"])
            if question in seen or split_of(question) != split or len(samples) == count:
                continue
            seen.add(question)
            digest = hashlib.sha256(f"{level}/{question}".encode()).hexdigest()[:16]
            samples.append({"id": digest, "metadata": {"skill": "reasoning", "level": level, "answer": answer},
                            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return {"skill": "reasoning", "version": "1", "level": level, "samples": samples}


def verify(sample):
    said, right = sample["response"].strip(), sample["metadata"]["answer"]
    parsed = any(c.isdigit() for c in said)  # every answer of these generators holds a number
    solved = parsed and said == right
    reason = "right" if solved else f"expected {right}" if parsed else "no number found"
    return {"id": sample["id"], "solved": solved, "score": float(solved), "parsed": parsed, "reason": reason}


class Skill(BaseHTTPRequestHandler):
    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        known = {"/health": {"status": "ok"}, "/info": INFO, "/levels": {"levels": LEVEL_INFO}}
        self.answer(200 if self.path in known else 404, known.get(self.path, {"error": {"message": "no such path"}}))

    def do_POST(self):
        try:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/verify":
                return self.answer(200, {"results": [verify(sample) for sample in body["samples"]]})
            if not (1 <= body["level"] <= len(LEVELS) and 1 <= body["count"] <= 10_000):
                raise ValueError(f"levels are 1 to {len(LEVELS)}, a count is 1 to 10000")
            self.answer(200, generate(**body))
        except (KeyError, TypeError, ValueError) as error:
            self.answer(422, {"error": {"message": str(error), "code": "request_invalid"}})


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Skill).serve_forever()
