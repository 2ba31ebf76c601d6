"""What every method does on every model family, as short hashes that are compared with those of an earlier commit.

    python -m scripts.behaviour_digest --check                    # all cases; exits with 1 when one differs
    python -m scripts.behaviour_digest --check --sample           # every family, method and parameter value, in seconds
    python -m scripts.behaviour_digest --check --only /apet/      # cases with this in their name
    python -m scripts.behaviour_digest --show llava/apet/default/square/third/published
    python -m scripts.behaviour_digest --write                    # the behaviour of today is right
    python -m scripts.behaviour_digest --list                     # names

A case is ``family/method/parameters/image/budget/counting``, ``family/request/image``, ``family/method/own
generate/way``, ``refusals/what`` or ``words/method``. It has four hashes, for decisions, floats, diagnostics and
sentences (``scripts/behaviour/store.py``), kept in ``scripts/behaviour/digests.json``. To see what differs, run
``--show`` on two commits and compare the output. Numbers are computed on torch's oldest code path, so that processors
agree; a probe of the arithmetic is stored beside the digests, and where it or the version of a package is another,
decisions and sentences are compared and no more. Exit codes: 0 equal, 1 different, 2 a wrong call.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .behaviour import store
from .behaviour.pinned import is_pinned, made_with, pin_torch, run_pinned

SHOWN = 40
"""Differing cases that are printed one by one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, start again under pinned settings if need be, and do what was asked."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if not is_pinned():
        return run_pinned("scripts.behaviour_digest", given)
    pin_torch()
    return _carry_out(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with the stored digests")
    action.add_argument("--write", action="store_true", help="store the digests of now")
    action.add_argument("--show", metavar="CASE", help="print all that a case did, as JSON")
    action.add_argument("--list", action="store_true", help="print the names of the cases")
    action.add_argument("--probe", action="store_true", help="print versions and the digest of the arithmetic here")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="cases with this in their name")
    parser.add_argument("--sample", action="store_true", help="a part that covers every family, method and parameter")
    parser.add_argument("--digests", type=Path, default=store.DIGESTS, help="the file (default: the committed one)")
    return parser


def _carry_out(options: argparse.Namespace) -> int:
    if options.probe:
        print(json.dumps(made_with(), indent=1, sort_keys=True))
        return 0
    # Only here: torch reads its settings when it is imported.
    from .behaviour import collecting, sample

    if options.show:
        return _show(options.show)
    names = [name for name in collecting.names() if options.only in name]
    if options.sample:
        names = sample.of(names)
    if not names:
        print(f"No case has {options.only!r} in its name.", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(names))
        return 0
    started = time.perf_counter()
    digests = store.digests_of(dict(collecting.collect(names)))
    print(f"{len(digests):,} cases in {time.perf_counter() - started:.0f} s.", file=sys.stderr)
    if options.write:
        return _write(options.digests, digests)
    return _check(options.digests, digests, whole=not (options.only or options.sample))


def _show(name: str) -> int:
    from .behaviour import collecting

    try:
        content = dict(collecting.collect([name]))[name]
    except KeyError as error:
        print(f"{error.args[0]}; --list names all.", file=sys.stderr)
        return 2
    print(json.dumps(store.plain(content), indent=1, ensure_ascii=False))
    return 0


def _write(path: Path, digests: store.Digests) -> int:
    """A part (``--only``) replaces its own lines, if they were made with the same packages and arithmetic."""
    here = made_with()
    if path.exists():
        there, stored = store.read(path)
        from .behaviour import collecting

        names = {*collecting.names()}
        if there != here and not names <= {*digests}:
            print("The stored digests were made with other packages: write all of them.", file=sys.stderr)
            return 2
        digests = {name: hashes for name, hashes in {**stored, **digests}.items() if name in names}
    store.write(path, here, digests)
    return 0


def _check(path: Path, digests: store.Digests, whole: bool) -> int:
    there, stored = store.read(path)
    parts, reasons = store.comparable(there, made_with())
    if reasons:
        print(f"Only {' and '.join(parts)} are compared, since bits may differ here ({'; '.join(reasons)}).")
    if not whole:
        stored = {name: hashes for name, hashes in stored.items() if name in digests}
    differing = store.differences(stored, digests, parts)
    for name, which in list(differing.items())[:SHOWN]:
        print(f"{name}: {', '.join(which)}")
    if len(differing) > SHOWN:
        print(f"and {len(differing) - SHOWN:,} more")
    counts = {part: sum(part in which for which in differing.values()) for part in (*parts, "new", "missing")}
    said = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    print(f"{len(differing):,} of {len({*stored, *digests}):,} cases differ ({said})." if differing else "All equal.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
