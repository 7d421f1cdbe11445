#!/usr/bin/python3
"""Judges what test/history/driver recorded.

    check.py MODEL HISTORY COMMITTED     prints a report as JSON
    check.py --self-test                 small histories with a known verdict

HISTORY: the driver's record.  COMMITTED: "op id ver gone" a line, what the log
table says in the end.  MODEL is one of

  strong    Linearizable for each key.  Writes of a key are in one known order
            (ver), so it is enough that no operation follows, in real time, one
            with a later value: for every pair "a ended before b began",
            ver(a) <= ver(b), and ver(a) < ver(b) where b is a write.  (With a
            total order of the writes this is necessary and sufficient: see
            Gibbons and Korach, "Testing shared memories", 1997, section 4.2.)
  eventual  No read is older than what had been applied before it began, and
            what a session reads from a cache does not go backwards.

At every level: what was rolled back is never read ("ghost"), nothing is read
before its COMMIT was sent ("early"), a transaction reads its own writes
("own"), and no error comes that no fault explains ("error").
"""
import bisect
import json
import sys
from collections import Counter, defaultdict


class Write:
    __slots__ = "key start end ver op gone version".split()


class Read:
    __slots__ = "session key start end ver op source applied".split()


def parse(lines):
    reads, writes, found = [], [], []
    for line in lines:
        kind, _, rest = line.rstrip("\n").partition(" ")
        field = rest.split(" ")
        if kind == "w":
            w = Write()
            w.key, w.start = int(field[1]), int(field[2])
            w.end = None if field[3] == "-" else int(field[3])
            w.ver, w.op, w.gone = int(field[4]), int(field[5]), field[6] == "1"
            w.version = None if field[7] == "-" else field[7]
            writes.append(w)
        elif kind == "r":
            r = Read()
            r.session, r.key, r.start, r.end = (int(x) for x in field[:4])
            r.ver = None if field[4] == "-" else int(field[4])
            r.op = None if field[5] == "-" else int(field[5])
            r.source = field[6]
            r.applied = None if field[7] == "-" else field[7]
            reads.append(r)
        elif kind == "o":
            found.append(("own", rest))
        elif kind == "e":
            found.append(("error", rest))
    return reads, writes, found


def parse_committed(lines):
    committed = {}
    for line in lines:
        op, key, ver, gone = line.split()
        committed[int(op)] = (int(key), int(ver), gone in ("t", "true", "1"))
    return committed


def deleted_versions(committed):
    gone = defaultdict(list)
    for key, ver, is_gone in committed.values():
        if is_gone:
            gone[key].append(ver)
    for versions in gone.values():
        versions.sort()
    return gone


def at_least(versions, floor):
    """The earliest of the sorted versions that is no older than floor; None."""
    i = bisect.bisect_left(versions, floor)
    return versions[i] if i < len(versions) else None


def linearizable(reads, writes, committed):
    """(kind, text) for each operation that breaks the order; stale reads."""
    gone = deleted_versions(committed)
    events = defaultdict(list)      # key -> (time, 0 = begins / 1 = ends, op)
    for op in reads:
        events[op.key] += [(op.start, 0, op), (op.end, 1, op)]
    for op in writes:
        events[op.key].append((op.start, 0, op))
        if op.end is not None:
            events[op.key].append((op.end, 1, op))
    for key, list_ in events.items():
        list_.sort(key=lambda e: e[:2])
        floor = 0
        floors = {}
        for _, ends, op in list_:
            if not ends:
                floors[id(op)] = floor
                if isinstance(op, Write) and floor >= op.ver:
                    yield "early", "%d: %d was seen before COMMIT of %d was sent" % (
                        key, floor, op.ver)
                continue
            if isinstance(op, Write):
                floor = max(floor, op.ver)
                continue
            low = floors.pop(id(op))
            ver = op.ver if op.ver is not None else at_least(gone[key], low)
            if ver is None or ver < low:
                yield "stale", "%d: %s from %s, %d was there before" % (
                    key, "no row" if ver is None else ver, op.source, low)
            else:
                floor = max(floor, ver)


def eventual(reads, writes, committed):
    gone = deleted_versions(committed)
    by_key = defaultdict(list)      # key -> (version, ver)
    for w in writes:
        if w.version is not None:
            by_key[w.key].append((w.version, w.ver))
    highest = {}
    for key, list_ in by_key.items():
        list_.sort()
        top, tops = 0, []
        for version, ver in list_:
            top = max(top, ver)
            tops.append(top)
        highest[key] = ([version for version, _ in list_], tops)
    last = {}
    for r in sorted(reads, key=lambda r: r.start):
        low = 0
        if r.applied is not None and r.key in highest:
            versions, tops = highest[r.key]
            i = bisect.bisect_right(versions, r.applied)
            low = tops[i - 1] if i else 0
        ver = r.ver if r.ver is not None else at_least(gone[r.key], low)
        if ver is None or ver < low:
            yield "stale", "%d: %s from %s, %d was applied" % (
                r.key, "no row" if ver is None else ver, r.source, low)
            continue
        if r.source == "row":
            continue
        before = last.get((r.session, r.key), 0)
        if r.ver is None:
            ver = at_least(gone[r.key], max(low, before))
        if ver is None or ver < before:
            yield "back", "%d: session %d has %s from %s, had %d" % (
                r.key, r.session, ver, r.source, before)
        else:
            last[(r.session, r.key)] = ver


