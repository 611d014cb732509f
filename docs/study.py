"""Writes what pipelines/reinforcement.yaml found between the study marks of docs/reinforcement.md. `docs/make reinforcement` calls it.

Every figure is read from finished nodes by `decoct show`; an unfinished one stops it.
"""

import json
import re
import subprocess
import sys

RECIPE = "pipelines/reinforcement.yaml"
ARMS = ["ppo", "grpo", "rloo"]
PROGRAM, ARGUMENTS = sys.argv[1], sys.argv[2:]


def show(node, *more):
    """What `decoct show` writes; the arguments given to this script (such as `--set`) go along."""
    done = subprocess.run([PROGRAM, "show", RECIPE, node, *ARGUMENTS, *more], capture_output=True, text=True)
    if done.returncode or "has changed since" in done.stderr:
        sys.exit(f"`{node}` is not finished:\n{done.stderr}")
    return done.stdout


def tables(node):
    """The tables of a report: title, column names, rows of cells."""
    found, lines = {}, show(node, "--rows", "1").splitlines()
    for place, line in enumerate(lines):
        if not re.fullmatch(r"─+(  ─+)*", line.strip()) or place < 2:
            continue
        ends = [match.end() for match in re.finditer("─+", line)]
        cut = lambda text: [text[start:end].strip() for start, end in zip([0, *ends[:-1]], [*ends[:-1], len(text)])]
        body = []
        for row in lines[place + 1:]:
            if not row.strip():
                break
            body.append(cut(row))
        found[lines[place - 2].split(" · ")[-1].strip()] = (cut(lines[place - 1]), body)
    return found


def markdown(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def seeds(node):
    return sorted({row[1] for row in node[1]})


def first_number(cell):
    return float(re.match(r"[-+]?[\d.]+", cell).group())


def over_seeds(scores):
    """A line for each model: every seed's score, without its interval."""
    columns, rows = scores
    ways = range(2, len(columns) - 2)
    lines = []
    for model in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == model]
        cells = [" / ".join(f"{first_number(row[way]):.1f}" for row in own) for way in ways]
        lines.append([model, *cells, " / ".join(row[-1].replace(" / ", ", ") for row in own)])
    return markdown(["model", *[columns[way].replace(" % (95 %)", " %") for way in ways], columns[-1]], lines)


def metrics(arm, seed):
    return [json.loads(line) for line in show(f"{arm}/seed={seed}", "--format", "json").splitlines()]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def practice(names):
    """How each run went: its first and last tenth, and what bounds it."""
    columns = ["run", "reward", "entropy, nats a token", "length, tokens", "KL, nats an answer (largest)", "explained variance, by thirds", "not numbers"]
    lines = []
    for arm in ARMS:
        for seed in names:
            rows = metrics(arm, seed)
            tenth, third = max(1, len(rows) // 10), -(-len(rows) // 3)
            ends = lambda name, digits: " → ".join(f"{mean(row[name] for row in part):.{digits}f}" for part in (rows[:tenth], rows[-tenth:]))
            kl = f"{mean(row['kl'] for row in rows[-tenth:]):.2f} ({max(row['kl'] for row in rows):.2f})"
            explained = "–"
            if "explained_variance" in rows[0]:
                parts = [rows[start:start + third] for start in range(0, len(rows), third)]
                explained = " / ".join(f"{mean(row['explained_variance'] for row in part):.2f}" for part in parts)
            missing = sum(value is None for row in rows for value in row.values())
            lines.append([f"{arm}, seed {seed}", ends("reward", 3), ends("entropy", 4), ends("length", 1), kl, explained, str(missing)])
    return markdown(columns, lines)


def main():
    temperatures, score = tables("temperatures"), tables("score")
    accuracy = next(title for title in score if title.startswith("accuracy"))
    dev = next(title for title in temperatures if title.startswith("accuracy"))
    names = seeds(score[accuracy])
    columns, rows = score["paired tests, by problem"]
    pooled = [row for row in rows if ", mean of " in row[0]]
    single = [row for row in rows if ", mean of " not in row[0] and " − T" not in row[1]]
    text = f"""{accuracy.capitalize()}; seeds {' / '.join(names)}. Tokens are means of greedy and sampled answers.

{over_seeds(score[accuracy])}
Paired tests over the problems; a problem counts by its mean over the seeds. `T=1 − T=0.4` compares an arm at 1 with the student at 0.4.

{markdown(columns, pooled)}
Seed by seed:

{markdown(columns, single)}
How practice went: means over the first and the last tenth of a run.

{practice(names)}
The student on the development split ({dev.removeprefix('accuracy on ')}):

{over_seeds(temperatures[dev])}"""
    page = open("docs/reinforcement.md").read()
    page = re.sub(r"(?s)(<!-- study -->\n).*?(<!-- /study -->)", lambda marks: marks[1] + "\n" + text + "\n" + marks[2], page)
    open("docs/reinforcement.md", "w").write(page)


main()
