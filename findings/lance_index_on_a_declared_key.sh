#!/usr/bin/env bash
# Upserts from several writers: pylance's `merge_insert` on a column declared as the (unenforced) primary key.
#
# pylance 14.0.2, pyarrow 26.0.1.
# Guess: two writers that upsert one new id at once leave one row, since the key is declared; a BTREE index on the key only
# makes that faster.
# Seen: without the index the second writer is rebased and updates the first one's row. With it both insert, without an
# error, and the id has two rows; `when_not_matched_insert_all` alone does the same. An upsert that also updates an old row
# collides with the other one and leaves one row, index or not.
#     index False: second writer inserts 0, rows ['a', 'new']; index True: inserts 1, rows ['a', 'new', 'new']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pylance==14.0.2 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import lance
import pyarrow as pa

declared = {"lance-schema:unenforced-primary-key": "true"}
schema = pa.schema([pa.field("id", pa.string(), nullable=False, metadata=declared), pa.field("by", pa.int32())])


def table(ids, by):
    return pa.table({"id": ids, "by": pa.array([by] * len(ids), pa.int32())}, schema=schema)


def race(ids, index, update):
    """Two writers that have opened the same version, one after the other: no threads, no luck."""
    name = f"{'-'.join(ids)}-{index}-{update}"
    dataset = lance.write_dataset(table(["a"], 0), name)
    if index:
        dataset.create_scalar_index("id", "BTREE")
    inserted = []
    for by, writer in enumerate([lance.dataset(name), lance.dataset(name)], start=1):
        merge = writer.merge_insert("id").when_not_matched_insert_all()
        if update:
            merge = merge.when_matched_update_all()
        inserted.append(merge.execute(table(ids, by))["num_inserted_rows"])
    return inserted, sorted(lance.dataset(name).to_table()["id"].to_pylist())


for update in (True, False):
    for index in (False, True):
        inserted, rows = race(["new"], index, update)
        print(f"update {update!s:5} index {index!s:5} inserted {inserted} rows {rows}")
        assert (inserted, rows) == (([1, 1], ["a", "new", "new"]) if index else ([1, 0], ["a", "new"]))
for index in (False, True):
    inserted, rows = race(["a", "new"], index, True)
    print(f"with an old row, index {index!s:5} rows {rows}")
    assert rows == ["a", "new"]
PYTHON