def judge(model, reads, writes, found, committed):
    violations = list(found)
    writes = [w for w in writes if w.op in committed]
    for w in writes:
        if committed[w.op] != (w.key, w.ver, w.gone):
            violations.append(("log", "%d: %d is not what was logged" % (w.key, w.op)))
    good = []
    for r in reads:
        if r.op is not None and r.op != 0 and committed.get(r.op, (0, 0, 0))[:2] != (r.key, r.ver):
            violations.append(("ghost", "%d: %d by %d from %s was never committed" % (
                r.key, r.ver, r.op, r.source)))
        else:
            good.append(r)
    rules = linearizable if model == "strong" else eventual
    violations += rules(good, writes, committed)
    span = max((r.end for r in reads), default=0) - min((r.start for r in reads), default=0)
    kinds = Counter(kind for kind, _ in violations)
    return {"reads": len(reads), "writes": len(writes), "seconds": round(span / 1e9, 1),
            "sources": Counter(r.source for r in reads), "violations": kinds,
            "nviolations": len(violations),
            "stale_share": kinds["stale"] / len(reads) if reads else 0,
            "examples": ["%s %s" % v for v in violations[:10]]}


SELF_TEST = [
    # model, history, committed, kinds of violations
    ("strong", ["w 0 1 10 20 2 7 0 -", "r 1 1 21 30 2 7 L1 -"], ["7 1 2 f"], []),
    ("strong", ["w 0 1 10 20 2 7 0 -", "r 1 1 15 30 1 0 L1 -"], ["7 1 2 f"], []),
    ("strong", ["w 0 1 10 20 2 7 0 -", "r 1 1 21 30 1 0 L1 -"], ["7 1 2 f"], ["stale"]),
    ("strong", ["w 0 1 10 40 2 7 0 -", "r 1 1 12 15 2 7 L1 -", "r 2 1 16 20 1 0 L2 -"],
     ["7 1 2 f"], ["stale"]),
    ("strong", ["w 0 1 10 40 2 7 0 -", "r 1 1 12 17 2 7 L1 -", "r 2 1 16 20 1 0 L2 -"],
     ["7 1 2 f"], []),
    ("strong", ["r 1 1 2 5 2 7 L1 -", "w 0 1 10 20 2 7 0 -"], ["7 1 2 f"], ["early"]),
    ("strong", ["r 1 1 2 5 2 7 L1 -"], [], ["ghost"]),
    ("strong", ["w 0 1 10 - 2 7 0 -", "r 1 1 21 30 1 0 L1 -"], ["7 1 2 f"], []),
    ("strong", ["w 0 1 10 - 2 7 0 -", "r 1 1 21 30 2 7 L1 -", "r 1 1 31 32 1 0 L1 -"],
     ["7 1 2 f"], ["stale"]),
    ("strong", ["w 0 1 10 20 2 7 1 -", "r 1 1 21 30 - - L1 -"], ["7 1 2 t"], []),
    ("strong", ["w 0 1 10 20 2 7 1 -", "w 0 1 30 40 3 8 0 -", "r 1 1 41 50 - - L1 -"],
     ["7 1 2 t", "8 1 3 f"], ["stale"]),
    ("strong", ["w 0 1 10 20 2 7 0 -", "r 1 2 21 30 1 0 L1 -"], ["7 1 2 f"], []),
    ("strong", ["o 1 1 2 5 2 7 own -"], [], ["own"]),
    ("strong", ["e 1 XX000 bad"], [], ["error"]),
    ("eventual", ["w 0 1 10 20 2 7 0 a5", "r 1 1 21 30 1 0 L1 a4"], ["7 1 2 f"], []),
    ("eventual", ["w 0 1 10 20 2 7 0 a5", "r 1 1 21 30 1 0 L1 a5"], ["7 1 2 f"], ["stale"]),
    ("eventual", ["w 0 1 10 20 2 7 0 a5", "r 1 1 21 30 2 7 L1 -", "r 1 1 31 32 1 0 L1 -"],
     ["7 1 2 f"], ["back"]),
    ("eventual", ["w 0 1 10 20 2 7 0 a5", "r 1 1 21 30 2 7 row -", "r 1 1 31 32 1 0 L1 -"],
     ["7 1 2 f"], []),
    ("eventual", ["w 0 1 10 20 2 7 0 a5", "r 1 1 21 30 2 7 L1 -", "r 2 1 31 32 1 0 L1 -"],
     ["7 1 2 f"], []),
]


def self_test():
    bad = 0
    for model, history, committed, want in SELF_TEST:
        reads, writes, found = parse(history)
        report = judge(model, reads, writes, found, parse_committed(committed))
        if sorted(report["violations"].elements()) != want:
            print("wrong verdict on %s %s: %s" % (model, history, dict(report["violations"])))
            bad += 1
    print("%d passed, %d failed" % (len(SELF_TEST) - bad, bad))
    return bad


def main():
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(1 if self_test() else 0)
    model, history, committed = sys.argv[1:]
    if model not in ("strong", "eventual"):
        sys.exit("the model is strong or eventual")
    with open(history, encoding="utf-8") as lines:
        reads, writes, found = parse(lines)
    with open(committed, encoding="utf-8") as lines:
        known = parse_committed(lines)
    print(json.dumps(judge(model, reads, writes, found, known)))


if __name__ == "__main__":
    main()
