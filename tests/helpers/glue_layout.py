"""Small made-up data in the layouts of GLUE's own files and of the hub's repository, for the tests of both readers."""

TRICKY = [
    'He said "no" and left.',
    'An open " quotation mark',
    "A line\u2028separator, a next\u0085line and a form\x0cfeed",
    "NA",
    "null",
    " spaces at both ends ",
    "",
    "It's naïve, 日本語 and 🦉",
]

MNLI_COLUMNS = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse",
                "sentence1_parse", "sentence2_parse", "sentence1", "sentence2"]  # fmt: skip
STSB_COLUMNS = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"]
PAIR = ["index", "sentence1", "sentence2"]

BINARY = {"0": 0, "1": 1}
SCORES = {"3.8": 3.8, "5.000": 5.0, "0": 0.0}

#: By task: columns of labelled files, columns of test files, text columns, label column, label texts and their numbers.
LAYOUTS = {
    "cola": (["source", "label", "mark", "sentence"], ["index", "sentence"], "sentence", None, "label", BINARY),
    "sst2": (["sentence", "label"], ["index", "sentence"], "sentence", None, "label", BINARY),
    "mrpc": (
        ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        ["index", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        "#1 String", "#2 String", "Quality", BINARY,
    ),
    "stsb": ([*STSB_COLUMNS, "score"], STSB_COLUMNS, "sentence1", "sentence2", "score", SCORES),
    "qqp": (
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], ["id", "question1", "question2"],
        "question1", "question2", "is_duplicate", BINARY,
    ),
    "mnli": (
        [*MNLI_COLUMNS, "label1", "gold_label"], MNLI_COLUMNS, "sentence1", "sentence2", "gold_label",
        {"entailment": 0, "neutral": 1, "contradiction": 2},
    ),
    "qnli": (
        ["index", "question", "sentence", "label"], ["index", "question", "sentence"], "question", "sentence", "label",
        {"entailment": 0, "not_entailment": 1},
    ),
    "rte": ([*PAIR, "label"], PAIR, "sentence1", "sentence2", "label", {"entailment": 0, "not_entailment": 1}),
    "wnli": ([*PAIR, "label"], PAIR, "sentence1", "sentence2", "label", BINARY),
    "ax": (None, PAIR, "sentence1", "sentence2", "label", {}),
}  # fmt: skip


def made_up(task, split):
    """Rows (text, second text or None, label text, label) of a split, tricky texts among them; labels in test too."""
    *_, pair, _, labels = LAYOUTS[task.name]
    choices = list(labels.items()) or [("", -1)]
    return [
        (text, f"{split} {text}" if pair else None, *choices[place % len(choices)]) for place, text in enumerate(TRICKY)
    ]


def write_tsv(task, folder):
    """All splits of a task in GLUE's layout, with a byte-order mark where MRPC has one."""
    labelled, unlabelled, text_column, pair_column, label_column, _ = LAYOUTS[task.name]
    for split, file in task.files.items():
        columns = unlabelled if split.startswith("test") else labelled
        lines = [] if file.columns else ["\t".join(columns)]
        for place, (text, pair, label_text, _) in enumerate(made_up(task, split)):
            fields = dict.fromkeys(columns, f"x{place}") | {text_column: text}
            fields |= {pair_column: pair} if pair_column else {}
            fields |= {label_column: label_text} if label_column in columns else {}
            lines.append("\t".join(fields[name] for name in columns))
        path = folder / file.paths[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = b"\xef\xbb\xbf" if task.name == "mrpc" and split != "test" else b""
        path.write_bytes(mark + ("\n".join(lines) + "\n").encode())


def write_parquet(task, folder):
    """All splits of a task as the hub's repository has them; test splits carry real labels, as MRPC's do there."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = (
        {"_type": "Value", "dtype": "float32"} if task.labels is None else {"_type": "ClassLabel", "names": task.labels}
    )
    (folder / task.name).mkdir(parents=True, exist_ok=True)
    config = ["configs:", f"- config_name: {task.name}", "  data_files:"]
    for split in task.files:
        rows = made_up(task, split)
        columns = {task.hub_columns["text"]: pa.array([row[0] for row in rows], pa.string())}
        if task.pair:
            columns[task.hub_columns["text_pair"]] = pa.array([row[1] for row in rows], pa.string())
        features = {name: {"_type": "Value", "dtype": "string"} for name in columns}
        columns["label"] = pa.array([row[3] for row in rows], pa.float32() if task.labels is None else pa.int64())
        columns["idx"] = pa.array(range(len(rows)), pa.int32())
        features |= {"label": kind, "idx": {"_type": "Value", "dtype": "int32"}}
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / task.name / f"{split}-00000-of-00001.parquet")
        config += [f"  - split: {split}", f"    path: {task.name}/{split}-*"]
    (folder / "README.md").write_text("\n".join(["---", *config, "---", ""]))
