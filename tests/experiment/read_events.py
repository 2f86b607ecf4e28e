# SPDX-License-Identifier: Apache-2.0
"""Reads TensorBoard's event files with python3-protobuf and python3-crc32c alone: read_events.py FOLDER

Checks every checksum, and prints a line for each number, "TAG STEP VALUE", and for each image,
"TAG STEP WIDTHxHEIGHT", in the order of the file.
"""
import os
import struct
import sys

from crc32c import crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# TensorBoard's event.proto and summary.proto, as far as they are written here.
F = descriptor_pb2.FieldDescriptorProto
MESSAGES = {
    "Event": [("wall_time", 1, F.TYPE_DOUBLE), ("step", 2, F.TYPE_INT64), ("file_version", 3, F.TYPE_STRING),
              ("summary", 5, "Summary")],
    "Summary": [("value", 1, "Value")],
    "Value": [("tag", 1, F.TYPE_STRING), ("simple_value", 2, F.TYPE_FLOAT), ("image", 4, "Image")],
    "Image": [("height", 1, F.TYPE_INT32), ("width", 2, F.TYPE_INT32), ("colorspace", 3, F.TYPE_INT32),
              ("encoded_image_string", 4, F.TYPE_BYTES)],
}
schema = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t")  # proto2: fields know their presence
for name, fields in MESSAGES.items():
    message = schema.message_type.add(name=name)
    for field, number, kind in fields:
        f = message.field.add(name=field, number=number, label=F.LABEL_REPEATED if field == "value" else F.LABEL_OPTIONAL)
        f.type = F.TYPE_MESSAGE if isinstance(kind, str) else kind
        if isinstance(kind, str):
            f.type_name = ".t." + kind
pool = descriptor_pool.DescriptorPool()
pool.Add(schema)
Event = message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("t.Event"))


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def records(path):
    with open(path, "rb") as file:
        while header := file.read(12):
            length, crc = struct.unpack("<QI", header)
            assert masked(header[:8]) == crc, "the checksum of a length"
            data = file.read(length)
            assert masked(data) == struct.unpack("<I", file.read(4))[0], "the checksum of an event"
            yield data


names = [n for n in os.listdir(sys.argv[1]) if n.startswith("events.out.tfevents.")]
assert len(names) == 1, names
events = [Event.FromString(data) for data in records(os.path.join(sys.argv[1], names[0]))]
assert events[0].file_version == "brain.Event:2"
assert all(event.wall_time > 1e9 for event in events)
for event in events[1:]:
    for value in event.summary.value:
        if value.HasField("image"):
            assert value.image.encoded_image_string.startswith(b"\x89PNG")
            what = "%dx%d" % (value.image.width, value.image.height)
        else:
            what = "%.6g" % value.simple_value
        print(value.tag, event.step, what)
