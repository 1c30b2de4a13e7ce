"""Edit the files of a sound store at random, again and again: a read gives what was put or the store's own error, never anything else.

    python scripts/damage_store.py --edits 100000

An edit flips one to four bits, cuts the file, doubles or swaps a block, or writes zeros over it, in the database, its write-ahead
log or the file of vectors. Each damaged copy is read in every way (by id, in a batch, texts, vectors, both searches), every
tenth is verified and written to as well. Runs in a child process per thousand edits, which must survive. Needs `fork`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from mice_st.states.errors import StoreError, UnknownDocumentError
from mice_st.states.sqlite_store import SqliteStore
from tests.states.made import FINGERPRINT, put, versions_of

IDS = [f"doc{number}" for number in range(24)]
PART = 1000


def sound_files(folder: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files of a store with a write-ahead log that holds commits, by suffix, and its contents."""
    path = folder / "sound.sqlite"
    versions = {id_: number + 1 for number, id_ in enumerate(IDS)}
    with SqliteStore(path, FINGERPRINT, read_only=False) as store, SqliteStore(path, None, read_only=True) as reader:
        put(store, dict.fromkeys(IDS, 777), 20)
        put(store, versions, 20)
        store.commit()
        store.compact()
        assert len(reader) == len(IDS)  # an open reader keeps the log where it is
        store.delete(IDS[20:])
        store.commit()
        files = {file.name.removeprefix(path.name): file.read_bytes() for file in folder.iterdir()}
    return {name: data for name, data in files.items() if not name.endswith(("-shm", ".lock"))}, dict(
        list(versions.items())[:20]
    )


def edited(random: Random, data: bytes) -> tuple[str, bytes]:
    """What was done, and the damaged bytes."""
    kind = random.choice(["flip", "flip", "flip", "cut", "double", "swap", "zero"])
    changed = bytearray(data)
    place = random.randrange(len(data))
    if random.random() < 0.5:
        place = min(place - place % 2048 + random.randrange(100), len(data) - 1)
    size = random.choice([1, 8, 100, 512, 2048])
    if kind == "flip":
        for _ in range(random.randint(1, 4)):
            changed[place] ^= 1 << random.randrange(8)
            place = random.randrange(len(data))
    elif kind == "cut":
        del changed[place:]
    elif kind == "double":
        changed[place:place] = changed[place : place + size]
    elif kind == "swap":
        other = random.randrange(len(data))
        one, two = bytes(changed[place : place + size]), bytes(changed[other : other + size])
        changed[place : place + len(two)], changed[other : other + len(one)] = two, one
    else:
        changed[place : place + size] = bytes(len(changed[place : place + size]))
    return kind, bytes(changed)


def probe(path: Path, right: dict[str, int], thorough: bool) -> str:
    """Read a damaged copy in every way; AssertionError if anything was wrong.

    Returns:
        ``"refused"`` if something was, else ``"sound"``.
    """
    refused = False
    older = dict.fromkeys(IDS, 777)  # a log that ends early gives an older commit, whole
    try:
        with SqliteStore(path, FINGERPRINT, read_only=True) as store:
            for id_ in IDS:
                try:
                    version = versions_of(store.get([id_]), [id_], 20)[id_]
                    assert version in (right.get(id_), IDS.index(id_) + 1, older[id_]), (id_, version)
                except UnknownDocumentError:
                    refused |= id_ in right
                except StoreError:
                    refused = True
            for use in (
                lambda: versions_of(store.get(list(right)), list(right), 20),
                lambda: [text for _, text in store.texts() if not text.startswith("text of doc")],
                lambda: store.search_words("text of doc7", 9),
                lambda: store.search_vectors(torch.ones(16), 9),
                lambda: len(store),
            ):
                try:
                    use()
                except StoreError:
                    refused = True
            if thorough:
                refused |= not store.verify().ok
    except StoreError:
        refused = True
    if thorough:
        try:
            with SqliteStore(path, FINGERPRINT, read_only=False) as store:
                put(store, {"new": 5, "doc1": 6}, 20)
                store.commit()
                store.delete(["new"])
                store.compact()
        except StoreError:
            pass
    return "refused" if refused else "sound"


def run_part(files: dict[str, bytes], right: dict[str, int], seed: int, edits: int, folder: Path) -> Counter[str]:
    """Some edits, in this process."""
    random, counts = Random(seed), Counter[str]()
    for number in range(edits):
        for file in folder.glob("copy.sqlite*"):
            file.unlink()
        name = random.choices(sorted(files), [3 if not suffix else 1 for suffix in sorted(files)])[0]
        kind, data = edited(random, files[name])
        for suffix, content in files.items():
            (folder / f"copy.sqlite{suffix}").write_bytes(data if suffix == name else content)
        counts[f"{kind}: {probe(folder / 'copy.sqlite', right, number % 10 == 0)}"] += 1
    return counts


def main() -> int:
    """Run it and print what became of the edits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="Seed of the first thousand.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        (folder / "sound").mkdir()
        files, right = sound_files(folder / "sound")
        for seed in range(options.first, options.first + -(-options.edits // PART)):
            read_end, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                part = run_part(files, right, seed, min(PART, options.edits), folder)
                os.write(write_end, "\n".join(f"{key}\t{count}" for key, count in part.items()).encode())
                os._exit(0)
            os.close(write_end)
            with os.fdopen(read_end) as pipe:
                lines = pipe.read().splitlines()
            _, status = os.waitpid(pid, 0)
            if status:
                raise SystemExit(f"the process with seed {seed} ended with {status}")
            for line in lines:
                key, _, count = line.partition("\t")
                counts[key] += int(count)
    for key in sorted(counts):
        print(f"{key} {counts[key]}")
    print(f"{counts.total()} edits in {time.monotonic() - begun:.0f} s: never a wrong state, never another error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
