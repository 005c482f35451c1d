"""What the drivers of all engines share: the job they are given, the answer they leave, how they end."""

import json
import os
import sys
import traceback

from probelib.calls import missing_api
from probelib.context import NotRun


def drive(work, job_path, answer_path):
    """Do the job of a file, leave the answer in another, and end this process whatever an engine left running."""
    with open(job_path) as file:
        job = json.load(file)
    answer = answer_of(work, job)
    with open(answer_path, "w") as file:
        json.dump(answer, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def answer_of(work, job):
    """Do a job and return its answer; what the engine's version lacks is told apart from what fails."""
    answer = {"tasks": [], "seen": {}, "error": "", "not_run": ""}
    try:
        work(job, answer)
    except NotRun as error:
        answer["not_run"] = str(error)
    except BaseException as error:
        traceback.print_exc()
        missing = missing_api(error)
        if missing:
            answer["not_run"] = "API not found: " + missing
        else:
            answer["error"] = f"{type(error).__name__}: {error}"[:3000] or "failed"
    return answer


def told(tell, *arguments):
    """Return what an engine tells of itself beside its answers; "" if this version does not tell it this way."""
    try:
        return tell(*arguments)
    except Exception as error:
        print(f"not told by {tell.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        return ""


def known_of(known, job, owner):
    """Return the job's arguments that a version knows; NotRun (`API not found`) if one of its `must` is not there."""
    if not known:
        raise NotRun(f"API not found: arguments of {owner}")
    missing = [name for name in job["must"] if name not in known]
    if missing:
        raise NotRun(f"API not found: {missing[0]} of {owner}")
    return {name: value for name, value in job["arguments"].items() if name in known}
