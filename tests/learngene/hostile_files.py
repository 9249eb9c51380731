"""Learngene files as somebody would write them who wants to do harm: the 23 of F31, more of them, and pickles (F30)."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from gene_files import edited, join, resealed, split

Content = bytes | tuple[bytes, int]  # a pair is (start of the file, its sparse length)


def first(header: dict[str, Any]) -> dict[str, Any]:
    return header["conv1.conv.weight"]


def shifted(header: dict[str, Any], by: int) -> None:
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    for name in names[1:]:
        header[name]["data_offsets"] = [offset + by for offset in header[name]["data_offsets"]]


def canary_pickle(path: Path) -> bytes:
    """A pickle that makes a file when it is read, spelled by hand: no test imports pickle either."""
    return b"cos\nsystem\n(S'touch " + str(path).encode() + b"'\ntR."


def hostile(data: bytes, canary: Path) -> dict[str, Content]:
    """The 23 files of F31."""
    header, payload = split(data)
    text = json.dumps(header)
    many = ",".join(f'"t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(300_000))
    nan = bytearray(data)
    nan[-len(payload) : -len(payload) + 4] = struct.pack("<f", float("nan"))
    return {
        "header length 2^63": struct.pack("<Q", 1 << 63) + data[8:],
        "header of 120 MB": (struct.pack("<Q", 120_000_000) + b'{"a":', 121_000_000),
        "header beyond the file": struct.pack("<Q", len(data)) + data[8:],
        "truncated data": data[:-5],
        "polyglot tail": data + b"PK\x03\x04 and a zip file",
        "overlap": edited(data, lambda h: shifted(h, -4)),
        "hole": edited(data, lambda h: shifted(h, 4)) + bytes(4),
        "shape mismatch": edited(data, lambda h: first(h).update(shape=[2, 2, 2, 2])),
        "shape overflow": edited(data, lambda h: first(h).update(shape=[2**32, 2**32, 1, 1])),
        "[0, 2^62]": edited(data, lambda h: h.update(x={"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]})),
        "negative offset": edited(data, lambda h: first(h).update(data_offsets=[-4, 0])),
        "unknown dtype": edited(data, lambda h: first(h).update(dtype="F8_E4M3")),
        "not JSON": join(b"{" + b"x" * 50 + b"}", payload),
        "not UTF-8": join(text.encode().replace(b"conv1.conv", b"conv1\xff\xfeonv"), payload),
        "leading space": join(b" " + text.encode(), payload),
        "non-string metadata": edited(data, lambda h: h["__metadata__"].update(gtl=7)),
        "duplicate keys": join(
            ("{" + json.dumps({"conv1.conv.weight": first(header)})[1:-1] + "," + text[1:]).encode(), payload
        ),
        "deep nesting": join(b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}", b""),
        "300 000 tensors": join(("{" + many + "}").encode(), bytes(300_000)),
        "path-like name": edited(data, lambda h: h.update({"../../etc/passwd": h.pop("conv1.conv.weight")})),
        "NaN payload": resealed(bytes(nan)),
        "renamed pickle": canary_pickle(canary),
        "empty file": b"",
    }


def more_hostile(data: bytes) -> dict[str, bytes]:
    """What F31 does not list."""
    header, payload = split(data)
    text = json.dumps(header)

    def swap(header: dict[str, Any]) -> None:
        a, b = header["conv1.norm.bias"], header["conv1.norm.weight"]
        a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]

    def metadata(**values: str) -> bytes:
        return edited(data, lambda h: h["__metadata__"].update(values))

    many = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(4097)}
    return {
        "torch.save zip": b"PK\x03\x04" + bytes(200),
        "pickle protocol 4": b"\x80\x04\x95" + bytes(200),
        "4097 tensors": join({**many, "__metadata__": header["__metadata__"]}, bytes(4097)),
        "header is a list": join(b"[" + text.encode() + b"]", payload),
        "header length 0": join(b"", payload),
        "header length 1": join(b"{", payload),
        "UTF-16 header": join(text.encode("utf-16"), payload),
        "boolean in shape": edited(data, lambda h: first(h).update(shape=[True, 3, 3, 3])),
        "float in shape": edited(data, lambda h: first(h).update(shape=[3.0, 3, 3, 3])),
        "float in offsets": edited(data, lambda h: first(h).update(data_offsets=[0.0, 4])),
        "rank 5": edited(data, lambda h: first(h).update(shape=[1, 1, 1, 1, 1])),
        "entry is a list": edited(data, lambda h: h.update(x=[])),
        "extra field in an entry": edited(data, lambda h: first(h).update(code="x")),
        "dtype is a list": edited(data, lambda h: first(h).update(dtype=["F32"])),
        "tensors out of order": edited(data, swap),
        "metadata is a list": edited(data, lambda h: h.update(__metadata__=[])),
        "unknown metadata": metadata(author="someone"),
        "document is no JSON": metadata(gtl="{"),
        "document is a list": metadata(gtl="[]"),
        "document nested": metadata(gtl="[" * 100_000),
        "document with NaN": resealed(data, lambda d: d["shares"].update(circuit=float("nan"))),
        "document with 1e999": edited(
            data, lambda h: h["__metadata__"].update(gtl=h["__metadata__"]["gtl"].replace("0.125", "1e999"))
        ),
        "document with a surrogate": resealed(data, lambda d: d["provenance"].update(x="\ud800")),
        "document with a huge integer": resealed(data, lambda d: d["provenance"].update(x=10**400)),
        "document with 10000 digits": metadata(gtl='{"format":' + "1" * 10_000 + "}"),
        "no document hash": edited(data, lambda h: h["__metadata__"].pop("gtl_sha256")),
        "records changed": metadata(gtl=header["__metadata__"]["gtl"].replace("0.5", "0.9")),
        "no format": resealed(data, lambda d: d.pop("format")),
        "format is a number": resealed(data, lambda d: d.update(format=1.0)),
        "format in other digits": resealed(data, lambda d: d.update(format="\u0661.0")),
        "unknown key": resealed(data, lambda d: d.update(code="import os")),
        "missing key": resealed(data, lambda d: d.pop("evidence")),
        "arch is a path": resealed(data, lambda d: d.update(arch="../os.system")),
        "arch is a list": resealed(data, lambda d: d.update(arch=["vgg11"])),
        "no groups": resealed(data, lambda d: d.update(groups=[])),
        "groups is a number": resealed(data, lambda d: d.update(groups=8)),
        "too many groups": resealed(data, lambda d: d.update(groups=d["groups"] * 500)),
        "group twice": resealed(data, lambda d: d["groups"].append(d["groups"][0])),
        "group of size 0": resealed(data, lambda d: d["groups"][0].update(size=0)),
        "group of size 2^40": resealed(data, lambda d: d["groups"][0].update(size=2**40)),
        "group of size true": resealed(data, lambda d: d["groups"][0].update(size=True)),
        "group is a string": resealed(data, lambda d: d["groups"].append("conv9")),
        "shares is a list": resealed(data, lambda d: d.update(shares=[])),
        "share is a string": resealed(data, lambda d: d["shares"].update(circuit="0.1")),
        "evidence is a table": resealed(data, lambda d: d.update(evidence={})),
        "tensor hash wrong": resealed(data, lambda d: d.update(sha256="0" * 64)),
        "tensor hash is a number": resealed(data, lambda d: d.update(sha256=5)),
    }


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def pickles(canary: Path) -> dict[str, bytes]:
    """Files that make `canary` when they are unpickled: bare, and in both forms that torch.save has."""
    weights = {"conv1.conv.weight": torch.ones(2, 3, 3, 3), "epoch": Bomb(canary)}
    found = {"bare": canary_pickle(canary)}
    for name, zipped in (("zip", True), ("older", False)):
        stream = io.BytesIO()
        torch.save(weights, stream, _use_new_zipfile_serialization=zipped)
        found[name] = stream.getvalue()
    return found


def write(path: Path, content: Content) -> None:
    """Write a file, with a hole at its end where it says so."""
    if isinstance(content, tuple):
        path.write_bytes(content[0])
        os.truncate(path, content[1])
    else:
        path.write_bytes(content)
