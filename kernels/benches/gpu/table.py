"""Lays our timings, their floors and PyTorch's side by side: table.py FOLDER DEVICE prints a table and writes results.json."""

import json
import pathlib
import subprocess
import sys


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def fastest(peers, name):
    timed = [peer for peer in peers if peer["name"] == name and "milliseconds" in peer]
    return min(timed, key=lambda peer: peer["milliseconds"], default=None)


def row(case, peers):
    ours, floor, peer = case["milliseconds"], case["floor_milliseconds"], fastest(peers, case["name"])
    beside = f"{peer['milliseconds']:9.3f} {ours / peer['milliseconds']:6.2f}  {peer['peer']}" if peer else ""
    return f"{case['name']:<32} {ours:9.3f} {floor:9.3f} {ours / floor:6.2f}  {beside}"


def machine():
    """The GPU's name and clocks, where there is one."""
    query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit"
    try:
        return subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def write(folder, results):
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {folder / 'results.json'}")


def main():
    folder, device = pathlib.Path(sys.argv[1]), sys.argv[2]
    cases, peers = lines_of(folder / "ours.jsonl"), lines_of(folder / "peers.jsonl")
    if device == "emulated":
        # Timings of an emulated device say nothing.
        ran = [{key: value for key, value in case.items() if "milliseconds" not in key} for case in cases]
        write(folder, {"device": device, "emulated": True, "ours": ran})
        return print(f"{len(cases)} cases ran on the emulated device at tiny sizes; a table needs a GPU")
    print(f"{'case':<32} {'ours ms':>9} {'floor ms':>9} {'ratio':>6}  {'torch ms':>9} {'ratio':>6}  fastest of PyTorch's")
    for case in cases:
        print(row(case, peers))
    failed = [peer for peer in peers if "reason" in peer]
    for peer in failed:
        print(f"not timed: {peer['name']}: {peer['reason']}")
    write(folder, {"device": device, "emulated": False, "machine": machine(), "ours": cases, "peers": peers})


if __name__ == "__main__":
    main()
