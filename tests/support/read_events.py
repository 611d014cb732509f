"""Reads TensorBoard event files with nothing but the standard library; prints {tag: [[step, value], …]} and fails on a wrong checksum.

Written after the published formats (TFRecord, protocol buffers), not after our writer."""

import json
import pathlib
import struct
import sys

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        (length,), (crc,) = struct.unpack_from("<Q", data, at), struct.unpack_from("<I", data, at + 8)
        assert crc == masked_crc(data[at:at + 8]), "checksum of a length"
        content = data[at + 12:at + 12 + length]
        (crc,) = struct.unpack_from("<I", data, at + 12 + length)
        assert len(content) == length and crc == masked_crc(content), "checksum of a record"
        yield content
        at += 16 + length


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif wire == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            assert wire == 2, f"wire type {wire}"
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
        yield number, value


tags, versions, times = {}, [], []
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*tfevents*")):
    for content in records(path.read_bytes()):
        event = list(fields(content))
        single = dict(event)
        times.append(single[1])
        if 3 in single:
            versions.append(single[3].decode())
        for number, summary in event:
            for _, value in fields(summary) if number == 5 else []:
                value = dict(fields(value))
                tags.setdefault(value[1].decode(), []).append([single.get(2, 0), value[2]])
assert versions == ["brain.Event:2"], versions
assert times == sorted(times) and times[0] > 1e9, times
json.dump(tags, sys.stdout)
