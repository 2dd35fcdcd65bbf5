"Answers to the exercises of 07_datasets"
import torch


def columns_to_rows(columns): return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

def rows_to_columns(rows): return {name: [row[name] for row in rows] for name in rows[0]}

def collate_dicts(rows): return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}

def channel_statistics(x): return x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)

def change_and_return(f):
    def transform(b):
        f(b)
        return b
    return transform
