"""Medians, ratios, a table, JSON and a picture from the lines that `kvctl bench -o json` printed."""

import argparse
import json
import os
import platform
import statistics
from collections import defaultdict

FIELDS = ["ops_per_s", "p50_ms", "p99_ms", "p999_ms", "errors"]
# What we aim at: at least this much (throughput), or less than this (latency).
AIMS = {"put_64": 6, "put_best": 10, "get_64": 12, "get_best": 20, "put_1_p50": 1, "get_1_p50": 1, "p99_worst": 1}
LATENCIES = ("put_1_p50", "get_1_p50", "p99_worst")


def medians(lines):
    groups = defaultdict(list)
    for line in lines:
        r = json.loads(line)
        groups[(r["workload"], r["clients"], r["target"])].append(r)
    rows = []
    for (workload, clients, target), rs in groups.items():
        row = {"target": target, "workload": workload, "clients": clients}
        for field in FIELDS:
            row[field] = round(statistics.median(r[field] for r in rs), 3)
        rows.append(row)
    return sorted(rows, key=lambda r: (r["workload"] != "put", r["clients"], r["target"] != "kvsvr"))


def pick(rows, target, workload, clients):
    return next(r for r in rows if (r["target"], r["workload"], r["clients"]) == (target, workload, clients))


def best(rows, target, workload):
    return max(r["ops_per_s"] for r in rows if (r["target"], r["workload"]) == (target, workload))


def ratios(rows):
    out = {}
    for workload in ("put", "get"):
        out[f"{workload}_64"] = pick(rows, "kvsvr", workload, 64)["ops_per_s"] / pick(rows, "etcd", workload, 64)["ops_per_s"]
        out[f"{workload}_best"] = best(rows, "kvsvr", workload) / best(rows, "etcd", workload)
        out[f"{workload}_1_p50"] = pick(rows, "kvsvr", workload, 1)["p50_ms"] / pick(rows, "etcd", workload, 1)["p50_ms"]
    pairs = {(r["workload"], r["clients"]) for r in rows}
    out["p99_worst"] = max(pick(rows, "kvsvr", *p)["p99_ms"] / pick(rows, "etcd", *p)["p99_ms"] for p in pairs)
    return {k: round(v, 2) for k, v in out.items()}


def row_cache(lines):
    """Medians with and without the row cache, and what the cache answered."""
    runs = [json.loads(line) for line in lines]
    median = lambda state, field: statistics.median(r[field] for r in runs if r["row_cache"] == state)
    on = [r for r in runs if r["row_cache"] == "on"]
    hits, misses = sum(r["hits"] for r in on), sum(r["misses"] for r in on)
    out = {f"{field}_{state}": round(median(state, field), 3) for state in ("on", "off") for field in ("ops_per_s", "p50_ms", "p99_ms")}
    return out | {"hit_rate": round(hits / max(1, hits + misses), 4), "speed_up": round(median("on", "ops_per_s") / median("off", "ops_per_s"), 2)}


def table(rows):
    print(f"\n{'workload':9}{'clients':>8}  {'target':7}{'ops/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'errors':>8}")
    for r in rows:
        print(f"{r['workload']:9}{r['clients']:>8}  {r['target']:7}{r['ops_per_s']:>10.0f}{r['p50_ms']:>10.3f}{r['p99_ms']:>10.3f}{r['p999_ms']:>10.3f}{r['errors']:>8.0f}")


def picture(rows, path):
    """Grouped bars of throughput, one panel a workload."""
    colours = {"kvsvr": "#2563eb", "etcd": "#9ca3af"}
    width, height, left, top, panel = 860, 330, 70, 46, 380
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for index, workload in enumerate(("put", "get")):
        some = [r for r in rows if r["workload"] == workload]
        peak = max(r["ops_per_s"] for r in some)
        x0 = left + index * (panel + 20)
        svg.append(f'<text x="{x0}" y="24" font-size="15" font-weight="bold">{workload}, operations per second</text>')
        clients = sorted({r["clients"] for r in some})
        step = (panel - 60) / len(clients)
        for i, c in enumerate(clients):
            for j, target in enumerate(("kvsvr", "etcd")):
                value = pick(some, target, workload, c)["ops_per_s"]
                h = 220 * value / peak
                x = x0 + i * step + j * step * 0.36
                y = top + 230 - h
                svg.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.34:.1f}" height="{h:.1f}" fill="{colours[target]}"><title>{target}, {c} clients: {value:.0f}/s</title></rect>')
                svg.append(f'<text x="{x + step * 0.17:.1f}" y="{y - 4:.1f}" text-anchor="middle" font-size="10">{value / 1000:.1f}k</text>')
            svg.append(f'<text x="{x0 + i * step + step * 0.35:.1f}" y="{top + 248}" text-anchor="middle">{c} client{"s" if c > 1 else ""}</text>')
    for j, target in enumerate(("kvsvr", "etcd")):
        svg.append(f'<rect x="{left + j * 90}" y="{height - 22}" width="12" height="12" fill="{colours[target]}"/>')
        svg.append(f'<text x="{left + 18 + j * 90}" y="{height - 12}">{target}</text>')
    svg.append("</svg>")
    with open(path, "w") as f:
        f.write("\n".join(svg) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("out")
    parser.add_argument("--zipf", required=True)
    parser.add_argument("--kvsvr", default="")
    parser.add_argument("--etcd", default="")
    parser.add_argument("--param", action="append", default=[])
    args = parser.parse_args()
    with open(args.results) as f:
        rows = medians(line for line in f if line.strip())
    table(rows)
    found = ratios(rows)
    print("\nkvsvr over etcd (throughput: higher is better; latency: lower is better; p99_worst is of all rows)")
    print(f"  {'':11}{'measured':>9}{'aim':>8}")
    for name, value in found.items():
        aim = AIMS[name]
        held = value < aim if name in LATENCIES else value >= aim
        print(f"  {name:11}{value:>9.2f}{('<' if name in LATENCIES else '>=') + str(aim):>8}  {'' if held else 'falls short'}")
    with open(args.zipf) as f:
        cache = row_cache(line for line in f if line.strip())
    print("\nrow cache, YCSB-B zipfian, 256 clients: hit rate {hit_rate:.1%}; {ops_per_s_on:.0f}/s with it, {ops_per_s_off:.0f}/s without ({speed_up} times)".format(**cache))
    document = {
        "host": {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()},
        "versions": {"kvsvr": args.kvsvr, "etcd": args.etcd},
        "parameters": dict(p.split("=", 1) for p in args.param) | {"nodes": 3, "fsync": "on in both"},
        "results": rows,
        "ratios": found,
        "row_cache": cache,
    }
    with open(os.path.join(args.out, "bench.json"), "w") as f:
        json.dump(document, f, indent=1)
        f.write("\n")
    picture(rows, os.path.join(args.out, "bench.svg"))
    print(f"\nwritten: {args.out}/bench.json, bench.svg")


if __name__ == "__main__":
    main()
